//! What an outbox with a journal knows of it.
//!
//! A message goes to the writer first, and into the line when it is committed. Only a window of the
//! line is kept in memory; what comes after it, the tail, is counted and read again when there is
//! room. Numbers ascend: line, then tail, then what is being written.

use std::collections::VecDeque;

use super::{Core, Effect, Entry, Nanos, Stage};

#[derive(Debug)]
pub(super) struct Stored<P, W> {
    /// How many messages are kept in memory.
    window: usize,
    /// To be written, in order.
    writes: VecDeque<(Entry<P>, W)>,
    /// What the writer has in its hands: the first number, and how many.
    writing: Option<(u64, usize)>,
    /// To be removed from the journal.
    removals: Vec<u64>,
    tail: Tail,
    /// The writer reads a page.
    reading: bool,
    /// The writer sleeps until there is so much to do.
    asleep: Option<Enough>,
}

/// What the writer is woken for: so many messages to write, or so many to remove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Enough {
    pub(crate) writes: usize,
    pub(crate) removals: usize,
}

/// Committed and not in memory.
#[derive(Debug, Default)]
struct Tail {
    messages: usize,
    bytes: usize,
    /// No message of the tail has a lower number.
    from: u64,
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) from: u64,
    pub(crate) most: usize,
}

/// A record that was read.
#[derive(Debug)]
pub(crate) enum Loaded<P> {
    Message(Entry<P>),
    /// It is set aside.
    Unreadable {
        number: u64,
        weight: usize,
    },
}

impl<P, W> Stored<P, W> {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            writes: VecDeque::new(),
            writing: None,
            removals: Vec::new(),
            tail: Tail::default(),
            reading: false,
            asleep: None,
        }
    }

    pub(super) fn write(&mut self, entry: Entry<P>, token: W) {
        self.writes.push_back((entry, token));
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.removals.push(number);
    }

    /// The lowest number that is not in memory.
    pub(super) fn first(&self) -> Option<u64> {
        if self.tail.messages > 0 {
            return Some(self.tail.from);
        }
        let writing = self.writing.map(|(first, _)| first);
        writing.or_else(|| self.writes.front().map(|(entry, _)| entry.number))
    }
}

/// The writer's commands. None of them makes sense without a journal.
impl<P, W> Core<P, W> {
    fn journal(&mut self) -> &mut Stored<P, W> {
        self.stored.as_mut().expect("bug: there is no journal")
    }

    /// What the journal held when it was opened.
    pub(crate) fn found(&mut self, messages: usize, bytes: usize, next: u64) {
        self.next = self.next.max(next);
        self.messages += messages;
        self.bytes += bytes;
        self.totals.found = messages as u64;
        self.journal().tail = Tail {
            messages,
            bytes,
            from: 0,
        };
    }

    /// Wakes the writer if it sleeps and there is enough for it to do.
    pub(super) fn call_writer(&mut self, effects: &mut Vec<Effect<P, W>>) {
        let stored = self.journal();
        let Some(enough) = stored.asleep else {
            return;
        };
        let is_enough =
            stored.writes.len() >= enough.writes || stored.removals.len() >= enough.removals;
        if is_enough || self.wants_page().is_some() {
            self.journal().asleep = None;
            effects.push(Effect::WakeWriter);
        }
    }

    /// The writer goes to sleep until there is so much to do.
    pub(crate) fn writer_sleeps(&mut self, until: Enough) {
        self.journal().asleep = Some(until);
    }

