//! Random histories of the core beside a plain queue that does the same in the simplest way.

mod journal;
mod queue;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use queue::{Heard, Queue};

/// What may happen to an outbox. Numbers choose among what there is.
#[derive(Debug, Clone, Copy)]
enum Op {
    Offer {
        weight: usize,
        key: u64,
        ttl: Nanos,
        patient: bool,
    },
    Cancel(usize),
    Turn,
    Answer(usize, Answered),
    NoAnswer(usize),
    Abandon(usize),
    Resume,
    /// The runtime drops the drain, and another begins.
    LoseDrain,
    Pass(Nanos),
    Close,
    Stop,
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![3 => Just(NEVER), 1 => 1..40u64];
    let offer = (1..7usize, 0..3u64, ttl, any::<bool>());
    let offer = offer.prop_map(|(weight, key, ttl, patient)| Op::Offer {
        weight,
        key,
        ttl,
        patient,
    });
    let answered = prop_oneof![4 => Just(Answered::Delivered), 1 => Just(Answered::Rejected)];
    prop_oneof![
        40 => offer,
        6 => any::<usize>().prop_map(Op::Cancel),
        40 => Just(Op::Turn),
        30 => (any::<usize>(), answered).prop_map(|(at, how)| Op::Answer(at, how)),
        8 => any::<usize>().prop_map(Op::NoAnswer),
        4 => any::<usize>().prop_map(Op::Abandon),
        12 => Just(Op::Resume),
        3 => Just(Op::LoseDrain),
        20 => (1..30u64).prop_map(Op::Pass),
        1 => Just(Op::Close),
        1 => Just(Op::Stop),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let policy = prop_oneof![
        Just(Policy::Wait),
        Just(Policy::Reject),
        Just(Policy::DropOldest),
        Just(Policy::DropNewest),
    ];
    let attempts = prop_oneof![2 => Just(u32::MAX), 1 => 1..4u32];
    (
        1..6usize,
        4..12usize,
        policy,
        1..4usize,
        any::<bool>(),
        attempts,
    )
        .prop_map(
            |(messages, bytes, policy, flights, keyed, attempts)| Limits {
                messages,
                bytes,
                policy,
                flights,
                keyed,
                backoff: Backoff::default(),
                rate: None,
                attempts,
                window: None,
            },
        )
}

/// Drives the core. Payloads and tokens are numbers that the test gives out.
struct Driver {
    core: Core<u32, u32>,
    now: Nanos,
    aloft: BTreeMap<u64, Entry<u32>>,
    /// The drain was called, or is at work.
    is_awake: bool,
    turn_at: Nanos,
}

impl Driver {
    fn new(limits: &Limits) -> Self {
        Self {
            core: Core::new(limits.clone(), 1),
            now: 1000,
            aloft: BTreeMap::new(),
            is_awake: true,
            turn_at: 0,
        }
    }

    /// The number of the flight that is meant, if there is one.
    fn flight(&self, at: usize) -> Option<u64> {
        let count = self.aloft.len();
        (count > 0).then(|| *self.aloft.keys().nth(at % count).unwrap())
    }

