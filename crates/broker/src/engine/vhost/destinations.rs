//! Where bindings lead.

use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;

/// Where a binding leads: a slot of the virtual host's queues or exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    Queue(usize),
    Exchange(usize),
}

/// Destinations, each with the number of bindings that lead there.
#[derive(Debug, Default)]
pub(super) struct Destinations(IndexMap<Destination, usize, BuildHasherDefault<SlotHasher>>);

impl Destinations {
    pub(super) fn add(&mut self, destination: Destination) {
        *self.0.entry(destination).or_default() += 1;
    }

    pub(super) fn remove(&mut self, destination: Destination) {
        let Some(count) = self.0.get_mut(&destination) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.0.swap_remove(&destination);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Destination> {
        self.0.keys().copied()
    }
}

/// Spreads slot numbers, which the host gives out itself, by one multiplication (Knuth's).
#[derive(Debug, Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.unsigned_abs() as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
