//! What an outbox decides. No clock, no tasks, no user code: time is an argument, and what is to be
//! done comes out as effects. Nothing of the user's is dropped here either: payloads leave whole.
//!
//! One rule of use: after each command, release the lock, carry out the effects in order.

mod ending;
mod expiry;
mod flights;
mod keys;
mod line;
mod pace;
mod stored;
#[cfg(test)]
mod tests;

pub use pace::{Backoff, Rate};
pub(crate) use stored::{Enough, Loaded, Page};

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{settings::Policy, status::Totals};
use expiry::Expiry;
use keys::Keys;
use line::Line;
use pace::Meter;
use stored::Stored;

/// Nanoseconds since 1970.
pub(crate) type Nanos = u64;

/// A moment that does not come.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// The bounds and rules of an outbox. They make sense: the builder has seen to it.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) policy: Policy,
    /// How many deliveries may be under way.
    pub(crate) flights: usize,
    /// Whether those of one key go one after the other.
    pub(crate) keyed: bool,
    pub(crate) backoff: Backoff,
    pub(crate) rate: Option<Rate>,
    pub(crate) attempts: u32,
    /// With a journal: how many messages are kept in memory.
    pub(crate) window: Option<usize>,
}

/// A message that asks for a place.
#[derive(Debug)]
pub(crate) struct Letter<P> {
    pub(crate) weight: usize,
    pub(crate) key: u64,
    /// How long it may wait; `NEVER` for ever.
    pub(crate) ttl: Nanos,
    pub(crate) payload: P,
}

/// A message with a place.
#[derive(Debug)]
pub(crate) struct Entry<P> {
    pub(crate) number: u64,
    pub(crate) weight: usize,
    pub(crate) key: u64,
    pub(crate) accepted: Nanos,
    pub(crate) expires: Nanos,
    /// Deliveries that were begun.
    pub(crate) attempts: u32,
    pub(crate) payload: P,
}

/// What becomes of a letter.
#[derive(Debug)]
pub(crate) enum Answer<P> {
    /// It has a place. With a journal, its token says when it is stored.
    Accepted,
    /// It is in line under this number; its token says what becomes of it.
    Waits(u64),
    Refused(P, Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    TooLarge,
    Full,
    /// [`Policy::DropNewest`]
    Dropped,
}

/// What the shell has to do.
#[derive(Debug)]
pub(crate) enum Effect<P, W> {
    /// Who put the message in is told that it is accepted.
    Accepted(W),
    /// Who waits for room is told that there will be none, and gets the message.
    TurnedAway(W, P),
    /// A message ends undelivered.
    Ended(P, End),
    /// A message is in the journal and not kept in memory; this is its number.
    PutAway(u64, P),
    /// Of what is in the journal and not in memory, nothing is there any more: so many messages.
    TailLost(usize),
    /// The drain looks again.
    WakeDrain,
    /// The writer looks again.
    WakeWriter,
    /// Who waits for others to be resolved looks again.
    WakeFlushers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    DroppedOldest,
    Expired { attempts: u32 },
    GaveUp { attempts: u32 },
}

/// How a delivery came to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Delivered,
    Rejected,
}

/// What the drain does after a turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// Turn again at this time at the latest.
    pub(crate) at: Nanos,
    /// Wait so long, and then call `resume`. Said once for each pause.
    pub(crate) pause: Option<Duration>,
    /// It is over.
    pub(crate) stopped: bool,
}

/// A caller in line for room.
#[derive(Debug)]
struct Waiter<P, W> {
    number: u64,
    letter: Letter<P>,
    token: W,
}

/// What is in flight; the payload is with the drain.
#[derive(Debug)]
struct Flight {
    number: u64,
    weight: usize,
    key: u64,
    accepted: Nanos,
}

/// An outage: from a delivery that came to no answer to the next that does.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    since: Nanos,
    /// Nothing begins.
    paused: bool,
    /// The pause that the drain has not been told of.
    pause: Option<Duration>,
    /// The one that tries the destination for all.
    probe: Option<u64>,
}

