//! Meetings of two or three threads in a small pool, and what must be true when they part.
//!
//! `loom_tests` runs each in every order that can make a difference, `race_tests` on real
//! threads. The pool is a [`Depot`] and a [`Table`], with the short ways in and out as `shared`
//! and `get` have them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32},
};
use std::task::{Wake, Waker};

use crate::{
    core::{Arrival, Core, Retirement},
    core::{
        Backoff, Effect, Effects, Enqueued, Errand, Limits, Look, Moment, Patience, Refusal, Shelf,
        Ticket, Verdict,
    },
    depot::Depot,
    slots::{Held, IdleSet, NEVER, Pickup, Table},
    sync::Ordering,
};

/// Where threads come from.
#[cfg(wharf_loom)]
pub(crate) mod meet {
    pub(crate) fn two<A: Send + 'static, B>(
        one: impl FnOnce() -> A + Send + 'static,
        other: impl FnOnce() -> B,
    ) -> (A, B) {
        let one = loom::thread::spawn(one);
        let other = other();
        (one.join().unwrap(), other)
    }
}

#[cfg(not(wharf_loom))]
pub(crate) mod meet {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    pub(crate) fn two<A: Send + 'static, B>(
        one: impl FnOnce() -> A + Send + 'static,
        other: impl FnOnce() -> B,
    ) -> (A, B) {
        let ready = Arc::new(AtomicU32::new(0));
        let all = Arc::clone(&ready);
        // As close together as can be: each spins until the other is there.
        let arrive = |ready: &AtomicU32| {
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        };
        let one = std::thread::spawn(move || {
            arrive(&all);
            one()
        });
        arrive(&ready);
        let other = other();
        (one.join().unwrap(), other)
    }
}

fn three<A: Send + 'static, B: Send + 'static, C>(
    one: impl FnOnce() -> A + Send + 'static,
    two: impl FnOnce() -> B + Send + 'static,
    three: impl FnOnce() -> C,
) -> (A, B, C) {
    let (a, (b, c)) = meet::two(one, || meet::two(two, three));
    (a, b, c)
}

/// A pool without a runtime: what it wants created and destroyed is put on a heap.
struct Yard {
    depot: Depot<u32>,
    /// A resource counts its uses, with a plain number that only its holder may touch.
    table: Table<u64>,
    creating: Mutex<Vec<(Held, Errand)>>,
    closing: Mutex<Vec<(Held, Retirement)>>,
    drained: AtomicBool,
    told_of_spare: AtomicBool,
}

/// What has come of a `get`.
#[derive(Debug)]
enum Got {
    /// With its place in the order of arrival, if it asked for one.
    Resource(Held, Option<Arrival>),
    Waits(Waiter),
    Nothing(Refusal<u32>),
}

/// A `get` in line.
#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    arrival: Arrival,
    bell: Arc<Bell>,
}

/// Counts the wake-ups of one waker.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    pub(crate) fn was_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// When everything happens, unless a scenario says otherwise.
const NOW: Moment = 5;

impl Yard {
    /// `idle` resources exist, of at most `max_active`.
    fn new(max_active: u32, idle: u32) -> Arc<Self> {
        let limits = Limits {
            max_active,
            min_idle: 0,
            max_idle: u32::MAX,
            max_waiters: 8,
            max_creating: 1,
            wait_timeout: NEVER,
            fail_fast: false,
            backoff: Backoff::default(),
            shedding: None,
            epoch: NEVER / 2,
        };
        let table = Table::new(max_active);
        let yard = Self {
            depot: Depot::new(
                limits,
                table.grow(0, max_active),
                Shelf::new(max_active, 1, 64),
                1,
            ),
            table,
            creating: Mutex::default(),
            closing: Mutex::default(),
            drained: AtomicBool::new(false),
            told_of_spare: AtomicBool::new(false),
        };
        // Sets the coarse clock going, which opens the gate.
        yard.command(|core, shelf, fx| core.look_again(shelf, NOW, fx));
        for _ in 0..idle {
            let (mut held, generation) = yard.command(|core, _, _| core.adopt()).unwrap();
            yard.bear(&mut held, generation);
            yard.put(held);
        }
        Arc::new(yard)
    }

