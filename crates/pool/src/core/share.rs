//! A pool's part in a bound that several pools share.
//!
//! Every slot in use costs a **unit** of that bound, from before its creation begins until its
//! resource has been destroyed. The pool says how many more it could use, the owner of the bound
//! grants one at a time, and what is not needed goes back at the end of the same command.

use std::sync::Arc;

use super::Arrival;
use crate::sync::{AtomicU64, Ordering};

/// What the core keeps of its part in a shared bound.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Units in the pool's name. Between commands, as many as there are slots in use.
    pub(super) units: u32,
    /// Those of them that have just been granted. What a slot leaves behind is not the pool's to
    /// use again: others may have waited for longer.
    pub(super) fresh: u32,
    /// Units granted, ever.
    pub(super) seen: u64,
    /// What the owner knows.
    pub(super) told: Needs,
    pub(super) version: u64,
    /// What counts the arrivals at all the pools, so that they can be compared.
    pub(super) arrivals: Option<Arc<AtomicU64>>,
    /// The pool closed by itself, for nobody used it.
    pub(super) vanished: bool,
}

impl Share {
    /// Later than all others, over all the pools.
    pub(super) fn next_arrival(&self) -> u64 {
        let arrivals = self.arrivals.as_ref();
        let arrivals = arrivals.expect("bug: shares with nobody");
        // Relaxed: each number is given once, and a pool takes them under its lock.
        arrivals.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What a pool wants of a shared bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// How many creations would begin at once if there were units for them.
    pub(crate) units: u32,
    /// Its oldest waiter, if it wants units and has nothing at all: no resource, and no creation
    /// under way that would bring one.
    pub(crate) hungry: Option<Arrival>,
}

/// What a pool tells the owner of the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Orders the reports of one pool: one with a lower version is stale.
    pub(crate) version: u64,
    /// Units that the pool gives back. They count also in a stale report.
    pub(crate) released: u32,
    /// How many grants it had seen. It wants fewer by those that were on their way.
    pub(crate) seen: u64,
    pub(crate) needs: Needs,
}
