//! Hand-off cells: where a waiter finds what it was given, without taking the lock.
//!
//! A cell belongs to one ticket at a time. Whoever holds the core's lock writes it once, when
//! the waiter leaves the line; the ticket's owner alone reads it and empties it. The core uses the
//! cell again when the slot that was handed over in it comes back, for then it has been emptied.

use super::{Held, segments::Segments};
use crate::sync::{AtomicU64, Ordering};

const EMPTY: u64 = 0;
const FAILED: u64 = u64::MAX;

pub(crate) struct Handoffs {
    cells: Segments<Box<[Cell]>>,
}

/// One cache line, so that waiters do not disturb each other.
#[repr(align(64))]
struct Cell {
    /// `EMPTY`, `FAILED`, or a slot's index + 1.
    state: AtomicU64,
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
    /// The first `near` cells are reached a little faster than those that come later.
    pub(crate) fn new(near: u32) -> Self {
        Self {
            cells: Segments::new(near, cells),
        }
    }

    /// Makes cells `0..len`. Under the core's lock.
    pub(crate) fn grow(&self, len: u32) {
        self.cells.grow(len, cells);
    }

    /// Gives a waiter a slot. Under the core's lock, to a ticket that is in line.
    #[expect(clippy::needless_pass_by_value, reason = "the token becomes a number")]
    pub(crate) fn give(&self, index: u32, held: Held) {
        // Release: the waiter reads the resource after it has read this.
        self.cell(index)
            .state
            .store(u64::from(held.slot()) + 1, Ordering::Release);
    }

    /// Tells a waiter that it gets nothing. Under the core's lock, to a ticket that is in line.
    pub(crate) fn fail(&self, index: u32) {
        // Relaxed: the waiter takes the lock before it reads the reason.
        self.cell(index).state.store(FAILED, Ordering::Relaxed);
    }

    /// Looks into a cell and empties it. By the ticket's owner only.
    ///
    /// Emptying is relaxed: the cell is used again only after the slot's token came back to the
    /// core, which orders it.
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

    fn cell(&self, index: u32) -> &Cell {
        let (part, offset) = self.cells.part_of(index);
        &part[offset as usize]
    }
}

fn cells(len: u32) -> Box<[Cell]> {
    (0..len).map(|_| Cell::new()).collect()
}

impl Cell {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(EMPTY),
        }
    }
}
