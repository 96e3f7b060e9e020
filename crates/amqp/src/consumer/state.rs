//! How a consumer is, and what it has done.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::ConsumeError;
use crate::telemetry;

/// How a [`Consumer`](super::Consumer) is.
///
/// ```text
///   Running ◀──▶ Paused
///      │ ▲        ▲ │
///      ▼ │        │ ▼
///      Recovering ──────▶ Failed      any of them ──▶ Stopped
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConsumerState {
    /// The broker delivers, and handlers start.
    Running,
    /// The broker delivers up to the prefetch, but no handler starts.
    Paused,
    /// There is no subscription; it is being made again.
    Recovering {
        /// Why there is none.
        cause: Arc<ConsumeError>,
        /// How many attempts to subscribe again have failed.
        attempt: u32,
    },
    /// There will be no subscription any more: trying again could not help.
    Failed(Arc<ConsumeError>),
    /// The consumer was stopped or dropped. Nothing is delivered any more.
    Stopped,
}

impl ConsumerState {
    /// Whether the broker delivers and handlers start.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }

    /// Whether this is the end.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Stopped)
    }
}

/// What a consumer has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Deliveries received.
    pub delivered: u64,
    /// Deliveries whose acknowledgement was written to the connection.
    pub acked: u64,
    /// Frames that it took: fewer, for one can cover many.
    pub ack_frames: u64,
    /// Deliveries handed back to the queue, those that no handler saw among them.
    pub requeued: u64,
    /// Deliveries rejected.
    pub rejected: u64,
    /// Verdicts that came when the delivery's channel was gone, and were never sent: the broker
    /// delivers these messages again.
    pub stale: u64,
    /// Panics in handlers.
    pub panics: u64,
    /// Handlers that took longer than they may.
    pub timeouts: u64,
    /// Subscriptions, the first included.
    pub registrations: u64,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) told: telemetry::Consuming,
    pub(super) delivered: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) ack_frames: AtomicU64,
    pub(super) requeued: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) registrations: AtomicU64,
}

impl Counters {
    pub(super) fn new(told: telemetry::Consuming) -> Self {
        Self {
            told,
            delivered: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            ack_frames: AtomicU64::new(0),
            requeued: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            registrations: AtomicU64::new(0),
        }
    }

    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            delivered: read(&self.delivered),
            acked: read(&self.acked),
            ack_frames: read(&self.ack_frames),
            requeued: read(&self.requeued),
            rejected: read(&self.rejected),
            stale: read(&self.stale),
            panics: read(&self.panics),
            timeouts: read(&self.timeouts),
            registrations: read(&self.registrations),
        }
    }
}
