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
mod epochs;
mod index;
mod items;
mod lane;
mod line;
mod linger;
mod pages;

#[cfg(test)]
mod model;
mod settle;
mod words;

use epochs::Epochs;
use index::Index;
pub(crate) use items::Items;
use lane::{Lane, Stage};
pub(crate) use line::Place;
use line::{Line, Waiter};
use linger::Linger;
use pages::Pages;
pub(crate) use settle::Landing;
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

    /// Flushes a key, and rings when everything it has by now has landed; at once if it has
    /// nothing, or nothing lands any more.
    pub(crate) fn flush(
        &mut self,
        (hash, key): (u32, &K),
        reason: Reason,
        who: Option<W>,
        fx: &mut Effects<K, T, W>,
    ) {
        let Some(number) = self.find(hash, key).filter(|_| !self.halted) else {
            fx.rung.extend(who);
            return;
        };
        self.make_due(number, reason);
        if let Some(who) = who {
            let batches = self.lanes.get(number).batches();
            self.epochs.watch_lane(number, batches, who, &mut fx.rung);
        }
        self.pump(fx);
    }

    /// Begins a flush of everything; tells until which epoch, if there is anything.
    pub(crate) fn turn_epoch(&mut self) -> Option<u32> {
        self.epochs.turn()
    }

    /// Flushes so many lanes whose batches began in this epoch or before; true if there may be
    /// more.
    pub(crate) fn flush_epoch(
        &mut self,
        epoch: u32,
        reason: Reason,
        portion: usize,
        fx: &mut Effects<K, T, W>,
    ) -> bool {
        let mut left = portion;
        while let Some(number) = self.linger.first()
            && Epochs::<W>::reaches(self.lanes.get(number).epoch, epoch)
        {
            if left == 0 {
                self.pump(fx);
                return true;
            }
            left -= 1;
            self.make_due(number, reason);
        }
        self.pump(fx);
        false
    }

    /// Rings when everything up to an epoch has landed, or nothing lands any more.
    pub(crate) fn watch_epoch(&mut self, epoch: u32, who: W, fx: &mut Effects<K, T, W>) {
        if self.halted {
            fx.rung.push(who);
        } else {
            self.epochs.watch_all(epoch, who, &mut fx.rung);
        }
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

    fn has_room(&self, weight: u32, is_new: bool) -> bool {
        let limits = &self.limits;
        self.counts.items < limits.max_items
            && self.counts.bytes + u64::from(weight) <= limits.max_bytes
            && (!is_new || self.lanes.len() < limits.max_lanes)
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

    /// The open batch is to be flushed, if there is one and that is not known yet.
    fn make_due(&mut self, number: u32, reason: Reason) {
        let lane = self.lanes.get_mut(number);
        if lane.open.is_empty() || lane.due.is_some() {
            return;
        }
        lane.due = Some(reason);
        self.linger.remove(&mut self.lanes, number);
        self.queue(number);
    }

    /// A lane with something due gets its turn, unless it has one coming.
    fn queue(&mut self, number: u32) {
        let lane = self.lanes.get_mut(number);
        if lane.stage == Stage::Collecting && lane.has_due() {
            lane.stage = Stage::Queued;
            self.ready.push_back(number);
        }
    }

    /// Looks after so many lanes whose rest or linger has passed.
    fn serve_due(&mut self, now: Moment, portion: usize) {
        self.now = self.now.max(now);
        for _ in 0..portion {
            if let Some(Reverse((at, number))) = self.resting.peek()
                && *at <= self.now
            {
                let number = *number;
                self.resting.pop();
                self.counts.resting -= 1;
                self.lanes.get_mut(number).stage = Stage::Collecting;
                self.queue(number);
            } else if self.linger_ends() <= self.now
                && let Some(number) = self.linger.first()
            {
                self.make_due(number, Reason::Linger);
            } else {
                return;
            }
        }
    }

    fn deadline(&self) -> Moment {
        let rest_ends = self.resting.peek().map_or(NEVER, |Reverse((at, _))| *at);
        rest_ends.min(self.linger_ends())
    }

    fn linger_ends(&self) -> Moment {
        let first = self.linger.first();
        first.map_or(NEVER, |number| {
            self.lanes
                .get(number)
                .since
                .saturating_add(self.limits.linger)
        })
    }

    /// Lets those at the head of the line in, as far as there is room.
    fn admit(&mut self, fx: &mut Effects<K, T, W>) {
        while let Some(first) = self.line.first().filter(|_| !self.closed) {
            let lane = self.find(first.hash, &first.key);
            if !self.has_room(first.weight, lane.is_none()) {
                break;
            }
            let Some(waiter) = self.line.pop() else { break };
            let Waiter {
                hash,
                key,
                item,
                weight,
                who,
            } = waiter;
            fx.keys.extend(self.put(lane, (hash, key), (weight, item)));
            fx.rung.extend(who);
        }
        if self.limits.when_full == WhenFull::FlushOldest && !self.line.is_empty() {
            self.make_room();
        }
    }

    /// Sees to it that something is under way that will make room. What is in flight may take as
    /// long as it likes, so it does not count as long as something else can be started.
    fn make_room(&mut self) {
        if self.ready.is_empty() && self.counts.in_flight < self.limits.concurrency {
            self.flush_oldest();
        }
    }

    fn flush_oldest(&mut self) {
        if let Some(number) = self.linger.first() {
            self.make_due(number, Reason::Budget);
        }
    }

    /// Starts what may be started. Ends every command.
    fn pump(&mut self, fx: &mut Effects<K, T, W>) {
        while !self.halted && self.counts.in_flight < self.limits.concurrency {
            let Some(number) = self.ready.pop_front() else {
                // A rush is over: its memory goes.
                if self.ready.capacity() > 1024 {
                    self.ready = VecDeque::new();
                }
                break;
            };
            fx.jobs.push(self.start(number));
        }
        let deadline = self.deadline();
        if deadline < self.armed {
            self.armed = deadline;
            fx.rearm = true;
        }
    }

    fn start(&mut self, number: u32) -> Job<K, T> {
        let lane = self.lanes.get_mut(number);
        let key = lane.key.clone();
        let load = lane
            .take_due()
            .expect("bug: a lane in the queue has something due");
        lane.stage = Stage::Flying;
        self.counts.in_flight += 1;
        if load.attempts == 0 {
            self.counts.flushed[load.reason as usize] += 1;
        }
        let flight = Flight {
            lane: number,
            epoch: load.epoch,
            items: load.items.len(),
            bytes: load.bytes,
            reason: load.reason,
            attempt: load.attempts + 1,
        };
        Job {
            flight,
            key,
            items: load.items,
        }
    }
}
