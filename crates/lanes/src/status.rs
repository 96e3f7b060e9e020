//! What lanes say about themselves.

use std::sync::atomic::Ordering;

use crate::{
    core::{Counts, Reason},
    handler::Key,
    shared::Shared,
};

/// A consistent snapshot. Counters are totals since the lanes were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Keys that have items. Empty lanes do not exist.
    pub lanes: usize,
    /// Items held, those in flight included.
    pub items: usize,
    /// What these weigh.
    pub bytes: u64,
    /// Batches with the handler.
    pub in_flight: usize,
    /// Batches between two attempts.
    pub resting: usize,
    /// Calls of `push` that wait for room.
    pub waiting: usize,
    /// Items accepted.
    pub accepted: u64,
    /// Items refused for lack of room, or for being too large.
    pub rejected: u64,
    /// Items handled, or taken out by the handler. What is `accepted` is held (`items`) or ends in
    /// `handled`, `failed_items` or `abandoned`.
    pub handled: u64,
    /// Attempts that failed and were followed by another.
    pub retries: u64,
    /// Batches whose last attempt failed.
    pub failed_batches: u64,
    /// What was left of them, and went to the sink. If the runtime ends while somebody else has the
    /// batch, all of it counts here, whatever is taken out of it later.
    pub failed_items: u64,
    /// Items that nobody was left to handle: handed out by a close, or given to the sink with
    /// [`Cause::Abandoned`](crate::Cause::Abandoned).
    pub abandoned: u64,
    /// Attempts that panicked.
    pub panics: u64,
    /// No more items are taken.
    pub is_closed: bool,
    flushed: [u64; Reason::ALL.len()],
}

impl Status {
    /// Batches flushed for this reason. Further attempts do not count.
    pub fn flushed(&self, reason: Reason) -> u64 {
        self.flushed[reason as usize]
    }

    pub(crate) fn of<K: Key, T: Send + 'static>(shared: &Shared<K, T>) -> Self {
        let panics = shared.panics.load(Ordering::Relaxed);
        shared.query(|core| {
            let Counts {
                items,
                bytes,
                in_flight,
                resting,
                flushed,
                accepted,
                rejected,
                handled,
                retries,
                failed_batches,
                failed_items,
                abandoned,
            } = core.counts();
            Self {
                lanes: core.lanes(),
                items,
                bytes,
                in_flight,
                resting,
                waiting: core.waiting(),
                accepted,
                rejected,
                handled,
                retries,
                failed_batches,
                failed_items,
                abandoned,
                panics,
                is_closed: core.is_closed(),
                flushed,
            }
        })
    }
}
