//! One lane, kept small, for there may be millions of them.

use std::collections::VecDeque;

use super::{
    Items, Moment, Reason,
    index::Hashes,
    pages::{NIL, Pages},
};

/// What waits under one key.
///
/// ```text
///            first item                 due, or a batch is closed
///   (none) ────────────▶ Collecting ────────────────────────────▶ Queued
///      ▲                      ▲                                    │   ▲
///      │ nothing is left      │ nothing is due                     ▼   │
///      └──────────────────────┴──────────────────────────────── Flying │ more is due
///                                                                  │ │ │
///                                                           failed ▼ └─┤
///                                                               Resting┘
/// ```
///
/// In every stage it goes on to collect. It exists while it holds an item or one of its batches is
/// in flight.
#[derive(Debug)]
pub(super) struct Lane<K, T> {
    pub(super) key: K,
    /// The batch that collects.
    pub(super) open: Items<T>,
    /// Closed batches before it; none in nearly every lane.
    pub(super) closed: Closed<T>,
    /// When the first item of the open batch came.
    pub(super) since: Moment,
    /// Neighbours in the linger list. The lane is in it while it has an open batch that is not due.
    pub(super) before: u32,
    pub(super) behind: u32,
    pub(super) hash: u32,
    /// Weight of the open batch.
    pub(super) bytes: u32,
    /// The epoch in which the open batch began.
    pub(super) epoch: u32,
    /// Why the open batch is to be flushed as soon as may be.
    pub(super) due: Option<Reason>,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Collecting,
    /// In the ready queue.
    Queued,
    Flying,
    /// Between two attempts.
    Resting,
}

/// A batch that takes no more items.
#[derive(Debug)]
pub(super) struct Load<T> {
    pub(super) items: Items<T>,
    pub(super) bytes: u32,
    pub(super) epoch: u32,
    pub(super) reason: Reason,
    /// Attempts made.
    pub(super) attempts: u32,
}

#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "8 bytes in a lane that has none, instead of 32"
)]
pub(super) struct Closed<T>(Option<Box<VecDeque<Load<T>>>>);

impl<K, T> Hashes for Pages<Lane<K, T>> {
    fn hash_of(&self, lane: u32) -> u32 {
        self.get(lane).hash
    }

    fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        self.iter().map(|(number, lane)| (lane.hash, number))
    }
}

impl<K, T> Lane<K, T> {
    pub(super) fn new(key: K, hash: u32) -> Self {
        Self {
            key,
            open: Items::None,
            closed: Closed(None),
            since: 0,
            before: NIL,
            behind: NIL,
            hash,
            bytes: 0,
            epoch: 0,
            due: None,
            stage: Stage::Collecting,
        }
    }

    /// Batches it has, in flight or not.
    pub(super) fn batches(&self) -> usize {
        let flying = usize::from(self.stage == Stage::Flying);
        flying + self.closed.len() + usize::from(!self.open.is_empty())
    }

    pub(super) fn has_due(&self) -> bool {
        self.due.is_some() || self.closed.len() > 0
    }

    /// Closes the open batch; it must not be in the linger list.
    pub(super) fn seal(&mut self, reason: Reason) {
        let load = self.take_open(reason);
        self.closed.push_back(load);
    }

    /// Takes the batch that is next: closed, or due.
    pub(super) fn take_due(&mut self) -> Option<Load<T>> {
        if let Some(load) = self.closed.pop_front() {
            return Some(load);
        }
        let reason = self.due?;
        Some(self.take_open(reason))
    }

    pub(super) fn take_open(&mut self, reason: Reason) -> Load<T> {
        self.due = None;
        Load {
            items: self.open.take(),
            bytes: std::mem::take(&mut self.bytes),
            epoch: self.epoch,
            reason,
            attempts: 0,
        }
    }
}

impl<T> Closed<T> {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |loads| loads.len())
    }

    pub(super) fn push_back(&mut self, load: Load<T>) {
        self.0.get_or_insert_default().push_back(load);
    }

    pub(super) fn push_front(&mut self, load: Load<T>) {
        self.0.get_or_insert_default().push_front(load);
    }

    pub(super) fn pop_front(&mut self) -> Option<Load<T>> {
        let load = self.0.as_mut()?.pop_front();
        if self.0.as_ref().is_some_and(|loads| loads.is_empty()) {
            self.0 = None;
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_of_numbers_takes_72_bytes() {
        assert_eq!(size_of::<Lane<u64, u64>>(), 72);
    }
}
