//! How much may be under way at once, and the counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::seat::Seat;
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
    pub(super) seat: Arc<Seat>,
    pub(super) counts: Counts,
    pub(super) window: u32,
    pub(super) window_bytes: u32,
    pub(super) deadline: Duration,
    is_closed: AtomicBool,
    closing: Notify,
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
            seat: Arc::new(Seat::new(pool)),
            counts: Counts::default(),
            window,
            window_bytes,
            deadline,
            is_closed: AtomicBool::new(false),
            closing: Notify::new(),
            told,
            count: Semaphore::new(window as usize),
            bytes: Semaphore::new(window_bytes as usize),
        }
    }

    /// Takes a share if there is one for who comes now. What is taken goes back with
    /// [`release`](Self::release).
    pub(super) fn try_enter(&self, bytes: usize) -> Option<u32> {
        let bytes = self.share(bytes);
        // None is free as long as somebody waits for one.
        let one = self.count.try_acquire().ok()?;
        let many = self.bytes.try_acquire_many(bytes).ok()?;
        self.keep(one, many).then_some(bytes)
    }

    /// Takes a share, in order of arrival; a message larger than the window takes all of it. None
    /// if the publisher is closed.
    pub(super) async fn enter(&self, bytes: usize) -> Option<u32> {
        let bytes = self.share(bytes);
        let one = self.count.acquire().await.ok()?;
        let many = self.bytes.acquire_many(bytes).await.ok()?;
        self.keep(one, many).then_some(bytes)
    }

    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).map_or(self.window_bytes, |b| b.min(self.window_bytes))
    }

    /// Keeps a share, unless the publisher is closed.
    fn keep(&self, one: SemaphorePermit<'_>, many: SemaphorePermit<'_>) -> bool {
        if self.is_closed.load(Ordering::Relaxed) {
            return false;
        }
        one.forget();
        many.forget();
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        self.told.entered();
        true
    }

    pub(super) fn release(&self, bytes: u32) {
        if self.counts.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.seat.leave();
        }
        self.told.left();
        self.bytes.add_permits(bytes as usize);
        self.count.add_permits(1);
    }

    /// Until everything that entered before is out again. Who comes later waits for it.
    pub(super) async fn drained(&self) {
        let _ = self.count.acquire_many(self.window).await;
    }

    /// Nobody enters any more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.closing.notify_waiters();
    }

    /// Until nobody enters any more.
    #[cfg(feature = "outbox")]
    pub(super) async fn closed(&self) {
        let mut closing = std::pin::pin!(self.closing.notified());
        closing.as_mut().enable();
        if !self.is_closed.load(Ordering::Relaxed) {
            closing.await;
        }
    }

    /// Nobody waits to enter any more.
    pub(super) fn shut(&self) {
        self.count.close();
        self.bytes.close();
    }
}
