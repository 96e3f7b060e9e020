//! An array that grows by doubling and never moves what it holds, so that an element's address
//! outlives growth and can be read without a lock.

use std::sync::OnceLock;

/// The largest length: 2^20 elements.
pub(crate) const MAX_LEN: u32 = 1 << 20;

const SMALLEST: u32 = 8;
const PARTS: usize = 1 + (MAX_LEN / SMALLEST).ilog2() as usize;

/// Part 0 holds the first `base` elements, part `k` the `base << (k - 1)` that follow.
pub(super) struct Segments<T> {
    base: u32,
    parts: [OnceLock<T>; PARTS],
}

impl<T> Segments<T> {
    /// Parts of sizes such that the first `len` elements lie in part 0.
    pub(super) fn with_base(len: u32) -> Self {
        assert!(len <= MAX_LEN, "bug: {len} elements are over {MAX_LEN}");
        Self {
            base: len.next_power_of_two().max(SMALLEST),
            parts: [const { OnceLock::new() }; PARTS],
        }
    }

    /// Makes the parts that hold the first `len` elements; `make` gets a part's length. Only one
    /// thread may grow at a time, which the caller's lock sees to.
    pub(super) fn grow(&self, len: u32, mut make: impl FnMut(u32) -> T) {
        assert!(len <= MAX_LEN, "bug: {len} elements are over {MAX_LEN}");
        let Some(last) = len.checked_sub(1) else {
            return;
        };
        for part in 0..=self.locate(last).0 {
            self.parts[part].get_or_init(|| make(self.part_len(part)));
        }
    }

    /// The part that holds `index`, and the offset in it. Panics if that part was not made.
    pub(super) fn part_of(&self, index: u32) -> (&T, u32) {
        let (part, offset) = self.locate(index);
        (
            self.parts[part].get().expect("bug: index beyond growth"),
            offset,
        )
    }

    /// Part 0, which almost every pool has alone.
    pub(super) fn first(&self) -> Option<&T> {
        self.parts[0].get()
    }

    /// The parts made so far after part 0, each with the index of its first element.
    pub(super) fn later(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter().skip(1)
    }

    /// The parts made so far, each with the index of its first element.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.parts
            .iter()
            .enumerate()
            .map_while(|(part, made)| made.get().map(|made| (self.first_of(part), made)))
    }

    fn locate(&self, index: u32) -> (usize, u32) {
        if index < self.base {
            return (0, index);
        }
        let part = (index / self.base).ilog2() as usize + 1;
        (part, index - self.first_of(part))
    }

    fn first_of(&self, part: usize) -> u32 {
        if part == 0 {
            0
        } else {
            self.base << (part - 1)
        }
    }

    fn part_len(&self, part: usize) -> u32 {
        if part == 0 {
            self.base
        } else {
            self.first_of(part)
        }
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_place_and_keeps_it_when_the_array_grows() {
        let array = Segments::with_base(5);
        array.grow(5, |len| vec![(); len as usize]);
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
        let array = Segments::<u32>::with_base(1);
        array.grow(MAX_LEN, |len| len);
        assert_eq!(array.iter().map(|(_, len)| len).sum::<u32>(), MAX_LEN);
    }
}
