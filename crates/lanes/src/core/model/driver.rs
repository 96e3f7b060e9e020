//! The real core, put through the model's operations beside the model.

use std::{cell::Cell, hash::Hash};

use super::{
    super::{
        Bell, Core, Counts, Effects, Flight, Items, Landing, Limits, Moment, NEVER, Place, Pushed,
        Queued, Reason, WhenFull,
    },
    Model, Started,
};

/// What can be done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Push {
        key: u32,
        weight: u32,
    },
    TryPush {
        key: u32,
        weight: u32,
    },
    Cancel(usize),
    Advance(Moment),
    Tick(usize),
    Done(usize),
    /// So many of its items are tried again.
    Again(usize, usize),
    GivenUp(usize),
    Flush(u32),
    CloseKey(u32),
    FlushAll(usize),
    Close,
}

thread_local! {
    static LOCKED: Cell<bool> = const { Cell::new(false) };
}

/// A key or an item: its destructor is the user's, and must not run under the lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Yours(u32);

impl Drop for Yours {
    fn drop(&mut self) {
        let is_locked = LOCKED.get() && !std::thread::panicking();
        assert!(
            !is_locked,
            "something of the user's was dropped under the lock"
        );
    }
}

impl Bell for Yours {
    fn is_unheard(&self) -> bool {
        false
    }
}

type Fx = Effects<Yours, Yours, Yours>;

pub(super) struct Driver {
    core: Core<Yours, Yours, Yours>,
    model: Model,
    when_full: WhenFull,
    is_halted: bool,
    flights: Vec<(Flight, u32)>,
    places: Vec<(u32, Place)>,
    /// When the timer looks next.
    alarm: Moment,
    bells: u32,
    items: u32,
    rests: Moment,
    started: Vec<Started>,
    rung: Vec<u32>,
}

impl Driver {
    pub(super) fn new(limits: Limits) -> Self {
        LOCKED.set(false);
        Self {
            when_full: limits.when_full,
            is_halted: false,
            core: Core::new(limits.clone()),
            model: Model::new(limits),
            flights: Vec::new(),
            places: Vec::new(),
            alarm: NEVER,
            bells: 0,
            items: 0,
            rests: 0,
            started: Vec::new(),
            rung: Vec::new(),
        }
    }

    pub(super) fn perform(&mut self, op: Op) {
        match op {
            Op::Push { key, weight } => self.push(key, weight, self.when_full != WhenFull::Reject),
            Op::TryPush { key, weight } => self.push(key, weight, false),
            Op::Cancel(index) => self.cancel(index),
            Op::Advance(time) => self.model.now += time * 1000,
            Op::Tick(portion) => {
                let now = self.model.now;
                self.alarm = self.command(|core, fx| core.tick(now, portion, fx));
                self.model.tick(portion);
            }
            Op::Done(index) => self.land(index, 0, true),
            Op::GivenUp(index) => self.land(index, usize::MAX, true),
            Op::Again(index, kept) => self.land(index, kept.max(1), false),
            Op::Flush(key) => self.flush(key, Reason::Flush),
            Op::CloseKey(key) => self.flush(key, Reason::KeyClosed),
            Op::FlushAll(portion) => self.flush_all(Reason::Flush, portion),
            Op::Close if self.model.is_closed => {}
            Op::Close => {
                self.command(Core::close);
                self.model.close();
                self.come_for_what_was_refused();
                self.flush_all(Reason::Closed, usize::MAX);
            }
        }
        self.compare();
    }

