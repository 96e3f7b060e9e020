//! Turns: which batch is due, and which is started when.

use std::{cmp::Reverse, collections::VecDeque};

use super::{Bell, Core, Effects, Flight, Job, Moment, NEVER, Reason, Stage};

/// Batches whose linger has been over for longer are late.
const LATE: Moment = 250_000;

/// So many of them have the same number: whoever reads it should not find it changed each time.
const PER_NUMBER: u64 = 16;

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    /// The open batch is to be flushed, if there is one and that is not known yet.
    pub(super) fn make_due(&mut self, number: u32, reason: Reason) {
        let lane = self.lanes.get_mut(number);
        if lane.open.is_empty() || lane.due.is_some() {
            return;
        }
        lane.due = Some(reason);
        self.linger.remove(&mut self.lanes, number);
        self.queue(number);
    }

    /// A lane with something due gets its turn, unless it has one coming.
    pub(super) fn queue(&mut self, number: u32) {
        let lane = self.lanes.get_mut(number);
        if lane.stage == Stage::Collecting && lane.has_due() {
            lane.stage = Stage::Queued;
            self.ready.push_back(number);
        }
    }

    /// Looks after so many lanes whose rest or linger has passed.
    pub(super) fn serve_due(&mut self, now: Moment, portion: usize) {
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

    pub(super) fn deadline(&self) -> Moment {
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

    /// Starts what may be started. Ends every command.
    pub(super) fn pump(&mut self, fx: &mut Effects<K, T, W>) {
        while let Some(job) = self.take_turn(fx) {
            fx.jobs.push(job);
        }
        if self.armed > self.now {
            let deadline = self.deadline();
            if deadline < self.armed {
                self.armed = deadline;
                fx.rearm = true;
            }
        }
    }

    /// Starts the batch whose turn it is, if it may be.
    pub(super) fn take_turn(&mut self, fx: &mut Effects<K, T, W>) -> Option<Job<K, T>> {
        if self.halted || self.counts.in_flight >= self.limits.concurrency {
            return None;
        }
        let Some(number) = self.ready.pop_front() else {
            // A rush is over: its memory goes.
            if self.ready.capacity() > 1024 {
                self.ready = VecDeque::new();
            }
            return None;
        };
        Some(self.start(number, fx))
    }

    fn start(&mut self, number: u32, fx: &mut Effects<K, T, W>) -> Job<K, T> {
        let lane = self.lanes.get_mut(number);
        let key = lane.key.clone();
        let is_open = lane.closed.len() == 0;
        let load = lane
            .take_due()
            .expect("bug: a lane in the queue has something due");
        lane.stage = Stage::Flying;
        if is_open && load.reason == Reason::Linger {
            let due = lane.since.saturating_add(self.limits.linger);
            let is_late = self.now > due.saturating_add(LATE);
            let number = self.counts.flushed[Reason::Linger as usize] / PER_NUMBER;
            fx.lateness = Some(if is_late { (number as u32).max(1) } else { 0 });
        }
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
