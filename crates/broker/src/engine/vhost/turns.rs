//! Whose turn it is among the consumers of a queue.

use std::collections::VecDeque;

use indexmap::IndexMap;

use super::{super::keys::ConsumerKey, Outlet};

/// The consumers of a queue. Those of the highest priority take turns as long as one of them
/// accepts; one that refuses is parked until it is resumed. With a single active consumer there is
/// no turn: the first to come is served until it goes, then the next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// In the order in which they came.
    members: IndexMap<ConsumerKey, Member>,
    /// Those not parked, by priority, highest first; unused with a single active consumer.
    rings: Vec<Ring>,
    single_active: bool,
    active: Option<ConsumerKey>,
    /// The one consumer that keeps all others out.
    exclusive: Option<ConsumerKey>,
}

#[derive(Debug)]
struct Member {
    no_ack: bool,
    priority: i64,
    parked: bool,
}

#[derive(Debug)]
struct Ring {
    priority: i64,
    turns: VecDeque<Turn>,
}

/// A consumer that has accepted a message, or may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) consumer: ConsumerKey,
    pub(super) no_ack: bool,
}

impl Turns {
    pub(super) fn new(single_active: bool) -> Self {
        Self {
            single_active,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn consumers(&self) -> impl Iterator<Item = ConsumerKey> {
        self.members.keys().copied()
    }

    /// Whether a consumer may join: not beside an exclusive one, and as an exclusive one only
    /// alone. A single active consumer and exclusive use exclude each other.
    pub(super) fn admits(&self, exclusive: bool) -> bool {
        self.exclusive.is_none() && !(exclusive && (self.single_active || !self.is_empty()))
    }

    /// A consumer joins, parked.
    pub(super) fn join(&mut self, turn: Turn, priority: i64, exclusive: bool) {
        let key = turn.consumer;
        if exclusive {
            self.exclusive = Some(key);
        }
        if self.single_active && self.active.is_none() {
            self.active = Some(key);
        }
        let member = Member {
            no_ack: turn.no_ack,
            priority,
            parked: true,
        };
        self.members.insert(key, member);
    }

    /// A consumer goes.
    pub(super) fn leave(&mut self, key: ConsumerKey) {
        let Some(member) = self.members.shift_remove(&key) else {
            return;
        };
        if self.exclusive == Some(key) {
            self.exclusive = None;
        }
        if let Ok(at) = self.ring(member.priority) {
            let ring = &mut self.rings[at].turns;
            ring.retain(|turn| turn.consumer != key);
            if ring.is_empty() {
                self.rings.remove(at);
            }
        }
        if self.active == Some(key) {
            self.active = self.first_in_line();
        }
    }

    /// The consumer may accept again. Whether that gives it a turn it did not have.
    pub(super) fn resume(&mut self, key: ConsumerKey) -> bool {
        let Some(member) = self.members.get_mut(&key) else {
            return false;
        };
        if !std::mem::take(&mut member.parked) {
            return false;
        }
        if self.single_active {
            return self.active == Some(key);
        }
        let turn = Turn {
            consumer: key,
            no_ack: member.no_ack,
        };
        let priority = member.priority;
        let at = self.ring(priority).unwrap_or_else(|at| {
            let turns = VecDeque::new();
            self.rings.insert(at, Ring { priority, turns });
            at
        });
        self.rings[at].turns.push_back(turn);
        true
    }

    /// The consumer that takes the next message: it has accepted.
    pub(super) fn next(&mut self, outlet: &mut dyn Outlet) -> Option<Turn> {
        if self.single_active {
            return self.next_single(outlet);
        }
        let (members, rings) = (&mut self.members, &mut self.rings);
        for ring in rings {
            while let Some(turn) = ring.turns.pop_front() {
                if outlet.accepts(turn.consumer) {
                    ring.turns.push_back(turn);
                    return Some(turn);
                }
                members[&turn.consumer].parked = true;
            }
        }
        None
    }

    fn next_single(&mut self, outlet: &mut dyn Outlet) -> Option<Turn> {
        let consumer = self.active?;
        let member = &mut self.members[&consumer];
        if member.parked {
            return None;
        }
        if !outlet.accepts(consumer) {
            member.parked = true;
            return None;
        }
        Some(Turn {
            consumer,
            no_ack: member.no_ack,
        })
    }

    /// The eldest of the highest priority.
    fn first_in_line(&self) -> Option<ConsumerKey> {
        let highest = self.members.values().map(|m| m.priority).max()?;
        let mut members = self.members.iter();
        members
            .find(|(_, member)| member.priority == highest)
            .map(|(key, _)| *key)
    }

    fn ring(&self, priority: i64) -> Result<usize, usize> {
        self.rings
            .binary_search_by(|ring| priority.cmp(&ring.priority))
    }
}
