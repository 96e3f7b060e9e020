//! What the core should do, told naively, and the operations that both are put through.
//!
//! [`Model`] keeps the place of every slot and the waiters in a sorted vector, and counts by
//! looking at all of them. It takes an [`Op`], and foretells everything the core will do about it
//! ([`Deeds`]): who is woken, what is created and destroyed, what the caller is told. The
//! [`Driver`] does the same to the real core, beside the shelf, and compares. Proptest's state
//! machine and the fuzz target both drive the pair.
//!
//! The long way and the short one are taken as `shared` takes them. What happens there between
//! two looks at the gate is an operation of its own (`Look`, `PutLook`, `PollHalf` and those that
//! complete them), so that other threads' commands come in between.
//!
//! In some setups the slots cost units of a bound that other pools share (`core::share`). The
//! owner of that bound is played by `Grant`, which comes when a unit is wanted and also when it is
//! not (any more), and the other pools by `Elsewhere`. What the core reports to the owner is
//! foretold like all else. `Fresh` is the next pool of the same key.

#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "public for the fuzz target alone"
)]

mod driver;
#[cfg(test)]
mod tests;

pub use driver::Driver;

use std::{collections::BTreeMap, fmt, time::Duration};

use super::shedding::CoDel;
use super::{
    Arrival, Backoff, Census, Counters, Limits, Moment, Needs, Refusal, Report, Retirement,
    Shedding, Timed, flag,
};
use crate::slots::NEVER;

/// Slots that a resize may make, so that the arrays grow beyond their first part.
const MOST: u32 = 12;
const FIRST_PART: u32 = 8;
const CREATING_TAKES: u64 = 3;

/// What one thread does, with a number that picks the lease, waiter, creation or other thing it
/// is done to. [`Model::apply`] turns that number into the name of a slot or of a `get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A `get`: the short way, else in line. The number is its patience.
    Get(u32),
    TryGet,
    /// A look at the gate by a `get` that goes on later.
    Look,
    TakeAfterLook(u32),
    /// Waits again, in its old place, after what it had been given turned out unfit.
    Rejoin(u32),
    Poll(u32),
    /// A poll that has found its cell empty, and goes on later.
    PollHalf(u32),
    PollRest(u32),
    Cancel(u32),
    Put(u32),
    /// A put that has looked at the gate, and goes on later.
    PutLook(u32),
    /// It sets its bit.
    PutBit(u32),
    /// It looks at the gate again.
    PutLookAgain(u32),
    Discard(u32),
    /// A check at checkout fails; the `get` goes on.
    FailCheck(u32),
    Detach(u32),
    Adopt,
    /// Upkeep takes an idle resource to check it.
    Reserve(u32),
    Release(u32),
    ReleaseDead(u32),
    Begin(u32),
    Land(u32),
    Refuse(u32),
    Outage(u32),
    Abort(u32),
    Destroyed(u32),
    Resize(u32),
    Invalidate,
    Close,
    Press(u32),
    Trim,
    /// The runtime went away.
    Nudge,
    Advance(u32),
    Tick,
    /// A unit of the shared bound comes; with a low number, whether it is wanted or not.
    Grant(u32),
    /// Somebody asks another pool that shares the bound.
    Elsewhere(u32),
    /// A new pool in place of one that shared the bound and is gone.
    Fresh,
}

/// Every kind of operation as often as it shall come.
const KINDS: &[fn(u32) -> Op] = &[
    Op::Get,
    Op::Get,
    Op::Get,
    Op::Get,
    Op::Get,
    |_| Op::TryGet,
    |_| Op::Look,
    Op::TakeAfterLook,
    Op::Rejoin,
    Op::Rejoin,
    Op::Poll,
    Op::Poll,
    Op::Poll,
    Op::PollHalf,
    Op::PollRest,
    Op::Cancel,
    Op::Put,
    Op::Put,
    Op::Put,
    Op::PutLook,
    Op::PutBit,
    Op::PutLookAgain,
    Op::Discard,
    Op::FailCheck,
    Op::Detach,
    |_| Op::Adopt,
    Op::Reserve,
    Op::Release,
    Op::ReleaseDead,
    Op::Begin,
    Op::Begin,
    Op::Land,
    Op::Land,
    Op::Land,
    Op::Refuse,
    Op::Outage,
    Op::Abort,
    Op::Destroyed,
    Op::Destroyed,
    Op::Resize,
    |_| Op::Invalidate,
    |n| if n < 32 { Op::Close } else { Op::Tick },
    |n| Op::Press(u32::from(n < 64)),
    |_| Op::Trim,
    |_| Op::Nudge,
    Op::Advance,
    Op::Advance,
    Op::Advance,
    |_| Op::Tick,
    |_| Op::Tick,
];

/// Those that come as well where the bound is shared. Elsewhere the meaning of a history that is
/// written in bytes does not depend on them.
const SHARED_KINDS: &[fn(u32) -> Op] = &[
    Op::Grant,
    Op::Grant,
    Op::Grant,
    Op::Grant,
    Op::Grant,
    Op::Elsewhere,
    |_| Op::Fresh,
    |_| Op::Fresh,
];

/// Runs a history that is written in bytes: a setup, then operations.
#[cfg(fuzzing)]
pub fn run(bytes: &[u8]) {
    let Some((setup, ops)) = bytes.split_first_chunk() else {
        return;
    };
    let mut model = Model::new(Setup::decode(*setup));
    let mut driver = Driver::new(&model);
    for op in ops.as_chunks().0 {
        model.apply(model.decode(*op));
        driver.follow(&model);
    }
}

/// How the pool is configured.
#[derive(Debug, Clone)]
pub struct Setup {
    limits: Limits,
    /// The slots cost units of a bound that other pools share.
    shared: bool,
    seed: u64,
}

/// Bytes that make a setup.
pub const SETUP: usize = 8;

/// The byte of these that says whether the bound is shared, which it is from `SHARED` on.
const SHARED_AT: usize = 5;
const SHARED: u32 = 192;

