//! What the pool decides: who gets which resource, when one is created, when one must go.
//!
//! No tokio, no clock, no spawning and no user code: time is an argument, and what is to be done
//! comes out as [`Effect`]s. The rule of use: take the lock, give one command, release the lock,
//! carry out the effects. The core's state is
//!
//! ```text
//!             start creating                landed
//!   vacant ───────────────────▶ creating ────────────▶ live (idle, leased or reserved)
//!     ▲ ▲                          │                     │
//!     │ └── failed, abandoned ─────┘                     │ retire
//!     │                 destroyed                        ▼
//!     └───────────────────────────────────────────── closing
//! ```
//!
//! creating + live + closing never exceeds `max_active`, except that after a `resize` downwards
//! the surplus leaves as it comes back, before anybody else is served.

mod backoff;
mod line;
#[cfg(all(any(test, fuzzing), not(wharf_loom)))]
pub mod model;
mod share;
mod shedding;
mod shelf;

pub use backoff::Backoff;
pub use shedding::Shedding;

pub(crate) use line::{Arrival, Patience, Ticket};
pub(crate) use share::{Needs, Report};
pub(crate) use shelf::{Look, Shelf, flag};

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use line::{Joining, Line};
use share::Share;
use shedding::CoDel;

use crate::{
    slots::{Held, NEVER, Pickup},
    sync::{AtomicU64, Ordering},
};

/// Nanoseconds since the pool's birth.
pub(crate) type Moment = u64;

pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) max_active: u32,
    pub(crate) min_idle: u32,
    /// `u32::MAX` for none.
    pub(crate) max_idle: u32,
    pub(crate) max_waiters: usize,
    pub(crate) max_creating: u32,
    /// `NEVER` for none.
    pub(crate) wait_timeout: u64,
    /// In an outage, callers fail at once rather than wait.
    pub(crate) fail_fast: bool,
    pub(crate) backoff: Backoff,
    pub(crate) shedding: Option<Shedding>,
    /// How long the coarse clock may stand while the pool is in use.
    pub(crate) epoch: u64,
}

/// `C` is the cause of a failure to create, shared by all who hear of it. What every command
/// touches comes first, so that it shares few cache lines.
#[repr(C)]
pub(crate) struct Core<C> {
    line: Line,
    next_arrival: u64,
    waits_served: u64,
    /// The gate's flags as last set.
    flags: u64,
    generation: u64,
    creating: u32,
    live: u32,
    /// Those of the live that upkeep holds.
    reserved: u32,
    closing: u32,
    /// When upkeep will look next.
    armed: Moment,
    /// When the coarse clock is to be advanced; none while it stands.
    epoch_end: Option<Moment>,
    closed: bool,
    drained: bool,
    pressed: bool,
    /// Its slots cost units of a bound that several pools share, and it vanishes when unused.
    shared: bool,
    /// For each slot, the cell in which it was handed over last.
    claims: Vec<Option<u32>>,
    health: Health<C>,
    codel: Option<CoDel>,
    limits: Limits,
    /// What became of waiters that were refused, until they come to hear of it.
    refusals: HashMap<u32, Box<Refusal<C>>>,
    /// Lowest first, so that few slots are in use under light load.
    vacant: BinaryHeap<Reverse<Held>>,
    /// The last failure to create, and when.
    last_failure: Option<(Moment, C)>,
    /// No creation for `min_idle` before this, after one was refused.
    refill_at: Moment,
    refused_refills: u32,
    counters: Counters,
    share: Share,
    random: fastrand::Rng,
}

enum Health<C> {
    Up,
    Down(Outage<C>),
}

struct Outage<C> {
    number: u64,
    since: Moment,
    /// Probes that failed, the failure that began the outage included.
    attempt: u32,
    probe_at: Moment,
    probing: bool,
    /// Somebody has asked since the last attempt.
    asked: bool,
    cause: C,
}

/// What the shell has to do after it has released the lock.
#[derive(Debug)]
pub(crate) enum Effect<C> {
    /// Wake a waiter; what it gets is in its cell.
    Wake(Waker),
    /// Create a resource for this slot, in a task of its own.
    Create(Held, Errand),
    /// Take the resource out of this slot and destroy it, in a task of its own.
    Destroy(Held, Retirement),
    /// Upkeep must look earlier than it meant to.
    Rearm,
    /// The pool is closed and empty.
    Drained,
    /// Tell the owner of the shared bound.
    Report(Report),
    /// A resource is idle while the pool is pressed.
    Spare,
    WentDown {
        cause: C,
        attempt: u32,
        retry_in: Duration,
    },
    WentUp {
        after: Duration,
    },
    Shed {
        waited: Duration,
    },
    /// Record how long something took, in nanoseconds.
    Timed(Timed, u64),
    /// Something of the user's, to drop without the lock.
    Drop(C),
    DropWaker(Waker),
}

/// The effects of one command. Those that happen all the time have places of their own, so that
/// they neither allocate nor move much memory.
#[derive(Debug)]
#[must_use = "effects must be carried out"]
pub(crate) struct Effects<C> {
    wake: Option<Waker>,
    unneeded: Option<Waker>,
    timed: Option<(Timed, u64)>,
    rearm: bool,
    rest: Vec<Effect<C>>,
}

