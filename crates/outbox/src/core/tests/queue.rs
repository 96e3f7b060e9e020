//! The plain queue: one vector, looked through from the front each time.

use super::Op;
use crate::{
    core::{Answered, End, Limits, Nanos, Refusal},
    settings::Policy,
    status::Totals,
};

/// What somebody hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Accepted(u32),
    Waits(u32, u64),
    Refused(u32, Refusal),
    Cancelled(u32),
    TurnedAway(u32),
    Ended(u32, End),
    Begun(u32, u32),
    Paused,
    Stopped,
}

impl Heard {
    /// What happens in one command to different people has no order, but begins have.
    pub(super) fn order(&self) -> (u8, u32) {
        match self {
            Self::Accepted(payload) => (0, *payload),
            Self::Waits(payload, _) | Self::Refused(payload, _) => (1, *payload),
            Self::Cancelled(payload) | Self::TurnedAway(payload) => (2, *payload),
            Self::Ended(payload, _) => (3, *payload),
            // The sort is stable.
            Self::Begun(..) => (4, 0),
            Self::Paused => (5, 0),
            Self::Stopped => (6, 0),
        }
    }
}

#[derive(Debug, Clone)]
struct Message {
    payload: u32,
    weight: usize,
    key: u64,
    accepted: Nanos,
    expires: Nanos,
    attempts: u32,
    in_flight: bool,
    is_probe: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    payload: u32,
    weight: usize,
    key: u64,
    ttl: Nanos,
}

