//! How a batch in flight comes to its end.

use std::cmp::Reverse;

use super::{
    Bell, Core, Effects, Flight, Items, Job, Moment,
    lane::{Load, Stage},
};

/// A landing looks after so many lanes that are due, if no other is ready: under one lock, and with
/// one look at the clock for all of them.
const PER_LANDING: usize = 32;

/// What became of a batch.
#[derive(Debug)]
pub(crate) enum Landing<T> {
    /// It was handled.
    Done,
    /// It failed, and its items are with the user again.
    GivenUp { items: usize },
    /// It failed, and what is left of it is to be tried again.
    Again {
        items: Items<T>,
        bytes: u32,
        at: Moment,
    },
    /// It was interrupted: what is left of it goes back into its lane. After a halt only.
    Interrupted { items: Items<T>, bytes: u32 },
}

/// What comes of a landing. That it is no list saves an allocation or two for each batch.
#[derive(Debug)]
pub(crate) struct Landed<K, T> {
    /// What the worker that is free is to handle.
    pub(crate) next: Option<Job<K, T>>,
    /// Of a lane that has come to its end; to be dropped.
    pub(crate) key: Option<K>,
    /// What has no place any more, because everything else was handed out meanwhile.
    pub(crate) homeless: Items<T>,
}

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    /// Ends a flight.
    #[expect(clippy::needless_pass_by_value, reason = "a flight lands once")]
    pub(crate) fn land(
        &mut self,
        clock: impl Fn() -> Moment,
        flight: Flight,
        landing: Landing<T>,
        fx: &mut Effects<K, T, W>,
    ) -> Landed<K, T> {
        if !self.line.is_empty() {
            // Some of those who wait may begin a batch.
            self.now = self.now.max(clock());
        }
        self.counts.in_flight -= 1;
        let number = flight.lane;
        let mut key = None;
        let mut homeless = Items::None;
        match landing {
            // Whoever has taken everything out has nothing to be tried again, or handed back.
            Landing::Again { items, .. } | Landing::Interrupted { items, .. }
                if items.is_empty() =>
            {
                self.counts.handled += flight.items as u64;
                key = self.end(&flight, fx);
            }
            Landing::Done => {
                self.counts.handled += flight.items as u64;
                key = self.end(&flight, fx);
            }
            Landing::GivenUp { items } => {
                self.counts.handled += (flight.items - items) as u64;
                self.counts.failed_batches += 1;
                self.counts.failed_items += items as u64;
                key = self.end(&flight, fx);
            }
            Landing::Again { items, bytes, at } if !self.is_abandoned => {
                self.counts.retries += 1;
                self.lanes.get_mut(number).stage = Stage::Resting;
                self.put_back(&flight, items, bytes);
                self.counts.resting += 1;
                self.resting.push(Reverse((at, number)));
            }
            Landing::Interrupted { items, bytes } if !self.is_abandoned => {
                self.lanes.get_mut(number).stage = Stage::Collecting;
                self.put_back(&flight, items, bytes);
                self.queue(number);
            }
            Landing::Again { items, .. } | Landing::Interrupted { items, .. } => {
                homeless = items;
                self.counts.handled += (flight.items - homeless.len()) as u64;
                self.counts.abandoned += homeless.len() as u64;
                key = self.end(&flight, fx);
            }
        }
        self.admit(fx);
        self.ring_if_grounded(fx);
        if self.ready.is_empty() && !self.halted {
            self.serve_due(clock(), PER_LANDING);
        }
        let next = self.take_turn(fx);
        self.pump(fx);
        Landed {
            next,
            key,
            homeless,
        }
    }

    pub(super) fn ring_if_grounded(&mut self, fx: &mut Effects<K, T, W>) {
        if self.counts.in_flight == 0 {
            fx.rung.append(&mut self.grounded);
        }
    }

    /// Gives the key of the lane, if that was its last batch.
    fn end(&mut self, flight: &Flight, fx: &mut Effects<K, T, W>) -> Option<K> {
        let number = flight.lane;
        self.counts.items -= flight.items;
        self.counts.bytes -= u64::from(flight.bytes);
        self.lanes.get_mut(number).stage = Stage::Collecting;
        self.epochs.end(number, flight.epoch, &mut fx.rung);
        if self.lanes.get(number).batches() > 0 {
            self.queue(number);
            return None;
        }
        let key = self.remove(number);
        fx.is_idle = self.lanes.len() == 0;
        Some(key)
    }

    /// The batch becomes the lane's next again.
    fn put_back(&mut self, flight: &Flight, items: Items<T>, bytes: u32) {
        let taken = flight.items - items.len();
        self.counts.handled += taken as u64;
        self.counts.items -= taken;
        self.counts.bytes -= u64::from(flight.bytes - bytes);
        let load = Load {
            items,
            bytes,
            epoch: flight.epoch,
            reason: flight.reason,
            attempts: flight.attempt,
        };
        self.lanes.get_mut(flight.lane).closed.push_front(load);
    }

    pub(super) fn remove(&mut self, number: u32) -> K {
        let lane = self.lanes.remove(number);
        self.index.remove(&self.lanes, lane.hash, number);
        lane.key
    }
}