const BACKOFF: Backoff = Backoff {
    min: Duration::from_nanos(8),
    max: Duration::from_nanos(64),
};

impl Setup {
    pub fn decode(bytes: [u8; SETUP]) -> Self {
        let [active, min, max, waiters, creating, wait, policy, seed] = bytes.map(u32::from);
        let max_active = 1 + active % 4;
        let shared = u32::from(bytes[SHARED_AT]) >= SHARED;
        let min_idle = match shared {
            true => 0,
            false => (min % 8).saturating_sub(5).min(max_active),
        };
        let shedding = Shedding {
            target: Duration::from_nanos(5),
            interval: Duration::from_nanos(20),
        };
        let limits = Limits {
            max_active,
            min_idle,
            max_idle: match max % 8 {
                over @ 0..3 => (min_idle + over).min(max_active),
                _ => u32::MAX,
            },
            max_waiters: waiters as usize % 6,
            max_creating: 1 + creating % 3,
            wait_timeout: if wait % 4 == 0 { NEVER } else { 100 },
            fail_fast: policy % 4 == 0,
            backoff: BACKOFF,
            shedding: (policy % 3 == 0).then_some(shedding),
            epoch: 40,
        };
        Self {
            limits,
            shared,
            seed: u64::from(seed),
        }
    }
}

/// Everything that comes of one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Deeds {
    answer: Answer,
    /// Waiters in the order in which they are woken, each with the number of its waker.
    woken: Vec<(u32, u32)>,
    /// The slots for which a creation starts, and whether it probes.
    created: Vec<(u32, bool)>,
    destroyed: Vec<(u32, Retirement)>,
    news: Vec<News>,
    /// Durations to record, each with the number of its kind; in any order.
    timed: Vec<(u8, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum News {
    Drained,
    Spare,
    Report(Report),
    WentDown {
        cause: u32,
        attempt: u32,
        retry_in: u64,
    },
    WentUp {
        after: u64,
    },
    Shed {
        waited: u64,
    },
}

/// What the operation's caller learns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Answer {
    #[default]
    Nothing,
    /// It has this slot.
    Slot(u32),
    Waits,
    Refused(Refusal<u32>),
    Exhausted,
    /// It was given a slot whose resource is from an older generation, and goes on.
    Unfit,
    Is(bool),
    /// When upkeep is to look next.
    Due(Moment),
}

/// The whole state, and what the last operation came to.
#[derive(Clone)]
pub struct Model {
    setup: Setup,
    max_active: u32,
    now: Moment,
    clock: Moment,
    slots: Vec<Slot>,
    /// By arrival.
    line: Vec<Waiter>,
    /// What has become of each ticket.
    tickets: BTreeMap<u32, Fate>,
    /// Tickets in the middle of a poll.
    peeking: Vec<u32>,
    /// `get`s on their way back into line.
    rejoining: Vec<Caller>,
    /// The one that the last operation let rejoin.
    rejoined: Option<Caller>,
    /// `get`s and puts between their two looks at the gate.
    looks: Vec<Seen>,
    putting: Vec<(u32, Seen)>,
    second_looks: Vec<(u32, Seen)>,
    generation: u64,
    outage: Option<Outage>,
    last_failure: Option<(Moment, u32)>,
    refill_at: Moment,
    refused_refills: u32,
    epoch_end: Option<Moment>,
    closed: bool,
    drained: bool,
    pressed: bool,
    /// Upkeep runs.
    at_home: bool,
    /// A creation was aborted, and nobody has come by since to start another.
    stalled: bool,
    share: Option<Share>,
    codel: Option<CoDel>,
    random: fastrand::Rng,
    counters: Counters,
    gets: u32,
    arrivals: u64,
    wakers: u32,
    /// The operation with its number made a name; none if it had nothing to be done to.
    op: Option<Op>,
    deeds: Deeds,
}

/// The pool's part in a shared bound.
#[derive(Debug, Clone, Default)]
struct Share {
    /// Units that came, and units that were given back, ever.
    granted: u64,
    released: u64,
    /// One that has just come can be used, in the same step.
    fresh: bool,
    /// What the owner knows, by how many reports.
    told: Needs,
    version: u64,
    /// Somebody has waited, or tried to.
    used: bool,
    vanished: bool,
}

#[derive(Debug, Clone)]
struct Slot {
    place: Place,
    /// That of its resource.
    generation: u64,
    caller: Option<Caller>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Vacant,
    Creating {
        /// The number of the outage that it probes.
        probe: Option<u64>,
        generation: u64,
        begun: bool,
    },
    Idle,
    Lent,
    /// In the hands of a put between its look and its bit.
    Putting,
    /// In the cell of a waiter.
    Granted,
    Reserved,
    Closing,
}

/// A `get`.
#[derive(Debug, Clone, Copy)]
struct Caller {
    id: u32,
    arrival: Option<u64>,
    deadline: Moment,
}

#[derive(Debug, Clone)]
struct Waiter {
    id: u32,
    arrival: u64,
    since: Moment,
    deadline: Moment,
    waker: Option<u32>,
}

#[derive(Debug, Clone)]
struct Fate {
    caller: Caller,
    outcome: Option<Result<u32, Refusal<u32>>>,
}

#[derive(Debug, Clone)]
struct Outage {
    number: u64,
    since: Moment,
    attempt: u32,
    probe_at: Moment,
    /// Somebody has asked since the last attempt.
    asked: bool,
    cause: u32,
}

/// What a look at the gate finds: its flags and the generation.
type Seen = (u64, u64);

impl fmt::Debug for Model {
    /// What a history begins with; all else follows from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.setup)
    }
}