    /// How much there is to write and to remove.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let stored = self.stored.as_ref();
        stored.map_or((0, 0), |stored| {
            (stored.writes.len(), stored.removals.len())
        })
    }

    /// Hands over what is to be written.
    pub(crate) fn take_writes(&mut self, most: usize, into: &mut Vec<(Entry<P>, W)>) {
        let stored = self.journal();
        let count = stored.writes.len().min(most);
        into.extend(stored.writes.drain(..count));
        stored.writing = into.first().map(|(entry, _)| (entry.number, into.len()));
    }

    pub(crate) fn take_removals(&mut self, into: &mut Vec<u64>) {
        into.append(&mut self.journal().removals);
    }

    /// What was written is committed. Who put it in is to be told so.
    pub(crate) fn committed(
        &mut self,
        written: &mut Vec<(Entry<P>, W)>,
        stored_for: &mut Vec<W>,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        self.journal().writing = None;
        for (entry, token) in written.drain(..) {
            self.totals.accepted += 1;
            let in_memory = self.line.len() + self.flights.len();
            let stored = self.journal();
            if stored.tail.messages == 0 && in_memory < stored.window {
                self.join_line(entry, effects);
            } else {
                if stored.tail.messages == 0 {
                    stored.tail.from = entry.number;
                }
                stored.tail.messages += 1;
                stored.tail.bytes += entry.weight;
                effects.push(Effect::PutAway(entry.number, entry.payload));
            }
            stored_for.push(token);
        }
    }

    /// What was written could not be committed. If it may be in the journal all the same, it is to be
    /// removed from there.
    pub(crate) fn not_committed(
        &mut self,
        now: Nanos,
        written: &[(Entry<P>, W)],
        is_doubtful: bool,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        self.journal().writing = None;
        self.totals.not_stored += written.len() as u64;
        for (entry, _) in written {
            if is_doubtful {
                self.journal().remove(entry.number);
            }
            self.no_longer_counts(entry.weight, effects);
        }
        self.call_writer(effects);
        self.admit(now, effects);
    }

    /// What is to be read from the journal, if there is something, and room for it.
    pub(crate) fn wants_page(&self) -> Option<Page> {
        let stored = self.stored.as_ref()?;
        let in_memory = self.line.len() + self.flights.len();
        let wanted = stored.tail.messages > 0 && in_memory <= stored.window / 2;
        (wanted && !stored.reading && self.stage != Stage::Stopped).then(|| Page {
            from: stored.tail.from,
            most: stored.window - in_memory,
        })
    }

    pub(crate) fn begin_page(&mut self) -> Option<Page> {
        let page = self.wants_page()?;
        self.journal().reading = true;
        Some(page)
    }

    /// The page could not be read. It will be wanted again, or only what begins at `behind`. What is
    /// skipped by that will be missing in the end.
    pub(crate) fn page_failed(&mut self, behind: Option<u64>) {
        let stored = self.journal();
        stored.reading = false;
        stored.tail.from = behind.unwrap_or(stored.tail.from);
    }

    /// Higher than any number that was given away.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// The page was read; `last` says that there is nothing after it.
    pub(crate) fn loaded(
        &mut self,
        now: Nanos,
        records: Vec<Loaded<P>>,
        last: bool,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        self.journal().reading = false;
        for record in records {
            match record {
                Loaded::Message(entry) => {
                    self.leave_tail(entry.number, entry.weight);
                    self.join_line(entry, effects);
                }
                Loaded::Unreadable { number, weight } => {
                    self.leave_tail(number, weight);
                    self.messages -= 1;
                    self.bytes -= weight;
                    self.totals.set_aside += 1;
                }
            }
        }
        let tail = &mut self.journal().tail;
        if last && (tail.messages > 0 || tail.bytes > 0) {
            // Somebody else has been at the journal. What is not there is not waited for.
            let Tail {
                messages, bytes, ..
            } = std::mem::take(tail);
            self.messages -= messages;
            self.bytes -= bytes;
            self.totals.missing += messages as u64;
            effects.push(Effect::TailLost(messages));
        }
        self.wake_flushers(effects);
        self.admit(now, effects);
        self.wake_drain(effects);
    }

    fn leave_tail(&mut self, number: u64, weight: usize) {
        let tail = &mut self.journal().tail;
        tail.from = number + 1;
        // If somebody else has been at the journal, what is there counts.
        let more = weight.saturating_sub(tail.bytes);
        tail.bytes -= weight - more;
        let one_more = tail.messages == 0;
        tail.messages = tail.messages.saturating_sub(1);
        self.bytes += more;
        self.messages += usize::from(one_more);
    }
}
