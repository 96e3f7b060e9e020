//! How an outbox ends, and what there is to see of it.

use super::{Core, Effect, Entry, Nanos, Stage, Stored};
use crate::status::Totals;

impl<P, W> Core<P, W> {
    /// Accepts nothing more; who waits for room gets its message back.
    pub(crate) fn close(&mut self, effects: &mut Vec<Effect<P, W>>) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
        }
        for waiter in self.waiters.drain(..) {
            effects.push(Effect::TurnedAway(waiter.token, waiter.letter.payload));
        }
        self.wake_drain(effects);
    }

    /// Delivers nothing more. What is in flight has to be given up by the drain.
    pub(crate) fn stop(&mut self, effects: &mut Vec<Effect<P, W>>) {
        self.close(effects);
        self.stage = Stage::Stopped;
        self.asleep_until = None;
        effects.extend([Effect::WakeDrain, Effect::WakeWriter, Effect::WakeFlushers]);
    }

    /// After `stop`: what is left in memory of what is wanted, in order. What is in a journal stays
    /// there as well.
    pub(crate) fn take_left(&mut self, wanted: impl Fn(&P) -> bool) -> Vec<Entry<P>> {
        assert_eq!(self.stage, Stage::Stopped, "bug: it is not over yet");
        let numbers = self.line.iter().filter(|entry| wanted(&entry.payload));
        let numbers: Vec<u64> = numbers.map(|entry| entry.number).collect();
        let take = |number| self.take_from_line(number);
        let left: Vec<_> = numbers.into_iter().map(take).collect();
        if self.stored.is_none() {
            self.messages -= left.len();
            self.bytes -= left.iter().map(|entry| entry.weight).sum::<usize>();
            self.totals.handed_back += left.len() as u64;
        }
        left
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Everything up to and without this number will be resolved before who waits is content.
    pub(crate) fn flush(&mut self) -> u64 {
        *self.awaited.entry(self.next).or_default() += 1;
        self.next
    }

    /// One of those who waited for this number does so no longer.
    pub(crate) fn flush_ended(&mut self, number: u64) {
        if let Some(count) = self.awaited.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&number);
            }
        }
    }

    /// Has those look again, once, who have what they waited for.
    pub(super) fn wake_flushers(&mut self, effects: &mut Vec<Effect<P, W>>) {
        while let Some(first) = self.awaited.first_entry() {
            let number = *first.key();
            if !self.is_flushed(number) {
                return;
            }
            self.awaited.remove(&number);
            effects.push(Effect::WakeFlushers);
        }
    }

    /// Whether every message before this number is resolved.
    pub(crate) fn is_flushed(&self, number: u64) -> bool {
        let in_flight = self.flights.first().map(|flight| flight.number);
        let waiting = self.line.first().map(|entry| entry.number);
        let stored = self.stored.as_ref().and_then(Stored::first);
        let oldest = [in_flight, waiting, stored].into_iter().flatten().min();
        oldest.is_none_or(|oldest| oldest >= number)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How many deliveries failed in a row, and since when.
    pub(crate) fn outage(&self) -> Option<(u32, Nanos)> {
        (self.outage.failures > 0).then_some((self.outage.failures, self.outage.since))
    }

    /// When the oldest message was accepted.
    pub(crate) fn oldest(&self) -> Option<Nanos> {
        let in_flight = self.flights.first().map(|flight| flight.accepted);
        let waiting = self.line.first().map(|entry| entry.accepted);
        [in_flight, waiting].into_iter().flatten().min()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}