    /// Whatever is still there comes out, each item once, in order. The handlers have taken so many
    /// items out of each batch, and so many batches come back too late.
    pub(super) fn finish(mut self, taken: usize, late: usize) {
        self.command(Core::halt);
        self.is_halted = true;
        self.model.close();
        self.come_for_what_was_refused();
        while self.flights.len() > late {
            let taken = taken.min(self.model.flights[0].1.items.len());
            let (_, homeless) = self.interrupt(taken);
            assert!(homeless.is_empty(), "its lane is there");
            self.model.interrupt(0, taken);
        }
        let left = self.command(|core, _| core.abandon());
        let numbers = |items: Vec<Yours>| items.iter().map(|item| item.0).collect();
        let mut left: Vec<(u32, Vec<u32>)> = left
            .into_iter()
            .map(|(key, items)| (key.0, numbers(items)))
            .collect();
        left.sort();
        assert_eq!(left, self.model.left(), "what is handed out");
        assert_eq!(self.core.was_unfinished(), !left.is_empty());
        while !self.flights.is_empty() {
            let taken = taken.min(self.model.flights[0].1.items.len());
            let (rest, homeless) = self.interrupt(taken);
            assert_eq!(homeless, rest, "what has no place any more");
            self.model.flights.remove(0);
        }
        assert_eq!(self.core.lanes(), 0);
        let counts = self.core.counts();
        let ended = counts.handled + counts.failed_items + counts.abandoned;
        assert_eq!(counts.accepted, ended, "every item is accounted for");
        assert_eq!(
            (counts.items, counts.bytes, counts.in_flight, counts.resting),
            (0, 0, 0, 0)
        );
    }

    /// The first of the flights ends, after so many of its items were taken out: what is left of
    /// them, and what comes back.
    fn interrupt(&mut self, taken: usize) -> (Vec<u32>, Vec<u32>) {
        let (flight, _) = self.flights.remove(0);
        let rest = &self.model.flights[0].1.items[taken..];
        let bytes = rest.iter().map(|(_, weight)| weight).sum();
        let rest: Vec<u32> = rest.iter().map(|(item, _)| *item).collect();
        let items = Items::Many(rest.iter().map(|item| Yours(*item)).collect());
        let landing = Landing::Interrupted { items, bytes };
        let homeless = self.landed(flight, landing);
        (rest, homeless.iter().map(|item| item.0).collect())
    }

    fn push(&mut self, key: u32, weight: u32, may_wait: bool) {
        if self.model.is_closed {
            return;
        }
        let item = self.items;
        self.items += 1;
        let now = self.model.now;
        let hashed = |key: u32| (hash(key), Yours(key));
        let weighed = (weight, Yours(item));
        let pushed = self.command(|core, fx| core.push(|| now, hashed(key), weighed, fx));
        let is_accepted = self.model.push(key, (item, weight));
        assert_eq!(
            matches!(pushed, Pushed::Accepted(_)),
            is_accepted,
            "item {item}"
        );
        let Pushed::Full(yours, item) = pushed else {
            return;
        };
        let number = item.0;
        if !may_wait {
            drop((yours, item));
            self.command(Core::reject);
            return self.model.reject();
        }
        let who = self.bell();
        let bell = Yours(who);
        let hashed = (hash(key), yours);
        let queued =
            self.command(|core, fx| core.enqueue(|| now, hashed, (weight, item), bell, fx));
        // The second attempt finds what the first has found.
        self.model.push(key, (number, weight));
        self.model.enqueue(who, key, (number, weight));
        match queued {
            Queued::Waiting(place) => self.places.push((who, place)),
            other => panic!("no room, and yet {other:?}"),
        }
    }

    fn cancel(&mut self, index: usize) {
        if self.model.line.is_empty() {
            return;
        }
        let index = index % self.model.line.len();
        let (who, _, (item, _)) = self.model.line[index];
        let now = self.model.now;
        let place = self
            .places
            .iter()
            .find(|(other, _)| *other == who)
            .expect("in line")
            .1;
        let back = self.command(|core, fx| core.cancel(now, place, fx));
        assert_eq!(back.expect("in line").1.0, item);
        self.model.cancel(index);
    }

    fn land(&mut self, index: usize, left: usize, is_over: bool) {
        if self.flights.is_empty() {
            return;
        }
        let index = index % self.flights.len();
        let now = self.model.now;
        let (flight, _) = self.flights.remove(index);
        let batch = &self.model.flights[index].1;
        let left = left.min(batch.items.len());
        let done = batch.items.len() - left;
        let back = &batch.items[done..];
        let landing = if is_over && left == 0 {
            Landing::Done
        } else if is_over {
            Landing::GivenUp { items: left }
        } else {
            // No two at the same moment, whose order would be left to chance.
            self.rests += 1;
            Landing::Again {
                items: Items::Many(back.iter().map(|(item, _)| Yours(*item)).collect()),
                bytes: back.iter().map(|(_, weight)| weight).sum(),
                at: now + 5000 + self.rests % 1000,
            }
        };
        let at = now + 5000 + self.rests % 1000;
        let homeless = self.landed(flight, landing);
        assert!(homeless.is_empty());
        if is_over {
            self.model.land_done(index);
        } else {
            self.model.land_again(index, done, at);
        }
    }

