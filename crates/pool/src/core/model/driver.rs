//! The real core and shelf, put through the model's operations.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::{Wake, Waker},
};

use super::{Answer, CREATING_TAKES, Deeds, Model, News, Op, Place, elsewhere, own_patience};
use crate::{
    core::{
        Arrival, Core, Effect, Effects, Enqueued, Errand, Look, Moment, Patience, Refusal,
        Retirement, Shelf, Ticket, Verdict, flag,
    },
    slots::{Held, NEVER, Pickup, Table},
    sync::{AtomicU64, Ordering},
};

/// The core, with the tokens and tickets that the shell would hold.
pub struct Driver {
    core: Core<Cause>,
    shelf: Shelf,
    /// Each resource is the number of the slot it was made for.
    table: Table<u32>,
    slots: u32,
    now: Moment,
    max_idle: Option<usize>,
    lent: BTreeMap<u32, Held>,
    reserved: BTreeMap<u32, Held>,
    creating: BTreeMap<u32, (Held, Errand)>,
    closing: BTreeMap<u32, Held>,
    generations: BTreeMap<u32, u64>,
    tickets: BTreeMap<u32, Ticket>,
    arrivals: BTreeMap<u32, Arrival>,
    looks: Vec<Look>,
    putting: Vec<(Held, Look)>,
    second_looks: Vec<(u32, Look)>,
    rung: Arc<Mutex<Vec<(u32, u32)>>>,
    /// At all the pools that share a bound.
    all_arrivals: Arc<AtomicU64>,
    wakers: u32,
    failures: u32,
    /// Upkeep: whether it runs, has been told to look, and when it looks otherwise.
    at_home: bool,
    alarm: bool,
    wake_at: Moment,
    deeds: Deeds,
}

/// The cause of a failure. Its destructor is a user's: it must not run under the lock.
#[derive(Debug, Clone)]
struct Cause(Arc<CauseInner>);

#[derive(Debug)]
struct CauseInner(u32);

struct Bell {
    rings_for: (u32, u32),
    rung: Arc<Mutex<Vec<(u32, u32)>>>,
}