impl<C> Effects<C> {
    pub(crate) fn new() -> Self {
        Self {
            wake: None,
            unneeded: None,
            timed: None,
            rearm: false,
            rest: Vec::new(),
        }
    }

    fn wake(&mut self, waker: Option<Waker>) {
        if self.wake.is_none() {
            self.wake = waker;
        } else {
            self.rest.extend(waker.map(Effect::Wake));
        }
    }

    fn drop_waker(&mut self, waker: Option<Waker>) {
        if self.unneeded.is_none() {
            self.unneeded = waker;
        } else {
            self.rest.extend(waker.map(Effect::DropWaker));
        }
    }

    fn timed(&mut self, what: Timed, nanos: u64) {
        if self.timed.is_none() {
            self.timed = Some((what, nanos));
        } else {
            self.rest.push(Effect::Timed(what, nanos));
        }
    }

    fn push(&mut self, effect: Effect<C>) {
        self.rest.push(effect);
    }

    /// Takes what happens all the time.
    #[inline]
    pub(crate) fn take_usual(&mut self) -> (Option<Waker>, Option<(Timed, u64)>) {
        (self.wake.take(), self.timed.take())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.wake.is_none()
            && self.timed.is_none()
            && self.unneeded.is_none()
            && !self.rearm
            && self.rest.is_empty()
    }

    /// Takes the effects; wake-ups come in the order in which they were decided.
    pub(crate) fn carry_out(&mut self, mut each: impl FnMut(Effect<C>)) {
        if let Some(waker) = self.wake.take() {
            each(Effect::Wake(waker));
        }
        for effect in self.rest.drain(..) {
            each(effect);
        }
        if let Some((what, nanos)) = self.timed.take() {
            each(Effect::Timed(what, nanos));
        }
        if std::mem::take(&mut self.rearm) {
            each(Effect::Rearm);
        }
        if let Some(waker) = self.unneeded.take() {
            each(Effect::DropWaker(waker));
        }
    }
}

/// Something whose duration is recorded, by how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timed {
    WaitServed,
    WaitTimedOut,
    WaitCancelled,
    WaitFailed,
    Created,
    CreateFailed,
    Held,
}

impl Timed {
    pub(crate) const COUNT: usize = Timed::Held as usize + 1;
}

/// What a creation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errand {
    /// The number of the outage whose end it is to find, if that is its purpose.
    pub(crate) probe: Option<u64>,
    /// The generation in which it began.
    pub(crate) generation: u64,
}

/// Why a resource is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retirement {
    /// It was idle longer than `idle_timeout`.
    Idle,
    /// It reached its `max_lifetime`.
    Lifetime,
    /// `Manager::is_alive` said no.
    Dead,
    /// `Manager::check` failed, timed out, panicked or was cut short.
    Check,
    /// `Manager::reset` said no.
    Reset,
    /// Manager code panicked with the resource in hand.
    Panicked,
    /// The holder discarded it.
    Discarded,
    /// It was created before `invalidate_all`.
    Invalidated,
    /// More existed than `max_active` or `max_idle` allow.
    Surplus,
    /// `retain` did not keep it.
    Removed,
    /// Given up so that another key's pool may create.
    Evicted,
    /// The pool is closed.
    Closed,
}

/// Why a waiter gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal<C> {
    Closed,
    /// At its deadline. `creating` says that the pool had room and could not fill it.
    TimedOut {
        waited: u64,
        creating: bool,
        cause: Option<C>,
    },
    Refused(C),
    Down {
        cause: C,
        attempt: u32,
    },
    Overloaded {
        waiting: usize,
    },
    Shed {
        waited: u64,
    },
}

/// What comes of asking for a resource under the lock.
#[derive(Debug)]
pub(crate) enum Enqueued<C> {
    /// There was one after all.
    Granted(Held, Arrival),
    Waiting(Ticket),
    /// Boxed, so that the other answers are small.
    Refused(Box<Refusal<C>>),
}

/// How a creation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This request is refused; the next may succeed.
    Refuse,
    /// Nothing can be created for now.
    Outage,
}

/// Running totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) waits_served: u64,
    pub(crate) waits_timed_out: u64,
    pub(crate) waits_cancelled: u64,
    pub(crate) waits_refused: u64,
    pub(crate) waits_closed: u64,
    pub(crate) overloaded: u64,
    pub(crate) shed: u64,
    pub(crate) created: u64,
    pub(crate) adopted: u64,
    pub(crate) create_failed: u64,
    pub(crate) create_abandoned: u64,
    pub(crate) retired: u64,
    pub(crate) detached: u64,
    pub(crate) outages: u64,
}

/// How many slots are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) max_active: u32,
    pub(crate) creating: u32,
    pub(crate) idle: u32,
    pub(crate) leased: u32,
    pub(crate) reserved: u32,
    pub(crate) closing: u32,
    pub(crate) waiting: usize,
    pub(crate) closed: bool,
    pub(crate) down: bool,
}

