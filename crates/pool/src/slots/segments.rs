//! An array that grows by doubling and never moves what it holds, so that an element's address
//! outlives growth and can be read without a lock.

use std::sync::OnceLock;

/// The largest length: 2^20 elements.
pub(crate) const MAX_LEN: u32 = 1 << 20;

const SMALLEST: u32 = 8;
const LATER: usize = (MAX_LEN / SMALLEST).ilog2() as usize;

/// The first part holds `base` elements, later part `k` the `base << k` that follow.
pub(super) struct Segments<T> {
    base: u32,
    /// Made at once: almost every pool has it alone, and reaches it with one comparison.
    first: T,
    later: [OnceLock<T>; LATER],
}

impl<T> Segments<T> {
    /// An array whose first `len` elements lie in the first part; `make` gets that part's length.
    pub(super) fn new(len: u32, make: impl FnOnce(u32) -> T) -> Self {
        assert!(len <= MAX_LEN, "bug: {len} elements are over {MAX_LEN}");
        let base = len.next_power_of_two().max(SMALLEST);
        Self {
            base,
            first: make(base),
            later: [const { OnceLock::new() }; LATER],
        }
    }

    /// Makes the parts that hold the first `len` elements. Only one thread may grow at a time,
    /// which the caller's lock sees to.
    pub(super) fn grow(&self, len: u32, mut make: impl FnMut(u32) -> T) {
        assert!(len <= MAX_LEN, "bug: {len} elements are over {MAX_LEN}");
        for (part, made) in self.later.iter().enumerate() {
            if self.start_of(part) >= len {
                return;
            }
            made.get_or_init(|| make(self.start_of(part)));
        }
    }

    /// The part that holds `index`, and the offset in it. Panics if that part was not made.
    #[inline]
    pub(super) fn part_of(&self, index: u32) -> (&T, u32) {
        if index < self.base {
            (&self.first, index)
        } else {
            self.later_part_of(index)
        }
    }

    #[cold]
    fn later_part_of(&self, index: u32) -> (&T, u32) {
        let part = (index / self.base).ilog2() as usize;
        let made = self.later[part].get().expect("bug: index beyond growth");
        (made, index - self.start_of(part))
    }

    #[inline]
    pub(super) fn first(&self) -> &T {
        &self.first
    }

    /// The parts made so far after the first, each with the index of its first element.
    pub(super) fn later(&self) -> impl Iterator<Item = (u32, &T)> {
        self.later
            .iter()
            .enumerate()
            .map_while(|(part, made)| made.get().map(|made| (self.start_of(part), made)))
    }

    /// The parts made so far, each with the index of its first element.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        std::iter::once((0, &self.first)).chain(self.later())
    }

    /// The index of a later part's first element, which is also its length.
    fn start_of(&self, part: usize) -> u32 {
        self.base << part
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_place_and_keeps_it_when_the_array_grows() {
        let array = Segments::new(5, |len| vec![(); len as usize]);
        let before = std::ptr::from_ref(array.part_of(3).0);
        array.grow(1000, |len| vec![(); len as usize]);
        assert_eq!(before, std::ptr::from_ref(array.part_of(3).0));

        let mut expected = 0;
        for (first, part) in array.iter() {
            assert_eq!(first, expected);
            expected += part.len() as u32;
        }
        for index in 0..1000 {
            let (part, offset) = array.part_of(index);
            assert!((offset as usize) < part.len());
            let (first, _) = array
                .iter()
                .find(|(_, candidate)| std::ptr::eq(*candidate, part))
                .unwrap();
            assert_eq!(first + offset, index);
        }
    }

    #[test]
    fn the_largest_length_fits_the_smallest_base() {
        let array = Segments::new(1, |len| len);
        array.grow(MAX_LEN, |len| len);
        assert_eq!(array.iter().map(|(_, len)| len).sum::<u32>(), MAX_LEN);
    }
}
