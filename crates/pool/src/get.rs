//! The long way to a resource: waiting in line, and checking what came.

use std::{
    future::Future,
    ops::Deref,
    panic::Location,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project::pin_project;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use crate::{
    caught::caught_async,
    config::nanos_or_never,
    core::{Arrival, Enqueued, Moment, Patience, Refusal, Retirement, Ticket, nanos},
    error::{Cause, GetError, Stage},
    manager::Manager,
    observer::Event,
    shared::{Checkout, Shared, Vetted},
    slots::{Held, Pickup},
    tasks::{settle, within},
};

/// Until when a `get` may take.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// The pool's `wait_timeout`.
    Usual,
    For(Duration),
    Until(Instant),
}

/// What a `get` ends in: one of the two kinds of lease.
pub(crate) trait Borrow: Sized {
    type Manager: Manager;
    type Handle: Deref<Target = Shared<Self::Manager>>;

    fn borrow(handle: Self::Handle, held: Held, taken_at: &'static Location<'static>) -> Self;
}

/// A `get`. The first poll takes the short way, right in the caller's frame; only if that is
/// barred is the future for the long way made, by `slowly`, and polled from then on.
#[pin_project]
pub(crate) struct Get<L: Borrow, F, S> {
    handle: Option<L::Handle>,
    taken_at: &'static Location<'static>,
    slowly: Option<F>,
    #[pin]
    slow: Option<S>,
}

impl<L: Borrow, F, S> Get<L, F, S>
where
    F: FnOnce(L::Handle) -> S,
    S: Future<Output = GetResult<L>>,
{
    #[inline]
    pub(crate) fn new(handle: L::Handle, taken_at: &'static Location<'static>, slowly: F) -> Self {
        Self {
            handle: Some(handle),
            taken_at,
            slowly: Some(slowly),
            slow: None,
        }
    }
}

pub(crate) type GetResult<L> = Result<L, GetError<<<L as Borrow>::Manager as Manager>::Error>>;

impl<L: Borrow, F, S> Future for Get<L, F, S>
where
    F: FnOnce(L::Handle) -> S,
    S: Future<Output = GetResult<L>>,
{
    type Output = GetResult<L>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(handle) = this.handle.take() {
            if let Some(held) = handle.checkout_quickly() {
                return Poll::Ready(Ok(L::borrow(handle, held, this.taken_at)));
            }
            this.slow
                .set(this.slowly.take().map(|slowly| slowly(handle)));
        }
        poll_slow(this.slow, cx)
    }
}

#[inline(never)]
fn poll_slow<S: Future>(slow: Pin<&mut Option<S>>, cx: &mut Context<'_>) -> Poll<S::Output> {
    slow.as_pin_mut()
        .expect("a finished `get` was polled again")
        .poll(cx)
}

impl<M: Manager> Shared<M> {
    /// Goes on until there is a resource that is fit, or a reason to give up. The deadline is set
    /// once, and a resource that turns out unfit does not cost the caller its place in line.
    pub(crate) async fn get_slowly(&self, limit: Limit) -> Result<Held, GetError<M::Error>> {
        let mut due = match self.checkout() {
            Checkout::Fit(held) => return Ok(held),
            Checkout::Due(held) => Some(Custody::new(self, held)),
            Checkout::Nothing => None,
        };
        let began = self.now();
        let deadline = self.deadline(limit, began);
        let mut patience = match limit {
            Limit::Usual => Patience::Usual,
            Limit::For(_) | Limit::Until(_) => Patience::Until(deadline),
        };
        let mut arrival = None;
        let mut last_cause = None;
        loop {
            let custody = match due.take() {
                Some(custody) => custody,
                None => {
                    let now = if arrival.is_none() { began } else { self.now() };
                    let waited = Waiting::new(self, arrival, patience, now).await;
                    let (held, arrived) = waited
                        .map_err(|refusal| self.refused(refusal, began, last_cause.take()))?;
                    arrival = Some(arrived);
                    patience = Patience::Until(deadline);
                    match self.vet(held) {
                        Vetted::Fit(held) => return Ok(held),
                        Vetted::Unfit => continue,
                        Vetted::Due(held) => Custody::new(self, held),
                    }
                }
            };
            match self.check(custody, &mut arrival, deadline).await {
                Ok(held) => return Ok(held),
                Err(cause) if deadline <= self.now() => {
                    let waited = self.since(began);
                    let cause = cause.or(last_cause);
                    return Err(GetError::Timeout {
                        stage: Stage::Check,
                        waited,
                        cause,
                    });
                }
                Err(cause) => last_cause = cause,
            }
        }
    }