impl<C: Clone> Core<C> {
    pub(crate) fn new(limits: Limits, vacant: impl Iterator<Item = Held>, seed: u64) -> Self {
        Self {
            line: Line::default(),
            refusals: HashMap::new(),
            next_arrival: 0,
            waits_served: 0,
            vacant: vacant.map(Reverse).collect(),
            creating: 0,
            live: 0,
            reserved: 0,
            closing: 0,
            claims: vec![None; limits.max_active as usize],
            health: Health::Up,
            last_failure: None,
            refill_at: 0,
            refused_refills: 0,
            codel: limits.shedding.map(CoDel::new),
            closed: false,
            drained: false,
            pressed: false,
            shared: false,
            generation: 0,
            epoch_end: None,
            armed: NEVER,
            flags: flag::DROWSY,
            random: fastrand::Rng::with_seed(seed),
            counters: Counters::default(),
            share: Share::default(),
            limits,
        }
    }

    // --- Waiters -------------------------------------------------------------------------------

    /// Asks for a resource: grants an idle one, or puts the asker in line. `arrival` is that of a
    /// `get` that has been in line before; `waker` is taken if it has to wait.
    pub(crate) fn enqueue(
        &mut self,
        shelf: &Shelf,
        arrival: Option<Arrival>,
        patience: Patience,
        waker: &mut Option<Waker>,
        now: Moment,
        fx: &mut Effects<C>,
    ) -> Enqueued<C> {
        if self.closed {
            return Enqueued::Refused(Box::new(Refusal::Closed));
        }
        self.rouse(shelf, now, fx);
        if let Health::Down(outage) = &mut self.health {
            outage.asked = true;
        }
        let rejoins = arrival.is_some();
        let arrival = arrival.unwrap_or_else(|| self.arrive());
        if self.is_next(arrival, rejoins) {
            // Shut the gate before looking: whoever returns a resource after this look sees it.
            self.raise(shelf, flag::WAITING);
            if let Some(held) = shelf.idle.take() {
                self.settle(shelf, now, fx);
                return Enqueued::Granted(held, arrival);
            }
        }
        let deadline = match patience {
            Patience::Usual => now.saturating_add(self.limits.wait_timeout),
            Patience::Until(deadline) => deadline,
        };
        if let Some(refusal) = self.refuses(rejoins, deadline, now) {
            self.settle(shelf, now, fx);
            return Enqueued::Refused(Box::new(refusal));
        }
        let usual = patience == Patience::Usual;
        let joining = Joining {
            arrival,
            since: now,
            deadline,
            usual,
            waker: waker.take(),
        };
        let ticket = self.line.join(joining, &shelf.handoffs);
        self.arm(deadline, fx);
        self.settle(shelf, now, fx);
        Enqueued::Waiting(ticket)
    }

    /// Whether nobody in line came before. A newcomer is not compared with the oldest, whose entry
    /// is likely to be in another processor's cache.
    fn is_next(&self, arrival: Arrival, rejoins: bool) -> bool {
        let oldest = || self.line.first_arrival();
        self.line.is_empty() || rejoins && oldest().is_some_and(|first| arrival < first)
    }

    /// A position in the order of arrival, for a `get` that may have to wait later.
    pub(crate) fn arrive(&mut self) -> Arrival {
        self.next_arrival = if self.shared {
            self.share.next_arrival()
        } else {
            self.next_arrival + 1
        };
        Arrival(self.next_arrival)
    }

    #[inline]
    fn refuses(&mut self, rejoins: bool, deadline: Moment, now: Moment) -> Option<Refusal<C>> {
        if deadline <= now {
            self.counters.waits_timed_out += 1;
            return Some(self.timed_out(now, now));
        }
        if let Health::Down(outage) = &self.health
            && self.limits.fail_fast
        {
            self.counters.waits_refused += 1;
            let (cause, attempt) = (outage.cause.clone(), outage.attempt);
            return Some(Refusal::Down { cause, attempt });
        }
        // Waiters for whom there is still room are waiting for a creation, not for others.
        let room = self
            .limits
            .max_active
            .saturating_sub(self.live + self.closing) as usize;
        let full = self.line.len() >= self.limits.max_waiters.saturating_add(room);
        if (full && !rejoins) || !self.line.has_room() {
            self.counters.overloaded += 1;
            return Some(Refusal::Overloaded {
                waiting: self.line.len(),
            });
        }
        None
    }

    /// A waiter was polled again: it is to be woken by this waker from now on. Also an occasion to
    /// start what could not be started before.
    pub(crate) fn repoll(
        &mut self,
        shelf: &Shelf,
        index: u32,
        waker: Waker,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        match self.line.replace_waker(index, waker) {
            Ok(old) => fx.drop_waker(old),
            // Its outcome came after it looked, and woke the old waker or none.
            Err(new) => fx.wake(Some(new)),
        }
        self.settle(shelf, now, fx);
    }

    /// Why this ticket's cell says that it failed. Ends the ticket.
    #[expect(clippy::needless_pass_by_value, reason = "the ticket ends here")]
    pub(crate) fn refusal(&mut self, ticket: Ticket) -> Box<Refusal<C>> {
        self.line.free(ticket.index);
        self.refusals
            .remove(&ticket.index)
            .expect("bug: a refusal without a reason")
    }

