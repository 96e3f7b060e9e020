//! Deliveries that wait for somebody to process them: no more than the prefetch.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::{
    delivery::{Delivery, OpenDelivery},
    registration::{Registration, Ticket},
};

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Guards a look or a change. No ticket is dropped while it is held, for that takes the lock
    /// of a ledger.
    inner: Mutex<Inner>,
    /// Calls one worker, who calls the next if there is more to be taken.
    arrivals: Notify,
    /// Deliveries taken and not settled.
    taken: AtomicUsize,
    /// Whether somebody may wait until they are.
    is_shut: AtomicBool,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(Delivery, Ticket)>,
    gate: Gate,
    /// Somebody was called and has not looked yet. Those who are at it may take everything before
    /// they come: a call for each delivery would mostly be in vain, and costs more than a handler
    /// that has little to do.
    called: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Paused,
    /// For good.
    Shut,
}

impl Inbox {
    pub(super) fn push(&self, deliveries: impl Iterator<Item = (Delivery, Ticket)>) {
        let mut inner = self.lock();
        if inner.gate == Gate::Shut {
            drop(inner);
            deliveries.for_each(drop);
            return;
        }
        inner.waiting.extend(deliveries);
        self.call(inner);
    }

    /// Calls somebody to take what waits, unless somebody is on the way.
    fn call(&self, mut inner: MutexGuard<'_, Inner>) {
        if !inner.waiting.is_empty() && !mem::replace(&mut inner.called, true) {
            drop(inner);
            self.arrivals.notify_one();
        }
    }

    /// The next delivery, or none when there will be no more.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: what is taken is returned in the same poll.
    pub(super) async fn take(self: &Arc<Self>) -> Option<OpenDelivery> {
        let mut was_called = false;
        loop {
            // Ahead of the look, so that no end goes unnoticed; a call waits to be heard.
            let arrival = self.arrivals.notified();
            match self.try_take(was_called) {
                Ok(Some(delivery)) => return Some(delivery),
                Ok(None) => arrival.await,
                Err(Ended) => return None,
            }
            was_called = true;
        }
    }

    fn try_take(self: &Arc<Self>, was_called: bool) -> Result<Option<OpenDelivery>, Ended> {
        let mut inner = self.lock();
        if was_called {
            inner.called = false;
        }
        match inner.gate {
            Gate::Shut => return Err(Ended),
            Gate::Paused => return Ok(None),
            Gate::Open => {}
        }
        let Some((delivery, ticket)) = inner.waiting.pop_front() else {
            return Ok(None);
        };
        self.taken.fetch_add(1, Ordering::SeqCst);
        self.call(inner);
        let place = Place(Arc::clone(self));
        Ok(Some(OpenDelivery::new(delivery, ticket, place)))
    }

    pub(super) fn pause(&self) {
        let mut inner = self.lock();
        if inner.gate == Gate::Open {
            inner.gate = Gate::Paused;
        }
    }

    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        if inner.gate == Gate::Paused {
            inner.gate = Gate::Open;
            inner.called = false;
            self.call(inner);
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().gate == Gate::Paused
    }

    /// Lets nothing out or in any more. What waited is handed back.
    pub(super) fn shut(&self) {
        let mut inner = self.lock();
        inner.gate = Gate::Shut;
        self.is_shut.store(true, Ordering::SeqCst);
        let waiting = mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
        self.arrivals.notify_waiters();
    }

    /// Hands back what came by this registration and has not been taken.
    pub(super) fn hand_back(&self, registration: &Arc<Registration>) {
        let mut inner = self.lock();
        let waiting = mem::take(&mut inner.waiting);
        let (back, keep): (VecDeque<_>, VecDeque<_>) = waiting
            .into_iter()
            .partition(|(_, ticket)| ticket.is_of(registration));
        inner.waiting = keep;
        drop(inner);
        drop(back);
    }

    /// How many are taken and not settled.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Until everything taken is settled.
    pub(super) async fn settled(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.taken() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ended;

/// One of those taken.
#[derive(Debug)]
pub(super) struct Place(Arc<Inbox>);

impl Drop for Place {
    fn drop(&mut self) {
        let inbox = &self.0;
        let is_last = inbox.taken.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && inbox.is_shut.load(Ordering::SeqCst) {
            inbox.idle.notify_waiters();
        }
    }
}
