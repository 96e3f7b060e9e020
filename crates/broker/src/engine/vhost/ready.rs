//! The messages of a queue that wait to be delivered, in order.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::store::MessageKey;

/// Room for places that a queue keeps after it ran empty.
const KEPT_CAPACITY: usize = 64;

/// A message's place in a queue.
#[derive(Debug)]
pub(super) struct Place {
    /// Counts up in the order of arrival.
    pub(super) order: u64,
    pub(super) message: MessageKey,
    pub(super) body_len: usize,
    pub(super) priority: u8,
    pub(super) expires: Option<Instant>,
    pub(super) redelivered: bool,
}

/// Places by priority, highest first, and within a priority in order of arrival, those that came
/// back included.
#[derive(Debug, Default)]
pub(super) struct Ready {
    levels: Vec<Level>,
    /// No level above this one has a place.
    top: usize,
    len: usize,
    body_bytes: usize,
}

/// Places of one priority. Whatever came back was once delivered, hence arrived before all that
/// was never delivered: two parts, each in order, make one order.
#[derive(Debug, Default)]
struct Level {
    returned: BTreeMap<u64, Place>,
    fresh: VecDeque<Place>,
}

impl Ready {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the bodies of all messages here.
    pub(super) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// A new message, behind all others of its priority.
    pub(super) fn push(&mut self, place: Place) {
        self.level_for(&place).fresh.push_back(place);
    }

    /// A message comes back to where it was.
    pub(super) fn put_back(&mut self, place: Place) {
        self.level_for(&place).returned.insert(place.order, place);
    }

    /// The next message to be delivered.
    pub(super) fn peek(&self) -> Option<&Place> {
        let levels = self.levels.get(..=self.top)?;
        levels.iter().rev().find_map(Level::peek)
    }

    pub(super) fn pop(&mut self) -> Option<Place> {
        if self.len == 0 {
            return None;
        }
        loop {
            if let Some(place) = self.levels[self.top].pop() {
                self.len -= 1;
                self.body_bytes -= place.body_len;
                return Some(place);
            }
            self.top -= 1;
        }
    }

    fn level_for(&mut self, place: &Place) -> &mut Level {
        let priority = usize::from(place.priority);
        if self.levels.len() <= priority {
            self.levels.resize_with(priority + 1, Level::default);
        }
        self.top = self.top.max(priority);
        self.len += 1;
        self.body_bytes += place.body_len;
        &mut self.levels[priority]
    }
}

impl Level {
    fn peek(&self) -> Option<&Place> {
        match self.returned.first_key_value() {
            Some((_, place)) => Some(place),
            None => self.fresh.front(),
        }
    }

    fn pop(&mut self) -> Option<Place> {
        if let Some((_, place)) = self.returned.pop_first() {
            return Some(place);
        }
        let place = self.fresh.pop_front();
        if self.fresh.is_empty() && self.fresh.capacity() > KEPT_CAPACITY * 16 {
            self.fresh.shrink_to(KEPT_CAPACITY);
        }
        place
    }
}
