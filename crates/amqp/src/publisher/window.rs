//! How much may be under way at once, and the counts.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{channels::ChannelPool, telemetry};

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) published: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) returned: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) republished: AtomicU64,
    pub(super) in_flight: AtomicU64,
}

/// What the messages of one publisher share.
pub(super) struct Home {
    pub(super) pool: ChannelPool,
    pub(super) counts: Counts,
    pub(super) window: u32,
    pub(super) window_bytes: u32,
    pub(super) deadline: Duration,
    pub(super) closed: AtomicBool,
    pub(super) told: telemetry::Publishing,
    count: Semaphore,
    bytes: Semaphore,
}

impl Home {
    pub(super) fn new(
        pool: ChannelPool,
        window: u32,
        window_bytes: u32,
        deadline: Duration,
        told: telemetry::Publishing,
    ) -> Self {
        Self {
            pool,
            counts: Counts::default(),
            window,
            window_bytes,
            deadline,
            closed: AtomicBool::new(false),
            told,
            count: Semaphore::new(window as usize),
            bytes: Semaphore::new(window_bytes as usize),
        }
    }

    /// Takes a share, in order of arrival; a message larger than the window takes all of it. None
    /// if the publisher is closed. What is taken goes back with [`release`](Self::release).
    pub(super) async fn enter(&self, bytes: usize) -> Option<u32> {
        let bytes = u32::try_from(bytes).map_or(self.window_bytes, |b| b.min(self.window_bytes));
        let one = self.count.acquire().await.ok()?;
        let many = self.bytes.acquire_many(bytes).await.ok()?;
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        one.forget();
        many.forget();
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        self.told.entered();
        Some(bytes)
    }

    pub(super) fn release(&self, bytes: u32) {
        self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.told.left();
        self.bytes.add_permits(bytes as usize);
        self.count.add_permits(1);
    }

    /// Until everything that entered before is out again. Who comes later waits for it.
    pub(super) async fn drained(&self) {
        let _ = self.count.acquire_many(self.window).await;
    }

    /// Nobody waits to enter any more.
    pub(super) fn shut(&self) {
        self.count.close();
        self.bytes.close();
    }
}