impl Model {
    pub fn new(setup: Setup) -> Self {
        let limits = &setup.limits;
        Self {
            max_active: limits.max_active,
            now: 0,
            clock: 0,
            slots: vec![Slot::new(); limits.max_active as usize],
            line: Vec::new(),
            tickets: BTreeMap::new(),
            peeking: Vec::new(),
            rejoining: Vec::new(),
            rejoined: None,
            looks: Vec::new(),
            putting: Vec::new(),
            second_looks: Vec::new(),
            generation: 0,
            outage: None,
            last_failure: None,
            refill_at: 0,
            refused_refills: 0,
            epoch_end: None,
            closed: false,
            drained: false,
            pressed: false,
            at_home: true,
            stalled: false,
            share: setup.shared.then(Share::default),
            codel: limits.shedding.map(CoDel::new),
            random: fastrand::Rng::with_seed(setup.seed),
            counters: Counters::default(),
            gets: 0,
            arrivals: 0,
            wakers: 0,
            op: None,
            deeds: Deeds::default(),
            setup,
        }
    }

    /// The operation that two bytes stand for.
    pub fn decode(&self, [kind, number]: [u8; 2]) -> Op {
        let (kind, number) = (usize::from(kind), u32::from(number));
        if self.share.is_none() {
            return KINDS[kind % KINDS.len()](number);
        }
        let kind = kind % (KINDS.len() + SHARED_KINDS.len());
        let make = KINDS.iter().chain(SHARED_KINDS).nth(kind);
        make.expect("there are as many")(number)
    }

    /// Does the operation, if there is something to do it to.
    pub fn apply(&mut self, op: Op) {
        let before = self.occupied();
        self.deeds = Deeds::default();
        self.op = self.resolve(op);
        if let Some(op) = self.op {
            self.deeds.answer = self.perform(op);
        }
        self.assert_promises(before);
    }

    fn resolve(&self, op: Op) -> Option<Op> {
        Some(match op {
            Op::TakeAfterLook(n) => Op::TakeAfterLook(pick(0..self.looks.len() as u32, n)?),
            Op::PutBit(n) => Op::PutBit(pick(0..self.putting.len() as u32, n)?),
            Op::PutLookAgain(n) => Op::PutLookAgain(pick(0..self.second_looks.len() as u32, n)?),
            Op::Rejoin(n) => Op::Rejoin(pick(0..self.rejoining.len() as u32, n)?),
            Op::Poll(n) => Op::Poll(pick(self.tickets_at_rest(), n)?),
            Op::PollHalf(n) => {
                let in_line = |id: &u32| self.tickets[id].outcome.is_none();
                Op::PollHalf(pick(self.tickets_at_rest().filter(in_line), n)?)
            }
            Op::PollRest(n) => Op::PollRest(pick(self.peeking.iter().copied(), n)?),
            Op::Cancel(n) => Op::Cancel(pick(self.tickets_at_rest(), n)?),
            Op::Put(n) => Op::Put(self.pick_slot(n, |place| place == Place::Lent)?),
            Op::PutLook(n) => Op::PutLook(self.pick_slot(n, |place| place == Place::Lent)?),
            Op::Discard(n) => Op::Discard(self.pick_slot(n, |place| place == Place::Lent)?),
            Op::FailCheck(n) => Op::FailCheck(self.pick_slot(n, |place| place == Place::Lent)?),
            Op::Detach(n) => Op::Detach(self.pick_slot(n, |place| place == Place::Lent)?),
            Op::Reserve(n) => Op::Reserve(self.pick_slot(n, |place| place == Place::Idle)?),
            Op::Release(n) => Op::Release(self.pick_slot(n, |place| place == Place::Reserved)?),
            Op::ReleaseDead(n) => {
                Op::ReleaseDead(self.pick_slot(n, |place| place == Place::Reserved)?)
            }
            Op::Begin(n) => Op::Begin(self.pick_slot(n, Place::is_unbegun)?),
            Op::Land(n) => Op::Land(self.pick_slot(n, Place::is_begun)?),
            Op::Refuse(n) => Op::Refuse(self.pick_slot(n, Place::is_begun)?),
            Op::Outage(n) => Op::Outage(self.pick_slot(n, Place::is_begun)?),
            Op::Abort(n) => Op::Abort(self.pick_slot(n, Place::is_creating)?),
            Op::Destroyed(n) => Op::Destroyed(self.pick_slot(n, |place| place == Place::Closing)?),
            Op::Resize(n) => Op::Resize(1 + n % MOST),
            Op::Tick if !self.at_home => return None,
            Op::Grant(n) => {
                let share = self.share.as_ref()?;
                if n >= 64 && share.told.units == 0 {
                    return None;
                }
                op
            }
            Op::Elsewhere(_) if self.share.is_none() => return None,
            Op::Fresh if self.share.is_none() || !self.drained => return None,
            op => op,
        })
    }

    fn tickets_at_rest(&self) -> impl Iterator<Item = u32> {
        let ids = self.tickets.keys().copied();
        ids.filter(|id| !self.peeking.contains(id))
    }

    fn pick_slot(&self, n: u32, fits: impl Fn(Place) -> bool) -> Option<u32> {
        let slots = self.slots.iter().enumerate();
        let fitting: Vec<u32> = slots
            .filter(|(_, slot)| fits(slot.place))
            .map(|(slot, _)| slot as u32)
            .collect();
        pick(fitting.into_iter(), n)
    }

