//! What an outbox says about itself.

use std::{error::Error, sync::Arc, time::Duration};

use crate::journal::JournalError;

/// The state of an outbox at one moment, and its running totals.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Messages that are accepted, or are being stored, and not resolved; those in flight included.
    pub depth: usize,
    /// The bytes of these.
    pub bytes: usize,
    /// Deliveries under way.
    pub in_flight: usize,
    /// Callers that wait for room.
    pub waiting: usize,
    /// How long ago the oldest message in memory was accepted.
    pub age: Option<Duration>,
    /// The outage, if there is one.
    pub outage: Option<Outage>,
    /// Why the journal failed the last time it was used; none if it works, or if there is none.
    pub journal_trouble: Option<Arc<JournalError>>,
    /// Whether messages are no longer accepted.
    pub is_closed: bool,
    /// Whether none are delivered any more either.
    pub has_ended: bool,
    /// Totals since the outbox was built.
    pub totals: Totals,
}

/// Deliveries come to no answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outage {
    /// How long it has been on.
    pub lasted: Duration,
    /// How many times in a row, one for each pause.
    pub failures: u32,
    /// Why the last one failed.
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// Totals since the outbox was built.
///
/// `accepted + found` is what is resolved (`delivered`, `rejected`, `dropped_oldest`, `expired`,
/// `gave_up`), `handed_back`, `set_aside`, `missing` or still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Messages that were accepted.
    pub accepted: u64,
    /// Messages that the journal held at the beginning.
    pub found: u64,
    /// Messages that the destination has.
    pub delivered: u64,
    /// Messages that the destination rejected.
    pub rejected: u64,
    /// Messages dropped to make room for others.
    pub dropped_oldest: u64,
    /// Messages dropped because there was no room for them. They were not accepted.
    pub dropped_newest: u64,
    /// Messages that were not accepted because there was no room for them.
    pub refused: u64,
    /// Messages that were not accepted because the journal could not store them.
    pub not_stored: u64,
    /// Messages that waited for as long as they may.
    pub expired: u64,
    /// Messages that were tried as often as they may.
    pub gave_up: u64,
    /// Messages handed back when the outbox ended.
    pub handed_back: u64,
    /// Records that could not be read, and were set aside in the journal.
    pub set_aside: u64,
    /// Messages that were in the journal alone and are lost: somebody else took them out of it, or the
    /// file is damaged.
    pub missing: u64,
    /// Deliveries that came to no answer.
    pub unknown: u64,
    /// Deliveries that panicked. They are among `unknown`.
    pub panics: u64,
    /// Outages: from a delivery without an answer to the next that has one.
    pub outages: u64,
    /// Commits of the journal.
    pub commits: u64,
    /// Commits of the journal that failed.
    pub failed_commits: u64,
    /// Times that the journal could not be read.
    pub failed_reads: u64,
}
