//! Deliveries: which begin, and what becomes of them.

use super::{Answered, Core, Effect, End, Entry, Flight, NEVER, Nanos, Next, Stage};

impl<P, W> Core<P, W> {
    /// Begins deliveries, and says what is due when.
    pub(crate) fn turn(
        &mut self,
        now: Nanos,
        begun: &mut Vec<Entry<P>>,
        effects: &mut Vec<Effect<P, W>>,
    ) -> Next {
        if self.stage != Stage::Stopped {
            self.expire(now, effects);
        }
        // The last one may just have expired.
        if self.stage == Stage::Closing && self.is_empty() {
            self.stop(effects);
        }
        if self.stage == Stage::Stopped {
            return Next {
                at: NEVER,
                pause: None,
                stopped: true,
            };
        }
        let mut at = self.expiry.next();
        while self.may_begin()
            && let Some(number) = self.next_to_begin()
        {
            if let Some(meter) = &mut self.meter {
                if meter.next() > now {
                    at = at.min(meter.next());
                    break;
                }
                meter.count(now);
            }
            begun.push(self.begin(number));
        }
        if self.wants_page().is_some() {
            self.call_writer(effects);
        }
        self.asleep_until = Some(at);
        Next {
            at,
            pause: self.outage.pause.take(),
            stopped: false,
        }
    }

    fn next_to_begin(&self) -> Option<u64> {
        match &self.keys {
            Some(keys) => keys.next(),
            None => self.line.first().map(|entry| entry.number),
        }
    }

    fn begin(&mut self, number: u64) -> Entry<P> {
        let entry = self.line.take(number);
        let mut entry = entry.expect("bug: what begins has waited");
        entry.attempts = entry.attempts.saturating_add(1);
        if let Some(keys) = &mut self.keys {
            keys.begins(entry.key, number);
        }
        let flight = Flight {
            number,
            weight: entry.weight,
            key: entry.key,
            accepted: entry.accepted,
        };
        // Mostly the end: what begins again was before those that are in flight.
        let at = self.flights.partition_point(|other| other.number < number);
        self.flights.insert(at, flight);
        if self.outage.failures > 0 {
            self.outage.probe = Some(number);
        }
        entry
    }

    /// A delivery came to an answer. Its message is resolved.
    pub(crate) fn answered(
        &mut self,
        now: Nanos,
        number: u64,
        how: Answered,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        let flight = self.land(number);
        if let Some(keys) = &mut self.keys {
            keys.ends(flight.key);
        }
        match how {
            Answered::Delivered => self.totals.delivered += 1,
            Answered::Rejected => self.totals.rejected += 1,
        }
        // Somebody answered: there is no outage.
        if !self.outage.paused {
            self.outage.failures = 0;
            self.outage.probe = None;
        }
        self.gone(number, flight.weight, effects);
        self.admit(now, effects);
    }

    /// A delivery came to no answer. The message takes its old place, and nothing begins for a
    /// while.
    pub(crate) fn unanswered(
        &mut self,
        now: Nanos,
        entry: Entry<P>,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        self.totals.unknown += 1;
        if !self.outage.paused {
            let outage = &mut self.outage;
            if outage.failures == 0 {
                outage.since = now;
                self.totals.outages += 1;
            }
            outage.failures = outage.failures.saturating_add(1);
            outage.paused = true;
            let backoff = &self.limits.backoff;
            outage.pause = Some(backoff.pause(outage.failures, &mut self.random));
        }
        let end = match entry.attempts {
            attempts if attempts >= self.limits.attempts => Some(End::GaveUp { attempts }),
            attempts if entry.expires <= now => Some(End::Expired { attempts }),
            _ => None,
        };
        match end {
            Some(end) => self.end_in_flight(now, entry, end, effects),
            None => self.come_back(entry),
        }
    }

    fn end_in_flight(
        &mut self,
        now: Nanos,
        entry: Entry<P>,
        end: End,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        self.land(entry.number);
        if let Some(keys) = &mut self.keys {
            keys.ends(entry.key);
        }
        match end {
            End::GaveUp { .. } => self.totals.gave_up += 1,
            _ => self.totals.expired += 1,
        }
        self.gone(entry.number, entry.weight, effects);
        effects.push(Effect::Ended(entry.payload, end));
        self.admit(now, effects);
    }

    /// A delivery was dropped on the way. The message takes its old place.
    pub(crate) fn abandoned(&mut self, entry: Entry<P>, effects: &mut Vec<Effect<P, W>>) {
        self.come_back(entry);
        self.wake_drain(effects);
    }

    fn come_back(&mut self, entry: Entry<P>) {
        self.land(entry.number);
        if let Some(keys) = &mut self.keys {
            keys.returns(entry.key, entry.number);
        }
        self.expiry.add(entry.expires, entry.number);
        self.line.insert(entry);
    }

    fn land(&mut self, number: u64) -> Flight {
        if self.outage.probe == Some(number) {
            self.outage.probe = None;
        }
        let at = self
            .flights
            .binary_search_by_key(&number, |flight| flight.number);
        self.flights
            .remove(at.expect("bug: what lands was in flight"))
    }

    /// The pause is over.
    pub(crate) fn resume(&mut self) {
        self.outage.paused = false;
    }

    /// A drain begins. One before it may have been lost in a pause, whose end nobody would tell then.
    /// That there was no answer is not forgotten: the next delivery goes alone.
    pub(crate) fn drain_begins(&mut self) {
        self.resume();
        self.outage.pause = None;
        self.asleep_until = None;
    }
}