    /// What users and the drain hear of an operation.
    fn apply(&mut self, op: Op, payload: u32, waiters: &[u64]) -> Vec<Heard> {
        let mut effects = Vec::new();
        let mut heard = Vec::new();
        let now = self.now;
        let core = &mut self.core;
        match op {
            Op::Offer {
                weight,
                key,
                ttl,
                patient,
            } => {
                let letter = Letter {
                    weight,
                    key,
                    ttl,
                    payload,
                };
                match core.offer(now, letter, patient, || payload, &mut effects) {
                    Answer::Accepted => heard.push(Heard::Accepted(payload)),
                    Answer::Waits(number) => heard.push(Heard::Waits(payload, number)),
                    Answer::Refused(refused, why) => heard.push(Heard::Refused(refused, why)),
                }
            }
            Op::Cancel(at) => {
                if let Some(waiter) = waiters.get(at % waiters.len().max(1)) {
                    let cancelled = core.cancel(now, *waiter, &mut effects);
                    heard.extend(cancelled.map(|(payload, _)| Heard::Cancelled(payload)));
                }
            }
            Op::Turn => {
                let mut begun = Vec::new();
                let next = core.turn(now, &mut begun, &mut effects);
                self.is_awake = false;
                self.turn_at = next.at;
                for entry in begun {
                    heard.push(Heard::Begun(entry.payload, entry.attempts));
                    self.aloft.insert(entry.number, entry);
                }
                heard.extend(next.pause.map(|_| Heard::Paused));
                heard.extend(next.stopped.then_some(Heard::Stopped));
            }
            Op::Answer(at, how) => {
                if let Some(number) = self.flight(at) {
                    self.is_awake = true;
                    self.aloft.remove(&number);
                    self.core.answered(now, number, how, &mut effects);
                }
            }
            Op::NoAnswer(at) => {
                if let Some(number) = self.flight(at) {
                    self.is_awake = true;
                    let entry = self.aloft.remove(&number).unwrap();
                    self.core.unanswered(now, entry, &mut effects);
                }
            }
            Op::Abandon(at) => {
                if let Some(number) = self.flight(at) {
                    self.is_awake = true;
                    let entry = self.aloft.remove(&number).unwrap();
                    self.core.abandoned(entry, &mut effects);
                }
            }
            Op::Resume => {
                self.is_awake = true;
                core.resume();
            }
            Op::LoseDrain => {
                self.is_awake = true;
                for (_, entry) in std::mem::take(&mut self.aloft) {
                    core.abandoned(entry, &mut effects);
                }
                core.drain_begins();
            }
            Op::Pass(time) => self.now += time,
            Op::Close => core.close(&mut effects),
            Op::Stop => core.stop(&mut effects),
        }
        for effect in effects {
            match effect {
                Effect::Accepted(token) => heard.push(Heard::Accepted(token)),
                Effect::TurnedAway(_, payload) => heard.push(Heard::TurnedAway(payload)),
                Effect::Ended(payload, end) => heard.push(Heard::Ended(payload, end)),
                Effect::WakeDrain => self.is_awake = true,
                Effect::WakeWriter | Effect::WakeFlushers => {}
                Effect::PutAway(..) | Effect::TailLost(_) => {
                    unreachable!("bug: there is no journal")
                }
            }
        }
        heard.sort_by_key(Heard::order);
        heard
    }
}

proptest! {
    #[test]
    fn the_core_does_what_a_plain_queue_does(limits in limits(), ops in vec(op(), 1..300)) {
        let mut driver = Driver::new(&limits);
        let mut queue = Queue::new(&limits);
        for (step, op) in ops.into_iter().enumerate() {
            let payload = u32::try_from(step).unwrap();
            let waiters = queue.waiter_numbers();
            let expected = {
                let mut heard = queue.apply(op, payload);
                heard.sort_by_key(Heard::order);
                heard
            };
            let heard = driver.apply(op, payload, &waiters);
            prop_assert_eq!(&heard, &expected, "step {}: {:?}", step, op);
            prop_assert_eq!(driver.core.messages(), queue.messages(), "messages after {:?}", op);
            prop_assert_eq!(driver.core.bytes(), queue.bytes(), "bytes after {:?}", op);
            prop_assert!(driver.core.messages() <= limits.messages);
            prop_assert!(driver.core.bytes() <= limits.bytes);
            prop_assert_eq!(driver.core.waiting(), queue.waiter_numbers().len());
            prop_assert_eq!(driver.core.oldest(), queue.oldest());
            prop_assert_eq!(driver.core.totals(), queue.totals());
            let busy = driver.is_awake || driver.turn_at <= driver.now;
            prop_assert!(busy || !queue.has_work(), "the drain sleeps through {:?}", op);
            if let Some(keys) = &driver.core.keys {
                prop_assert!(keys.len() <= driver.core.messages(), "keys without messages stay");
            }
        }
        let flushed = queue.oldest().is_none();
        prop_assert_eq!(driver.core.is_flushed(u64::MAX), flushed);
        driver.apply(Op::Stop, 0, &[]);
        for (_, entry) in std::mem::take(&mut driver.aloft) {
            driver.core.abandoned(entry, &mut Vec::new());
        }
        let left = driver.core.take_left(|_| true);
        let left: Vec<u32> = left.into_iter().map(|entry| entry.payload).collect();
        prop_assert_eq!(left, queue.left());
        prop_assert!(driver.core.is_empty() && driver.core.bytes() == 0);
    }
}

/// Messages that are gone must not be remembered for as long as they might have waited.
#[test]
fn what_leaves_early_leaves_nothing_behind() {
    let limits = Limits {
        messages: 10,
        bytes: 10,
        policy: Policy::Reject,
        flights: 2,
        keyed: true,
        backoff: Backoff::default(),
        rate: None,
        attempts: u32::MAX,
        window: None,
    };
    let mut core: Core<u32, u32> = Core::new(limits, 1);
    let mut begun = Vec::new();
    let mut effects = Vec::new();
    // One is stuck, and one waits behind it; ten thousand others go by.
    for payload in 0..10_000 {
        let letter = Letter {
            weight: 1,
            key: if payload < 2 { 0 } else { u64::from(payload) },
            ttl: 1_000_000,
            payload,
        };
        core.offer(5, letter, true, || 0, &mut effects);
        if payload == 1 {
            continue;
        }
        core.turn(5, &mut begun, &mut effects);
        let entry = begun.pop().expect("it has a key of its own");
        assert_eq!(entry.payload, payload);
        if payload > 1 {
            core.answered(5, entry.number, Answered::Delivered, &mut effects);
        }
    }
    assert_eq!(core.messages(), 2);
    assert_eq!(core.keys.as_ref().unwrap().len(), 1);
    assert!(core.line.places() < 200, "{} places", core.line.places());
    assert!(core.expiry.len() < 200, "{} moments", core.expiry.len());
}

#[test]
fn who_flushes_is_woken_once_and_not_for_every_message() {
    let limits = Limits {
        messages: 10,
        bytes: 10,
        policy: Policy::Reject,
        flights: 1,
        keyed: false,
        backoff: Backoff::default(),
        rate: None,
        attempts: u32::MAX,
        window: None,
    };
    let mut core: Core<u32, u32> = Core::new(limits, 1);
    let mut effects = Vec::new();
    let mut flushes = Vec::new();
    for payload in 0..6 {
        let letter = Letter {
            weight: 1,
            key: 0,
            ttl: NEVER,
            payload,
        };
        core.offer(5, letter, true, || 0, &mut effects);
        if payload == 2 || payload == 4 {
            // Two wait for the same, and one of them leaves.
            flushes.extend([core.flush(), core.flush()]);
            core.flush_ended(flushes[flushes.len() - 1]);
        }
    }
    let mut woken = Vec::new();
    for payload in 0..6 {
        let mut begun = Vec::new();
        core.turn(5, &mut begun, &mut effects);
        effects.clear();
        let number = begun[0].number;
        core.answered(5, number, Answered::Delivered, &mut effects);
        let wakes = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::WakeFlushers));
        if wakes.count() > 0 {
            woken.push(payload);
        }
        let done = flushes
            .iter()
            .filter(|until| core.is_flushed(**until))
            .count();
        assert_eq!(done, [0, 0, 2, 2, 4, 4][payload]);
    }
    assert_eq!(woken, [2, 4]);
}
