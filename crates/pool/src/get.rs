//! The long way to a resource: waiting in line, and checking what came.

use std::{
    future::Future,
    ops::Deref,
    panic::Location,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project::{pin_project, pinned_drop};
use tokio::{runtime::Handle, time::timeout_at};

use crate::{
    at_home::AtHome,
    caught::{caught_async, settle},
    config::nanos_or_never,
    core::{Arrival, Enqueued, Moment, Patience, Refusal, Retirement, Ticket, flag, nanos},
    error::{Cause, GetError, Stage},
    manager::Manager,
    observer::Event,
    shared::{Shared, Vetted},
    slots::{Held, NEVER, Pickup},
    sync::Ordering,
};

/// Until when a `get` may take: as one number, for it is copied on the short way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(u64);

const USUAL: u64 = u64::MAX;
const IS_MOMENT: u64 = 1 << 63;
/// Over a hundred years; nobody means more.
const FOR_EVER: u64 = 1 << 62;

impl Limit {
    /// The pool's `wait_timeout`.
    pub(crate) const fn usual() -> Self {
        Self(USUAL)
    }

    pub(crate) fn timeout(timeout: Duration) -> Self {
        Self(nanos(timeout).min(IS_MOMENT - 1))
    }

    pub(crate) fn until(deadline: Moment) -> Self {
        Self(deadline.min(IS_MOMENT - 2) | IS_MOMENT)
    }

    /// How to wait for it, counted from now.
    fn patience(self, now: Moment) -> Patience {
        match self.0 {
            USUAL => Patience::Usual,
            moment if moment & IS_MOMENT != 0 => Patience::Until(moment & !IS_MOMENT),
            timeout if timeout > FOR_EVER => Patience::Until(NEVER),
            timeout => Patience::Until(now.saturating_add(timeout)),
        }
    }
}

/// What a `get` ends in: one of the two kinds of lease.
pub(crate) trait Borrow: Sized {
    type Manager: Manager;
    type Handle: Deref<Target = Shared<Self::Manager>>;

    fn borrow(handle: Self::Handle, held: Held, taken_at: &'static Location<'static>) -> Self;
}

pub(crate) type GetResult<L> = Result<L, GetError<<<L as Borrow>::Manager as Manager>::Error>>;

/// A `get`. The first poll takes the short way, or joins the line; a later one finds what was
/// handed over. All that is in the caller's frame. Only when there is more to do, a check or
/// another wait, is the future for the long way made, by `slowly`, and polled from then on.
#[pin_project(PinnedDrop)]
pub(crate) struct Get<L: Borrow, F, S> {
    /// Present until the end, or the long way.
    handle: Option<L::Handle>,
    taken_at: &'static Location<'static>,
    limit: Limit,
    began: Moment,
    wait: Wait,
    slowly: Option<F>,
    #[pin]
    slow: Option<S>,
}

impl<L: Borrow, F, S> Get<L, F, S>
where
    F: FnOnce(L::Handle, Detour) -> S,
    S: Future<Output = GetResult<L>>,
{
    #[inline]
    pub(crate) fn new(
        handle: L::Handle,
        taken_at: &'static Location<'static>,
        limit: Limit,
        slowly: F,
    ) -> Self {
        Self {
            handle: Some(handle),
            taken_at,
            limit,
            began: 0,
            wait: Wait::NotBegun,
            slowly: Some(slowly),
            slow: None,
        }
    }

    /// What comes of the wait.
    fn poll_wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<GetResult<L>> {
        let mut this = self.project();
        let Some(shared) = this.handle.as_ref() else {
            return poll_slow(this.slow, cx);
        };
        if let Wait::NotBegun = this.wait {
            *this.began = shared.now();
            *this.wait = Wait::Arriving(None, this.limit.patience(*this.began), *this.began);
        }
        let (held, arrival) = match shared.poll_wait(this.wait, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(served)) => served,
            Poll::Ready(Err(refusal)) => {
                let error = shared.refused(*refusal, *this.began, None);
                *this.handle = None;
                return Poll::Ready(Err(error));
            }
        };
        let due = match shared.unless_closed(held).map(|held| shared.vet(held)) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Vetted::Fit(held)) => {
                let handle = this.handle.take().expect("bug: it was there above");
                return Poll::Ready(Ok(L::borrow(handle, held, this.taken_at)));
            }
            Ok(Vetted::Unfit) => None,
            Ok(Vetted::Due(held)) => Some(held),
        };
        let detour = Detour {
            began: *this.began,
            limit: *this.limit,
            arrival,
            due,
        };
        let handle = this.handle.take().expect("bug: it was there above");
        this.slow
            .set(this.slowly.take().map(|slowly| slowly(handle, detour)));
        poll_slow(this.slow, cx)
    }
}

