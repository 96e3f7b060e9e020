//! What threads reach without the core's lock: the gate, the idle set and the hand-off cells.

use crossbeam_utils::CachePadded;

use super::Moment;
use crate::{
    slots::{Handoffs, IdleSet},
    sync::{AtomicU64, Ordering},
};

pub(crate) struct Shelf {
    pub(crate) gate: CachePadded<Gate>,
    /// The coarse clock: a recent moment, exact to an epoch while the pool is in use. Read on
    /// every checkout and return, where a real clock would cost more than all the rest.
    pub(crate) clock: CachePadded<AtomicU64>,
    pub(crate) idle: IdleSet,
    pub(crate) handoffs: Handoffs,
}

impl Shelf {
    /// `near` is how many waiters at once are usual.
    pub(crate) fn new(slots: u32, shards: u32, near: u32) -> Self {
        Self {
            gate: CachePadded::new(Gate::new()),
            clock: CachePadded::new(AtomicU64::new(0)),
            idle: IdleSet::new(slots, shards),
            handoffs: Handoffs::new(near),
        }
    }

    /// The coarse time.
    #[inline]
    pub(crate) fn coarse_now(&self) -> Moment {
        // Relaxed: a number of its own; a stale one is a little earlier, which is what it means.
        self.clock.load(Ordering::Relaxed)
    }
}

/// One word that every `get` and `put` looks at: its flags say why the short way is barred, its
/// upper bits are the pool's generation. Written under the core's lock only.
pub(crate) struct Gate {
    word: AtomicU64,
}

/// The reasons to take the long way.
pub(crate) mod flag {
    /// Someone waits: a returned resource is theirs.
    pub(crate) const WAITING: u64 = 1;
    /// The pool is closed.
    pub(crate) const CLOSED: u64 = 1 << 1;
    /// More resources exist than may: returned ones are destroyed.
    pub(crate) const SURPLUS: u64 = 1 << 2;
    /// The coarse clock stands still until the next use.
    pub(crate) const DROWSY: u64 = 1 << 3;
    /// Another pool waits for a unit of the bound they share: what comes back may have to go there.
    pub(crate) const PRESSED: u64 = 1 << 4;
}

const FLAG_BITS: u32 = 8;

/// What the gate said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look(u64);

impl Look {
    #[inline]
    pub(crate) fn is_open(self) -> bool {
        self.0 & ((1 << FLAG_BITS) - 1) == 0
    }

    /// Nothing bars a `get` from what is idle.
    pub(crate) fn lends(self) -> bool {
        self.0 & ((1 << FLAG_BITS) - 1) & !flag::PRESSED == 0
    }

    pub(crate) fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Nothing bars a `get` but the clock.
    pub(crate) fn is_drowsy_only(self) -> bool {
        self.0 & ((1 << FLAG_BITS) - 1) & !flag::PRESSED == flag::DROWSY
    }

    #[inline]
    pub(crate) fn generation(self) -> u64 {
        self.0 >> FLAG_BITS
    }
}

impl Gate {
    fn new() -> Self {
        Self {
            word: AtomicU64::new(flag::DROWSY),
        }
    }

    /// Sequentially consistent: half of the pair that `slots::idle` explains.
    #[inline]
    pub(crate) fn look(&self) -> Look {
        Look(self.word.load(Ordering::SeqCst))
    }

    /// Sequentially consistent: the other half.
    pub(super) fn set(&self, flags: u64, generation: u64) {
        self.word
            .store(flags | generation << FLAG_BITS, Ordering::SeqCst);
    }
}
