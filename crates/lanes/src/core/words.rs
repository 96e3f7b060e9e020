//! What is said to the core and by it.

use super::{Items, Place};

/// Rings for whoever waits.
pub(crate) trait Bell {
    /// Whoever waited has gone.
    fn is_unheard(&self) -> bool;
}

/// Nanoseconds since the lanes were made.
pub(crate) type Moment = u64;

/// No moment.
pub(crate) const NEVER: Moment = Moment::MAX;

/// Why a batch was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It had as many items as a batch may have.
    Items,
    /// It had as many bytes as a batch may have, or the next item would have been too much.
    Bytes,
    /// Its first item had waited for the linger.
    Linger,
    /// Someone asked for it: `flush` or `flush_all`.
    Flush,
    /// Its key was closed, by `close_key` or a guard.
    KeyClosed,
    /// The lanes were closed, or the last handle on them was dropped.
    Closed,
    /// There was no room for another item, and it was the oldest that could make some.
    Budget,
}

impl Reason {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 7] = [
        Self::Items,
        Self::Bytes,
        Self::Linger,
        Self::Flush,
        Self::KeyClosed,
        Self::Closed,
        Self::Budget,
    ];
}

/// What happens to an item for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenFull {
    /// Its `push` waits in line, strictly in the order of arrival.
    #[default]
    Wait,
    /// Its `push` fails at once and returns it.
    Reject,
    /// The oldest batch is flushed to make room, and its `push` waits in line for that.
    FlushOldest,
}

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Of a batch.
    pub(crate) items: usize,
    /// Of a batch. No item is heavier.
    pub(crate) bytes: u32,
    pub(crate) linger: Moment,
    /// Batches in flight.
    pub(crate) concurrency: usize,
    /// Of everything that is held, in flight or not.
    pub(crate) max_items: usize,
    pub(crate) max_bytes: u64,
    pub(crate) max_lanes: usize,
    pub(crate) when_full: WhenFull,
}

/// What everything amounts to, and how it came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) items: usize,
    pub(crate) bytes: u64,
    pub(crate) in_flight: usize,
    pub(crate) resting: usize,
    /// Batches first started, by reason.
    pub(crate) flushed: [u64; Reason::ALL.len()],
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) handled: u64,
    pub(crate) retries: u64,
    pub(crate) failed_batches: u64,
    pub(crate) failed_items: u64,
    pub(crate) abandoned: u64,
}

/// What is to be done after a command, in this order.
#[derive(Debug)]
pub(crate) struct Effects<K, T, W> {
    /// Batches to be handled, each in a task of its own.
    pub(crate) jobs: Vec<Job<K, T>>,
    /// Who waits for something that is decided.
    pub(crate) rung: Vec<W>,
    /// To be dropped.
    pub(crate) keys: Vec<K>,
    /// Something is due before the timer would look.
    pub(crate) rearm: bool,
    /// Nothing is held any more.
    pub(crate) is_idle: bool,
    /// Of the last batch that was started because of its linger, if one was: 0 if that was in time,
    /// otherwise a number that changes with every few that are late.
    pub(crate) lateness: Option<u32>,
}

/// A batch to be handled.
#[derive(Debug)]
pub(crate) struct Job<K, T> {
    pub(crate) flight: Flight,
    pub(crate) key: K,
    pub(crate) items: Items<T>,
}

/// Stands for a batch in flight. It must be landed, once.
#[derive(Debug)]
#[must_use]
pub(crate) struct Flight {
    pub(super) lane: u32,
    pub(super) epoch: u32,
    pub(crate) items: usize,
    pub(crate) bytes: u32,
    pub(crate) reason: Reason,
    /// This is the n-th attempt, from 1.
    pub(crate) attempt: u32,
}

/// What became of an item.
#[derive(Debug)]
pub(crate) enum Pushed<K, T> {
    /// It is in a lane. The key, if the lane had one already, is to be dropped.
    Accepted(Option<K>),
    Full(K, T),
    Closed(K, T),
}

/// What became of an item that may wait.
#[derive(Debug)]
pub(crate) enum Queued<K, T> {
    Accepted(Option<K>),
    Waiting(Place),
    Closed(K, T),
}

impl<K, T, W> Effects<K, T, W> {
    /// Nothing is to be done, as after most commands.
    pub(crate) fn is_nothing(&self) -> bool {
        let is_quiet = !self.rearm && !self.is_idle && self.lateness.is_none();
        is_quiet && self.jobs.is_empty() && self.rung.is_empty() && self.keys.is_empty()
    }
}

impl<K, T, W> Default for Effects<K, T, W> {
    fn default() -> Self {
        Self {
            jobs: Vec::new(),
            rung: Vec::new(),
            keys: Vec::new(),
            rearm: false,
            is_idle: false,
            lateness: None,
        }
    }
}