    fn bear(&self, held: &mut Held, generation: u64) {
        let stamps = self.table.stamps(held.slot());
        stamps.generation.store(generation, Ordering::Relaxed);
        self.table.fill(held, 0);
    }

    fn command<T>(
        &self,
        command: impl FnOnce(&mut Core<u32>, &Shelf, &mut Effects<u32>) -> T,
    ) -> T {
        let (answer, mut effects) = self.depot.command(command);
        effects.carry_out(|effect| match effect {
            Effect::Wake(waker) => waker.wake(),
            Effect::Create(held, errand) => self.creating.lock().unwrap().push((held, errand)),
            Effect::Destroy(held, why) => self.closing.lock().unwrap().push((held, why)),
            Effect::Drained => self.drained.store(true, Ordering::Relaxed),
            Effect::Spare => self.told_of_spare.store(true, Ordering::Relaxed),
            _ => {}
        });
        answer
    }

    // --- As `shared` and `get` do it -----------------------------------------------------------

    /// The short way in.
    fn take(&self) -> Option<Held> {
        let shelf = &self.depot.shelf;
        let look = shelf.gate.look();
        if !look.is_open() {
            return None;
        }
        let held = shelf.idle.take_home()?;
        if self.generation(&held) != look.generation() {
            self.put_back_untouched(held, look);
            return None;
        }
        self.look_at(&held);
        Some(held)
    }

    /// As for a resource that needs a longer look than the short way has time for.
    fn put_back_untouched(&self, held: Held, before: Look) {
        let slot = held.slot();
        self.depot.shelf.idle.put(held);
        if self.depot.shelf.gate.look() != before {
            self.look_again(slot, before);
        }
    }

    fn get(&self) -> Got {
        match self.take() {
            Some(held) => Got::Resource(held, None),
            None => self.enqueue(Patience::Usual),
        }
    }

    fn enqueue(&self, patience: Patience) -> Got {
        let bell = Arc::new(Bell::default());
        let mut waker = Some(Waker::from(Arc::clone(&bell)));
        let enqueued = self
            .command(|core, shelf, fx| core.enqueue(shelf, None, patience, &mut waker, NOW, fx));
        match enqueued {
            Enqueued::Granted(held, arrival) => {
                self.look_at(&held);
                Got::Resource(held, Some(arrival))
            }
            Enqueued::Refused(refusal) => Got::Nothing(*refusal),
            Enqueued::Waiting(ticket) => Got::Waits(Waiter {
                arrival: ticket.arrival,
                ticket,
                bell,
            }),
        }
    }

    /// Polls with a waker of its own, as another task would.
    fn poll(&self, waiter: Waiter) -> Got {
        let Waiter {
            ticket, arrival, ..
        } = waiter;
        match self.depot.shelf.handoffs.take(ticket.index) {
            Pickup::Granted(held) => {
                self.look_at(&held);
                Got::Resource(held, Some(arrival))
            }
            Pickup::Failed => Got::Nothing(*self.command(|core, _, _| core.refusal(ticket))),
            Pickup::Waiting => {
                let bell = Arc::new(Bell::default());
                let waker = Waker::from(Arc::clone(&bell));
                self.command(|core, shelf, fx| core.repoll(shelf, ticket.index, waker, NOW, fx));
                Got::Waits(Waiter {
                    ticket,
                    arrival,
                    bell,
                })
            }
        }
    }

    /// What dropping the future does.
    fn cancel(&self, waiter: Waiter) {
        self.command(|core, shelf, fx| core.cancel(shelf, waiter.ticket, NOW, fx));
    }

    fn put(&self, held: Held) {
        let (shelf, slot) = (&self.depot.shelf, held.slot());
        let look = shelf.gate.look();
        if !look.is_open() || self.generation(&held) != look.generation() {
            return self.put_slowly(held, look);
        }
        shelf.idle.put(held);
        if shelf.gate.look() != look {
            self.look_again(slot, look);
        }
    }

    fn put_slowly(&self, held: Held, look: Look) {
        if self.generation(&held) == look.generation() {
            self.command(|core, shelf, fx| core.returned(shelf, held, NOW, fx));
        } else {
            let why = Retirement::Invalidated;
            self.command(|core, shelf, fx| core.retire(shelf, held, why, NOW, fx));
        }
    }