    /// The waiter is gone. If it was given a resource at the same moment, the next one gets it.
    pub(crate) fn cancel(
        &mut self,
        shelf: &Shelf,
        ticket: Ticket,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.rouse(shelf, now, fx);
        if let Some(left) = self.line.leave(ticket.index) {
            self.counters.waits_cancelled += 1;
            fx.timed(Timed::WaitCancelled, now.saturating_sub(left.since));
            fx.drop_waker(left.waker);
            self.line.free(ticket.index);
        } else {
            match shelf.handoffs.take(ticket.index) {
                Pickup::Granted(held) => self.place(shelf, held, now, fx),
                Pickup::Failed => {
                    let refusal = self.refusal(ticket);
                    fx.rest.extend(cause_of(refusal).map(Effect::Drop));
                }
                Pickup::Waiting => unreachable!("bug: a ticket out of line has its outcome"),
            }
        }
        self.settle(shelf, now, fx);
    }

    // --- Resources -----------------------------------------------------------------------------

    /// A lease ended, or a resource that was reserved is free again, and it is fit for use.
    pub(crate) fn returned(&mut self, shelf: &Shelf, held: Held, now: Moment, fx: &mut Effects<C>) {
        self.rouse(shelf, now, fx);
        self.place(shelf, held, now, fx);
        self.settle(shelf, now, fx);
    }

    /// Someone put a resource into the idle set while the gate was being shut.
    pub(crate) fn look_again(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        self.rouse(shelf, now, fx);
        if self.flags & !flag::DROWSY != 0 {
            while let Some(held) = self.unclaimed(shelf) {
                self.place(shelf, held, now, fx);
            }
            self.show_spare(shelf, fx);
        }
        self.settle(shelf, now, fx);
    }

    /// An idle resource that must not stay idle.
    fn unclaimed(&self, shelf: &Shelf) -> Option<Held> {
        let wanted = !self.line.is_empty() || self.closed || self.has_surplus();
        if wanted { shelf.idle.take() } else { None }
    }

    /// Destroys idle resources beyond `max_idle`.
    pub(crate) fn trim(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        self.rouse(shelf, now, fx);
        while shelf.idle.len() > self.limits.max_idle as usize {
            let Some(held) = shelf.idle.take() else { break };
            self.retire_live(held, Retirement::Surplus, fx);
        }
        self.settle(shelf, now, fx);
    }

    /// A resource in use is to be destroyed.
    pub(crate) fn retire(
        &mut self,
        shelf: &Shelf,
        held: Held,
        why: Retirement,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.rouse(shelf, now, fx);
        self.retire_live(held, why, fx);
        self.settle(shelf, now, fx);
    }

    /// A retired resource is gone.
    pub(crate) fn destroyed(
        &mut self,
        shelf: &Shelf,
        held: Held,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.rouse(shelf, now, fx);
        self.closing -= 1;
        self.vacant.push(Reverse(held));
        self.settle(shelf, now, fx);
    }

    /// The holder took the resource out of the pool for good.
    pub(crate) fn detached(&mut self, shelf: &Shelf, held: Held, now: Moment, fx: &mut Effects<C>) {
        self.rouse(shelf, now, fx);
        self.live -= 1;
        self.counters.detached += 1;
        self.vacant.push(Reverse(held));
        self.settle(shelf, now, fx);
    }

    /// A slot for a resource that was made outside, if there is room.
    pub(crate) fn adopt(&mut self) -> Option<(Held, u64)> {
        if self.closed || self.shared || self.occupied() >= self.limits.max_active {
            return None;
        }
        let Reverse(held) = self.vacant.pop()?;
        self.live += 1;
        self.counters.adopted += 1;
        Some((held, self.generation))
    }

    /// Upkeep took these out of the idle set (or gave them back).
    pub(crate) fn reserve(&mut self, more: bool) {
        if more {
            self.reserved += 1;
        } else {
            self.reserved -= 1;
        }
    }

    /// The oldest waiter gets it, or the idle set, or nobody if it must go.
    fn place(&mut self, shelf: &Shelf, held: Held, now: Moment, fx: &mut Effects<C>) {
        if self.closed {
            return self.retire_live(held, Retirement::Closed, fx);
        }
        if self.has_surplus() {
            return self.retire_live(held, Retirement::Surplus, fx);
        }
        let Some(held) = self.deliver(shelf, held, now, fx) else {
            return;
        };
        if self.limits.max_idle < self.limits.max_active
            && shelf.idle.len() >= self.limits.max_idle as usize
        {
            self.retire_live(held, Retirement::Surplus, fx);
        } else {
            shelf.idle.put(held);
            self.show_spare(shelf, fx);
        }
    }