impl<L: Borrow, F, S> Future for Get<L, F, S>
where
    F: FnOnce(L::Handle, Detour) -> S,
    S: Future<Output = GetResult<L>>,
{
    type Output = GetResult<L>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if let (Wait::NotBegun, Some(handle)) = (&this.wait, &this.handle)
            && let Some(held) = handle.checkout_quickly()
            && let Some(handle) = this.handle.take()
        {
            return Poll::Ready(Ok(L::borrow(handle, held, this.taken_at)));
        }
        self.poll_wait(cx)
    }
}

#[pinned_drop]
impl<L: Borrow, F, S> PinnedDrop for Get<L, F, S> {
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let (Wait::InLine(_), Some(shared)) = (&this.wait, &this.handle) {
            shared.leave_line(this.wait);
        }
    }
}

#[inline(never)]
fn poll_slow<S: Future>(slow: Pin<&mut Option<S>>, cx: &mut Context<'_>) -> Poll<S::Output> {
    slow.as_pin_mut()
        .expect("a finished `get` was polled again")
        .poll(cx)
}

/// Where the long way begins: after the first resource that came was not fit, or is due for a
/// check.
pub(crate) struct Detour {
    began: Moment,
    limit: Limit,
    arrival: Arrival,
    /// Taken into custody by the first poll, which follows at once.
    due: Option<Held>,
}