    fn look_again(&self, slot: u32, before: Look) {
        let shelf = &self.depot.shelf;
        let look = shelf.gate.look();
        if look.generation() != before.generation()
            && let Some(held) = shelf.idle.take_this(slot)
        {
            return self.put_slowly(held, look);
        }
        if !look.is_open() {
            self.command(|core, shelf, fx| core.look_again(shelf, NOW, fx));
        }
    }

    fn generation(&self, held: &Held) -> u64 {
        let stamps = self.table.stamps(held.slot());
        stamps.generation.load(Ordering::Relaxed)
    }

    // --- What a scenario says ------------------------------------------------------------------

    /// A resource that is lent when the scenario begins.
    fn lent(&self) -> Held {
        self.take().expect("one is idle")
    }

    /// A waiter that is in line when the scenario begins.
    fn waiter(&self) -> Waiter {
        match self.get() {
            Got::Waits(waiter) => waiter,
            got => panic!("nobody had to wait: {got:?}"),
        }
    }

    /// The creation that is under way when the scenario begins.
    fn creation(&self) -> (Held, Errand) {
        self.creating
            .lock()
            .unwrap()
            .pop()
            .expect("one is under way")
    }

    fn land(&self, (mut held, errand): (Held, Errand)) {
        self.bear(&mut held, errand.generation);
        self.command(|core, shelf, fx| core.created(shelf, held, errand, 1, NOW, fx));
    }

    fn close(&self) {
        self.command(|core, shelf, fx| core.close(shelf, NOW, fx));
    }

    /// Reads the resource right where it was received, so that loom sees whether that is safe.
    fn look_at(&self, held: &Held) -> u64 {
        *self.table.get(held)
    }

    /// Touches the resource as its only holder.
    fn work_with(&self, held: &mut Held) {
        *self.table.get_mut(held) += 1;
    }

    fn use_and_put(&self, mut held: Held) {
        self.work_with(&mut held);
        self.put(held);
    }

    /// What a waiter has once all is quiet, if it was woken as often as it had to be.
    fn outcome(&self, got: Got) -> Got {
        match got {
            Got::Waits(waiter) => {
                let bell = Arc::clone(&waiter.bell);
                let got = self.poll(waiter);
                let sleeps = matches!(got, Got::Waits(_));
                assert!(
                    sleeps || bell.was_rung(),
                    "its outcome came without a wake-up"
                );
                got
            }
            got => got,
        }
    }

    /// The resource that the `get` must have by now. It is used once.
    fn must_have(&self, got: Got) -> Held {
        match self.outcome(got) {
            Got::Resource(mut held, _) => {
                self.work_with(&mut held);
                held
            }
            got => panic!("a resource was to be had: {got:?}"),
        }
    }

    /// Counts at rest. `[idle, lent, creating, closing, waiting]`
    fn assert_census(&self, expected: [u32; 5]) {
        let census = self.depot.query(Core::census);
        let found = [
            census.idle,
            census.leased,
            census.creating,
            census.closing,
            census.waiting as u32,
        ];
        assert_eq!(found, expected, "[idle, lent, creating, closing, waiting]");
        assert_eq!(self.closing.lock().unwrap().len() as u32, census.closing);
        assert_eq!(self.depot.shelf.idle.len() as u32, census.idle);
    }

    /// Destroys what is to be destroyed; says how much that was.
    fn destroy_all(&self) -> usize {
        let closing = std::mem::take(&mut *self.closing.lock().unwrap());
        let destroyed = closing.len();
        for (mut held, _) in closing {
            self.table.take(&mut held);
            self.command(|core, shelf, fx| core.destroyed(shelf, held, NOW, fx));
        }
        destroyed
    }

    fn uses_of_all_idle(&self) -> u64 {
        let mut uses = 0;
        while let Some(held) = self.depot.shelf.idle.take() {
            uses += *self.table.get(&held);
        }
        uses
    }
}

// --- The idle set ------------------------------------------------------------------------------