thread_local! {
    static LOCKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the user's code would run under the lock. Not asked while the core's own panic unwinds,
/// which would then abort, and could not be shrunk.
fn is_locked() -> bool {
    LOCKED.get() && !std::thread::panicking()
}

impl Drop for CauseInner {
    fn drop(&mut self) {
        assert!(!is_locked(), "a cause was dropped under the lock");
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        assert!(!is_locked(), "a waiter was woken under the lock");
        self.rung.lock().unwrap().push(self.rings_for);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        assert!(!is_locked(), "a waker was dropped under the lock");
    }
}

impl Driver {
    pub fn new(model: &Model) -> Self {
        LOCKED.set(false);
        let limits = model.setup.limits.clone();
        let slots = limits.max_active;
        let table = Table::new(slots);
        let max_idle = (limits.max_idle != u32::MAX).then_some(limits.max_idle as usize);
        let mut core = Core::new(limits, table.grow(0, slots), model.setup.seed);
        let all_arrivals = Arc::new(AtomicU64::new(model.arrivals));
        if model.share.is_some() {
            core.share(Arc::clone(&all_arrivals));
        }
        Self {
            shelf: Shelf::new(slots, 1, 8),
            core,
            table,
            slots,
            now: 0,
            max_idle,
            lent: BTreeMap::new(),
            reserved: BTreeMap::new(),
            creating: BTreeMap::new(),
            closing: BTreeMap::new(),
            generations: BTreeMap::new(),
            tickets: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            looks: Vec::new(),
            putting: Vec::new(),
            second_looks: Vec::new(),
            rung: Arc::default(),
            all_arrivals,
            wakers: 0,
            failures: 0,
            at_home: true,
            // A new upkeep looks at once.
            alarm: true,
            wake_at: NEVER,
            deeds: Deeds::default(),
        }
    }

    /// Does what the model has just done, and compares.
    pub fn follow(&mut self, model: &Model) {
        let Some(op) = model.op else { return };
        self.deeds = Deeds::default();
        self.deeds.answer = self.perform(op, model);
        self.deeds.woken = std::mem::take(&mut self.rung.lock().unwrap());
        let mut expected = model.deeds.clone();
        expected.timed.sort_unstable();
        self.deeds.timed.sort_unstable();
        if op == Op::Tick {
            // In the order of deadlines; those that are due at once, in any.
            expected.woken.sort_unstable();
            self.deeds.woken.sort_unstable();
        }
        assert_eq!(self.deeds, expected, "what the core did about {op:?}");
        self.compare_state(model);
        self.check_upkeep(model);
    }

    fn perform(&mut self, op: Op, model: &Model) -> Answer {
        match op {
            Op::Get(patience) => return self.get(model.gets - 1, patience),
            Op::TryGet => return self.try_get(),
            Op::Look => {
                let look = self.shelf.gate.look();
                if look.is_open() {
                    self.looks.push(look);
                }
            }
            Op::TakeAfterLook(at) => {
                let look = self.looks.remove(at as usize);
                return self.take_after_look(look);
            }
            Op::Rejoin(_) => return self.rejoin(model),
            Op::Poll(id) => return self.poll(id),
            Op::PollHalf(id) => {
                let pickup = self.shelf.handoffs.take(self.tickets[&id].index);
                assert!(matches!(pickup, Pickup::Waiting));
            }
            Op::PollRest(id) => self.repoll(id),
            Op::Cancel(id) => {
                let ticket = self.tickets.remove(&id).expect("a ticket");
                let now = self.now;
                self.command(|core, shelf, fx| core.cancel(shelf, ticket, now, fx));
            }
            Op::Put(slot) => {
                let held = self.take_back(slot);
                self.put(held);
            }
            Op::PutLook(slot) => {
                let held = self.take_back(slot);
                let putting = self.look_to_put(held);
                self.putting.extend(putting);
            }
            Op::PutBit(at) => {
                let (held, look) = self.putting.remove(at as usize);
                self.second_looks.push((held.slot(), look));
                self.shelf.idle.put(held);
            }
            Op::PutLookAgain(at) => {
                let (slot, look) = self.second_looks.remove(at as usize);
                self.second_look(slot, look);
            }
            Op::Discard(slot) => {
                let held = self.take_back(slot);
                self.retire(held, Retirement::Discarded);
            }
            Op::FailCheck(slot) => self.fail_check(slot, model),
            Op::Detach(slot) => {
                let mut held = self.take_back(slot);
                assert_eq!(self.table.take(&mut held), slot);
                let now = self.now;
                self.command(|core, shelf, fx| core.detached(shelf, held, now, fx));
            }
            Op::Adopt => return self.adopt(),
            Op::Reserve(slot) => {
                let held = self.shelf.idle.take_this(slot).expect("an idle slot");
                self.command(|core, _, _| core.reserve(true));
                self.reserved.insert(slot, held);
            }
            Op::Release(slot) => {
                let held = self.unreserve(slot);
                self.put(held);
            }
            Op::ReleaseDead(slot) => {
                let held = self.unreserve(slot);
                self.retire(held, Retirement::Check);
            }
            Op::Begin(slot) => return self.begin(slot),
            Op::Land(slot) => self.land(slot),
            Op::Refuse(slot) => self.fail(slot, Verdict::Refuse),
            Op::Outage(slot) => self.fail(slot, Verdict::Outage),
            Op::Abort(slot) => {
                let (held, errand) = self.creating.remove(&slot).expect("a creation");
                let now = self.now;
                self.command(|core, shelf, fx| core.create_aborted(shelf, held, errand, now, fx));
                self.nudge();
            }
            Op::Destroyed(slot) => {
                let mut held = self.closing.remove(&slot).expect("a destruction");
                assert_eq!(self.table.take(&mut held), slot);
                let now = self.now;
                self.command(|core, shelf, fx| core.destroyed(shelf, held, now, fx));
            }
            Op::Resize(max_active) => self.resize(max_active),
            Op::Invalidate => {
                let now = self.now;
                self.command(|core, shelf, fx| core.invalidate(shelf, now, fx));
            }
            Op::Close => {
                let now = self.now;
                let was_open = self.command(|core, shelf, fx| core.close(shelf, now, fx));
                return Answer::Is(was_open);
            }
            Op::Press(pressed) => {
                let now = self.now;
                self.command(|core, shelf, fx| core.press(shelf, pressed != 0, now, fx));
            }
            Op::Trim => {
                let now = self.now;
                self.command(|core, shelf, fx| core.trim(shelf, now, fx));
            }
            Op::Nudge => self.nudge(),
            Op::Advance(by) => self.now += u64::from(by),
            Op::Tick => {
                let now = self.now;
                self.alarm = false;
                self.wake_at = self.command(|core, shelf, fx| core.tick(shelf, now, fx));
                return Answer::Due(self.wake_at);
            }
            Op::Grant(_) => {
                let now = self.now;
                self.command(|core, shelf, fx| core.granted(shelf, now, fx));
            }
            Op::Elsewhere(n) => {
                self.all_arrivals.fetch_add(elsewhere(n), Ordering::Relaxed);
            }
            Op::Fresh => *self = Self::new(model),
        }
        Answer::Nothing
    }

    // --- As `shared`, `get`, `pool` and `upkeep` do it -----------------------------------------

    fn get(&mut self, id: u32, patience: u32) -> Answer {
        if let Some(held) = self.checkout_quickly() {
            return self.lend(held);
        }
        if let Some(held) = self.checkout() {
            return self.lend(held);
        }
        let patience = match own_patience(patience) {
            None => Patience::Usual,
            Some(patience) => Patience::Until(self.now.saturating_add(patience)),
        };
        self.enqueue(id, patience)
    }

    fn checkout_quickly(&mut self) -> Option<Held> {
        let look = self.shelf.gate.look();
        if !look.is_open() {
            return None;
        }
        self.take_quickly(look).ok()
    }

    fn take_quickly(&mut self, look: Look) -> Result<Held, Answer> {
        let held = self.shelf.idle.take_home().ok_or(Answer::Exhausted)?;
        let slot = held.slot();
        if self.generations[&slot] == look.generation() {
            return Ok(held);
        }
        self.shelf.idle.put(held);
        if self.shelf.gate.look() != look {
            self.look_again(slot, look);
        }
        Err(Answer::Unfit)
    }

    fn checkout(&mut self) -> Option<Held> {
        loop {
            if !self.shelf.gate.look().lends() {
                return None;
            }
            let held = self.shelf.idle.take()?;
            if let Some(held) = self.vet(held) {
                return Some(held);
            }
        }
    }

    fn vet(&mut self, held: Held) -> Option<Held> {
        if self.generations[&held.slot()] == self.shelf.gate.look().generation() {
            return Some(held);
        }
        self.retire(held, Retirement::Invalidated);
        None
    }

    fn lend(&mut self, held: Held) -> Answer {
        let slot = held.slot();
        assert_eq!(*self.table.get(&held), slot);
        keep(&mut self.lent, slot, held);
        Answer::Slot(slot)
    }

    fn hand_over(&mut self, held: Held) -> Answer {
        match self.vet(held) {
            Some(held) => self.lend(held),
            None => Answer::Unfit,
        }
    }

    fn enqueue(&mut self, id: u32, patience: Patience) -> Answer {
        let (arrival, now) = (self.arrivals.get(&id).copied(), self.now);
        let mut waker = Some(self.next_waker(id));
        let enqueued = self
            .command(|core, shelf, fx| core.enqueue(shelf, arrival, patience, &mut waker, now, fx));
        match enqueued {
            Enqueued::Granted(held, arrival) => {
                self.arrivals.insert(id, arrival);
                self.wakers -= 1;
                self.hand_over(held)
            }
            Enqueued::Waiting(ticket) => {
                assert!(waker.is_none());
                self.arrivals.insert(id, ticket.arrival);
                keep(&mut self.tickets, id, ticket);
                Answer::Waits
            }
            Enqueued::Refused(refusal) => {
                self.wakers -= 1;
                Answer::Refused(plain(&refusal))
            }
        }
    }

    fn rejoin(&mut self, model: &Model) -> Answer {
        let caller = model.rejoined.expect("the model has let one rejoin");
        self.enqueue(caller.id, Patience::Until(caller.deadline))
    }

    fn try_get(&mut self) -> Answer {
        loop {
            let before = self.shelf.gate.look();
            if let Some(held) = self.checkout() {
                return self.lend(held);
            }
            let look = self.shelf.gate.look();
            if look.has(flag::CLOSED) {
                return Answer::Refused(Refusal::Closed);
            }
            if !look.is_drowsy_only() && !before.is_drowsy_only() {
                return Answer::Exhausted;
            }
            let now = self.now;
            self.command(|core, shelf, fx| core.look_again(shelf, now, fx));
        }
    }

    fn take_after_look(&mut self, look: Look) -> Answer {
        match self.take_quickly(look) {
            Ok(held) => self.lend(held),
            Err(nothing) => nothing,
        }
    }

    fn poll(&mut self, id: u32) -> Answer {
        let index = self.tickets[&id].index;
        match self.shelf.handoffs.take(index) {
            Pickup::Granted(held) => {
                self.tickets.remove(&id);
                self.hand_over(held)
            }
            Pickup::Failed => {
                let ticket = self.tickets.remove(&id).expect("a ticket");
                let refusal = self.command(|core, _, _| core.refusal(ticket));
                Answer::Refused(plain(&refusal))
            }
            Pickup::Waiting => {
                self.repoll(id);
                Answer::Waits
            }
        }
    }

    fn repoll(&mut self, id: u32) {
        let (waker, now) = (self.next_waker(id), self.now);
        let ticket = self.tickets.remove(&id).expect("a ticket");
        self.command(|core, shelf, fx| core.repoll(shelf, ticket.index, waker, now, fx));
        self.tickets.insert(id, ticket);
    }

    fn fail_check(&mut self, slot: u32, model: &Model) {
        let caller = model.rejoining.last().expect("the model lets it rejoin");
        if !self.arrivals.contains_key(&caller.id) {
            let arrival = self.command(|core, _, _| core.arrive());
            self.arrivals.insert(caller.id, arrival);
        }
        let held = self.take_back(slot);
        self.retire(held, Retirement::Check);
    }

    fn take_back(&mut self, slot: u32) -> Held {
        self.lent.remove(&slot).expect("a lent slot")
    }

    fn put(&mut self, held: Held) {
        if let Some((held, look)) = self.look_to_put(held) {
            let slot = held.slot();
            self.shelf.idle.put(held);
            self.second_look(slot, look);
        }
    }

    /// What the gate says, if the short way is open.
    fn look_to_put(&mut self, held: Held) -> Option<(Held, Look)> {
        let look = self.shelf.gate.look();
        if look.is_open() && self.generations[&held.slot()] == look.generation() {
            return Some((held, look));
        }
        self.put_slowly(held, look);
        None
    }

    fn put_slowly(&mut self, held: Held, look: Look) {
        if self.generations[&held.slot()] != look.generation() {
            return self.retire(held, Retirement::Invalidated);
        }
        let now = self.now;
        self.command(|core, shelf, fx| core.returned(shelf, held, now, fx));
    }

    fn second_look(&mut self, slot: u32, before: Look) {
        if self.shelf.gate.look() != before || self.max_idle.is_some() {
            self.look_again(slot, before);
        }
    }

    fn look_again(&mut self, slot: u32, before: Look) {
        let (look, now) = (self.shelf.gate.look(), self.now);
        if look.generation() != before.generation()
            && let Some(held) = self.shelf.idle.take_this(slot)
        {
            return self.put_slowly(held, look);
        }
        if !look.is_open() {
            self.command(|core, shelf, fx| core.look_again(shelf, now, fx));
        }
        if let Some(max_idle) = self.max_idle
            && self.shelf.idle.len() > max_idle
        {
            self.command(|core, shelf, fx| core.trim(shelf, now, fx));
        }
    }

    fn retire(&mut self, held: Held, why: Retirement) {
        let now = self.now;
        self.command(|core, shelf, fx| core.retire(shelf, held, why, now, fx));
    }

    fn adopt(&mut self) -> Answer {
        match self.command(|core, _, _| core.adopt()) {
            None => Answer::Is(false),
            Some((mut held, generation)) => {
                self.bear(&mut held, generation);
                self.lend(held)
            }
        }
    }

    fn bear(&mut self, held: &mut Held, generation: u64) {
        let slot = held.slot();
        self.generations.insert(held.slot(), generation);
        self.table.fill(held, slot);
    }

    fn unreserve(&mut self, slot: u32) -> Held {
        self.command(|core, _, _| core.reserve(false));
        self.reserved.remove(&slot).expect("a reserved slot")
    }

    fn begin(&mut self, slot: u32) -> Answer {
        let (held, errand) = self.creating.remove(&slot).expect("a creation");
        let now = self.now;
        match self.command(|core, shelf, fx| core.begin(shelf, held, errand, now, fx)) {
            None => Answer::Is(false),
            Some(held) => {
                keep(&mut self.creating, slot, (held, errand));
                Answer::Is(true)
            }
        }
    }

    fn land(&mut self, slot: u32) {
        let (mut held, errand) = self.creating.remove(&slot).expect("a creation");
        self.bear(&mut held, errand.generation);
        let now = self.now;
        self.command(|core, shelf, fx| core.created(shelf, held, errand, CREATING_TAKES, now, fx));
    }

    fn fail(&mut self, slot: u32, verdict: Verdict) {
        let (held, errand) = self.creating.remove(&slot).expect("a creation");
        self.failures += 1;
        let (cause, now) = (Cause(Arc::new(CauseInner(self.failures))), self.now);
        self.command(|core, shelf, fx| {
            core.create_failed(
                shelf,
                held,
                errand,
                (verdict, cause),
                CREATING_TAKES,
                now,
                fx,
            );
        });
    }

    fn resize(&mut self, max_active: u32) {
        let (slots, now) = (self.slots, self.now);
        self.slots = slots.max(max_active);
        self.shelf.idle.grow(self.slots);
        let minted = self.table.grow(slots, self.slots);
        self.command(|core, shelf, fx| core.resize(shelf, max_active, minted, now, fx));
    }

    fn nudge(&mut self) {
        self.command(|core, _, fx| core.nudge(fx));
    }

    fn next_waker(&mut self, id: u32) -> Waker {
        self.wakers += 1;
        Waker::from(Arc::new(Bell {
            rings_for: (id, self.wakers),
            rung: Arc::clone(&self.rung),
        }))
    }

    fn command<T>(
        &mut self,
        command: impl FnOnce(&mut Core<Cause>, &Shelf, &mut Effects<Cause>) -> T,
    ) -> T {
        let mut effects = Effects::new();
        LOCKED.set(true);
        let answer = command(&mut self.core, &self.shelf, &mut effects);
        LOCKED.set(false);
        effects.carry_out(|effect| self.carry_out(effect));
        answer
    }

    fn carry_out(&mut self, effect: Effect<Cause>) {
        match effect {
            Effect::Wake(waker) => waker.wake(),
            Effect::Create(held, errand) => {
                let slot = held.slot();
                self.deeds.created.push((slot, errand.probe.is_some()));
                keep(&mut self.creating, slot, (held, errand));
            }
            Effect::Destroy(held, why) => {
                self.deeds.destroyed.push((held.slot(), why));
                keep(&mut self.closing, held.slot(), held);
            }
            Effect::Rearm => self.alarm = true,
            Effect::Drained => self.deeds.news.push(News::Drained),
            Effect::Spare => self.deeds.news.push(News::Spare),
            Effect::Report(report) => self.deeds.news.push(News::Report(report)),
            Effect::WentDown {
                cause,
                attempt,
                retry_in,
            } => self.deeds.news.push(News::WentDown {
                cause: cause.0.0,
                attempt,
                retry_in: retry_in.as_nanos() as u64,
            }),
            Effect::WentUp { after } => self.deeds.news.push(News::WentUp {
                after: after.as_nanos() as u64,
            }),
            Effect::Shed { waited } => self.deeds.news.push(News::Shed {
                waited: waited.as_nanos() as u64,
            }),
            Effect::Drop(cause) => drop(cause),
            Effect::DropWaker(waker) => drop(waker),
            Effect::Timed(what, nanos) => self.deeds.timed.push((what as u8, nanos)),
        }
    }

    // --- Comparison ----------------------------------------------------------------------------

    fn compare_state(&self, model: &Model) {
        let look = self.shelf.gate.look();
        let flags = [
            flag::WAITING,
            flag::CLOSED,
            flag::SURPLUS,
            flag::DROWSY,
            flag::PRESSED,
        ];
        let flags = flags.into_iter().filter(|flag| look.has(*flag)).sum();
        assert_eq!((flags, look.generation()), model.gate(), "the gate");
        assert_eq!(self.shelf.coarse_now(), model.clock, "the coarse clock");
        assert_eq!(self.core.census(&self.shelf), model.census());
        assert_eq!(self.core.counters(), model.counters);
        assert_eq!(self.core.is_drained(), model.drained);
        let share = model.share.as_ref();
        let vanished = share.is_some_and(|share| share.vanished);
        assert_eq!(self.core.has_vanished(), vanished);
        let units = share.map_or(0, |share| share.granted - share.released);
        assert_eq!(u64::from(self.core.share.units), units, "units held");
        let oldest = model.line.first().map(|waiter| waiter.arrival);
        assert_eq!(self.core.oldest_arrival().map(|arrival| arrival.0), oldest);
        self.core.line.assert_consistent();
        self.assert_no_cell_is_lost(model);

        for (slot, expected) in (0..).zip(&model.slots) {
            let mut places = Vec::new();
            if self.core.vacant.iter().any(|held| held.0.slot() == slot) {
                places.push(Place::Vacant);
            }
            if self.shelf.idle.contains(slot) {
                places.push(Place::Idle);
            }
            if self.lent.contains_key(&slot) {
                places.push(Place::Lent);
            }
            if self.putting.iter().any(|(held, _)| held.slot() == slot) {
                places.push(Place::Putting);
            }
            if self.reserved.contains_key(&slot) {
                places.push(Place::Reserved);
            }
            if self.closing.contains_key(&slot) {
                places.push(Place::Closing);
            }
            match expected.place {
                // What is in a cell shows when it is polled.
                Place::Granted => assert_eq!(places, [], "slot {slot}"),
                Place::Creating { generation, .. } => {
                    assert_eq!(places, [], "slot {slot}");
                    let (_, errand) = &self.creating[&slot];
                    assert_eq!(errand.generation, generation);
                }
                place => assert_eq!(places, [place], "slot {slot}"),
            }
        }
        assert_eq!(self.creating.len() as u32, self.core.creating);
    }

    /// A waiter's entry is in line, about to be told of a refusal, bound to the slot that was last
    /// given in it, or free.
    fn assert_no_cell_is_lost(&self, model: &Model) {
        let fates = model.tickets.values();
        let refused = fates.filter(|fate| matches!(fate.outcome, Some(Err(_))));
        let bound = self.core.claims.iter().flatten();
        let (all, free) = self.core.line.entries();
        assert_eq!(
            all,
            free + model.line.len() + refused.count() + bound.count(),
            "entries of the waiter map"
        );
    }

    /// Upkeep sleeps no longer than until something is due, and is not woken for less.
    fn check_upkeep(&mut self, model: &Model) {
        if !model.at_home {
            // It ended, and what it was told to do is forgotten with it.
            (self.alarm, self.wake_at) = (false, NEVER);
        } else if !self.at_home {
            self.alarm = true;
        }
        self.at_home = model.at_home;
        if self.at_home && !self.alarm {
            assert!(
                self.wake_at <= model.next_due(),
                "upkeep sleeps until {}, but something is due at {}",
                self.wake_at,
                model.next_due()
            );
        }
    }
}

fn keep<T>(map: &mut BTreeMap<u32, T>, key: u32, value: T) {
    assert!(map.insert(key, value).is_none(), "{key} is here already");
}

fn plain(refusal: &Refusal<Cause>) -> Refusal<u32> {
    match refusal {
        Refusal::Closed => Refusal::Closed,
        Refusal::TimedOut {
            waited,
            creating,
            cause,
        } => Refusal::TimedOut {
            waited: *waited,
            creating: *creating,
            cause: cause.as_ref().map(|cause| cause.0.0),
        },
        Refusal::Refused(cause) => Refusal::Refused(cause.0.0),
        Refusal::Down { cause, attempt } => Refusal::Down {
            cause: cause.0.0,
            attempt: *attempt,
        },
        Refusal::Overloaded { waiting } => Refusal::Overloaded { waiting: *waiting },
        Refusal::Shed { waited } => Refusal::Shed { waited: *waited },
    }
}