impl<M: Manager> Shared<M> {
    /// Goes on until there is a resource that is fit, or a reason to give up. The deadline was set
    /// once, and a resource that turns out unfit does not cost the caller its place in line.
    pub(crate) async fn get_slowly(&self, detour: Detour) -> Result<Held, GetError<M::Error>> {
        let Detour {
            began,
            limit,
            arrival,
            due,
        } = detour;
        let deadline = match limit.patience(began) {
            Patience::Usual => began.saturating_add(nanos_or_never(self.config.wait_timeout)),
            Patience::Until(deadline) => deadline,
        };
        let mut due = due.map(|held| Custody::new(self, held));
        let mut last_cause = None;
        loop {
            let custody = match due.take() {
                Some(custody) => custody,
                None => {
                    let patience = Patience::Until(deadline);
                    let waiting = Waiting {
                        shared: self,
                        wait: Wait::Arriving(Some(arrival), patience, self.now()),
                    };
                    let (held, _) = waiting
                        .await
                        .map_err(|refusal| self.refused(*refusal, began, last_cause.take()))?;
                    match self.vet(self.unless_closed(held)?) {
                        Vetted::Fit(held) => return Ok(held),
                        Vetted::Unfit => continue,
                        Vetted::Due(held) => Custody::new(self, held),
                    }
                }
            };
            if deadline <= self.now() {
                // Too late to wait for a check, but not a reason to destroy what it would cut short.
                return self
                    .check_apart(custody.release())
                    .ok_or_else(|| GetError::Timeout {
                        stage: Stage::Check,
                        waited: self.since(began),
                        cause: last_cause,
                    });
            }
            match self.check(custody, deadline).await {
                Ok(held) => return self.unless_closed(held),
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

    /// A resource that was granted or checked while the pool was being closed is not handed out.
    fn unless_closed(&self, held: Held) -> Result<Held, GetError<M::Error>> {
        if self.depot.shelf.gate.look().has(flag::CLOSED) {
            self.retire(held, Retirement::Closed);
            return Err(GetError::Closed);
        }
        Ok(held)
    }

    /// Checks a resource. Dropped half-way, the resource's state is unknown, and its custody
    /// destroys it. An error without a cause means that the deadline passed.
    async fn check(
        &self,
        mut custody: Custody<'_, M>,
        deadline: Moment,
    ) -> Result<Held, Option<Cause<M::Error>>> {
        let run = self.run_check(custody.held_mut(), deadline);
        match AtHome::new(|| self.home(), run).await {
            Ok(()) => Ok(custody.release()),
            Err(Cause::TimedOut(_)) if deadline <= self.now() => Err(None),
            Err(cause) => Err(Some(cause)),
        }
    }

    /// Checks a resource apart from any caller. One that passes at the first poll comes back;
    /// else the check goes on in a task, which puts the resource back itself.
    pub(crate) fn check_apart(&self, held: Held) -> Option<Held> {
        let shared = self.this();
        let check = async move {
            let mut custody = Custody::new(&shared, held);
            let passed = shared.run_check(custody.held_mut(), NEVER).await.is_ok();
            passed.then(|| custody.release())
        };
        let mut check = Box::pin(AtHome::new(|| self.home(), check));
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

    /// Runs the manager's check until `check_timeout` or the deadline, whichever is first, and
    /// notes or reports what it says. Without any runtime there are no timers to run it by.
    pub(crate) async fn run_check(
        &self,
        held: &mut Held,
        deadline: Moment,
    ) -> Result<(), Cause<M::Error>> {
        let stamps = self.table.stamps(held.slot());
        let began = self.now();
        let until = began
            .saturating_add(nanos_or_never(self.config.check_timeout))
            .min(deadline);
        let limit = Handle::try_current().ok().and_then(|_| self.instant(until));
        let check = caught_async(|| self.manager.check(self.table.get_mut(held)));
        let outcome = settle(match limit {
            Some(limit) => timeout_at(limit, check)
                .await
                .map_err(|_| self.since(began)),
            None => Ok(check.await),
        });
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
        refusal: Refusal<Cause<M::Error>>,
        began: Moment,
        last_cause: Option<Cause<M::Error>>,
    ) -> GetError<M::Error> {
        match refusal {
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

/// A wait in line.
pub(crate) enum Wait {
    NotBegun,
    /// About to be polled, so that this moment is the present. The arrival is that of a `get` that
    /// has been in line before.
    Arriving(Option<Arrival>, Patience, Moment),
    InLine(Ticket),
    Over,
}

type Served<M> = Result<(Held, Arrival), Box<Refusal<Cause<<M as Manager>::Error>>>>;

impl<M: Manager> Shared<M> {
    /// The first poll joins the line, or takes an idle resource if nobody waits.
    fn poll_wait(&self, wait: &mut Wait, cx: &Context<'_>) -> Poll<Served<M>> {
        match std::mem::replace(wait, Wait::Over) {
            Wait::Arriving(arrival, patience, now) => self.join(arrival, patience, now, wait, cx),
            Wait::InLine(ticket) => self.look_into_cell(ticket, wait, cx),
            Wait::NotBegun | Wait::Over => panic!("a finished wait was polled again"),
        }
    }

    fn join(
        &self,
        arrival: Option<Arrival>,
        patience: Patience,
        now: Moment,
        wait: &mut Wait,
        cx: &Context<'_>,
    ) -> Poll<Served<M>> {
        self.settle_in();
        // Cloned, and dropped if it is not needed, without the lock.
        let mut waker = Some(cx.waker().clone());
        let outcome = self
            .command(|core, shelf, fx| core.enqueue(shelf, arrival, patience, &mut waker, now, fx));
        match outcome {
            Enqueued::Granted(held, arrival) => Poll::Ready(Ok((held, arrival))),
            Enqueued::Refused(refusal) => Poll::Ready(Err(refusal)),
            Enqueued::Waiting(ticket) => {
                *wait = Wait::InLine(ticket);
                Poll::Pending
            }
        }
    }

    fn look_into_cell(&self, ticket: Ticket, wait: &mut Wait, cx: &Context<'_>) -> Poll<Served<M>> {
        match self.depot.shelf.handoffs.take(ticket.index) {
            Pickup::Granted(held) => Poll::Ready(Ok((held, ticket.arrival))),
            Pickup::Failed => Poll::Ready(Err(self.command(|core, _, _| core.refusal(ticket)))),
            Pickup::Waiting => {
                let index = ticket.index;
                // Back before anything can panic: a wait that is dropped must leave the line.
                *wait = Wait::InLine(ticket);
                self.settle_in();
                let waker = cx.waker().clone();
                let now = self.now();
                self.command(|core, shelf, fx| core.repoll(shelf, index, waker, now, fx));
                Poll::Pending
            }
        }
    }

    /// Leaves the line; a resource that is already in the cell goes to the next waiter.
    #[cold]
    fn leave_line(&self, wait: &mut Wait) {
        if let Wait::InLine(ticket) = std::mem::replace(wait, Wait::Over) {
            let now = self.now();
            self.command(|core, shelf, fx| core.cancel(shelf, ticket, now, fx));
        }
    }
}

/// A wait as a future. Dropped in line, it leaves it.
struct Waiting<'a, M: Manager> {
    shared: &'a Shared<M>,
    wait: Wait,
}

impl<M: Manager> Future for Waiting<'_, M> {
    type Output = Served<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.shared.poll_wait(&mut this.wait, cx)
    }
}

impl<M: Manager> Drop for Waiting<'_, M> {
    fn drop(&mut self) {
        self.shared.leave_line(&mut self.wait);
    }
}

/// A resource in the hands of code that may be dropped at any await point, and is then destroyed.
pub(crate) struct Custody<'a, M: Manager> {
    shared: &'a Shared<M>,
    held: Option<Held>,
}

impl<'a, M: Manager> Custody<'a, M> {
    pub(crate) fn new(shared: &'a Shared<M>, held: Held) -> Self {
        // Not lent, so it cannot be overdue.
        shared
            .table
            .stamps(held.slot())
            .leased
            .store(NEVER, Ordering::Relaxed);
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