    fn perform(&mut self, op: Op) -> Answer {
        match op {
            Op::Get(n) => return self.get(n),
            Op::TryGet => return self.try_get(),
            Op::Look => {
                if self.is_open() {
                    self.looks.push(self.gate());
                }
            }
            Op::TakeAfterLook(at) => return self.take_after_look(at as usize),
            Op::Rejoin(at) => {
                let caller = self.rejoining.remove(at as usize);
                self.rejoined = Some(caller);
                return self.enqueue(caller);
            }
            Op::Poll(id) => return self.poll(id),
            Op::PollHalf(id) => self.peeking.push(id),
            Op::PollRest(id) => {
                self.peeking.retain(|peeking| *peeking != id);
                self.repoll(id);
            }
            Op::Cancel(id) => self.cancel(id),
            Op::Put(slot) => self.put(slot),
            Op::PutLook(slot) => {
                if let Some(look) = self.look_to_put(slot) {
                    self.slots[slot as usize].place = Place::Putting;
                    self.putting.push((slot, look));
                }
            }
            Op::PutBit(at) => {
                let (slot, before) = self.putting.remove(at as usize);
                self.slots[slot as usize].place = Place::Idle;
                self.second_looks.push((slot, before));
            }
            Op::PutLookAgain(at) => {
                let (slot, before) = self.second_looks.remove(at as usize);
                self.second_look(slot, before);
            }
            Op::Discard(slot) => self.give_up(slot, Retirement::Discarded),
            Op::FailCheck(slot) => self.fail_check(slot),
            Op::Detach(slot) => {
                self.rouse();
                self.slots[slot as usize] = Slot::new();
                self.counters.detached += 1;
                self.settle();
            }
            Op::Adopt => return self.adopt(),
            Op::Reserve(slot) => self.slots[slot as usize].place = Place::Reserved,
            Op::Release(slot) => {
                self.slots[slot as usize].place = Place::Lent;
                self.put(slot);
            }
            Op::ReleaseDead(slot) => self.give_up(slot, Retirement::Check),
            Op::Begin(slot) => return self.begin(slot),
            Op::Land(slot) => self.land(slot),
            Op::Refuse(slot) => self.creation_refused(slot),
            Op::Outage(slot) => self.creation_met_outage(slot),
            Op::Abort(slot) => {
                self.slots[slot as usize] = Slot::new();
                self.nudge();
                self.stalled = true;
                self.vanish_if_unused();
                // It wants nothing before somebody comes by.
                self.report(0);
                self.note_drained();
            }
            Op::Destroyed(slot) => {
                self.rouse();
                self.slots[slot as usize] = Slot::new();
                self.settle();
            }
            Op::Resize(max_active) => self.resize(max_active),
            Op::Invalidate => {
                self.rouse();
                self.generation += 1;
                self.retire_idle_while(Retirement::Invalidated, |_| true);
                self.settle();
            }
            Op::Close => return Answer::Is(self.close()),
            Op::Press(pressed) => {
                self.pressed = pressed != 0;
                self.show_spare();
                self.settle();
            }
            Op::Trim => self.trim(),
            Op::Nudge => self.nudge(),
            Op::Advance(by) => self.now += u64::from(by),
            Op::Tick => return self.tick(),
            Op::Grant(_) => self.take_unit(),
            Op::Elsewhere(n) => self.arrivals += elsewhere(n),
            Op::Fresh => {
                *self = Self {
                    arrivals: self.arrivals,
                    op: self.op,
                    ..Self::new(self.setup.clone())
                }
            }
        }
        Answer::Nothing
    }

    // --- Getting -------------------------------------------------------------------------------

    fn get(&mut self, patience: u32) -> Answer {
        let id = self.gets;
        self.gets += 1;
        let caller = Caller {
            id,
            arrival: None,
            deadline: self.deadline(patience),
        };
        match self.checkout() {
            Some(slot) => self.lend(slot, caller),
            None => self.enqueue(caller),
        }
    }

    fn deadline(&self, patience: u32) -> Moment {
        match own_patience(patience) {
            None => self.now.saturating_add(self.setup.limits.wait_timeout),
            Some(patience) => self.now.saturating_add(patience),
        }
    }

    /// The short way.
    fn checkout(&mut self) -> Option<u32> {
        while self.gate().0 & !flag::PRESSED == 0 {
            let slot = self.first_idle()?;
            if self.slots[slot as usize].generation == self.generation {
                return Some(slot);
            }
            self.give_up(slot, Retirement::Invalidated);
        }
        None
    }

    fn lend(&mut self, slot: u32, caller: Caller) -> Answer {
        let lent = &mut self.slots[slot as usize];
        lent.place = Place::Lent;
        lent.caller = Some(caller);
        Answer::Slot(slot)
    }

    fn enqueue(&mut self, mut caller: Caller) -> Answer {
        self.at_home = true;
        if self.closed {
            return Answer::Refused(Refusal::Closed);
        }
        self.rouse();
        if let Some(outage) = &mut self.outage {
            outage.asked = true;
        }
        let rejoins = caller.arrival.is_some();
        let arrival = caller.arrival.unwrap_or_else(|| self.arrive());
        caller.arrival = Some(arrival);
        if self.line.iter().all(|other| arrival < other.arrival)
            && let Some(slot) = self.first_idle()
        {
            self.slots[slot as usize].place = Place::Lent;
            self.settle();
            return self.vet(slot, caller);
        }
        if let Some(refusal) = self.refuses(rejoins, caller.deadline) {
            self.settle();
            return Answer::Refused(refusal);
        }
        let waiter = Waiter {
            id: caller.id,
            arrival,
            since: self.now,
            deadline: caller.deadline,
            waker: Some(self.new_waker()),
        };
        self.line.push(waiter);
        self.line.sort_by_key(|waiter| waiter.arrival);
        let outcome = None;
        self.tickets.insert(caller.id, Fate { caller, outcome });
        self.settle();
        Answer::Waits
    }

    fn arrive(&mut self) -> u64 {
        if let Some(share) = &mut self.share {
            share.used = true;
        }
        self.arrivals += 1;
        self.arrivals
    }

    fn new_waker(&mut self) -> u32 {
        self.wakers += 1;
        self.wakers
    }

    fn refuses(&mut self, rejoins: bool, deadline: Moment) -> Option<Refusal<u32>> {
        if deadline <= self.now {
            self.counters.waits_timed_out += 1;
            return Some(self.timed_out(self.now));
        }
        if let Some(outage) = &self.outage
            && self.setup.limits.fail_fast
        {
            self.counters.waits_refused += 1;
            return Some(Refusal::Down {
                cause: outage.cause,
                attempt: outage.attempt,
            });
        }
        let taken = self.count(|place| place.is_live() || place == Place::Closing);
        let room = self.max_active.saturating_sub(taken) as usize;
        if self.line.len() >= self.setup.limits.max_waiters + room && !rejoins {
            self.counters.overloaded += 1;
            return Some(Refusal::Overloaded {
                waiting: self.line.len(),
            });
        }
        None
    }

