//! How lanes come to their end, with what is in them.

use super::{Bell, Core, Effects, Linger, Reason, Stage};

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    /// Takes no more items; those who wait are rung, and come for theirs.
    pub(crate) fn close(&mut self, fx: &mut Effects<K, T, W>) {
        self.closed = true;
        fx.rung.extend(self.line.bells());
    }

    /// Starts nothing any more, and takes nothing in. Whoever waits for something to land is rung:
    /// what is not in flight never will.
    pub(crate) fn halt(&mut self, fx: &mut Effects<K, T, W>) {
        self.close(fx);
        self.halted = true;
        self.epochs.ring_all(&mut fx.rung);
    }

    /// Rings when nothing is in flight.
    pub(crate) fn watch_grounded(&mut self, who: W, fx: &mut Effects<K, T, W>) {
        self.grounded.push(who);
        self.ring_if_grounded(fx);
    }

    /// Hands out everything that is not in flight, after a halt: each key's items in order.
    pub(crate) fn abandon(&mut self) -> Vec<(K, Vec<T>)> {
        assert!(self.halted, "bug: abandoned in operation");
        self.is_abandoned = true;
        let numbers: Vec<u32> = self.lanes.iter().map(|(number, _)| number).collect();
        let mut left = Vec::new();
        for number in numbers {
            left.extend(self.empty(number));
        }
        self.linger = Linger::new();
        self.ready.clear();
        self.resting.clear();
        self.counts.resting = 0;
        self.was_unfinished |= !left.is_empty();
        left
    }

    /// Whether something was handed out instead of being handled.
    pub(crate) fn was_unfinished(&self) -> bool {
        self.was_unfinished
    }

    /// Takes out what a lane holds, and the lane unless it is in flight.
    fn empty(&mut self, number: u32) -> Option<(K, Vec<T>)> {
        let lane = self.lanes.get_mut(number);
        let mut loads = Vec::new();
        while let Some(load) = lane.closed.pop_front() {
            loads.push(load);
        }
        if !lane.open.is_empty() {
            loads.push(lane.take_open(Reason::Closed));
        }
        let is_flying = lane.stage == Stage::Flying;
        // A batch of it is still out, and needs the lane.
        let key = (is_flying && !loads.is_empty()).then(|| lane.key.clone());
        let mut left = Vec::new();
        for load in loads {
            self.counts.items -= load.items.len();
            self.counts.bytes -= u64::from(load.bytes);
            self.counts.abandoned += load.items.len() as u64;
            self.epochs.forget(load.epoch);
            left.append(&mut load.items.into_vec());
        }
        let key = if is_flying { key? } else { self.remove(number) };
        Some((key, left))
    }
}
