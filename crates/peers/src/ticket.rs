//! One packet's fate, on its way to whoever waits for it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{core::outbound::Waits, error::SendError, remote::Remote};

/// The end that is told.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Slot>);

/// What both ends know.
#[derive(Debug)]
struct Slot {
    deadline: Instant,
    /// Taken after the lock of the packets, if both are.
    told: Mutex<Told>,
    /// These two are looked at and changed under the lock of the packets only, which orders them.
    was_sent: AtomicBool,
    has_left: AtomicBool,
}

#[derive(Debug, Default)]
struct Told {
    outcome: Option<Result<(), SendError>>,
    waker: Option<Waker>,
}

impl Ticket {
    /// When the time of whoever waits is up.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Tells, and wakes whoever waits.
    pub(crate) fn settle(self, outcome: Result<(), SendError>) {
        if let Some(waker) = self.0.tell(outcome) {
            waker.wake();
        }
    }

    /// Tells that the time is up, under the lock of the packets, by which it is decided whether it was
    /// sent. Whoever is to be woken is so without it.
    pub(crate) fn expire(&self, after: Duration) -> Option<Waker> {
        if self.0.has_left.swap(true, Ordering::Relaxed) {
            return None;
        }
        let sent = self.0.was_sent.load(Ordering::Relaxed);
        self.0.tell(Err(SendError::TimedOut { after, sent }))
    }
}

impl Slot {
    /// The first word stands. Says who is to be woken.
    fn tell(&self, outcome: Result<(), SendError>) -> Option<Waker> {
        let mut told = self.told.lock();
        told.outcome.get_or_insert(outcome);
        told.waker.take()
    }
}

impl Waits for Ticket {
    fn has_left(&self) -> bool {
        self.0.has_left.load(Ordering::Relaxed)
    }

    fn sent(&self) {
        self.0.was_sent.store(true, Ordering::Relaxed);
    }
}

/// A packet that has its place in line: resolves when its fate is known, or when its time is up.
///
/// Dropping it gives up waiting: a packet that was not sent yet is not sent any more, and one that was
/// may be handled or not.
#[must_use = "dropping it takes a packet that is not sent yet back"]
#[derive(Debug)]
pub struct Receipt {
    slot: Arc<Slot>,
    remote: Arc<Remote>,
    is_done: bool,
}

impl Receipt {
    pub(crate) fn new(remote: Arc<Remote>, deadline: Instant) -> (Ticket, Self) {
        let slot = Arc::new(Slot {
            deadline,
            told: Mutex::default(),
            was_sent: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
        });
        let receipt = Self {
            slot: Arc::clone(&slot),
            remote,
            is_done: false,
        };
        (Ticket(slot), receipt)
    }

    fn poll_outcome(&self, context: &Context<'_>) -> Poll<Result<(), SendError>> {
        let mut told = self.slot.told.lock();
        if let Some(outcome) = told.outcome.take() {
            return Poll::Ready(outcome);
        }
        match &mut told.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Future for Receipt {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.is_done, "a receipt is polled after it was ready");
        let outcome = self.poll_outcome(context);
        self.is_done = outcome.is_ready();
        outcome
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_done {
            // Packets are sent under this lock: one that has not been sent now will not be.
            self.remote.with(|packets, settled| {
                self.slot.has_left.store(true, Ordering::Relaxed);
                // It gives its place to another, also where nothing can be sent.
                packets.take_left(settled);
            });
            let waker = self.slot.told.lock().waker.take();
            drop(waker);
        }
    }
}