    /// A flight lands. Gives what has no place any more.
    fn landed(&mut self, flight: Flight, landing: Landing<Yours>) -> Vec<Yours> {
        let now = self.model.now;
        let landed = self.command(|core, fx| {
            let mut landed = core.land(|| now, flight, landing, fx);
            fx.jobs.splice(..0, landed.next.take());
            landed
        });
        landed.homeless.into_vec()
    }

    fn flush(&mut self, key: u32, reason: Reason) {
        let who = self.bell();
        let (bell, yours) = (Yours(who), Yours(key));
        self.command(|core, fx| core.flush((hash(key), &yours), reason, Some(bell), fx));
        self.model.flush(key, reason, who);
    }

    fn flush_all(&mut self, reason: Reason, portion: usize) {
        let before = self.model.next_name();
        let who = self.bell();
        let bell = Yours(who);
        if let Some(epoch) = self.command(|core, _| core.turn_epoch()) {
            self.command(|core, fx| core.flush_epoch(epoch, reason, portion, fx));
            self.command(|core, fx| core.watch_epoch(epoch, bell, fx));
        } else {
            self.rung.push(who);
        }
        self.model.flush_some(before, reason, portion.min(100));
        self.model.watch_before(before, who);
    }

    fn come_for_what_was_refused(&mut self) {
        let now = self.model.now;
        for (_, place) in std::mem::take(&mut self.places) {
            // Those that were let in are not there any more.
            let back = self.command(|core, fx| core.cancel(now, place, fx));
            if let Some((_, item, bell)) = back {
                assert!(bell.is_none(), "who waits at the end is rung");
                assert_eq!(self.model.line[0].2.0, item.0, "each gets the own item");
                if self.is_halted {
                    self.model.line.remove(0);
                } else {
                    self.model.cancel(0);
                }
            }
        }
        assert!(self.model.line.is_empty());
    }

    fn bell(&mut self) -> u32 {
        self.bells += 1;
        self.bells
    }

    /// A command of the real core, as under the lock, and then its effects.
    fn command<R>(
        &mut self,
        command: impl FnOnce(&mut Core<Yours, Yours, Yours>, &mut Fx) -> R,
    ) -> R {
        let mut fx = Fx::default();
        LOCKED.set(true);
        let result = command(&mut self.core, &mut fx);
        LOCKED.set(false);
        if fx.rearm {
            self.alarm = self.core.armed;
        }
        for job in fx.jobs {
            let items = job.items.into_vec();
            let items = items.iter().map(|item| item.0).collect();
            let flight = job.flight;
            self.started
                .push((job.key.0, items, flight.reason, flight.attempt));
            self.flights.push((flight, job.key.0));
        }
        self.rung.extend(fx.rung.iter().map(|bell| bell.0));
        result
    }

    fn compare(&mut self) {
        let model = &mut self.model;
        assert_eq!(self.started, model.started, "batches started");
        self.rung.sort_unstable();
        model.rung.sort_unstable();
        assert_eq!(self.rung, model.rung, "who was rung");
        for list in [&mut self.rung, &mut model.rung] {
            list.clear();
        }
        self.started.clear();
        model.started.clear();
        let Counts {
            items,
            bytes,
            in_flight,
            resting,
            ..
        } = self.core.counts();
        assert_eq!((items, bytes), model.held(), "what is held");
        assert_eq!((in_flight, resting), (model.flights.len(), model.resting()));
        assert_eq!(self.core.lanes(), model.lanes(), "lanes");
        assert_eq!(self.core.waiting(), model.line.len(), "line");
        assert_eq!(self.core.deadline(), model.deadline(), "the next deadline");
        assert!(self.alarm <= model.deadline(), "the timer looks in time");
        let counts = self.core.counts();
        let ended = counts.handled + counts.failed_items + counts.items as u64;
        assert_eq!(counts.accepted, ended, "every item is accounted for");
    }
}

/// Some keys have the same.
fn hash(key: u32) -> u32 {
    (key % 3).wrapping_mul(0x9E37_79B9)
}