    fn deadline(&self, limit: Limit, now: Moment) -> Moment {
        match limit {
            Limit::Usual => now.saturating_add(nanos_or_never(self.config.wait_timeout)),
            Limit::For(timeout) => now.saturating_add(nanos(timeout)),
            Limit::Until(instant) => self.moment(instant),
        }
    }

    /// Checks a resource. Dropped half-way, the resource's state is unknown, and its custody
    /// destroys it. An error without a cause means that the deadline passed.
    async fn check(
        &self,
        mut custody: Custody<'_, M>,
        arrival: &mut Option<Arrival>,
        deadline: Moment,
    ) -> Result<Held, Option<Cause<M::Error>>> {
        if arrival.is_none() {
            // From here on others may queue up; should the check fail, it stands before them.
            *arrival = Some(self.command(|core, _, _| core.arrive()));
        }
        let run = self.run_check(custody.held_mut(), self.config.check_timeout);
        let outcome = match self.instant(deadline) {
            Some(deadline) => timeout_at(deadline, run).await,
            None => Ok(run.await),
        };
        match outcome {
            Ok(Ok(())) => Ok(custody.release()),
            Ok(Err(cause)) => Err(Some(cause)),
            Err(_) => Err(None),
        }
    }

    /// Checks a resource apart from any caller. One that passes at the first poll comes back;
    /// else the check goes on in a task, which puts the resource back itself.
    pub(crate) fn check_apart(&self, held: Held) -> Option<Held> {
        let (shared, home) = (self.this(), self.home());
        let _context = home.as_ref().map(Handle::enter);
        let limit = home.as_ref().and(self.config.check_timeout);
        let mut check = Box::pin(async move {
            let mut custody = Custody::new(&shared, held);
            let passed = shared.run_check(custody.held_mut(), limit).await.is_ok();
            passed.then(|| custody.release())
        });
        match check.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(passed) => passed,
            Poll::Pending => {
                let shared = self.this();
                self.spawn(async move {
                    if let Some(held) = check.await {
                        shared.shelve(held);
                    }
                });
                None
            }
        }
    }

    /// Runs the manager's check, and notes or reports what it says.
    pub(crate) async fn run_check(
        &self,
        held: &mut Held,
        limit: Option<Duration>,
    ) -> Result<(), Cause<M::Error>> {
        let stamps = self.table.stamps(held.slot());
        let check = caught_async(|| self.manager.check(self.table.get_mut(held)));
        let outcome = settle(within(limit, check).await);
        match &outcome {
            Ok(()) => self.note_good(stamps, self.now()),
            Err(cause) => {
                if let Cause::Panicked(message) = cause {
                    self.emit(&Event::Panicked {
                        method: "check",
                        message,
                    });
                }
                self.emit(&Event::CheckFailed { cause });
            }
        }
        outcome
    }

    fn refused(
        &self,
        refusal: Box<Refusal<Cause<M::Error>>>,
        began: Moment,
        last_cause: Option<Cause<M::Error>>,
    ) -> GetError<M::Error> {
        match *refusal {
            Refusal::Closed => GetError::Closed,
            Refusal::TimedOut {
                creating, cause, ..
            } => GetError::Timeout {
                stage: if creating { Stage::Create } else { Stage::Wait },
                waited: self.since(began),
                cause: cause.or(last_cause),
            },
            Refusal::Refused(cause) => GetError::Refused(cause),
            Refusal::Down { cause, attempt } => GetError::Down { cause, attempt },
            Refusal::Overloaded { waiting } => GetError::Overloaded { waiting },
            Refusal::Shed { .. } => GetError::Shed {
                waited: self.since(began),
            },
        }
    }

    fn since(&self, began: Moment) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(began))
    }
}