    /// Looks at what was handed over.
    fn vet(&mut self, slot: u32, caller: Caller) -> Answer {
        if self.slots[slot as usize].generation == self.generation {
            return self.lend(slot, caller);
        }
        self.give_up(slot, Retirement::Invalidated);
        self.rejoining.push(caller);
        Answer::Unfit
    }

    fn try_get(&mut self) -> Answer {
        loop {
            let (before, _) = self.gate();
            if let Some(slot) = self.checkout() {
                let id = self.gets;
                self.gets += 1;
                let caller = Caller {
                    id,
                    arrival: None,
                    deadline: self.now,
                };
                return self.lend(slot, caller);
            }
            let (flags, _) = self.gate();
            if self.closed {
                return Answer::Refused(Refusal::Closed);
            }
            let bars_more = |flags: u64| flags & !flag::PRESSED != flag::DROWSY;
            if bars_more(flags) && bars_more(before) {
                return Answer::Exhausted;
            }
            self.look_again();
        }
    }

    fn take_after_look(&mut self, at: usize) -> Answer {
        let before = self.looks.remove(at);
        // The quick look goes no further than the first part.
        let Some(slot) = self.first_idle().filter(|slot| *slot < FIRST_PART) else {
            return Answer::Exhausted;
        };
        if self.slots[slot as usize].generation == before.1 {
            let id = self.gets;
            self.gets += 1;
            let caller = Caller {
                id,
                arrival: None,
                deadline: self.now,
            };
            return self.lend(slot, caller);
        }
        if self.gate() != before {
            self.second_look(slot, before);
        }
        Answer::Unfit
    }

    fn poll(&mut self, id: u32) -> Answer {
        let fate = self.tickets[&id].clone();
        match fate.outcome {
            Some(Ok(slot)) => {
                self.tickets.remove(&id);
                self.slots[slot as usize].place = Place::Lent;
                self.vet(slot, fate.caller)
            }
            Some(Err(refusal)) => {
                self.tickets.remove(&id);
                Answer::Refused(refusal)
            }
            None => {
                self.repoll(id);
                Answer::Waits
            }
        }
    }

    fn repoll(&mut self, id: u32) {
        self.at_home = true;
        let waker = self.new_waker();
        match self.line.iter_mut().find(|waiter| waiter.id == id) {
            Some(waiter) => waiter.waker = Some(waker),
            // It has its outcome since it looked, and must look once more.
            None => self.deeds.woken.push((id, waker)),
        }
        self.settle();
    }

    fn cancel(&mut self, id: u32) {
        self.rouse();
        if let Some(at) = self.line.iter().position(|waiter| waiter.id == id) {
            let waiter = self.line.remove(at);
            self.counters.waits_cancelled += 1;
            self.note_time(Timed::WaitCancelled, self.now - waiter.since);
        }
        let fate = self.tickets.remove(&id);
        if let Some(Ok(slot)) = fate.and_then(|fate| fate.outcome) {
            self.place(slot);
        }
        self.settle();
    }

    fn fail_check(&mut self, slot: u32) {
        let caller = self.slots[slot as usize].caller.take();
        let mut caller = caller.expect("a lease has its caller");
        if caller.arrival.is_none() {
            caller.arrival = Some(self.arrive());
        }
        self.give_up(slot, Retirement::Check);
        self.rejoining.push(caller);
    }

    // --- Putting -------------------------------------------------------------------------------

    fn put(&mut self, slot: u32) {
        if let Some(look) = self.look_to_put(slot) {
            self.slots[slot as usize].place = Place::Idle;
            self.second_look(slot, look);
        }
    }

    /// What the gate says, if the short way is open.
    fn look_to_put(&mut self, slot: u32) -> Option<Seen> {
        let look = self.gate();
        if self.is_open() && self.slots[slot as usize].generation == look.1 {
            return Some(look);
        }
        self.put_slowly(slot);
        None
    }

    fn put_slowly(&mut self, slot: u32) {
        if self.slots[slot as usize].generation != self.generation {
            return self.give_up(slot, Retirement::Invalidated);
        }
        self.rouse();
        self.place(slot);
        self.settle();
    }

    fn second_look(&mut self, slot: u32, before: Seen) {
        let look = self.gate();
        if look.1 != before.1 && self.slots[slot as usize].place == Place::Idle {
            return self.put_slowly(slot);
        }
        if !self.is_open() {
            self.look_again();
        }
        self.trim_if_over();
    }

    fn look_again(&mut self) {
        self.rouse();
        while (!self.line.is_empty() || self.closed || self.surplus() > 0)
            && let Some(slot) = self.first_idle()
        {
            self.place(slot);
        }
        self.show_spare();
        self.settle();
    }

    fn show_spare(&mut self) {
        if self.pressed && self.first_idle().is_some() {
            self.deeds.news.push(News::Spare);
        }
    }

    fn adopt(&mut self) -> Answer {
        if self.closed || self.share.is_some() || self.occupied() >= self.max_active {
            return Answer::Is(false);
        }
        let Some(slot) = self.first(|place| place == Place::Vacant) else {
            return Answer::Is(false);
        };
        self.counters.adopted += 1;
        self.slots[slot as usize].generation = self.generation;
        let id = self.gets;
        self.gets += 1;
        let caller = Caller {
            id,
            arrival: None,
            deadline: self.now,
        };
        self.lend(slot, caller)
    }

    /// The oldest waiter's, or idle, or on its way out.
    fn place(&mut self, slot: u32) {
        self.slots[slot as usize].place = Place::Lent;
        self.slots[slot as usize].caller = None;
        if self.closed {
            return self.retire(slot, Retirement::Closed);
        }
        if self.surplus() > 0 {
            return self.retire(slot, Retirement::Surplus);
        }
        while let Some(oldest) = self.line.first() {
            let waited = self.now - oldest.since;
            if oldest.deadline <= self.now {
                self.time_out(0);
                continue;
            }
            if let Some(codel) = &mut self.codel
                && codel.sheds(waited, self.line.len() == 1, self.now)
            {
                self.counters.shed += 1;
                self.end_wait(0, Err(Refusal::Shed { waited }));
                self.deeds.news.push(News::Shed { waited });
                continue;
            }
            self.counters.waits_served += 1;
            self.slots[slot as usize].place = Place::Granted;
            return self.end_wait(0, Ok(slot));
        }
        if self.count(|place| place == Place::Idle) >= self.setup.limits.max_idle {
            self.retire(slot, Retirement::Surplus);
        } else {
            self.slots[slot as usize].place = Place::Idle;
            self.show_spare();
        }
    }

