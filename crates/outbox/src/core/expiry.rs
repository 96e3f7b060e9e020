//! Which messages have waited long enough.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Core, Effect, End, NEVER, Nanos};

/// With more moments than this that nobody waits for, they are removed.
const FEW: usize = 64;

/// The moments at which messages expire. Those of messages that are gone stay in it until they come
/// up, or there are too many of them.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    moments: BinaryHeap<Reverse<(Nanos, u64)>>,
}

impl Expiry {
    pub(super) fn add(&mut self, at: Nanos, number: u64) {
        if at != NEVER {
            self.moments.push(Reverse((at, number)));
        }
    }

    pub(super) fn next(&self) -> Nanos {
        self.moments.peek().map_or(NEVER, |Reverse((at, _))| *at)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.moments.len()
    }

    fn pop_due(&mut self, now: Nanos) -> Option<u64> {
        if self.next() > now {
            return None;
        }
        self.moments.pop().map(|Reverse((_, number))| number)
    }
}

impl<P, W> Core<P, W> {
    pub(super) fn expire(&mut self, now: Nanos, effects: &mut Vec<Effect<P, W>>) {
        let mut expired = false;
        while let Some(number) = self.expiry.pop_due(now) {
            if !self.waits_until(number, now) {
                continue;
            }
            let entry = self.take_from_line(number);
            self.totals.expired += 1;
            self.gone(number, entry.weight, effects);
            let attempts = entry.attempts;
            effects.push(Effect::Ended(entry.payload, End::Expired { attempts }));
            expired = true;
        }
        if expired {
            self.admit(now, effects);
        }
        if self.expiry.moments.len() > FEW + 2 * self.line.len() {
            let waiting = self.line.iter().filter(|entry| entry.expires != NEVER);
            let moments = waiting.map(|entry| Reverse((entry.expires, entry.number)));
            self.expiry.moments = moments.collect();
        }
    }

    fn waits_until(&self, number: u64, now: Nanos) -> bool {
        let entry = self.line.get(number);
        entry.is_some_and(|entry| entry.expires <= now)
    }
}