pub(crate) fn two_who_take_and_one_who_puts_never_share_a_resource() {
    let yard = Yard::new(2, 2);
    let lent = yard.lent();
    let taker = |yard: &Arc<Yard>| {
        let yard = Arc::clone(yard);
        move || {
            let held = yard.take();
            let found = held.is_some();
            if let Some(held) = held {
                yard.use_and_put(held);
            }
            u64::from(found)
        }
    };
    let putter = Arc::clone(&yard);
    let (one, other, ()) = three(taker(&yard), taker(&yard), move || putter.use_and_put(lent));
    yard.assert_census([2, 0, 0, 0, 0]);
    assert!(one + other > 0, "one of them must find the first");
    assert_eq!(yard.uses_of_all_idle(), one + other + 1);
}

pub(crate) fn one_resource_is_taken_by_one() {
    let yard = Yard::new(1, 1);
    let taker = |yard: &Arc<Yard>| {
        let yard = Arc::clone(yard);
        move || {
            let mut held = yard.take()?;
            yard.work_with(&mut held);
            Some(held)
        }
    };
    let (one, other) = meet::two(taker(&yard), taker(&yard));
    assert!(one.is_some() != other.is_some());
    yard.assert_census([0, 1, 0, 0, 0]);
    let held = one.or(other).expect("one has it");
    assert_eq!(*yard.table.get(&held), 1);
}

/// Upkeep and `retain` take a slot that they name.
pub(crate) fn a_named_slot_is_taken_by_upkeep_or_by_a_get() {
    let yard = Yard::new(1, 1);
    let (upkeep, getter) = (Arc::clone(&yard), Arc::clone(&yard));
    let (named, any) = meet::two(
        move || {
            let mut held = upkeep.depot.shelf.idle.take_this(0)?;
            upkeep.work_with(&mut held);
            Some(held)
        },
        move || {
            let mut held = getter.take()?;
            getter.work_with(&mut held);
            Some(held)
        },
    );
    assert!(named.is_some() != any.is_some());
    yard.put(named.or(any).expect("one has it"));
    yard.assert_census([1, 0, 0, 0, 0]);
    assert_eq!(yard.uses_of_all_idle(), 1);
}

/// Else both would leave one too many idle.
pub(crate) fn of_two_who_put_into_different_words_one_counts_both() {
    let idle = Arc::new(IdleSet::new(2, 2));
    let mut slots = Table::<u64>::new(2).grow(0, 2).map(|held| {
        // Written to once before: loom's sequential consistency begins with the first store.
        let slot = held.slot();
        idle.put(held);
        idle.take_this(slot).expect("it was put")
    });
    let putter = |held: Held| {
        let idle = Arc::clone(&idle);
        move || {
            idle.put(held);
            idle.len()
        }
    };
    let (one, other) = (slots.next().unwrap(), slots.next().unwrap());
    let (one, other) = meet::two(putter(one), putter(other));
    assert_eq!(one.max(other), 2);
}

pub(crate) fn upkeep_takes_what_has_just_been_put() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, upkeep) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || {
            if let Some(held) = upkeep.depot.shelf.idle.take_this(0) {
                upkeep.use_and_put(held);
            }
        },
    );
    yard.assert_census([1, 0, 0, 0, 0]);
}

/// A put whose first look found the gate open sets its bit although there is a line since.
pub(crate) fn a_newcomer_does_not_overtake_on_the_long_way() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, getter) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), (first, second)) = meet::two(
        move || putter.use_and_put(lent),
        move || (getter.get(), getter.get()),
    );
    let held = yard.must_have(first);
    assert!(
        matches!(second, Got::Waits(_)),
        "the second to come has {second:?}"
    );
    assert_eq!(*yard.table.get(&held), 2);
}

// --- Putting, and waiting ----------------------------------------------------------------------

pub(crate) fn nobody_waits_beside_a_resource_that_came_back() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, getter) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), got) = meet::two(move || putter.use_and_put(lent), move || getter.get());
    let held = yard.must_have(got);
    assert_eq!(*yard.table.get(&held), 2);
    yard.assert_census([0, 1, 0, 0, 0]);
}

