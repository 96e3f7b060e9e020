//! A journal that a test can look into and make fail.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use wharf_outbox::{
    BoxError, Codec,
    journal::{Changes, Found, Journal, JournalError, Record, Records},
};

/// Real time: the journal has a thread of its own.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within a minute: {what}"),
    }
}

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, look).await;
}

/// A journal in memory that a test can look into and make fail.
#[derive(Clone, Default)]
pub(crate) struct Book(pub(crate) Arc<Mutex<Pages>>);

#[derive(Default)]
pub(crate) struct Pages {
    pub(crate) records: BTreeMap<u64, Vec<u8>>,
    pub(crate) next: u64,
    pub(crate) fails: bool,
    /// What cannot be read.
    pub(crate) damaged: Range<u64>,
    /// Tells of every record twice.
    pub(crate) stutters: bool,
    /// How many removals each commit was to make, failed ones included.
    pub(crate) removals: Vec<usize>,
}

impl Book {
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap()
    }
}

impl Journal for Book {
    fn found(&mut self) -> Result<Found, JournalError> {
        let pages = self.pages();
        Ok(Found {
            records: pages.records.len(),
            bytes: pages.records.values().map(Vec::len).sum(),
            next: pages.next,
        })
    }

    fn commit(&mut self, changes: &Changes<'_>) -> Result<(), JournalError> {
        let mut pages = self.pages();
        pages.removals.push(changes.remove.len());
        if pages.fails {
            return Err(JournalError::failed("no ink"));
        }
        for number in changes.remove.iter().chain(changes.set_aside) {
            pages.records.remove(number);
        }
        for (number, bytes) in changes.append {
            let old = pages.records.insert(*number, bytes.to_vec());
            assert!(old.is_none() && *number >= pages.next, "{number} again");
            pages.next = number + 1;
        }
        Ok(())
    }

    fn read(&mut self, from: u64, most: usize, _: usize) -> Result<Records, JournalError> {
        let pages = self.pages();
        let mut records = Vec::new();
        for (number, bytes) in pages.records.range(from..) {
            if records.len() >= most {
                return Ok(Records {
                    records,
                    last: false,
                });
            }
            if pages.damaged.contains(number) {
                return Err(JournalError::Damaged("a stain".into()));
            }
            for _ in 0..1 + usize::from(pages.stutters) {
                records.push(Record {
                    number: *number,
                    bytes: bytes.clone(),
                });
            }
        }
        Ok(Records {
            records,
            last: true,
        })
    }
}

/// Fives cannot be read.
pub(crate) struct Digits;

impl Codec<u32> for Digits {
    fn encode(&self, message: &u32, into: &mut Vec<u8>) -> Result<(), BoxError> {
        into.extend_from_slice(message.to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32, BoxError> {
        match bytes {
            b"5" => Err("a five".into()),
            bytes => Ok(std::str::from_utf8(bytes)?.parse()?),
        }
    }
}