#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    now: Nanos,
    messages: Vec<Message>,
    waiters: Vec<Waiter>,
    next_waiter: u64,
    failures: u32,
    paused: bool,
    news_of_pause: bool,
    closed: bool,
    stopped: bool,
    totals: Totals,
    heard: Vec<Heard>,
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            now: 1000,
            messages: Vec::new(),
            waiters: Vec::new(),
            next_waiter: 0,
            failures: 0,
            paused: false,
            news_of_pause: false,
            closed: false,
            stopped: false,
            totals: Totals::default(),
            heard: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, op: Op, payload: u32) -> Vec<Heard> {
        match op {
            Op::Offer {
                weight,
                key,
                ttl,
                patient,
            } => {
                let waiter = Waiter {
                    number: self.next_waiter,
                    payload,
                    weight,
                    key,
                    ttl,
                };
                self.offer(waiter, patient);
            }
            Op::Cancel(at) => {
                if !self.waiters.is_empty() {
                    let waiter = self.waiters.remove(at % self.waiters.len());
                    self.heard.push(Heard::Cancelled(waiter.payload));
                    self.admit();
                }
            }
            Op::Turn => self.turn(),
            Op::Answer(at, how) => self.answer(at, how),
            Op::NoAnswer(at) => self.no_answer(at),
            Op::Abandon(at) => {
                if let Some(at) = self.flight(at) {
                    self.messages[at].in_flight = false;
                    self.messages[at].is_probe = false;
                }
            }
            Op::Resume => self.paused = false,
            Op::LoseDrain => {
                (self.paused, self.news_of_pause) = (false, false);
                for message in &mut self.messages {
                    (message.in_flight, message.is_probe) = (false, false);
                }
            }
            Op::Pass(time) => self.now += time,
            Op::Close => self.close(),
            Op::Stop => {
                self.close();
                self.stopped = true;
            }
        }
        std::mem::take(&mut self.heard)
    }

    fn offer(&mut self, waiter: Waiter, patient: bool) {
        let payload = waiter.payload;
        let refusal = if self.closed {
            Refusal::Closed
        } else if waiter.weight > self.limits.bytes {
            Refusal::TooLarge
        } else if self.waiters.is_empty() && self.fits(waiter.weight) {
            return self.accept(&waiter);
        } else {
            match self.limits.policy {
                Policy::Wait if patient => {
                    self.heard.push(Heard::Waits(payload, waiter.number));
                    self.next_waiter += 1;
                    return self.waiters.push(waiter);
                }
                Policy::Wait | Policy::Reject => Refusal::Full,
                Policy::DropNewest => Refusal::Dropped,
                Policy::DropOldest => {
                    let mut trial = self.messages.clone();
                    trial.retain(|message| message.in_flight);
                    let bytes: usize = trial.iter().map(|message| message.weight).sum();
                    if trial.len() < self.limits.messages
                        && bytes + waiter.weight <= self.limits.bytes
                    {
                        while !self.fits(waiter.weight) {
                            let oldest = self.messages.iter().position(|one| !one.in_flight);
                            let oldest = self.messages.remove(oldest.unwrap());
                            self.totals.dropped_oldest += 1;
                            let heard = Heard::Ended(oldest.payload, End::DroppedOldest);
                            self.heard.push(heard);
                        }
                        return self.accept(&waiter);
                    }
                    Refusal::Full
                }
            }
        };
        match refusal {
            Refusal::Full => self.totals.refused += 1,
            Refusal::Dropped => self.totals.dropped_newest += 1,
            _ => {}
        }
        self.heard.push(Heard::Refused(payload, refusal));
    }

    fn fits(&self, weight: usize) -> bool {
        self.messages() < self.limits.messages && self.bytes() + weight <= self.limits.bytes
    }

    fn accept(&mut self, waiter: &Waiter) {
        self.totals.accepted += 1;
        self.heard.push(Heard::Accepted(waiter.payload));
        self.messages.push(Message {
            payload: waiter.payload,
            weight: waiter.weight,
            key: waiter.key,
            accepted: self.now,
            expires: self.now.saturating_add(waiter.ttl),
            attempts: 0,
            in_flight: false,
            is_probe: false,
        });
    }

    fn admit(&mut self) {
        while !self.waiters.is_empty() && self.fits(self.waiters[0].weight) {
            let waiter = self.waiters.remove(0);
            self.accept(&waiter);
        }
    }

    fn turn(&mut self) {
        if self.stopped {
            return self.heard.push(Heard::Stopped);
        }
        while let Some(at) = self
            .messages
            .iter()
            .position(|one| !one.in_flight && one.expires <= self.now)
        {
            let message = self.messages.remove(at);
            self.totals.expired += 1;
            let attempts = message.attempts;
            self.heard
                .push(Heard::Ended(message.payload, End::Expired { attempts }));
        }
        self.admit();
        if self.closed && self.messages.is_empty() {
            self.stopped = true;
            return self.heard.push(Heard::Stopped);
        }
        while let Some(at) = self.next() {
            let message = &mut self.messages[at];
            message.in_flight = true;
            message.is_probe = self.failures > 0;
            message.attempts += 1;
            self.heard
                .push(Heard::Begun(message.payload, message.attempts));
        }
        if std::mem::take(&mut self.news_of_pause) {
            self.heard.push(Heard::Paused);
        }
    }

    /// Which message may begin.
    fn next(&self) -> Option<usize> {
        let flying: Vec<&Message> = self.messages.iter().filter(|one| one.in_flight).collect();
        if self.paused
            || self.stopped
            || flying.len() >= self.limits.flights
            || flying.iter().any(|one| one.is_probe)
        {
            return None;
        }
        self.messages.iter().position(|one| {
            let blocked = self.limits.keyed && flying.iter().any(|other| other.key == one.key);
            !one.in_flight && !blocked
        })
    }

    fn flight(&self, at: usize) -> Option<usize> {
        let flying: Vec<usize> = (0..self.messages.len())
            .filter(|at| self.messages[*at].in_flight)
            .collect();
        (!flying.is_empty()).then(|| flying[at % flying.len()])
    }

    fn answer(&mut self, at: usize, how: Answered) {
        let Some(at) = self.flight(at) else { return };
        self.messages.remove(at);
        match how {
            Answered::Delivered => self.totals.delivered += 1,
            Answered::Rejected => self.totals.rejected += 1,
        }
        if !self.paused {
            self.failures = 0;
            for message in &mut self.messages {
                message.is_probe = false;
            }
        }
        self.admit();
    }

    fn no_answer(&mut self, at: usize) {
        let Some(at) = self.flight(at) else { return };
        self.totals.unknown += 1;
        if !self.paused {
            if self.failures == 0 {
                self.totals.outages += 1;
            }
            self.failures += 1;
            self.paused = true;
            self.news_of_pause = true;
        }
        let message = &mut self.messages[at];
        message.in_flight = false;
        message.is_probe = false;
        let attempts = message.attempts;
        let end = if attempts >= self.limits.attempts {
            self.totals.gave_up += 1;
            End::GaveUp { attempts }
        } else if message.expires <= self.now {
            self.totals.expired += 1;
            End::Expired { attempts }
        } else {
            return;
        };
        let message = self.messages.remove(at);
        self.heard.push(Heard::Ended(message.payload, end));
        self.admit();
    }

    fn close(&mut self) {
        self.closed = true;
        for waiter in self.waiters.drain(..) {
            self.heard.push(Heard::TurnedAway(waiter.payload));
        }
    }

    /// Whether a turn would do something.
    pub(super) fn has_work(&self) -> bool {
        let expired = |one: &Message| !one.in_flight && one.expires <= self.now;
        let ends = self.closed && self.messages.is_empty();
        !self.stopped && (self.next().is_some() || self.messages.iter().any(expired) || ends)
    }

    pub(super) fn waiter_numbers(&self) -> Vec<u64> {
        self.waiters.iter().map(|waiter| waiter.number).collect()
    }

    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.weight).sum()
    }

    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.messages.iter().map(|message| message.accepted).min()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn left(&self) -> Vec<u32> {
        self.messages
            .iter()
            .map(|message| message.payload)
            .collect()
    }
}
