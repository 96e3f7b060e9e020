//! Slots, and who may touch what is in them.
//!
//! A **slot** is one unit of `max_active`; it holds its resource in place. The right to touch a
//! slot's resource is a [`Held`]: a token that cannot be copied, of which exactly one exists for
//! each slot. At any moment that token is in one of four places:
//!
//! ```text
//!              core (vacant)  ── create ──▶  a task (creating)
//!                   ▲                             │
//!                   │ destroyed                   ▼
//!              a task (closing) ◀── retire ──  a lease, or upkeep
//!                                              │          ▲
//!                                         put  ▼          │ get
//!                                   idle set, or a waiter's hand-off cell
//! ```
//!
//! The idle set and the hand-off cells store tokens as bits and numbers; taking one out again is
//! an atomic step that only one thread can win. All else moves tokens by value, so that lending a
//! resource twice does not compile. This module is the only one in the crate with `unsafe` in it
//! (`table`), and the only one that may turn numbers into tokens.

mod handoff;
mod idle;
mod segments;
mod table;

pub(crate) use handoff::{Handoffs, Pickup};
pub(crate) use idle::IdleSet;
pub(crate) use segments::MAX_LEN;
pub(crate) use table::{NEVER, Stamps, Table};

use std::num::NonZeroU32;

/// The right to one slot: see the module's text. Never copied, never dropped on purpose.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "a dropped token is a slot lost for ever"]
pub(crate) struct Held(NonZeroU32);

impl Held {
    /// The slot's index.
    pub(crate) fn slot(&self) -> u32 {
        self.0.get() - 1
    }

    /// The caller is the one who has just taken `slot` out of where its token was kept.
    fn of(slot: u32) -> Self {
        Held(NonZeroU32::MIN.saturating_add(slot))
    }
}