    /// Gives the resource to the oldest waiter that can still use it.
    fn deliver(
        &mut self,
        shelf: &Shelf,
        held: Held,
        now: Moment,
        fx: &mut Effects<C>,
    ) -> Option<Held> {
        while let Some((index, since, deadline)) = self.line.first() {
            let waited = now.saturating_sub(since);
            if deadline <= now {
                self.time_out(shelf, index, now, fx);
                continue;
            }
            if let Some(codel) = &mut self.codel
                && codel.sheds(waited, self.line.len() == 1, now)
            {
                self.counters.shed += 1;
                self.refuse(shelf, index, Refusal::Shed { waited }, now, fx);
                fx.push(Effect::Shed {
                    waited: Duration::from_nanos(waited),
                });
                continue;
            }
            let Some(left) = self.line.pop() else { break };
            self.waits_served += 1;
            fx.timed(Timed::WaitServed, waited);
            self.claim(held.slot(), left.index);
            shelf.handoffs.give(left.index, held);
            fx.wake(left.waker);
            return None;
        }
        Some(held)
    }

    /// Notes which cell a slot goes to. Whoever had the slot before has come and gone, so that the
    /// cell it found it in can be used again.
    fn claim(&mut self, slot: u32, cell: u32) {
        if let Some(before) = self.claims[slot as usize].replace(cell) {
            self.line.free(before);
        }
    }

    fn retire_live(&mut self, held: Held, why: Retirement, fx: &mut Effects<C>) {
        self.live -= 1;
        self.closing += 1;
        self.counters.retired += 1;
        fx.push(Effect::Destroy(held, why));
    }

    // --- Creation ------------------------------------------------------------------------------

    /// A creation is about to begin: is it still needed? If not, its slot is vacant again.
    pub(crate) fn begin(
        &mut self,
        shelf: &Shelf,
        held: Held,
        errand: Errand,
        now: Moment,
        fx: &mut Effects<C>,
    ) -> Option<Held> {
        let needed = match &self.health {
            Health::Down(outage) => errand.probe == Some(outage.number),
            Health::Up => self.creating as usize <= self.wanted(shelf, now),
        };
        // Over the bound there is nothing to dial for, even while the surplus is on its way out.
        if needed && !self.closed && self.occupied() <= self.limits.max_active {
            return Some(held);
        }
        self.counters.create_abandoned += 1;
        self.end_creation(held, errand);
        self.settle(shelf, now, fx);
        None
    }

    /// A creation landed; the slot is filled.
    pub(crate) fn created(
        &mut self,
        shelf: &Shelf,
        held: Held,
        errand: Errand,
        took: u64,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.creating -= 1;
        self.live += 1;
        self.counters.created += 1;
        fx.timed(Timed::Created, took);
        self.refused_refills = 0;
        self.refill_at = 0;
        self.rouse(shelf, now, fx);
        self.go_up(now, fx);
        if errand.generation == self.generation {
            self.place(shelf, held, now, fx);
        } else {
            self.retire_live(held, Retirement::Invalidated, fx);
        }
        self.settle(shelf, now, fx);
    }