    fn end_wait(&mut self, at: usize, outcome: Result<u32, Refusal<u32>>) {
        let waiter = self.line.remove(at);
        let ended = match &outcome {
            Ok(_) => Timed::WaitServed,
            Err(Refusal::TimedOut { .. }) => Timed::WaitTimedOut,
            Err(_) => Timed::WaitFailed,
        };
        self.note_time(ended, self.now - waiter.since);
        if let Some(waker) = waiter.waker {
            self.deeds.woken.push((waiter.id, waker));
        }
        let fate = self.tickets.get_mut(&waiter.id);
        fate.expect("a waiter has a ticket").outcome = Some(outcome);
    }

    fn time_out(&mut self, at: usize) {
        self.counters.waits_timed_out += 1;
        let refusal = self.timed_out(self.line[at].since);
        self.end_wait(at, Err(refusal));
    }

    fn timed_out(&self, since: Moment) -> Refusal<u32> {
        let outage = self.outage.as_ref().map(|outage| outage.cause);
        let failure = self.last_failure.filter(|(at, _)| *at >= since);
        Refusal::TimedOut {
            waited: self.now - since,
            creating: outage.is_some() || self.count(Place::is_creating) > 0,
            cause: outage.or(failure.map(|(_, cause)| cause)),
        }
    }

    /// The holder will not give it back.
    fn give_up(&mut self, slot: u32, why: Retirement) {
        self.rouse();
        self.retire(slot, why);
        self.settle();
    }

    fn retire(&mut self, slot: u32, why: Retirement) {
        self.slots[slot as usize].place = Place::Closing;
        self.slots[slot as usize].caller = None;
        self.counters.retired += 1;
        self.deeds.destroyed.push((slot, why));
    }

    // --- Creating ------------------------------------------------------------------------------

    fn begin(&mut self, slot: u32) -> Answer {
        let Place::Creating {
            probe, generation, ..
        } = self.slots[slot as usize].place
        else {
            unreachable!("only creations begin");
        };
        let needed = match &self.outage {
            Some(outage) => probe == Some(outage.number),
            None => self.count(Place::is_creating) <= self.wanted(),
        };
        if needed && !self.closed && self.occupied() <= self.max_active {
            self.slots[slot as usize].place = Place::Creating {
                probe,
                generation,
                begun: true,
            };
            return Answer::Is(true);
        }
        self.slots[slot as usize] = Slot::new();
        self.counters.create_abandoned += 1;
        self.settle();
        Answer::Is(false)
    }

    fn land(&mut self, slot: u32) {
        let Place::Creating { generation, .. } = self.slots[slot as usize].place else {
            unreachable!("only creations land");
        };
        self.slots[slot as usize].place = Place::Lent;
        self.slots[slot as usize].generation = generation;
        self.counters.created += 1;
        self.note_time(Timed::Created, CREATING_TAKES);
        self.refused_refills = 0;
        self.refill_at = 0;
        self.rouse();
        self.go_up();
        if generation == self.generation {
            self.place(slot);
        } else {
            self.retire(slot, Retirement::Invalidated);
        }
        self.settle();
    }

    /// Ends a creation that failed, and names its cause.
    fn fail(&mut self, slot: u32) -> u32 {
        self.slots[slot as usize] = Slot::new();
        self.counters.create_failed += 1;
        self.note_time(Timed::CreateFailed, CREATING_TAKES);
        self.rouse();
        let cause = self.counters.create_failed as u32;
        self.last_failure = Some((self.now, cause));
        cause
    }

    fn creation_refused(&mut self, slot: u32) {
        let cause = self.fail(slot);
        self.go_up();
        if self.line.is_empty() {
            self.refused_refills += 1;
            let pause = BACKOFF.nanos(self.refused_refills, &mut self.random);
            self.refill_at = self.now + pause;
        } else {
            self.counters.waits_refused += 1;
            self.end_wait(0, Err(Refusal::Refused(cause)));
        }
        self.settle();
    }

    fn creation_met_outage(&mut self, slot: u32) {
        let Place::Creating { probe, .. } = self.slots[slot as usize].place else {
            unreachable!("only creations fail");
        };
        let cause = self.fail(slot);
        match &mut self.outage {
            None => {
                self.counters.outages += 1;
                self.go_down(self.counters.outages, self.now, 1, cause);
            }
            Some(outage) if probe == Some(outage.number) => {
                let (number, since, attempt) = (outage.number, outage.since, outage.attempt + 1);
                self.go_down(number, since, attempt, cause);
            }
            Some(outage) => outage.cause = cause,
        }
        self.settle();
    }

    fn go_down(&mut self, number: u64, since: Moment, attempt: u32, cause: u32) {
        let retry_in = BACKOFF.nanos(attempt, &mut self.random);
        self.outage = Some(Outage {
            number,
            since,
            attempt,
            probe_at: self.now + retry_in,
            asked: false,
            cause,
        });
        while self.setup.limits.fail_fast && !self.line.is_empty() {
            self.counters.waits_refused += 1;
            self.end_wait(0, Err(Refusal::Down { cause, attempt }));
        }
        self.deeds.news.push(News::WentDown {
            cause,
            attempt,
            retry_in,
        });
    }

    fn go_up(&mut self) {
        if let Some(outage) = self.outage.take() {
            let after = self.now - outage.since;
            self.deeds.news.push(News::WentUp { after });
        }
    }