/// `Open ──▶ Closing ──▶ Stopped`, or straight to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Open,
    /// Nothing is accepted.
    Closing,
    /// Nothing is delivered any more.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct Core<P, W> {
    limits: Limits,
    stage: Stage,
    line: Line<P>,
    keys: Option<Keys>,
    /// Ascending by number.
    flights: Vec<Flight>,
    waiters: VecDeque<Waiter<P, W>>,
    next_waiter: u64,
    /// The number of the next message.
    next: u64,
    /// Everything that counts towards the bounds: in line, in flight, being stored, stored.
    messages: usize,
    bytes: usize,
    expiry: Expiry,
    outage: Outage,
    meter: Option<Meter>,
    stored: Option<Stored<P, W>>,
    /// The drain sleeps, until this time if nobody wakes it.
    asleep_until: Option<Nanos>,
    /// Who waits for every message before a number to be resolved: how many for each number.
    awaited: BTreeMap<u64, usize>,
    totals: Totals,
    random: fastrand::Rng,
}

impl<P, W> Core<P, W> {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            stage: Stage::Open,
            line: Line::new(),
            keys: limits.keyed.then(Keys::default),
            flights: Vec::new(),
            waiters: VecDeque::new(),
            next_waiter: 0,
            next: 1,
            messages: 0,
            bytes: 0,
            expiry: Expiry::default(),
            outage: Outage::default(),
            meter: limits.rate.map(Meter::new),
            stored: limits.window.map(Stored::new),
            asleep_until: None,
            awaited: BTreeMap::new(),
            totals: Totals::default(),
            random: fastrand::Rng::with_seed(seed),
            limits,
        }
    }

    /// Asks for a place. `token` is called if the answer does not come at once.
    pub(crate) fn offer(
        &mut self,
        now: Nanos,
        letter: Letter<P>,
        patient: bool,
        token: impl FnOnce() -> W,
        effects: &mut Vec<Effect<P, W>>,
    ) -> Answer<P> {
        let refusal = if self.stage != Stage::Open {
            Refusal::Closed
        } else if letter.weight > self.limits.bytes {
            Refusal::TooLarge
        } else if self.waiters.is_empty() && self.fits(letter.weight) {
            return self.accept_new(now, letter, token, effects);
        } else {
            let policy = self.limits.policy;
            match policy {
                Policy::Wait if patient => return self.wait(letter, token()),
                Policy::Wait | Policy::Reject => Refusal::Full,
                Policy::DropNewest => Refusal::Dropped,
                Policy::DropOldest if self.make_room(letter.weight, effects) => {
                    return self.accept_new(now, letter, token, effects);
                }
                Policy::DropOldest => Refusal::Full,
            }
        };
        match refusal {
            Refusal::Full => self.totals.refused += 1,
            Refusal::Dropped => self.totals.dropped_newest += 1,
            Refusal::Closed | Refusal::TooLarge => {}
        }
        Answer::Refused(letter.payload, refusal)
    }

    fn accept_new(
        &mut self,
        now: Nanos,
        letter: Letter<P>,
        token: impl FnOnce() -> W,
        effects: &mut Vec<Effect<P, W>>,
    ) -> Answer<P> {
        let token = self.stored.is_some().then(token);
        self.accept(now, letter, token, effects);
        Answer::Accepted
    }

    fn wait(&mut self, letter: Letter<P>, token: W) -> Answer<P> {
        let number = self.next_waiter;
        self.next_waiter += 1;
        self.waiters.push_back(Waiter {
            number,
            letter,
            token,
        });
        Answer::Waits(number)
    }

    /// A caller leaves the line; nothing if it is not in it any more.
    pub(crate) fn cancel(
        &mut self,
        now: Nanos,
        waiter: u64,
        effects: &mut Vec<Effect<P, W>>,
    ) -> Option<(P, W)> {
        let at = self
            .waiters
            .binary_search_by_key(&waiter, |waiter| waiter.number)
            .ok()?;
        let Waiter { letter, token, .. } = self.waiters.remove(at)?;
        // A large one may have been in the way of a small one.
        self.admit(now, effects);
        Some((letter.payload, token))
    }

    fn fits(&self, weight: usize) -> bool {
        self.messages < self.limits.messages && self.bytes + weight <= self.limits.bytes
    }

    /// Drops the oldest that wait. False, and nothing dropped, if that would not be enough.
    fn make_room(&mut self, weight: usize, effects: &mut Vec<Effect<P, W>>) -> bool {
        let messages = self.messages - self.line.len();
        let bytes = self.bytes - self.line.bytes();
        if messages >= self.limits.messages || bytes + weight > self.limits.bytes {
            return false;
        }
        while !self.fits(weight) {
            let oldest = self.line.first().expect("bug: there is something to drop");
            let entry = self.take_from_line(oldest.number);
            self.totals.dropped_oldest += 1;
            self.gone(entry.number, entry.weight, effects);
            effects.push(Effect::Ended(entry.payload, End::DroppedOldest));
        }
        true
    }

    fn accept(
        &mut self,
        now: Nanos,
        letter: Letter<P>,
        token: Option<W>,
        effects: &mut Vec<Effect<P, W>>,
    ) {
        let entry = Entry {
            number: self.next,
            weight: letter.weight,
            key: letter.key,
            accepted: now,
            expires: now.saturating_add(letter.ttl),
            attempts: 0,
            payload: letter.payload,
        };
        self.next += 1;
        self.messages += 1;
        self.bytes += entry.weight;
        if let Some(stored) = &mut self.stored {
            stored.write(entry, token.expect("bug: storing has a token"));
            self.call_writer(effects);
        } else {
            self.totals.accepted += 1;
            self.join_line(entry, effects);
            effects.extend(token.map(Effect::Accepted));
        }
    }

    /// Gives room to those who wait for it, in their order.
    fn admit(&mut self, now: Nanos, effects: &mut Vec<Effect<P, W>>) {
        while let Some(waiter) = self.waiters.front()
            && self.fits(waiter.letter.weight)
            && let Some(Waiter { letter, token, .. }) = self.waiters.pop_front()
        {
            self.accept(now, letter, Some(token), effects);
        }
    }

    fn join_line(&mut self, entry: Entry<P>, effects: &mut Vec<Effect<P, W>>) {
        let expires = entry.expires;
        self.expiry.add(expires, entry.number);
        if let Some(keys) = &mut self.keys {
            keys.waits(entry.key, entry.number);
        }
        self.line.insert(entry);
        if self.asleep_until.is_some_and(|until| expires < until) || self.may_begin() {
            self.wake_drain(effects);
        }
    }

    fn wake_drain(&mut self, effects: &mut Vec<Effect<P, W>>) {
        if self.asleep_until.take().is_some() {
            effects.push(Effect::WakeDrain);
        }
    }

    /// Whether there is nothing in the way of a delivery but the rate limit, of which the drain knows.
    fn may_begin(&self) -> bool {
        let outage = &self.outage;
        self.stage != Stage::Stopped
            && !outage.paused
            && outage.probe.is_none()
            && self.flights.len() < self.limits.flights
    }

    fn take_from_line(&mut self, number: u64) -> Entry<P> {
        let entry = self.line.take(number);
        let entry = entry.expect("bug: what is taken from the line waits in it");
        if let Some(keys) = &mut self.keys {
            keys.leaves(entry.key, number);
        }
        entry
    }

    /// A message is resolved.
    fn gone(&mut self, number: u64, weight: usize, effects: &mut Vec<Effect<P, W>>) {
        if let Some(stored) = &mut self.stored {
            stored.remove(number);
            self.call_writer(effects);
        }
        self.no_longer_counts(weight, effects);
    }

    fn no_longer_counts(&mut self, weight: usize, effects: &mut Vec<Effect<P, W>>) {
        self.messages -= 1;
        self.bytes -= weight;
        self.wake_flushers(effects);
    }
}