pub(crate) fn the_first_of_two_gets_what_came_back_and_the_other_waits() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, one, other) = (Arc::clone(&yard), Arc::clone(&yard), Arc::clone(&yard));
    let ((), one, other) = three(
        move || putter.use_and_put(lent),
        move || one.get(),
        move || other.get(),
    );
    let (held, served, waiter) = match (yard.outcome(one), yard.outcome(other)) {
        (Got::Resource(held, arrival), Got::Waits(waiter))
        | (Got::Waits(waiter), Got::Resource(held, arrival)) => (held, arrival, waiter),
        both => panic!("one has it, the other waits: {both:?}"),
    };
    assert!(served < Some(waiter.arrival), "served out of order");
    yard.assert_census([0, 1, 0, 0, 1]);
    yard.use_and_put(held);
    let held = yard.must_have(Got::Waits(waiter));
    assert_eq!(*yard.table.get(&held), 3);
}

pub(crate) fn two_who_come_back_serve_two_who_come() {
    let yard = Yard::new(2, 2);
    let lent = [yard.lent(), yard.lent()];
    let (putter, getter) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), (one, other)) = meet::two(
        move || {
            for held in lent {
                putter.use_and_put(held);
            }
        },
        move || (getter.get(), getter.get()),
    );
    let held = [yard.must_have(one), yard.must_have(other)];
    assert_ne!(held[0].slot(), held[1].slot());
    yard.assert_census([0, 2, 0, 0, 0]);
}

/// What the short way takes and cannot use is out of the set for a moment.
pub(crate) fn nobody_waits_beside_a_resource_that_was_put_back_untouched() {
    let yard = Yard::new(1, 1);
    let (hasty, getter) = (Arc::clone(&yard), Arc::clone(&yard));
    let (_, got) = meet::two(
        move || {
            let shelf = &hasty.depot.shelf;
            let look = shelf.gate.look();
            if look.is_open()
                && let Some(held) = shelf.idle.take_home()
            {
                hasty.put_back_untouched(held, look);
            }
        },
        move || getter.get(),
    );
    let _held = yard.must_have(got);
    yard.assert_census([0, 1, 0, 0, 0]);
}

pub(crate) fn a_newcomer_does_not_overtake_the_one_in_line() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let waiter = yard.waiter();
    let (putter, newcomer) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), got) = meet::two(move || putter.use_and_put(lent), move || newcomer.get());
    let _held = yard.must_have(Got::Waits(waiter));
    assert!(
        matches!(got, Got::Waits(_)),
        "it came later, and has {got:?}"
    );
    yard.assert_census([0, 1, 0, 0, 1]);
}

// --- Cancelling --------------------------------------------------------------------------------

pub(crate) fn a_grant_to_one_who_leaves_becomes_idle() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let waiter = yard.waiter();
    let (putter, leaver) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || leaver.cancel(waiter),
    );
    yard.assert_census([1, 0, 0, 0, 0]);
    assert!(yard.take().is_some(), "the gate is open again");
}

pub(crate) fn a_grant_to_one_who_leaves_goes_to_the_next() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (leaves, stays) = (yard.waiter(), yard.waiter());
    let (putter, leaver) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || leaver.cancel(leaves),
    );
    let _held = yard.must_have(Got::Waits(stays));
    yard.assert_census([0, 1, 0, 0, 0]);
}

/// Polled once, then dropped, while others put and come.
pub(crate) fn one_who_looks_in_and_leaves_costs_nobody_anything() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, passer, getter) = (Arc::clone(&yard), Arc::clone(&yard), Arc::clone(&yard));
    let ((), (), got) = three(
        move || putter.use_and_put(lent),
        move || match passer.get() {
            Got::Waits(waiter) => passer.cancel(waiter),
            Got::Resource(held, _) => passer.use_and_put(held),
            Got::Nothing(refusal) => panic!("{refusal:?}"),
        },
        move || getter.get(),
    );
    let _held = yard.must_have(got);
    yard.assert_census([0, 1, 0, 0, 0]);
}

/// A waiter can be polled by another task than before while it is being served, and then only
/// the waker of that poll is of use. The pool once woke the old one alone.
pub(crate) fn a_grant_during_a_poll_wakes_whoever_polls() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let waiter = yard.waiter();
    let (putter, poller) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), got) = meet::two(
        move || putter.use_and_put(lent),
        move || poller.poll(waiter),
    );
    let _held = yard.must_have(got);
    yard.assert_census([0, 1, 0, 0, 0]);
}

