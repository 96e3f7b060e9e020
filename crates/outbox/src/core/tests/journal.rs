//! Random histories with a journal that fails at times: nothing that was accepted is lost, nothing
//! else is delivered, and the order is that of acceptance.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use crate::{
    core::{
        Answer, Answered, Backoff, Core, Effect, End, Entry, Letter, Limits, Loaded, NEVER, Stage,
    },
    settings::Policy,
};

#[derive(Debug, Clone, Copy)]
enum Op {
    Offer(usize),
    Turn,
    Answer,
    NoAnswer,
    Resume,
    /// The writer takes up to so many, and commits them.
    Commit(usize),
    /// The same, but the commit fails, and may have happened all the same.
    FailCommit(usize, bool),
    Remove,
    Read(usize),
    FailRead,
    /// The process dies, and another begins.
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (1..6usize).prop_map(Op::Offer),
        20 => Just(Op::Turn),
        20 => Just(Op::Answer),
        5 => Just(Op::NoAnswer),
        5 => Just(Op::Resume),
        20 => (1..5usize).prop_map(Op::Commit),
        4 => (1..5usize, any::<bool>()).prop_map(|(most, kept)| Op::FailCommit(most, kept)),
        10 => Just(Op::Remove),
        10 => (1..4usize).prop_map(Op::Read),
        2 => Just(Op::FailRead),
        1 => Just(Op::Crash),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let policy = prop_oneof![
        Just(Policy::Wait),
        Just(Policy::Reject),
        Just(Policy::DropOldest),
    ];
    (2..12usize, 8..40usize, policy, 1..5usize).prop_map(|(messages, bytes, policy, window)| {
        Limits {
            messages,
            bytes,
            policy,
            flights: 1,
            keyed: false,
            backoff: Backoff::default(),
            rate: None,
            attempts: u32::MAX,
            window: Some(window),
        }
    })
}

/// The outbox, its journal and all who have to do with it.
struct World {
    limits: Limits,
    core: Core<u32, u32>,
    /// Number, payload and weight.
    disk: BTreeMap<u64, (u32, usize)>,
    aloft: Option<Entry<u32>>,
    /// Of this process: removals of which the journal does not know yet.
    removals: Vec<u64>,
    accepted: Vec<u32>,
    dropped: Vec<u32>,
    delivered: Vec<u32>,
    /// What was said to be lost, and may be found after a crash.
    doubtful: Vec<u32>,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            core: Core::new(limits.clone(), 1),
            limits,
            disk: BTreeMap::new(),
            aloft: None,
            removals: Vec::new(),
            accepted: Vec::new(),
            dropped: Vec::new(),
            delivered: Vec::new(),
            doubtful: Vec::new(),
        }
    }

    fn apply(&mut self, op: Op, payload: u32) {
        let mut effects = Vec::new();
        match op {
            Op::Offer(weight) => {
                let letter = Letter {
                    weight,
                    key: 0,
                    ttl: NEVER,
                    payload,
                };
                let answer = self.core.offer(0, letter, true, || payload, &mut effects);
                let refused = matches!(answer, Answer::Refused(..));
                assert!(!refused || self.limits.policy != Policy::Wait);
            }
            Op::Turn if self.aloft.is_none() => {
                let mut begun = Vec::new();
                self.core.turn(0, &mut begun, &mut effects);
                self.aloft = begun.pop();
            }
            Op::Answer => {
                if let Some(entry) = self.aloft.take() {
                    self.delivered.push(entry.payload);
                    let how = Answered::Delivered;
                    self.core.answered(0, entry.number, how, &mut effects);
                }
            }
            Op::NoAnswer => {
                if let Some(entry) = self.aloft.take() {
                    self.core.unanswered(0, entry, &mut effects);
                }
            }
            Op::Resume => self.core.resume(),
            Op::Commit(most) => self.commit(most, &mut effects),
            Op::FailCommit(most, kept) => self.fail_commit(most, kept, &mut effects),
            Op::Remove => {
                self.core.take_removals(&mut self.removals);
                for number in self.removals.drain(..) {
                    self.disk.remove(&number);
                }
            }
            Op::Read(most) => self.read(most, &mut effects),
            Op::FailRead => {
                if self.core.begin_page().is_some() {
                    self.core.page_failed(None);
                }
            }
            Op::Crash => self.crash(),
            Op::Turn => {}
        }
        for effect in effects {
            match effect {
                Effect::Accepted(payload) => self.accepted.push(payload),
                Effect::Ended(payload, End::DroppedOldest) => self.dropped.push(payload),
                Effect::Ended(..) | Effect::TurnedAway(..) => unreachable!("bug: nothing ends"),
                _ => {}
            }
        }
    }

    fn commit(&mut self, most: usize, effects: &mut Vec<Effect<u32, u32>>) {
        let mut written = Vec::new();
        self.core.take_writes(most, &mut written);
        for (entry, _) in &written {
            let record = (entry.payload, entry.weight);
            assert!(
                self.disk.insert(entry.number, record).is_none(),
                "used twice"
            );
        }
        let accepted = &mut self.accepted;
        self.core.committed(&mut written, accepted, effects);
    }

    fn fail_commit(&mut self, most: usize, kept: bool, effects: &mut Vec<Effect<u32, u32>>) {
        let mut written = Vec::new();
        self.core.take_writes(most, &mut written);
        for (entry, _) in &written {
            if kept {
                self.disk
                    .insert(entry.number, (entry.payload, entry.weight));
            }
            self.doubtful.push(entry.payload);
        }
        self.core.not_committed(0, &written, true, effects);
    }

    fn read(&mut self, most: usize, effects: &mut Vec<Effect<u32, u32>>) {
        let Some(page) = self.core.begin_page() else {
            return;
        };
        self.core.take_removals(&mut self.removals);
        let there = self.disk.range(page.from..);
        let mut there = there.filter(|(number, _)| !self.removals.contains(number));
        let most = most.min(page.most);
        let entry = |(number, (payload, weight)): (&u64, &(u32, usize))| {
            Loaded::Message(Entry {
                number: *number,
                weight: *weight,
                key: 0,
                accepted: 0,
                expires: NEVER,
                attempts: 0,
                payload: *payload,
            })
        };
        let loaded: Vec<_> = there.by_ref().take(most).map(entry).collect();
        let last = there.next().is_none();
        self.core.loaded(0, loaded, last, effects);
    }

    fn crash(&mut self) {
        self.aloft = None;
        self.removals.clear();
        let next = self.disk.keys().last().map_or(1, |last| last + 1);
        self.core = Core::new(self.limits.clone(), 1);
        let bytes = self.disk.values().map(|(_, weight)| weight).sum();
        self.core.found(self.disk.len(), bytes, next);
    }

    /// Goes on until there is nothing left to do.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            for op in [
                Op::Remove,
                Op::Commit(9),
                Op::Read(9),
                Op::Resume,
                Op::Turn,
                Op::Answer,
            ] {
                self.apply(op, 0);
            }
            if self.core.is_empty() && self.core.waiting() == 0 && self.aloft.is_none() {
                return self.apply(Op::Remove, 0);
            }
        }
        panic!("it does not come to an end");
    }
}

