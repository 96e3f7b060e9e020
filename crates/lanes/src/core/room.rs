//! Room: for whom there is some, and how it is made.

use super::{Bell, Core, Effects, Reason, Waiter, WhenFull};

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    pub(super) fn has_room(&self, weight: u32, is_new: bool) -> bool {
        let limits = &self.limits;
        self.counts.items < limits.max_items
            && self.counts.bytes + u64::from(weight) <= limits.max_bytes
            && (!is_new || self.lanes.len() < limits.max_lanes)
    }

    /// Lets those at the head of the line in, as far as there is room.
    pub(super) fn admit(&mut self, fx: &mut Effects<K, T, W>) {
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
    pub(super) fn make_room(&mut self) {
        if self.ready.is_empty() && self.counts.in_flight < self.limits.concurrency {
            self.flush_oldest();
        }
    }

    pub(super) fn flush_oldest(&mut self) {
        if let Some(number) = self.linger.first() {
            self.make_due(number, Reason::Budget);
        }
    }
}
