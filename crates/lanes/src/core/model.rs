//! A naive reference of the core: lists that are searched, batches with names, nothing clever. The
//! tests put both through the same operations and compare what comes out.

use std::collections::{BTreeSet, VecDeque};

use super::{Limits, Moment, NEVER, Reason, WhenFull};

mod driver;
mod tests;

/// An item is its number; it weighs something.
pub(super) type Weighed = (u32, u32);

/// A batch that was started: key, items, reason, attempt.
pub(super) type Started = (u32, Vec<u32>, Reason, u32);

#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Unique, and rising.
    pub(super) name: u64,
    pub(super) items: Vec<Weighed>,
    since: Moment,
    due: Option<Reason>,
    pub(super) attempts: u32,
}

#[derive(Debug, Default)]
struct Lane {
    key: u32,
    /// In order. All but the last are due; it is, if it says so.
    batches: VecDeque<Batch>,
    is_flying: bool,
    rests_until: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct Model {
    limits: Limits,
    lanes: Vec<Lane>,
    ready: VecDeque<u32>,
    pub(super) flights: Vec<(u32, Batch)>,
    pub(super) line: Vec<(u32, u32, Weighed)>,
    watches: Vec<(u32, BTreeSet<u64>)>,
    names: u64,
    pub(super) now: Moment,
    pub(super) is_closed: bool,
    pub(super) started: Vec<Started>,
    pub(super) rung: Vec<u32>,
}

impl Model {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: Vec::new(),
            ready: VecDeque::new(),
            flights: Vec::new(),
            line: Vec::new(),
            watches: Vec::new(),
            names: 0,
            now: 0,
            is_closed: false,
            started: Vec::new(),
            rung: Vec::new(),
        }
    }

    /// Whether it was accepted.
    pub(super) fn push(&mut self, key: u32, item: Weighed) -> bool {
        let has_room = self.line.is_empty() && self.has_room(key, item);
        if !has_room || !self.joins_batch(key, item) {
            self.serve_due(super::PER_PUSH);
        }
        if has_room {
            self.put(key, item);
        }
        self.pump();
        has_room
    }

    pub(super) fn enqueue(&mut self, who: u32, key: u32, item: Weighed) {
        self.line.push((who, key, item));
        if self.limits.when_full == WhenFull::FlushOldest {
            self.flush_oldest();
        }
        self.pump();
    }

    pub(super) fn reject(&mut self) {
        if self.limits.when_full == WhenFull::FlushOldest {
            self.make_room();
        }
        self.pump();
    }

    pub(super) fn cancel(&mut self, index: usize) {
        self.line.remove(index);
        self.serve_due(super::PER_PUSH);
        self.admit();
        self.pump();
    }

    pub(super) fn tick(&mut self, portion: usize) {
        self.serve_due(portion);
        self.pump();
    }

    pub(super) fn flush(&mut self, key: u32, reason: Reason, who: u32) {
        self.make_due(key, reason);
        let flying = self.flights.iter().filter(|(other, _)| *other == key);
        let mut names: BTreeSet<u64> = flying.map(|(_, batch)| batch.name).collect();
        if let Some(lane) = self.lane(key) {
            names.extend(lane.batches.iter().map(|batch| batch.name));
        }
        self.watch(who, names);
        self.pump();
    }

    /// Flushes so many of the oldest lanes.
    pub(super) fn flush_some(&mut self, before: u64, reason: Reason, portion: usize) {
        for _ in 0..portion {
            if let Some((name, key)) = self.oldest()
                && name < before
            {
                self.make_due(key, reason);
            }
        }
        self.pump();
    }

    /// The names from now on are not below this.
    pub(super) fn next_name(&self) -> u64 {
        self.names
    }

    pub(super) fn watch_before(&mut self, before: u64, who: u32) {
        let waiting = self.lanes.iter().flat_map(|lane| &lane.batches);
        let all = waiting.chain(self.flights.iter().map(|(_, batch)| batch));
        let names = all.map(|batch| batch.name).filter(|name| *name < before);
        let names = names.collect();
        self.watch(who, names);
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.rung.extend(self.line.iter().map(|(who, ..)| who));
    }

    pub(super) fn land_done(&mut self, index: usize) {
        let (key, batch) = self.flights.remove(index);
        self.landed(key);
        for (_, names) in &mut self.watches {
            names.remove(&batch.name);
        }
        let lane = self.lane(key).expect("it was flying");
        if lane.batches.is_empty() {
            self.lanes.retain(|lane| lane.key != key);
        } else {
            self.queue(key);
        }
        self.watch_out();
        self.admit();
        self.serve_due_after_landing();
        self.pump();
    }

    /// Those from `kept` on are tried again.
    pub(super) fn land_again(&mut self, index: usize, kept: usize, at: Moment) {
        let (key, mut batch) = self.flights.remove(index);
        self.landed(key);
        batch.items.drain(..kept);
        batch.attempts += 1;
        let lane = self.lane(key).expect("it was flying");
        lane.batches.push_front(batch);
        lane.rests_until = Some(at);
        self.admit();
        self.serve_due_after_landing();
        self.pump();
    }

    /// Everything, each key's in order: what a close hands out once nothing flies.
    pub(super) fn left(&self) -> Vec<(u32, Vec<u32>)> {
        let items = |lane: &Lane| {
            let items = lane.batches.iter().flat_map(|batch| &batch.items);
            items.map(|(item, _)| *item).collect()
        };
        let mut left: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| (lane.key, items(lane)))
            // Of some nothing is left but what is in flight.
            .filter(|(_, items): &(u32, Vec<u32>)| !items.is_empty())
            .collect();
        left.sort();
        left
    }

    /// What is left of it, at the head of its lane.
    pub(super) fn interrupt(&mut self, index: usize, taken: usize) {
        let (key, mut batch) = self.flights.remove(index);
        self.landed(key);
        batch.items.drain(..taken);
        let lane = self.lane(key).expect("it was flying");
        if !batch.items.is_empty() {
            lane.batches.push_front(batch);
        }
    }

    pub(super) fn deadline(&self) -> Moment {
        let rests = self.lanes.iter().filter_map(|lane| lane.rests_until);
        let lingers = self
            .lingering()
            .map(|batch| batch.since + self.limits.linger);
        rests.chain(lingers).min().unwrap_or(NEVER)
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn resting(&self) -> usize {
        let lanes = self.lanes.iter();
        lanes.filter(|lane| lane.rests_until.is_some()).count()
    }

    /// How many items are held, and what they weigh.
    pub(super) fn held(&self) -> (usize, u64) {
        let waiting = self.lanes.iter().flat_map(|lane| &lane.batches);
        let all = waiting.chain(self.flights.iter().map(|(_, batch)| batch));
        let items = all.flat_map(|batch| &batch.items);
        items.fold((0, 0), |(count, sum), (_, weight)| {
            (count + 1, sum + u64::from(*weight))
        })
    }

    fn put(&mut self, key: u32, item: Weighed) {
        if self.lane(key).is_none() {
            self.lanes.push(Lane {
                key,
                ..Lane::default()
            });
        }
        let (most, heaviest) = (self.limits.items, self.limits.bytes);
        let fits = self.joins_batch(key, item);
        let last = self.collecting(key).is_some();
        if !fits {
            if last {
                self.make_due(key, Reason::Bytes);
            }
            let batch = Batch {
                name: self.names,
                items: Vec::new(),
                since: self.now,
                due: None,
                attempts: 0,
            };
            self.names += 1;
            self.lane(key).expect("made").batches.push_back(batch);
        }
        let lane = self.lane(key).expect("made");
        let batch = lane.batches.back_mut().expect("made");
        batch.items.push(item);
        if batch.items.len() == most {
            self.make_due(key, Reason::Items);
        } else if weight(batch) >= heaviest {
            self.make_due(key, Reason::Bytes);
        } else if self.limits.linger == 0 {
            self.make_due(key, Reason::Linger);
        }
    }

    fn joins_batch(&mut self, key: u32, item: Weighed) -> bool {
        let (most, heaviest) = (self.limits.items, self.limits.bytes);
        let batch = self.collecting(key);
        batch.is_some_and(|batch| batch.items.len() < most && weight(batch) + item.1 <= heaviest)
    }

    /// The last batch, unless it has been in flight.
    fn collecting(&mut self, key: u32) -> Option<&Batch> {
        let last = self.lane(key)?.batches.back()?;
        (last.attempts == 0).then_some(last)
    }

    fn make_due(&mut self, key: u32, reason: Reason) {
        let batch = self.lane(key).and_then(|lane| lane.batches.back_mut());
        if let Some(batch) = batch
            && batch.due.is_none()
        {
            batch.due = Some(reason);
            self.queue(key);
        }
    }

    fn queue(&mut self, key: u32) {
        let is_ready = self.ready.contains(&key);
        let lane = self.lane(key).expect("someone holds it");
        let is_due = lane
            .batches
            .front()
            .is_some_and(|batch| batch.due.is_some());
        if !is_ready && is_due && !lane.is_flying && lane.rests_until.is_none() {
            self.ready.push_back(key);
        }
    }

    fn serve_due(&mut self, portion: usize) {
        for _ in 0..portion {
            let rests = self.lanes.iter();
            let rests = rests.filter_map(|lane| Some((lane.rests_until?, lane.key)));
            if let Some((at, key)) = rests.min()
                && at <= self.now
            {
                self.lane(key).expect("it rests").rests_until = None;
                self.queue(key);
            } else if let Some((since, key)) = self.oldest_since()
                && since + self.limits.linger <= self.now
            {
                self.make_due(key, Reason::Linger);
            }
        }
    }

    fn serve_due_after_landing(&mut self) {
        if self.ready.is_empty() {
            self.serve_due(32);
        }
    }

    fn lingering(&self) -> impl Iterator<Item = &Batch> {
        let batches = self.lanes.iter().filter_map(|lane| lane.batches.back());
        batches.filter(|batch| batch.due.is_none())
    }

    fn oldest_since(&self) -> Option<(Moment, u32)> {
        let (name, key) = self.oldest()?;
        let batch = self.lingering().find(|batch| batch.name == name)?;
        Some((batch.since, key))
    }

    fn oldest(&self) -> Option<(u64, u32)> {
        let lanes = self.lanes.iter().filter_map(|lane| {
            let batch = lane.batches.back()?;
            batch.due.is_none().then_some((batch.name, lane.key))
        });
        lanes.min()
    }

    fn admit(&mut self) {
        while let Some((who, key, item)) = self.line.first().copied()
            && !self.is_closed
            && self.has_room(key, item)
        {
            self.line.remove(0);
            self.put(key, item);
            self.rung.push(who);
        }
        if self.limits.when_full == WhenFull::FlushOldest && !self.line.is_empty() {
            self.make_room();
        }
    }

    fn has_room(&self, key: u32, (_, weight): Weighed) -> bool {
        let (items, bytes) = self.held();
        let is_new = self.lanes.iter().all(|lane| lane.key != key);
        items < self.limits.max_items
            && bytes + u64::from(weight) <= self.limits.max_bytes
            && self.lanes.len() + usize::from(is_new) <= self.limits.max_lanes
    }

    fn make_room(&mut self) {
        if self.ready.is_empty() && self.flights.len() < self.limits.concurrency {
            self.flush_oldest();
        }
    }

    fn flush_oldest(&mut self) {
        if let Some((_, key)) = self.oldest() {
            self.make_due(key, Reason::Budget);
        }
    }

    fn pump(&mut self) {
        while self.flights.len() < self.limits.concurrency
            && let Some(key) = self.ready.pop_front()
        {
            let lane = self.lane(key).expect("it is ready");
            lane.is_flying = true;
            let batch = lane.batches.pop_front().expect("it is ready");
            let items = batch.items.iter().map(|(item, _)| *item).collect();
            let reason = batch.due.expect("it is ready");
            self.started.push((key, items, reason, batch.attempts + 1));
            self.flights.push((key, batch));
        }
    }

    fn landed(&mut self, key: u32) {
        self.lane(key).expect("it was flying").is_flying = false;
    }

    fn watch(&mut self, who: u32, names: BTreeSet<u64>) {
        self.watches.push((who, names));
        self.watch_out();
    }

    fn watch_out(&mut self) {
        let over = self.watches.extract_if(.., |(_, names)| names.is_empty());
        self.rung.extend(over.map(|(who, _)| who));
    }

    fn lane(&mut self, key: u32) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.key == key)
    }
}

fn weight(batch: &Batch) -> u32 {
    batch.items.iter().map(|(_, weight)| weight).sum()
}