    /// A creation failed.
    #[expect(
        clippy::too_many_arguments,
        reason = "what happened, when, and the two every command has"
    )]
    pub(crate) fn create_failed(
        &mut self,
        shelf: &Shelf,
        held: Held,
        errand: Errand,
        (verdict, cause): (Verdict, C),
        took: u64,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.rouse(shelf, now, fx);
        self.end_creation(held, errand);
        self.counters.create_failed += 1;
        fx.timed(Timed::CreateFailed, took);
        if let Some((_, old)) = self.last_failure.replace((now, cause.clone())) {
            fx.push(Effect::Drop(old));
        }
        match verdict {
            Verdict::Outage => self.go_down(shelf, cause, errand, now, fx),
            Verdict::Refuse => {
                // The other side answered: whatever was wrong with this request, it is there.
                self.go_up(now, fx);
                if let Some((index, ..)) = self.line.first() {
                    self.counters.waits_refused += 1;
                    self.refuse(shelf, index, Refusal::Refused(cause), now, fx);
                } else {
                    fx.push(Effect::Drop(cause));
                    self.refused_refills += 1;
                    let pause = self
                        .limits
                        .backoff
                        .nanos(self.refused_refills, &mut self.random);
                    self.refill_at = now.saturating_add(pause);
                    self.arm(self.refill_at, fx);
                }
            }
        }
        self.settle(shelf, now, fx);
    }

    /// A creation's task was dropped by its runtime. Nobody is told; the waiters are woken, so
    /// that one of them starts another where it runs.
    pub(crate) fn create_aborted(
        &mut self,
        shelf: &Shelf,
        held: Held,
        errand: Errand,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.end_creation(held, errand);
        self.nudge(fx);
        if self.shared {
            self.vanish_if_unused(now);
            // It asks again when one of its waiters has found it another runtime.
            self.report(0, fx);
        }
        self.raise_settled(shelf, fx);
    }

    /// Wakes all waiters without giving them anything: the runtime that served them is gone, and
    /// their next poll starts what they need on another.
    pub(crate) fn nudge(&mut self, fx: &mut Effects<C>) {
        self.armed = NEVER;
        fx.rest.extend(self.line.take_wakers().map(Effect::Wake));
    }

    fn end_creation(&mut self, held: Held, errand: Errand) {
        self.creating -= 1;
        self.vacant.push(Reverse(held));
        if let Health::Down(outage) = &mut self.health
            && errand.probe == Some(outage.number)
        {
            outage.probing = false;
        }
    }

    fn go_up(&mut self, now: Moment, fx: &mut Effects<C>) {
        if let Health::Down(outage) = std::mem::replace(&mut self.health, Health::Up) {
            let after = Duration::from_nanos(now.saturating_sub(outage.since));
            fx.push(Effect::WentUp { after });
            fx.push(Effect::Drop(outage.cause));
        }
    }

    fn go_down(
        &mut self,
        shelf: &Shelf,
        cause: C,
        errand: Errand,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        let (since, attempt) = match &mut self.health {
            Health::Up => {
                self.counters.outages += 1;
                (now, 1)
            }
            Health::Down(outage) if errand.probe == Some(outage.number) => {
                (outage.since, outage.attempt + 1)
            }
            Health::Down(outage) => {
                // Begun before the outage was known: another word for the same thing.
                fx.push(Effect::Drop(std::mem::replace(&mut outage.cause, cause)));
                return;
            }
        };
        let pause = self.limits.backoff.nanos(attempt, &mut self.random);
        let probe_at = now.saturating_add(pause);
        let number = self.counters.outages;
        let outage = Outage {
            number,
            since,
            attempt,
            probe_at,
            probing: false,
            asked: false,
            cause: cause.clone(),
        };
        if let Health::Down(old) = std::mem::replace(&mut self.health, Health::Down(outage)) {
            fx.push(Effect::Drop(old.cause));
        }
        self.arm(probe_at, fx);
        while self.limits.fail_fast
            && let Some((index, ..)) = self.line.first()
        {
            self.counters.waits_refused += 1;
            let refusal = Refusal::Down {
                cause: cause.clone(),
                attempt,
            };
            self.refuse(shelf, index, refusal, now, fx);
        }
        fx.push(Effect::WentDown {
            cause,
            attempt,
            retry_in: Duration::from_nanos(pause),
        });
    }

    /// Starts as many creations as are needed and allowed.
    fn pump(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        if self.closed || self.creating >= self.limits.max_creating {
            return;
        }
        if let Health::Down(outage) = &self.health {
            if self.is_probe_due(outage, now) {
                self.start_creation(fx);
            }
            return;
        }
        if self.line.is_empty() && self.limits.min_idle == 0 {
            return;
        }
        let wanted = self.wanted(shelf, now);
        while (self.creating as usize) < wanted
            && self.creating < self.limits.max_creating
            && self.start_creation(fx)
        {}
    }

    /// Where nobody keeps a pool that is not used, nobody probes for it either.
    fn is_probe_due(&self, outage: &Outage<C>, now: Moment) -> bool {
        let of_use = !self.shared || outage.asked || !self.line.is_empty();
        outage.probe_at <= now && !outage.probing && of_use
    }

    fn start_creation(&mut self, fx: &mut Effects<C>) -> bool {
        if self.occupied() >= self.limits.max_active {
            return false;
        }
        if self.shared && self.share.fresh == 0 {
            return false;
        }
        let Some(Reverse(held)) = self.vacant.pop() else {
            return false;
        };
        self.creating += 1;
        self.share.fresh = self.share.fresh.saturating_sub(1);
        let probe = match &mut self.health {
            Health::Up => None,
            Health::Down(outage) => {
                outage.probing = true;
                Some(outage.number)
            }
        };
        fx.push(Effect::Create(
            held,
            Errand {
                probe,
                generation: self.generation,
            },
        ));
        true
    }

    /// How many creations would all be used.
    fn wanted(&self, shelf: &Shelf, now: Moment) -> usize {
        let refill = if self.limits.min_idle > 0 && self.refill_at <= now {
            (self.limits.min_idle as usize).saturating_sub(shelf.idle.len())
        } else {
            0
        };
        self.line.len() + refill
    }

    // --- The pool as a whole -------------------------------------------------------------------

    /// Refuses newcomers, fails the waiters, retires what is idle. The rest follows as it comes
    /// back. Says whether it was open before.
    pub(crate) fn close(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) -> bool {
        self.rouse(shelf, now, fx);
        let was_open = !self.closed;
        if was_open {
            self.closed = true;
            self.raise(shelf, flag::CLOSED);
            while let Some((index, ..)) = self.line.first() {
                self.counters.waits_closed += 1;
                self.refuse(shelf, index, Refusal::Closed, now, fx);
            }
            while let Some(held) = shelf.idle.take() {
                self.retire_live(held, Retirement::Closed, fx);
            }
        }
        self.settle(shelf, now, fx);
        was_open
    }

    /// Changes `max_active`. `minted` are the tokens of slots that did not exist before.
    pub(crate) fn resize(
        &mut self,
        shelf: &Shelf,
        max_active: u32,
        minted: impl Iterator<Item = Held>,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        self.rouse(shelf, now, fx);
        self.limits.max_active = max_active;
        self.vacant.extend(minted.map(Reverse));
        self.claims
            .resize(self.claims.len().max(max_active as usize), None);
        if self.has_surplus() {
            // Shut the gate first: what is put back after the last look goes the long way.
            self.raise(shelf, flag::SURPLUS);
            while self.has_surplus()
                && let Some(held) = shelf.idle.take()
            {
                self.retire_live(held, Retirement::Surplus, fx);
            }
        }
        self.settle(shelf, now, fx);
    }

    /// Retires everything created before now.
    pub(crate) fn invalidate(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        self.rouse(shelf, now, fx);
        self.generation += 1;
        shelf.gate.set(self.flags, self.generation);
        while let Some(held) = shelf.idle.take() {
            self.retire_live(held, Retirement::Invalidated, fx);
        }
        self.settle(shelf, now, fx);
    }

    // --- The bound shared with other pools -----------------------------------------------------

    /// From here on, slots cost units of a bound that this pool shares with others, and the pool
    /// closes by itself when it is not used any more.
    pub(crate) fn share(&mut self, arrivals: Arc<AtomicU64>) {
        self.shared = true;
        self.share.arrivals = Some(arrivals);
    }

    /// Another pool waits for a unit of the bound they share, or no longer does. While one does,
    /// no resource becomes idle here without a word.
    pub(crate) fn press(&mut self, shelf: &Shelf, pressed: bool, now: Moment, fx: &mut Effects<C>) {
        self.pressed = pressed;
        if pressed {
            // Shut the gate before looking: whoever returns a resource after this look sees it.
            self.raise(shelf, flag::PRESSED);
            self.show_spare(shelf, fx);
        }
        self.settle(shelf, now, fx);
    }

    fn show_spare(&self, shelf: &Shelf, fx: &mut Effects<C>) {
        if self.pressed && shelf.idle.len() > 0 {
            fx.push(Effect::Spare);
        }
    }

    /// A unit has come. If it is not needed any more, it goes back.
    pub(crate) fn granted(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        let share = &mut self.share;
        share.units += 1;
        share.fresh += 1;
        share.seen += 1;
        // The owner reckons so by itself.
        share.told = Needs {
            units: share.told.units.saturating_sub(1),
            hungry: None,
        };
        self.settle(shelf, now, fx);
    }

    /// Whether the pool closed by itself. A `get` that finds it so has come too late, and is to
    /// go to another.
    pub(crate) fn has_vanished(&self) -> bool {
        self.share.vanished
    }

    fn settle_share(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        self.vanish_if_unused(now);
        let lacks = self.lacks(shelf, now);
        self.report(lacks, fx);
    }

    fn vanish_if_unused(&mut self, now: Moment) {
        if self.is_unused(now) {
            self.closed = true;
            self.share.vanished = true;
        }
    }

    /// Nobody uses the pool, and nothing would be lost with it. Not before the first use.
    ///
    /// An outage is forgotten no sooner than its pause is over, lest the next caller dial at once;
    /// and only if nobody has asked in the meantime, or the pauses would never grow.
    fn is_unused(&self, now: Moment) -> bool {
        let outage_is_over = match &self.health {
            Health::Up => true,
            Health::Down(outage) => outage.probe_at <= now && !outage.asked,
        };
        outage_is_over
            && !self.closed
            && self.next_arrival > 0
            && self.line.is_empty()
            && self.occupied() == 0
    }

    /// How many more creations would begin if there were units for them.
    fn lacks(&self, shelf: &Shelf, now: Moment) -> u32 {
        if self.closed {
            return 0;
        }
        let wanted = match &self.health {
            Health::Up => self
                .wanted(shelf, now)
                .saturating_sub(self.creating as usize),
            Health::Down(outage) => usize::from(self.is_probe_due(outage, now)),
        };
        let room = self.limits.max_active.saturating_sub(self.occupied());
        let room = room.min(self.limits.max_creating.saturating_sub(self.creating));
        wanted.min(room as usize) as u32
    }

    fn report(&mut self, lacks: u32, fx: &mut Effects<C>) {
        let has_nothing = self.creating + self.live == 0;
        let needs = Needs {
            units: lacks,
            hungry: self.oldest_arrival().filter(|_| has_nothing && lacks > 0),
        };
        let occupied = self.occupied();
        let share = &mut self.share;
        share.fresh = 0;
        let released = share.units - occupied;
        if released > 0 || needs != share.told {
            share.units = occupied;
            share.told = needs;
            share.version += 1;
            fx.push(Effect::Report(Report {
                version: share.version,
                released,
                seen: share.seen,
                needs,
            }));
        }
    }

    // --- Time ----------------------------------------------------------------------------------

    /// The pool is in use, or something about it changes: if its coarse clock was left to stand, it
    /// goes again, and upkeep looks around when the epoch ends.
    fn rouse(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        if self.epoch_end.is_none() {
            shelf.clock.store(now, Ordering::Relaxed);
            let end = now.saturating_add(self.limits.epoch);
            self.epoch_end = Some(end);
            self.arm(end, fx);
        }
    }

    /// Does what is due, and says when something will be next.
    pub(crate) fn tick(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) -> Moment {
        shelf.clock.store(now, Ordering::Relaxed);
        if self.epoch_end.is_some_and(|end| end <= now) {
            // It stands until the next use, which the gate sends here.
            self.epoch_end = None;
        }
        while let Some((deadline, index)) = self.line.next_deadline()
            && deadline <= now
        {
            self.time_out(shelf, index, now, fx);
        }
        self.settle(shelf, now, fx);
        self.armed = self.next_due(now);
        self.armed
    }

    fn next_due(&self, now: Moment) -> Moment {
        let deadline = self.line.next_deadline().map(|(deadline, _)| deadline);
        let probe = match &self.health {
            // A probe that is overdue lacks room: the room that comes is its occasion.
            Health::Down(outage) if !outage.probing && outage.probe_at > now => {
                Some(outage.probe_at)
            }
            _ => None,
        };
        let refill = (self.refill_at > now).then_some(self.refill_at);
        [deadline, probe, refill, self.epoch_end]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(NEVER)
    }

    pub(crate) fn census(&self, shelf: &Shelf) -> Census {
        let idle = (shelf.idle.len() as u32).min(self.live - self.reserved);
        Census {
            max_active: self.limits.max_active,
            creating: self.creating,
            idle,
            leased: self.live - self.reserved - idle,
            reserved: self.reserved,
            closing: self.closing,
            waiting: self.line.len(),
            closed: self.closed,
            down: matches!(self.health, Health::Down(_)),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            waits_served: self.waits_served,
            ..self.counters
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.closed && self.occupied() == 0
    }

    pub(crate) fn oldest_arrival(&self) -> Option<Arrival> {
        self.line.first_arrival()
    }

    // --- Shared steps --------------------------------------------------------------------------

    /// Ends every command: starts what is needed, and brings the gate into line.
    #[inline]
    fn settle(&mut self, shelf: &Shelf, now: Moment, fx: &mut Effects<C>) {
        if self.occupied() < self.limits.max_active {
            self.pump(shelf, now, fx);
        }
        if self.shared {
            self.settle_share(shelf, now, fx);
        }
        self.raise_settled(shelf, fx);
    }

    #[inline]
    fn raise_settled(&mut self, shelf: &Shelf, fx: &mut Effects<C>) {
        let raised = |flag: u64, is: bool| flag * u64::from(is);
        let flags = raised(flag::WAITING, !self.line.is_empty())
            | raised(flag::CLOSED, self.closed)
            | raised(flag::SURPLUS, self.has_surplus())
            | raised(flag::DROWSY, self.epoch_end.is_none())
            | raised(flag::PRESSED, self.pressed);
        if flags != self.flags {
            self.flags = flags;
            shelf.gate.set(flags, self.generation);
        }
        if self.closed && self.is_drained() && !self.drained {
            self.drained = true;
            fx.push(Effect::Drained);
        }
    }

    fn raise(&mut self, shelf: &Shelf, flag: u64) {
        if self.flags & flag == 0 {
            self.flags |= flag;
            shelf.gate.set(self.flags, self.generation);
        }
    }

    fn time_out(&mut self, shelf: &Shelf, index: u32, now: Moment, fx: &mut Effects<C>) {
        let Some(left) = self.line.leave(index) else {
            return;
        };
        self.counters.waits_timed_out += 1;
        fx.timed(Timed::WaitTimedOut, now.saturating_sub(left.since));
        let refusal = self.timed_out(left.since, now);
        self.refusals.insert(index, Box::new(refusal));
        shelf.handoffs.fail(index);
        fx.wake(left.waker);
    }

    fn timed_out(&self, since: Moment, now: Moment) -> Refusal<C> {
        let outage = match &self.health {
            Health::Down(outage) => Some(outage.cause.clone()),
            Health::Up => None,
        };
        let failure = self.last_failure.as_ref().filter(|(at, _)| *at >= since);
        Refusal::TimedOut {
            waited: now.saturating_sub(since),
            creating: outage.is_some() || self.creating > 0,
            cause: outage.or_else(|| failure.map(|(_, cause)| cause.clone())),
        }
    }

    fn refuse(
        &mut self,
        shelf: &Shelf,
        index: u32,
        refusal: Refusal<C>,
        now: Moment,
        fx: &mut Effects<C>,
    ) {
        let Some(left) = self.line.leave(index) else {
            return;
        };
        fx.timed(Timed::WaitFailed, now.saturating_sub(left.since));
        self.refusals.insert(index, Box::new(refusal));
        shelf.handoffs.fail(index);
        fx.wake(left.waker);
    }

    fn arm(&mut self, at: Moment, fx: &mut Effects<C>) {
        if at < self.armed {
            self.armed = at;
            fx.rearm = true;
        }
    }

    fn occupied(&self) -> u32 {
        self.creating + self.live + self.closing
    }

    /// Whether more exist than may, not counting what is on its way out already.
    fn has_surplus(&self) -> bool {
        self.creating + self.live > self.limits.max_active
    }
}

#[expect(clippy::boxed_local, reason = "as it is stored")]
fn cause_of<C>(refusal: Box<Refusal<C>>) -> Option<C> {
    match *refusal {
        Refusal::TimedOut { cause, .. } => cause,
        Refusal::Refused(cause) | Refusal::Down { cause, .. } => Some(cause),
        Refusal::Closed | Refusal::Overloaded { .. } | Refusal::Shed { .. } => None,
    }
}
