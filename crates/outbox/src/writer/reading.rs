//! Messages that are in the journal alone come back into memory.

use std::sync::Arc;

use super::Writer;
use crate::{
    caught::{caught, flat},
    core::{Entry, Loaded, Page},
    deliver::{BoxError, Deliver},
    error::Undelivered,
    journal::{
        JournalError, Record, Records,
        record::{self, Unreadable},
    },
    shared::Parcel,
};

/// So many bytes are read at a time at most, and one record.
const PAGE_BYTES: usize = 4 << 20;

/// A page that is damaged is tried so often before what is behind it is read.
const TRIES: u32 = 3;

impl<T, D> Writer<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(super) fn read(&mut self, page: Page) {
        self.removals.sort_unstable();
        let mut loaded = Vec::new();
        let most = if self.is_careful { 1 } else { page.most };
        let mut from = page.from;
        let last = loop {
            let read = match self.records(from, most) {
                Ok(read) => read,
                Err(cause) => return self.read_failed(cause, from),
            };
            let Some(end) = read.records.last().map(|record| record.number) else {
                break true;
            };
            for record in &read.records {
                // What could not be appended was given back.
                if self.removals.binary_search(&record.number).is_err() {
                    loaded.push(self.load(record));
                }
            }
            if read.last || !loaded.is_empty() {
                break read.last;
            }
            from = end + 1;
        };
        self.reads.worked();
        let now = self.shared.clock.now();
        self.shared
            .command(|core, effects| core.loaded(now, loaded, last, effects));
    }

    fn records(&mut self, from: u64, most: usize) -> Result<Records, JournalError> {
        let read = caught(|| self.journal.read(from, most, PAGE_BYTES));
        flat(read, JournalError::failed)
    }

    fn read_failed(&mut self, cause: JournalError, from: u64) {
        let is_damaged = matches!(cause, JournalError::Damaged(_));
        let told = &self.shared.told;
        self.shared.guard(|| told.read_failed(&cause));
        self.reads.failed();
        let mut behind = None;
        if is_damaged && self.is_careful {
            behind = self.behind_damage(from);
            self.is_careful = behind.is_none();
        } else if is_damaged && self.reads.failures() >= TRIES {
            self.is_careful = true;
        }
        if behind.is_some() {
            self.reads.worked();
        }
        let mut state = self.shared.state.lock();
        state.failed_reads += 1;
        let old = state.trouble.replace(Arc::new(cause));
        state.core.page_failed(behind);
        drop(state);
        self.shared.guard(|| drop(old));
    }

    /// The lowest number from which on something can be read, after one from which nothing can.
    fn behind_damage(&mut self, damaged: u64) -> Option<u64> {
        let end = self.shared.state.lock().core.next_number();
        let mut step = 1;
        let mut good = loop {
            let number = damaged.saturating_add(step).min(end);
            if self.records(number, 1).is_ok() {
                break number;
            }
            if number == end {
                return None;
            }
            step *= 2;
        };
        let mut bad = damaged + step / 2;
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            match self.records(middle, 1) {
                Ok(_) => good = middle,
                Err(_) => bad = middle,
            }
        }
        Some(good)
    }

    fn load(&mut self, record: &Record) -> Loaded<Parcel<T, D>> {
        let number = record.number;
        let weight = record.bytes.len();
        match self.decode(record) {
            Ok(entry) => Loaded::Message(entry),
            Err(cause) => {
                let shared = self.shared;
                shared.guard(|| shared.told.set_aside(number, &cause));
                self.set_aside.push(number);
                if let Some(ticket) = shared.take_ticket(number) {
                    shared.guard(|| drop(ticket.send(Err(Undelivered::Unreadable))));
                }
                Loaded::Unreadable { number, weight }
            }
        }
    }

    fn decode(&self, record: &Record) -> Result<Entry<Parcel<T, D>>, String> {
        let Record { number, bytes } = record;
        let contents = record::read(*number, bytes).map_err(|why: Unreadable| why.to_string())?;
        let codec = self.shared.rules.codec.as_ref();
        let codec = codec.expect("bug: there is a journal, and no codec");
        let decoded = caught(|| {
            let message = codec.decode(contents.message)?;
            let key = self.shared.key(&message);
            Ok::<_, BoxError>((message, key))
        });
        let decoded = decoded.map_err(|panicked| panicked.to_string())?;
        let (message, key) = decoded.map_err(|error| error.to_string())?;
        Ok(Entry {
            number: *number,
            weight: bytes.len(),
            key,
            accepted: contents.accepted,
            expires: contents.expires,
            attempts: 0,
            payload: Parcel {
                id: contents.id,
                message,
                ticket: self.shared.take_ticket(*number),
                record: Vec::new(),
            },
        })
    }
}
