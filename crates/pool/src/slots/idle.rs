//! The idle set: which slots hold a resource that nobody uses, as bits.
//!
//! The bits of one part are spread over cache-padded words, slot `i` in word `i % words`. A
//! thread looks in its home word first, so that threads that each find what they need at home
//! never touch the same cache line. Within a word the lowest bit goes first: under light load
//! the same few slots are used again and again, and the others age out.
//!
//! Ordering. `put` sets a bit and then looks at the gate; a waiter shuts the gate and then looks
//! at the bits. Both halves of that store-then-load pair must be sequentially consistent: with
//! anything weaker each side may miss the other's store, and a waiter would sleep beside an idle
//! resource. The steps that take a bit could be weaker in C++20's terms; as they are, every access
//! to a word is ordered alike, which is what loom can follow, and costs nothing on x86. `put`'s
//! release and the taker's acquire pass the resource itself from one holder to the next.

use std::cell::Cell;

use crossbeam_utils::CachePadded;

use super::{Held, segments::Segments};
use crate::sync::{AtomicU64, Ordering};

type Words = Box<[CachePadded<AtomicU64>]>;

pub(crate) struct IdleSet {
    shards: u32,
    words: Segments<Words>,
}

impl IdleSet {
    /// A set for `len` slots (it can grow) whose words are at least `shards`, a power of two, as
    /// long as there are slots enough.
    pub(crate) fn new(len: u32, shards: u32) -> Self {
        let shards = shards.next_power_of_two();
        Self {
            shards,
            words: Segments::new(len, |part_len| words(part_len, shards)),
        }
    }

    pub(crate) fn grow(&self, len: u32) {
        self.words
            .grow(len, |part_len| words(part_len, self.shards));
    }

    /// Takes the lowest idle slot of the thread's home word, if there is one.
    #[inline]
    pub(crate) fn take_home(&self) -> Option<Held> {
        let words = self.words.first();
        let word = HOME.get() & (words.len() - 1);
        let (bit, contended) = take_lowest(&words[word])?;
        if contended {
            HOME.set(word + 1);
        }
        Some(Held::of(slot_of(words, word, bit)))
    }

    /// Takes an idle slot, if there is one: the lowest of the thread's home word, or of the
    /// nearest word that has any.
    pub(crate) fn take(&self) -> Option<Held> {
        let words = self.words.first();
        let mask = words.len() - 1;
        let home = HOME.get();
        for step in 0..words.len() {
            let word = (home + step) & mask;
            if let Some((bit, contended)) = take_lowest(&words[word]) {
                if contended {
                    HOME.set(word + 1);
                } else if step > 0 {
                    HOME.set(word);
                }
                return Some(Held::of(slot_of(words, word, bit)));
            }
        }
        self.take_later()
    }

    #[cold]
    fn take_later(&self) -> Option<Held> {
        self.words.later().find_map(|(first, words)| {
            words.iter().enumerate().find_map(|(word, bits)| {
                let (bit, _) = take_lowest(bits)?;
                Some(Held::of(first + slot_of(words, word, bit)))
            })
        })
    }

    /// Takes this very slot, if it is idle.
    pub(crate) fn take_this(&self, slot: u32) -> Option<Held> {
        let (word, mask) = self.place(slot);
        let before = word.fetch_and(!mask, Ordering::SeqCst);
        (before & mask != 0).then(|| Held::of(slot))
    }

    /// Adds a slot. The caller looks at the gate afterwards.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the token becomes a bit")]
    pub(crate) fn put(&self, held: Held) {
        let (word, mask) = self.place(held.slot());
        let before = word.fetch_or(mask, Ordering::SeqCst);
        debug_assert!(
            before & mask == 0,
            "bug: slot {} was idle already",
            held.slot()
        );
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        let (word, mask) = self.place(slot);
        word.load(Ordering::SeqCst) & mask != 0
    }

    /// How many slots are idle. Others may come and go during the count.
    pub(crate) fn len(&self) -> usize {
        self.words
            .iter()
            .flat_map(|(_, words)| words.iter())
            .map(|word| word.load(Ordering::SeqCst).count_ones() as usize)
            .sum()
    }

    #[inline]
    fn place(&self, slot: u32) -> (&AtomicU64, u64) {
        let (words, offset) = self.words.part_of(slot);
        let words_len = words.len() as u32;
        let bit = offset >> words_len.trailing_zeros();
        (&words[(offset & (words_len - 1)) as usize], 1 << bit)
    }
}

fn words(part_len: u32, shards: u32) -> Words {
    let words = shards.min(part_len).max(part_len / 64);
    (0..words)
        .map(|_| CachePadded::new(AtomicU64::new(0)))
        .collect()
}

/// Clears the lowest set bit; says which, and whether another thread got in between.
#[inline]
fn take_lowest(word: &AtomicU64) -> Option<(u32, bool)> {
    let mut bits = word.load(Ordering::SeqCst);
    let mut contended = false;
    while bits != 0 {
        let rest = bits & (bits - 1);
        match word.compare_exchange_weak(bits, rest, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Some((bits.trailing_zeros(), contended)),
            Err(seen) => {
                bits = seen;
                contended = true;
            }
        }
    }
    None
}

fn slot_of(words: &Words, word: usize, bit: u32) -> u32 {
    (bit << words.len().trailing_zeros()) | word as u32
}

thread_local! {
    /// Where this thread looks first. One that meets others at its word moves on, one that finds
    /// a resource elsewhere stays there: threads end up apart by themselves.
    static HOME: Cell<usize> = const { Cell::new(0) };
}
