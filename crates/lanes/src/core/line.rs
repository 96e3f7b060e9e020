//! Those who wait for room, in the order of their arrival.

use std::collections::{BTreeMap, btree_map::OccupiedEntry};

/// A place in line. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

/// An item with whoever wants to know what becomes of it.
#[derive(Debug)]
pub(super) struct Waiter<K, T, W> {
    pub(super) hash: u32,
    pub(super) key: K,
    pub(super) item: T,
    pub(super) weight: u32,
    /// None once rung.
    pub(super) who: Option<W>,
}

/// Places rise, so their order is that of arrival, and whoever leaves costs nothing later.
#[derive(Debug)]
pub(super) struct Line<K, T, W> {
    waiters: BTreeMap<Place, Waiter<K, T, W>>,
    next: u64,
}

impl<K, T, W> Line<K, T, W> {
    pub(super) fn new() -> Self {
        Self {
            waiters: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn push(&mut self, waiter: Waiter<K, T, W>) -> Place {
        let place = Place(self.next);
        self.next += 1;
        self.waiters.insert(place, waiter);
        place
    }

    pub(super) fn first(&self) -> Option<&Waiter<K, T, W>> {
        self.waiters.first_key_value().map(|(_, waiter)| waiter)
    }

    pub(super) fn pop(&mut self) -> Option<Waiter<K, T, W>> {
        self.waiters.first_entry().map(OccupiedEntry::remove)
    }

    /// Everyone's, once.
    pub(super) fn bells(&mut self) -> impl Iterator<Item = W> {
        let waiters = self.waiters.values_mut();
        waiters.filter_map(|waiter| waiter.who.take())
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Waiter<K, T, W>> {
        self.waiters.remove(&place)
    }
}
