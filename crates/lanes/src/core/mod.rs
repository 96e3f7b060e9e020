//! What lanes decide: which item goes into which batch, and which batch is handled when. There are
//! no clocks, tasks or locks here: time is an argument, and what is to be done comes out as effects.
//!
//! After each command its effects are carried out, without the lock. Of the user's, only `Eq` and
//! `Clone` of keys run in here. Nothing of theirs is dropped in here: keys, items and whoever waits
//! leave as effects or results.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

mod ends;
mod flush;
mod room;
mod settle;
mod turns;

mod epochs;
mod index;
mod items;
mod lane;
mod line;
mod linger;
mod pages;
mod words;

#[cfg(test)]
mod model;

use epochs::Epochs;
use index::Index;
pub(crate) use items::Items;
use lane::{Lane, Stage};
pub(crate) use line::Place;
use line::{Line, Waiter};
use linger::Linger;
use pages::Pages;
pub(crate) use settle::{Landed, Landing};
pub(crate) use words::{Bell, Counts, Effects, Flight, Job, Limits, Moment, NEVER, Pushed, Queued};
pub use words::{Reason, WhenFull};

/// A push looks after so many lanes that are due, so that they are served however busy input is.
const PER_PUSH: usize = 4;

#[derive(Debug)]
pub(crate) struct Core<K, T, W> {
    limits: Limits,
    index: Index,
    lanes: Pages<Lane<K, T>>,
    linger: Linger,
    /// Lanes with a batch that is due, in turn.
    ready: VecDeque<u32>,
    /// When lanes that rest go on.
    resting: BinaryHeap<Reverse<(Moment, u32)>>,
    line: Line<K, T, W>,
    epochs: Epochs<W>,
    counts: Counts,
    /// The latest moment it was told. Who reads the clock first need not come first.
    now: Moment,
    /// When the timer looks next.
    armed: Moment,
    closed: bool,
    /// Nothing is started any more.
    halted: bool,
    /// Everything that was not in flight was handed out.
    is_abandoned: bool,
    /// And that was something.
    was_unfinished: bool,
    /// Waits until nothing is in flight.
    grounded: Vec<W>,
}

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            index: Index::default(),
            lanes: Pages::new(),
            linger: Linger::new(),
            ready: VecDeque::new(),
            resting: BinaryHeap::new(),
            line: Line::new(),
            epochs: Epochs::new(),
            counts: Counts::default(),
            now: 0,
            armed: NEVER,
            closed: false,
            halted: false,
            is_abandoned: false,
            was_unfinished: false,
            grounded: Vec::new(),
        }
    }

    /// Takes an item in, if there is room and nobody waits. Most items join a batch that has begun,
    /// and for those nobody has to look at the clock, which would be an eighth of the work.
    pub(crate) fn push(
        &mut self,
        clock: impl FnOnce() -> Moment,
        (hash, key): (u32, K),
        (weight, item): (u32, T),
        fx: &mut Effects<K, T, W>,
    ) -> Pushed<K, T> {
        if self.closed {
            return Pushed::Closed(key, item);
        }
        let lane = self.find(hash, &key);
        let pushed = if self.line.is_empty() && self.has_room(weight, lane.is_none()) {
            let joins = lane.is_some_and(|number| self.joins_batch(number, weight));
            if !joins {
                self.serve_due(clock(), PER_PUSH);
            }
            let ready = self.ready.len();
            let key = self.put(lane, (hash, key), (weight, item));
            if joins && self.ready.len() == ready {
                // Nothing else has changed.
                return Pushed::Accepted(key);
            }
            Pushed::Accepted(key)
        } else {
            self.serve_due(clock(), PER_PUSH);
            Pushed::Full(key, item)
        };
        self.pump(fx);
        pushed
    }

    /// The same, but the item waits in line if it must.
    pub(crate) fn enqueue(
        &mut self,
        clock: impl FnOnce() -> Moment,
        (hash, key): (u32, K),
        (weight, item): (u32, T),
        who: W,
        fx: &mut Effects<K, T, W>,
    ) -> Queued<K, T> {
        match self.push(clock, (hash, key), (weight, item), fx) {
            Pushed::Accepted(key) => Queued::Accepted(key),
            Pushed::Closed(key, item) => Queued::Closed(key, item),
            Pushed::Full(key, item) => {
                let place = self.line.push(Waiter {
                    hash,
                    key,
                    item,
                    weight,
                    who: Some(who),
                });
                if self.limits.when_full == WhenFull::FlushOldest {
                    self.flush_oldest();
                    self.pump(fx);
                }
                Queued::Waiting(place)
            }
        }
    }

    /// An item for which there was no room does not wait.
    pub(crate) fn reject(&mut self, fx: &mut Effects<K, T, W>) {
        self.counts.rejected += 1;
        if self.limits.when_full == WhenFull::FlushOldest {
            self.make_room();
            self.pump(fx);
        }
    }

    /// An item that is too heavy for any batch comes to nothing, however much room there is. Tells
    /// whether any other would have been taken.
    pub(crate) fn refuse(&mut self) -> bool {
        self.counts.rejected += u64::from(!self.closed);
        !self.closed
    }

    /// Leaves the line, if the item is still in it. Who has been rung learns in this way what became
    /// of it: it was accepted, unless it is still there.
    pub(crate) fn cancel(
        &mut self,
        now: Moment,
        place: Place,
        fx: &mut Effects<K, T, W>,
    ) -> Option<(K, T, Option<W>)> {
        let waiter = self.line.remove(place)?;
        // There may be room for those who stood behind it.
        self.serve_due(now, PER_PUSH);
        self.admit(fx);
        self.pump(fx);
        Some((waiter.key, waiter.item, waiter.who))
    }

    /// The timer looks: at so many lanes at most. Tells when to look again, which may be at once.
    pub(crate) fn tick(
        &mut self,
        now: Moment,
        portion: usize,
        fx: &mut Effects<K, T, W>,
    ) -> Moment {
        self.serve_due(now, portion);
        self.pump(fx);
        self.armed = self.deadline();
        fx.rearm = false;
        self.armed
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn find(&self, hash: u32, key: &K) -> Option<u32> {
        let is_it = |number| self.lanes.get(number).key == *key;
        self.index.find(hash, is_it)
    }

    /// Puts an item into its lane, which is made if there is none. The key comes back if it is not
    /// needed.
    fn put(
        &mut self,
        lane: Option<u32>,
        (hash, key): (u32, K),
        (weight, item): (u32, T),
    ) -> Option<K> {
        let (number, key) = match lane {
            Some(number) => (number, Some(key)),
            None => {
                let number = self.lanes.insert(Lane::new(key, hash));
                self.index.insert(&self.lanes, number);
                (number, None)
            }
        };
        self.counts.accepted += 1;
        self.counts.items += 1;
        self.counts.bytes += u64::from(weight);
        self.close_batch_without_room(number, weight);
        let limits = &self.limits;
        let lane = self.lanes.get_mut(number);
        let is_first = lane.open.is_empty();
        lane.open.push(item, limits.items);
        lane.bytes += weight;
        let is_full = if lane.open.len() >= limits.items {
            Some(Reason::Items)
        } else {
            (lane.bytes >= limits.bytes).then_some(Reason::Bytes)
        };
        if is_first {
            lane.since = self.now;
            lane.epoch = self.epochs.begin();
            self.linger.push_back(&mut self.lanes, number);
            if self.limits.linger == 0 && is_full.is_none() {
                self.make_due(number, Reason::Linger);
            }
        }
        if let Some(reason) = is_full {
            self.make_due(number, reason);
        }
        key
    }

    /// Whether the lane has a batch with room for an item.
    fn joins_batch(&self, number: u32, weight: u32) -> bool {
        let lane = self.lanes.get(number);
        !lane.open.is_empty()
            && lane.open.len() < self.limits.items
            && u64::from(lane.bytes) + u64::from(weight) <= u64::from(self.limits.bytes)
    }

    /// A batch that is full waits for its turn in the lane until the next item comes: only then is
    /// it put aside.
    fn close_batch_without_room(&mut self, number: u32, weight: u32) {
        if self.lanes.get(number).open.is_empty() || self.joins_batch(number, weight) {
            return;
        }
        self.make_due(number, Reason::Bytes);
        let lane = self.lanes.get_mut(number);
        let reason = lane.due.expect("bug: it is due");
        lane.seal(reason);
    }
}
