//! Hand-off cells: where a waiter finds what it was given, without taking the lock.
//!
//! A cell belongs to one ticket at a time. Whoever holds the core's lock writes it once, when
//! the waiter leaves the line; the ticket's owner alone reads it, empties it and gives it back.
//! Cells given back pile up on a stack that the core takes whole, under its lock, when it runs
//! out of cells: nothing is ever popped singly, so there is no ABA to fear.

use super::{Held, segments::Segments};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const EMPTY: u64 = 0;
const FAILED: u64 = u64::MAX;

pub(crate) struct Handoffs {
    cells: Segments<Box<[Cell]>>,
    /// The top of the stack of cells given back, as index + 1; 0 for none.
    spent: AtomicU32,
}

struct Cell {
    /// `EMPTY`, `FAILED`, or a slot's index + 1.
    state: AtomicU64,
    /// The cell below this one on the stack.
    below: AtomicU32,
}

/// What a waiter finds in its cell.
#[derive(Debug)]
pub(crate) enum Pickup {
    /// Nothing yet.
    Waiting,
    /// A resource, that is now the finder's.
    Granted(Held),
    /// Word that there will be none; the core knows why.
    Failed,
}

impl Handoffs {
    pub(crate) fn new() -> Self {
        Self {
            cells: Segments::with_base(64),
            spent: AtomicU32::new(0),
        }
    }

    /// Makes cells `0..len`. Under the core's lock.
    pub(crate) fn grow(&self, len: u32) {
        self.cells
            .grow(len, |part| (0..part).map(|_| Cell::new()).collect());
    }

    /// Gives a waiter a slot. Under the core's lock, to a ticket that is in line.
    pub(crate) fn give(&self, index: u32, held: Held) {
        // Release: the waiter reads the resource after it has read this.
        self.cell(index)
            .state
            .store(u64::from(held.slot()) + 1, Ordering::Release);
    }

    /// Tells a waiter that it gets nothing. Under the core's lock, to a ticket that is in line.
    pub(crate) fn fail(&self, index: u32) {
        self.cell(index).state.store(FAILED, Ordering::Release);
    }

    /// Looks into a cell and empties it. By the ticket's owner only.
    pub(crate) fn take(&self, index: u32) -> Pickup {
        let state = &self.cell(index).state;
        match state.load(Ordering::Acquire) {
            EMPTY => Pickup::Waiting,
            FAILED => {
                state.store(EMPTY, Ordering::Relaxed);
                Pickup::Failed
            }
            slot => {
                state.store(EMPTY, Ordering::Relaxed);
                Pickup::Granted(Held::of((slot - 1) as u32))
            }
        }
    }

    /// Gives a cell back, by the ticket's owner, whose ticket ends with it.
    pub(crate) fn release(&self, index: u32) {
        let cell = self.cell(index);
        let mut top = self.spent.load(Ordering::Relaxed);
        loop {
            cell.below.store(top, Ordering::Relaxed);
            // Release: whoever takes the stack sees the cell empty and its link set.
            match self.spent.compare_exchange_weak(
                top,
                index + 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => top = seen,
            }
        }
    }

    /// Takes all the cells given back so far. Under the core's lock.
    pub(crate) fn reclaim(&self, mut each: impl FnMut(u32)) {
        let mut top = self.spent.swap(0, Ordering::Acquire);
        while let Some(index) = top.checked_sub(1) {
            top = self.cell(index).below.load(Ordering::Relaxed);
            each(index);
        }
    }

    fn cell(&self, index: u32) -> &Cell {
        let (part, offset) = self.cells.part_of(index);
        &part[offset as usize]
    }
}

impl Cell {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(EMPTY),
            below: AtomicU32::new(0),
        }
    }
}