/// A runtime goes away, and all who wait are woken to look for themselves.
pub(crate) fn a_waiter_that_was_nudged_still_hears_of_its_grant() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let waiter = yard.waiter();
    let bell = Arc::clone(&waiter.bell);
    let (nudger, putter) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || nudger.command(|core, _, fx| core.nudge(fx)),
        move || putter.use_and_put(lent),
    );
    assert!(bell.was_rung());
    let _held = yard.must_have(Got::Waits(waiter));
}

// --- Hand-off cells ----------------------------------------------------------------------------

pub(crate) fn a_cell_that_is_used_again_holds_what_its_new_owner_was_given() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let first = yard.waiter();
    yard.use_and_put(lent);
    // The first one's cell is full; it becomes another's as soon as it is empty.
    let (owner, newcomer) = (Arc::clone(&yard), Arc::clone(&yard));
    let ((), got) = meet::two(
        move || {
            let held = owner.must_have(Got::Waits(first));
            owner.put(held);
        },
        move || newcomer.get(),
    );
    let held = yard.must_have(got);
    assert_eq!(*yard.table.get(&held), 3);
    yard.assert_census([0, 1, 0, 0, 0]);
}

pub(crate) fn two_cells_that_are_emptied_at_once_serve_again() {
    let yard = Yard::new(2, 2);
    let lent = [yard.lent(), yard.lent()];
    let (one, other) = (yard.waiter(), yard.waiter());
    for held in lent {
        yard.use_and_put(held);
    }
    let owner = |yard: &Arc<Yard>, waiter| {
        let yard = Arc::clone(yard);
        move || {
            let held = yard.must_have(Got::Waits(waiter));
            yard.put(held);
        }
    };
    let newcomer = Arc::clone(&yard);
    let ((), (), got) = three(owner(&yard, one), owner(&yard, other), move || {
        [newcomer.get(), newcomer.get()]
    });
    let held = got.map(|got| yard.must_have(got));
    assert_ne!(held[0].slot(), held[1].slot());
    yard.assert_census([0, 2, 0, 0, 0]);
}

/// Refused, a waiter gives its cell back under the lock.
pub(crate) fn the_cell_of_one_who_timed_out_serves_again() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let Got::Waits(late) = yard.enqueue(Patience::Until(NOW + 1)) else {
        panic!("nothing is idle");
    };
    yard.command(|core, shelf, fx| core.tick(shelf, NOW + 1, fx));
    let (owner, newcomer, putter) = (Arc::clone(&yard), Arc::clone(&yard), Arc::clone(&yard));
    let (late, got, ()) = three(
        move || owner.outcome(Got::Waits(late)),
        move || newcomer.get(),
        move || putter.use_and_put(lent),
    );
    assert!(matches!(late, Got::Nothing(Refusal::TimedOut { .. })));
    let _held = yard.must_have(got);
}

// --- Deadlines ---------------------------------------------------------------------------------

pub(crate) fn a_deadline_meets_a_return_and_the_waiter_hears_of_one() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let Got::Waits(waiter) = yard.enqueue(Patience::Until(NOW + 1)) else {
        panic!("nothing is idle");
    };
    let (putter, upkeep) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || upkeep.command(|core, shelf, fx| core.tick(shelf, NOW + 1, fx)),
    );
    match yard.outcome(Got::Waits(waiter)) {
        Got::Resource(..) => yard.assert_census([0, 1, 0, 0, 0]),
        Got::Nothing(Refusal::TimedOut { waited: 1, .. }) => yard.assert_census([1, 0, 0, 0, 0]),
        got => panic!("{got:?}"),
    }
}

pub(crate) fn a_deadline_meets_one_who_leaves() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let Got::Waits(waiter) = yard.enqueue(Patience::Until(NOW + 1)) else {
        panic!("nothing is idle");
    };
    let (leaver, upkeep) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || leaver.cancel(waiter),
        move || upkeep.command(|core, shelf, fx| core.tick(shelf, NOW + 1, fx)),
    );
    yard.assert_census([0, 1, 0, 0, 0]);
    yard.put(lent);
    yard.assert_census([1, 0, 0, 0, 0]);
}

