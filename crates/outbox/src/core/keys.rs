//! Whose turn it is when each key has one delivery in flight.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

/// Keys are hashes already.
#[derive(Debug, Default, Clone, Copy)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("bug: keys are numbers");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// The messages of one key. There is one only while some wait or one is in flight.
#[derive(Debug, Default)]
struct Queue {
    /// Ascending.
    waiting: VecDeque<u64>,
    in_flight: bool,
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    queues: HashMap<u64, Queue, BuildHasherDefault<AsItIs>>,
    /// The first message of each key that has none in flight.
    ready: BTreeSet<u64>,
}

impl Keys {
    pub(super) fn next(&self) -> Option<u64> {
        self.ready.first().copied()
    }

    pub(super) fn waits(&mut self, key: u64, number: u64) {
        let queue = self.queues.entry(key).or_default();
        if !queue.in_flight && queue.waiting.is_empty() {
            self.ready.insert(number);
        }
        queue.waiting.push_back(number);
    }

    /// The next of its key goes out.
    pub(super) fn begins(&mut self, key: u64, number: u64) {
        let queue = self.queue(key);
        let first = queue.waiting.pop_front();
        assert_eq!(first, Some(number), "bug: a key's messages go in order");
        queue.in_flight = true;
        self.ready.remove(&number);
    }

    pub(super) fn ends(&mut self, key: u64) {
        self.queue(key).in_flight = false;
        self.promote(key);
    }

    /// It was in flight and waits again, before the others of its key.
    pub(super) fn returns(&mut self, key: u64, number: u64) {
        let queue = self.queue(key);
        queue.in_flight = false;
        queue.waiting.push_front(number);
        self.promote(key);
    }

    /// It waits no more, and was not delivered.
    pub(super) fn leaves(&mut self, key: u64, number: u64) {
        let queue = self.queue(key);
        if let Ok(at) = queue.waiting.binary_search(&number) {
            queue.waiting.remove(at);
        }
        self.ready.remove(&number);
        self.promote(key);
    }

    fn promote(&mut self, key: u64) {
        let queue = self.queue(key);
        if queue.in_flight {
            return;
        }
        match queue.waiting.front().copied() {
            Some(first) => {
                self.ready.insert(first);
            }
            None => {
                self.queues.remove(&key);
            }
        }
    }

    fn queue(&mut self, key: u64) -> &mut Queue {
        self.queues
            .get_mut(&key)
            .expect("bug: a key with messages has a queue")
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }
}
