//! One packet's fate, on its way to whoever waits for it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{core::outbound::Waits, error::SendError, remote::Remote};

/// The end that is told.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Mutex<Slot>>);

/// What both ends know. Its lock is taken after that of the packets, if both are.
#[derive(Debug)]
struct Slot {
    outcome: Option<Result<(), SendError>>,
    waker: Option<Waker>,
    was_sent: bool,
    has_left: bool,
}

impl Ticket {
    /// Tells, and wakes whoever waits.
    pub(crate) fn settle(self, outcome: Result<(), SendError>) {
        let mut slot = self.0.lock();
        slot.outcome = Some(outcome);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Waits for Ticket {
    fn has_left(&self) -> bool {
        self.0.lock().has_left
    }

    fn sent(&self) {
        self.0.lock().was_sent = true;
    }
}

/// A packet that has its place in line: resolves when its fate is known, or when its time is up.
///
/// Dropping it gives up waiting: a packet that was not sent yet is not sent any more, and one that was
/// may be handled or not.
#[must_use = "dropping it takes a packet that is not sent yet back"]
#[derive(Debug)]
pub struct Receipt {
    slot: Arc<Mutex<Slot>>,
    remote: Arc<Remote>,
    deadline: Instant,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_done: bool,
}

impl Receipt {
    pub(crate) fn new(remote: Arc<Remote>, deadline: Instant, timeout: Duration) -> (Ticket, Self) {
        let slot = Arc::new(Mutex::new(Slot {
            outcome: None,
            waker: None,
            was_sent: false,
            has_left: false,
        }));
        let receipt = Self {
            slot: Arc::clone(&slot),
            remote,
            deadline,
            timeout,
            timer: None,
            is_done: false,
        };
        (Ticket(slot), receipt)
    }

    /// Nobody waits any more. Says how it stands: settled, or sent or not, which is decided now.
    fn leave(&self) -> Result<Result<(), SendError>, bool> {
        // Packets are sent under this lock: one that has not been sent now will not be.
        self.remote.with(|packets, settled| {
            let mut slot = self.slot.lock();
            if let Some(outcome) = slot.outcome.take() {
                return Ok(outcome);
            }
            slot.has_left = true;
            slot.waker = None;
            let was_sent = slot.was_sent;
            drop(slot);
            // It gives its place to another, also where nothing can be sent.
            packets.take_left(settled);
            Err(was_sent)
        })
    }

    fn poll_outcome(&self, context: &Context<'_>) -> Poll<Result<(), SendError>> {
        let mut slot = self.slot.lock();
        if let Some(outcome) = slot.outcome.take() {
            return Poll::Ready(outcome);
        }
        match &mut slot.waker {
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
        if let Poll::Ready(outcome) = self.poll_outcome(context) {
            self.is_done = true;
            return Poll::Ready(outcome);
        }
        let deadline = self.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.is_done = true;
        let after = self.timeout;
        let outcome = self.leave();
        Poll::Ready(outcome.unwrap_or_else(|sent| Err(SendError::TimedOut { after, sent })))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = self.leave();
        }
    }
}