// --- Creating ----------------------------------------------------------------------------------

pub(crate) fn a_creation_that_lands_at_close_is_destroyed_or_was_handed_over_before() {
    let yard = Yard::new(1, 0);
    let waiter = yard.waiter();
    let creation = yard.creation();
    let (creator, closer) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(move || creator.land(creation), move || closer.close());
    match yard.outcome(Got::Waits(waiter)) {
        Got::Resource(held, _) => {
            yard.assert_census([0, 1, 0, 0, 0]);
            yard.put(held);
        }
        Got::Nothing(Refusal::Closed) => {}
        got => panic!("{got:?}"),
    }
    yard.assert_census([0, 0, 0, 1, 0]);
    assert_eq!(yard.destroy_all(), 1);
    assert!(yard.drained.load(Ordering::Relaxed));
}

pub(crate) fn a_creation_that_nobody_waits_for_lands_at_close_and_is_destroyed() {
    let yard = Yard::new(1, 0);
    yard.cancel(yard.waiter());
    let creation = yard.creation();
    let (creator, closer) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(move || creator.land(creation), move || closer.close());
    yard.assert_census([0, 0, 0, 1, 0]);
    assert_eq!(yard.destroy_all(), 1);
    assert!(yard.drained.load(Ordering::Relaxed));
}

pub(crate) fn whatever_comes_first_serves_the_waiter_and_the_other_is_idle() {
    let yard = Yard::new(2, 1);
    let lent = yard.lent();
    let waiter = yard.waiter();
    let creation = yard.creation();
    let (creator, putter) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || creator.land(creation),
        move || putter.use_and_put(lent),
    );
    let _held = yard.must_have(Got::Waits(waiter));
    yard.assert_census([1, 1, 0, 0, 0]);
}

pub(crate) fn a_creation_lands_as_its_waiter_leaves() {
    let yard = Yard::new(1, 0);
    let waiter = yard.waiter();
    let creation = yard.creation();
    let (creator, leaver) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || creator.land(creation),
        move || leaver.cancel(waiter),
    );
    yard.assert_census([1, 0, 0, 0, 0]);
}

pub(crate) fn a_creation_that_fails_refuses_one_and_the_next_gets_another() {
    let yard = Yard::new(1, 0);
    let (one, other) = (yard.waiter(), yard.waiter());
    let (held, errand) = yard.creation();
    let (creator, leaver) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || {
            creator.command(|core, shelf, fx| {
                let failure = (Verdict::Refuse, 7);
                core.create_failed(shelf, held, errand, failure, 1, NOW, fx);
            });
        },
        move || leaver.cancel(one),
    );
    match yard.outcome(Got::Waits(other)) {
        Got::Nothing(Refusal::Refused(7)) => yard.assert_census([0, 0, 0, 0, 0]),
        Got::Waits(_) => yard.assert_census([0, 0, 1, 0, 1]),
        got => panic!("{got:?}"),
    }
}

// --- The pool as a whole -----------------------------------------------------------------------

pub(crate) fn a_closed_pool_keeps_nothing_that_comes_back() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, closer) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(move || putter.use_and_put(lent), move || closer.close());
    yard.assert_census([0, 0, 0, 1, 0]);
    assert_eq!(yard.destroy_all(), 1);
    assert!(yard.drained.load(Ordering::Relaxed));
}

pub(crate) fn a_get_at_close_has_a_resource_or_hears_that_it_is_closed() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, closer, getter) = (Arc::clone(&yard), Arc::clone(&yard), Arc::clone(&yard));
    let ((), (), got) = three(
        move || putter.use_and_put(lent),
        move || closer.close(),
        move || getter.get(),
    );
    match yard.outcome(got) {
        Got::Resource(held, _) => yard.use_and_put(held),
        Got::Nothing(Refusal::Closed) => {}
        got => panic!("{got:?}"),
    }
    yard.assert_census([0, 0, 0, 1, 0]);
}