    /// How many creations would all be used.
    fn wanted(&self) -> u32 {
        let idle = self.count(|place| place == Place::Idle);
        let refill = if self.refill_at <= self.now {
            self.setup.limits.min_idle.saturating_sub(idle)
        } else {
            0
        };
        self.line.len() as u32 + refill
    }

    fn is_probing(&self) -> bool {
        let outage = self.outage.as_ref().map(|outage| outage.number);
        let probes = |place| matches!(place, Place::Creating { probe, .. } if probe == outage);
        outage.is_some() && self.count(probes) > 0
    }

    /// Starts what is needed and allowed.
    fn settle(&mut self) {
        self.stalled = false;
        while self.has_unit()
            && let Some(probe) = self.next_creation()
        {
            self.create(probe);
            if let Some(share) = &mut self.share {
                share.fresh = false;
            }
        }
        self.vanish_if_unused();
        if self.share.is_some() {
            self.report(self.lacks());
        }
        self.note_drained();
    }

    fn create(&mut self, probe: Option<u64>) {
        let Some(slot) = self.first(|place| place == Place::Vacant) else {
            unreachable!("room is a vacant slot");
        };
        self.slots[slot as usize].place = Place::Creating {
            probe,
            generation: self.generation,
            begun: false,
        };
        self.deeds.created.push((slot, probe.is_some()));
    }

    /// Whether a creation is to start, and which outage it probes.
    fn next_creation(&self) -> Option<Option<u64>> {
        let creating = self.count(Place::is_creating);
        if self.closed
            || creating >= self.setup.limits.max_creating
            || self.occupied() >= self.max_active
        {
            return None;
        }
        match &self.outage {
            None => (creating < self.wanted()).then_some(None),
            Some(outage) => {
                let of_use = self.share.is_none() || outage.asked || !self.line.is_empty();
                let due = outage.probe_at <= self.now && !self.is_probing() && of_use;
                due.then_some(Some(outage.number))
            }
        }
    }

    fn note_drained(&mut self) {
        if self.closed && self.occupied() == 0 && !self.drained {
            self.drained = true;
            self.deeds.news.push(News::Drained);
        }
    }

    // --- A shared bound ------------------------------------------------------------------------

    fn has_unit(&self) -> bool {
        self.share.as_ref().is_none_or(|share| share.fresh)
    }

    fn take_unit(&mut self) {
        let share = self.share.as_mut().expect("there is an owner");
        share.granted += 1;
        share.fresh = true;
        // The owner knows what it does.
        share.told.units = share.told.units.saturating_sub(1);
        share.told.hungry = None;
        self.settle();
    }

    /// How many creations would begin if units cost nothing.
    fn lacks(&self) -> u32 {
        if self.next_creation().is_none() {
            return 0;
        }
        let mut rich = self.clone();
        let mut units = 0;
        while let Some(probe) = rich.next_creation() {
            rich.create(probe);
            units += 1;
        }
        units
    }

    /// Gives back what no slot needs, and says what is wanted, if that is news to the owner.
    fn report(&mut self, units: u32) {
        let occupied = u64::from(self.occupied());
        let has_nothing = self.count(|place| place.is_creating() || place.is_live()) == 0;
        let oldest = self.line.first().map(|waiter| Arrival(waiter.arrival));
        let needs = Needs {
            units,
            hungry: oldest.filter(|_| units > 0 && has_nothing),
        };
        let Some(share) = &mut self.share else {
            return;
        };
        share.fresh = false;
        let over = share.granted - share.released - occupied;
        if over == 0 && needs == share.told {
            return;
        }
        share.released += over;
        share.told = needs;
        share.version += 1;
        self.deeds.news.push(News::Report(Report {
            version: share.version,
            released: over as u32,
            seen: share.granted,
            needs,
        }));
    }

    fn vanish_if_unused(&mut self) {
        if self.is_unused() {
            self.closed = true;
            self.share
                .iter_mut()
                .for_each(|share| share.vanished = true);
        }
    }

    /// Somebody has used it, and nobody does any more.
    fn is_unused(&self) -> bool {
        let was_used = self.share.as_ref().is_some_and(|share| share.used);
        let outage = self.outage.as_ref();
        let matters = outage.is_some_and(|outage| outage.asked || outage.probe_at > self.now);
        was_used && !matters && !self.closed && self.line.is_empty() && self.occupied() == 0
    }

    // --- The pool as a whole -------------------------------------------------------------------

    fn resize(&mut self, max_active: u32) {
        self.rouse();
        self.max_active = max_active;
        while (self.slots.len() as u32) < max_active {
            self.slots.push(Slot::new());
        }
        self.retire_idle_while(Retirement::Surplus, |model| model.surplus() > 0);
        self.settle();
    }

    fn close(&mut self) -> bool {
        self.rouse();
        let was_open = !self.closed;
        self.closed = true;
        while !self.line.is_empty() {
            self.counters.waits_closed += 1;
            self.end_wait(0, Err(Refusal::Closed));
        }
        if was_open {
            self.retire_idle_while(Retirement::Closed, |_| true);
        }
        self.settle();
        was_open
    }

    fn trim_if_over(&mut self) {
        if self.count(|place| place == Place::Idle) > self.setup.limits.max_idle {
            self.trim();
        }
    }

    fn trim(&mut self) {
        self.rouse();
        let max_idle = self.setup.limits.max_idle;
        self.retire_idle_while(Retirement::Surplus, |model| {
            model.count(|place| place == Place::Idle) > max_idle
        });
        self.settle();
    }

    fn retire_idle_while(&mut self, why: Retirement, so: impl Fn(&Self) -> bool) {
        while so(self)
            && let Some(slot) = self.first_idle()
        {
            self.retire(slot, why);
        }
    }

    fn nudge(&mut self) {
        self.at_home = false;
        for waiter in &mut self.line {
            let waker = waiter.waker.take().map(|waker| (waiter.id, waker));
            self.deeds.woken.extend(waker);
        }
    }

    fn rouse(&mut self) {
        if self.epoch_end.is_none() {
            self.clock = self.now;
            self.epoch_end = Some(self.now + self.setup.limits.epoch);
        }
    }