proptest! {
    #[test]
    fn with_a_journal_nothing_is_lost(limits in limits(), ops in vec(op(), 1..300)) {
        let mut world = World::new(limits.clone());
        let mut crashed = false;
        for (step, op) in ops.into_iter().enumerate() {
            world.apply(op, u32::try_from(step).unwrap());
            crashed |= matches!(op, Op::Crash);
            let core = &world.core;
            // What is found after a crash may be more than there is room for.
            if !crashed {
                prop_assert!(core.messages() <= limits.messages && core.bytes() <= limits.bytes);
            }
            let in_memory = core.line.len() + core.in_flight();
            prop_assert!(in_memory <= limits.window.unwrap(), "{in_memory} in memory");
            prop_assert_eq!(core.stage(), Stage::Open);
        }
        world.finish();
        prop_assert!(world.disk.is_empty(), "{:?} stay in the journal", world.disk);
        prop_assert_eq!((world.core.messages(), world.core.bytes()), (0, 0));

        let mut once = world.delivered.clone();
        // What was dropped, or said not to be stored, may be found after a crash, and be late then.
        let is_late = |payload: &u32| {
            world.dropped.contains(payload) || world.doubtful.contains(payload)
        };
        let found: Vec<u32> = once.iter().copied().filter(is_late).collect();
        once.retain(|payload| !is_late(payload));
        if crashed {
            // Again, in the same order, from somewhere on.
            let mut seen = std::collections::BTreeSet::new();
            once.retain(|payload| seen.insert(*payload));
        }
        prop_assert!(once.is_sorted(), "out of order: {:?}", world.delivered);
        for payload in &world.accepted {
            let known = once.binary_search(payload).is_ok() || world.dropped.contains(payload);
            prop_assert!(known, "{payload} is lost");
        }
        for payload in &once {
            prop_assert!(world.accepted.contains(payload), "{payload} was not accepted");
        }
        for payload in &found {
            prop_assert!(crashed || !world.doubtful.contains(payload), "{payload} was given back");
        }
    }
}