pub(crate) fn a_smaller_pool_keeps_no_surplus_that_comes_back() {
    let yard = Yard::new(2, 2);
    let lent = [yard.lent(), yard.lent()];
    let (putter, owner) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || {
            for held in lent {
                putter.use_and_put(held);
            }
        },
        move || {
            let minted = std::iter::empty();
            owner.command(|core, shelf, fx| core.resize(shelf, 1, minted, NOW, fx));
        },
    );
    yard.assert_census([1, 0, 0, 1, 0]);
    assert_eq!(yard.destroy_all(), 1);
    yard.assert_census([1, 0, 0, 0, 0]);
    assert!(yard.take().is_some(), "the gate is open again");
}

pub(crate) fn what_is_invalidated_as_it_comes_back_is_not_lent_again() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, owner) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || owner.command(|core, shelf, fx| core.invalidate(shelf, NOW, fx)),
    );
    assert!(yard.take().is_none());
    yard.assert_census([0, 0, 0, 1, 0]);
}

pub(crate) fn a_pool_that_is_pressed_tells_of_what_comes_back() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, other_pool) = (Arc::clone(&yard), Arc::clone(&yard));
    meet::two(
        move || putter.use_and_put(lent),
        move || other_pool.command(|core, shelf, fx| core.press(shelf, true, NOW, fx)),
    );
    yard.assert_census([1, 0, 0, 0, 0]);
    assert!(yard.told_of_spare.load(Ordering::Relaxed));
}

/// The clock's standing still bars the short way as a waiter does, and means nothing else.
pub(crate) fn nobody_waits_beside_a_resource_because_the_clock_stands() {
    let yard = Yard::new(1, 1);
    let lent = yard.lent();
    let (putter, upkeep, getter) = (Arc::clone(&yard), Arc::clone(&yard), Arc::clone(&yard));
    let ((), _, got) = three(
        move || putter.use_and_put(lent),
        move || upkeep.command(|core, shelf, fx| core.tick(shelf, NEVER - 1, fx)),
        move || getter.get(),
    );
    let _held = yard.must_have(got);
    yard.assert_census([0, 1, 0, 0, 0]);
}

/// Hands every scenario to a macro that makes tests of them.
macro_rules! for_each_scenario {
    ($test:ident) => {
        $test! {
            scenarios:
            two_who_take_and_one_who_puts_never_share_a_resource
            one_resource_is_taken_by_one
            a_named_slot_is_taken_by_upkeep_or_by_a_get
            of_two_who_put_into_different_words_one_counts_both
            upkeep_takes_what_has_just_been_put
            a_newcomer_does_not_overtake_on_the_long_way
            nobody_waits_beside_a_resource_that_came_back
            the_first_of_two_gets_what_came_back_and_the_other_waits
            two_who_come_back_serve_two_who_come
            nobody_waits_beside_a_resource_that_was_put_back_untouched
            a_newcomer_does_not_overtake_the_one_in_line
            a_grant_to_one_who_leaves_becomes_idle
            a_grant_to_one_who_leaves_goes_to_the_next
            one_who_looks_in_and_leaves_costs_nobody_anything
            a_grant_during_a_poll_wakes_whoever_polls
            a_waiter_that_was_nudged_still_hears_of_its_grant
            a_cell_that_is_used_again_holds_what_its_new_owner_was_given
            two_cells_that_are_emptied_at_once_serve_again
            the_cell_of_one_who_timed_out_serves_again
            a_deadline_meets_a_return_and_the_waiter_hears_of_one
            a_deadline_meets_one_who_leaves
            a_creation_that_lands_at_close_is_destroyed_or_was_handed_over_before
            a_creation_that_nobody_waits_for_lands_at_close_and_is_destroyed
            whatever_comes_first_serves_the_waiter_and_the_other_is_idle
            a_creation_lands_as_its_waiter_leaves
            a_creation_that_fails_refuses_one_and_the_next_gets_another
            a_closed_pool_keeps_nothing_that_comes_back
            a_get_at_close_has_a_resource_or_hears_that_it_is_closed
            a_smaller_pool_keeps_no_surplus_that_comes_back
            what_is_invalidated_as_it_comes_back_is_not_lent_again
            a_pool_that_is_pressed_tells_of_what_comes_back
            nobody_waits_beside_a_resource_because_the_clock_stands
        }
    };
}
pub(crate) use for_each_scenario;