    fn tick(&mut self) -> Answer {
        self.clock = self.now;
        if self.epoch_end.is_some_and(|end| end <= self.now) {
            self.epoch_end = None;
        }
        while let Some(at) = self.line.iter().position(|one| one.deadline <= self.now) {
            self.time_out(at);
        }
        self.settle();
        Answer::Due(self.next_due())
    }

    fn next_due(&self) -> Moment {
        let deadlines = self.line.iter().map(|waiter| waiter.deadline);
        let probe = self.outage.as_ref().filter(|_| !self.is_probing());
        let probe = probe.map(|outage| outage.probe_at);
        deadlines
            .chain(probe.filter(|at| *at > self.now))
            .chain(Some(self.refill_at).filter(|at| *at > self.now))
            .chain(self.epoch_end)
            .min()
            .unwrap_or(NEVER)
    }

    fn note_time(&mut self, what: Timed, nanos: u64) {
        self.deeds.timed.push((what as u8, nanos));
    }

    // --- Counting ------------------------------------------------------------------------------

    fn count(&self, fits: impl Fn(Place) -> bool) -> u32 {
        self.slots.iter().filter(|slot| fits(slot.place)).count() as u32
    }

    fn first(&self, fits: impl Fn(Place) -> bool) -> Option<u32> {
        let at = self.slots.iter().position(|slot| fits(slot.place));
        at.map(|slot| slot as u32)
    }

    /// The pool has one word of bits a part, so the lowest goes first.
    fn first_idle(&self) -> Option<u32> {
        self.first(|place| place == Place::Idle)
    }

    fn occupied(&self) -> u32 {
        self.count(|place| place != Place::Vacant)
    }

    /// How many more there are, or will be, than may stay.
    fn surplus(&self) -> u32 {
        self.count(|place| place.is_live() || place.is_creating())
            .saturating_sub(self.max_active)
    }

    fn is_open(&self) -> bool {
        self.gate().0 == 0
    }

    fn gate(&self) -> Seen {
        let flags = [
            (!self.line.is_empty(), flag::WAITING),
            (self.closed, flag::CLOSED),
            (self.surplus() > 0, flag::SURPLUS),
            (self.epoch_end.is_none(), flag::DROWSY),
            (self.pressed, flag::PRESSED),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set);
        (set.map(|(_, flag)| flag).sum(), self.generation)
    }

    fn census(&self) -> Census {
        Census {
            max_active: self.max_active,
            creating: self.count(Place::is_creating),
            idle: self.count(|place| place == Place::Idle),
            leased: self
                .count(|place| matches!(place, Place::Lent | Place::Putting | Place::Granted)),
            reserved: self.count(|place| place == Place::Reserved),
            closing: self.count(|place| place == Place::Closing),
            waiting: self.line.len(),
            closed: self.closed,
            down: self.outage.is_some(),
        }
    }

    // --- Promises ------------------------------------------------------------------------------

    /// What must hold whatever happened. `before` is how many slots were taken before it did.
    fn assert_promises(&self, before: u32) {
        let (idle, creating) = (
            self.count(|place| place == Place::Idle),
            self.count(Place::is_creating),
        );
        assert!(
            self.occupied() <= self.max_active.max(before),
            "the pool grew beyond its bound"
        );
        assert!(creating <= self.setup.limits.max_creating);
        let probes = |place| {
            matches!(place, Place::Creating { probe: Some(number), .. }
            if self.outage.as_ref().is_some_and(|outage| outage.number == number))
        };
        assert!(self.count(probes) <= 1, "one outage, one prober");
        if !self.line.is_empty() && self.second_looks.is_empty() {
            assert_eq!(idle, 0, "someone waits beside an idle resource");
        }
        let wanted = self.share.as_ref().map_or(0, |share| share.told.units);
        if !self.stalled && self.outage.is_none() && !self.closed {
            let enough = creating + wanted >= self.line.len() as u32
                || creating + wanted >= self.setup.limits.max_creating
                || self.occupied() + wanted >= self.max_active;
            assert!(enough, "someone waits although there is room to create");
        }
        if let Some(share) = &self.share {
            let held = share.granted - share.released;
            assert_eq!(held, u64::from(self.occupied()), "a unit is lost, or owed");
            let forgotten = self.is_unused() && self.outage.is_none();
            assert!(!forgotten, "nobody uses the pool, and it stays");
            assert!(
                !share.vanished || self.drained,
                "it vanished with something in it"
            );
        }
        assert!(!self.closed || self.line.is_empty(), "a closed pool's line");
        if self.closed && self.second_looks.is_empty() {
            assert_eq!(idle, 0, "a closed pool keeps nothing");
        }
        let granted = self.tickets.values();
        let granted = granted
            .filter(|fate| matches!(fate.outcome, Some(Ok(_))))
            .count();
        assert_eq!(granted as u32, self.count(|place| place == Place::Granted));
    }
}

/// A patience of its own, for some of the numbers.
fn own_patience(number: u32) -> Option<u64> {
    match number {
        0..128 => None,
        255.. => Some(NEVER),
        own => Some(u64::from(own - 128)),
    }
}

/// How many ask another pool at once.
fn elsewhere(number: u32) -> u64 {
    1 + u64::from(number % 3)
}

fn pick(from: impl Iterator<Item = u32>, n: u32) -> Option<u32> {
    let all: Vec<u32> = from.collect();
    all.get(n as usize % all.len().max(1)).copied()
}

impl Slot {
    fn new() -> Self {
        Self {
            place: Place::Vacant,
            generation: 0,
            caller: None,
        }
    }
}

impl Place {
    fn is_creating(self) -> bool {
        matches!(self, Place::Creating { .. })
    }

    fn is_unbegun(self) -> bool {
        matches!(self, Place::Creating { begun: false, .. })
    }

    fn is_begun(self) -> bool {
        matches!(self, Place::Creating { begun: true, .. })
    }

    fn is_live(self) -> bool {
        matches!(
            self,
            Place::Idle | Place::Lent | Place::Putting | Place::Granted | Place::Reserved
        )
    }
}