/// Waiting in line for a resource.
///
/// The first poll joins the line, or takes an idle resource if nobody waits. Dropped in line, it
/// leaves it; dropped with a resource already in its cell, it passes that on to the next waiter.
struct Waiting<'a, M: Manager> {
    shared: &'a Shared<M>,
    state: State,
}

enum State {
    /// Not polled yet, which happens at once, so that this moment is still the present. The
    /// arrival is that of a `get` that has been in line before.
    Arriving(Option<Arrival>, Patience, Moment),
    InLine(Ticket),
    Over,
}

type Served<M> = Result<(Held, Arrival), Box<Refusal<Cause<<M as Manager>::Error>>>>;

impl<'a, M: Manager> Waiting<'a, M> {
    fn new(
        shared: &'a Shared<M>,
        arrival: Option<Arrival>,
        patience: Patience,
        now: Moment,
    ) -> Self {
        Self {
            shared,
            state: State::Arriving(arrival, patience, now),
        }
    }

    fn join(
        &mut self,
        arrival: Option<Arrival>,
        patience: Patience,
        now: Moment,
        cx: &Context<'_>,
    ) -> Poll<Served<M>> {
        self.shared.settle_in();
        // Cloned, and dropped if it is not needed, without the lock.
        let mut waker = Some(cx.waker().clone());
        let outcome = self
            .shared
            .command(|core, shelf, fx| core.enqueue(shelf, arrival, patience, &mut waker, now, fx));
        match outcome {
            Enqueued::Granted(held, arrival) => Poll::Ready(Ok((held, arrival))),
            Enqueued::Refused(refusal) => Poll::Ready(Err(refusal)),
            Enqueued::Waiting(ticket) => {
                self.state = State::InLine(ticket);
                Poll::Pending
            }
        }
    }

    fn look(&mut self, ticket: Ticket, cx: &Context<'_>) -> Poll<Served<M>> {
        let handoffs = &self.shared.depot.shelf.handoffs;
        match handoffs.take(ticket.index) {
            Pickup::Granted(held) => Poll::Ready(Ok((held, ticket.arrival))),
            Pickup::Failed => {
                Poll::Ready(Err(self.shared.command(|core, _, _| core.refusal(ticket))))
            }
            Pickup::Waiting => {
                self.shared.settle_in();
                let waker = cx.waker().clone();
                let now = self.shared.now();
                self.shared
                    .command(|core, shelf, fx| core.repoll(shelf, &ticket, waker, now, fx));
                self.state = State::InLine(ticket);
                Poll::Pending
            }
        }
    }
}

impl<M: Manager> Future for Waiting<'_, M> {
    type Output = Served<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Arriving(arrival, patience, now) => self.join(arrival, patience, now, cx),
            State::InLine(ticket) => self.look(ticket, cx),
            State::Over => panic!("a finished wait was polled again"),
        }
    }
}

impl<M: Manager> Drop for Waiting<'_, M> {
    fn drop(&mut self) {
        if let State::InLine(ticket) = std::mem::replace(&mut self.state, State::Over) {
            let now = self.shared.now();
            self.shared
                .command(|core, shelf, fx| core.cancel(shelf, ticket, now, fx));
        }
    }
}

/// A resource in the hands of code that may be dropped at any await point, and is then destroyed.
pub(crate) struct Custody<'a, M: Manager> {
    shared: &'a Shared<M>,
    held: Option<Held>,
}

impl<'a, M: Manager> Custody<'a, M> {
    pub(crate) fn new(shared: &'a Shared<M>, held: Held) -> Self {
        Self {
            shared,
            held: Some(held),
        }
    }

    pub(crate) fn held_mut(&mut self) -> &mut Held {
        self.held.as_mut().expect("bug: released twice")
    }

    pub(crate) fn release(mut self) -> Held {
        self.held.take().expect("bug: released twice")
    }
}

impl<M: Manager> Drop for Custody<'_, M> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.retire(held, Retirement::Check);
        }
    }
}
