//! The lanes whose open batch is not due, in the order in which these batches began. As all linger
//! for the same time, that is the order in which they become due: a list does for a heap.

use super::{
    lane::Lane,
    pages::{NIL, Pages},
};

/// The links are in the lanes.
#[derive(Debug)]
pub(super) struct Linger {
    first: u32,
    last: u32,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self {
            first: NIL,
            last: NIL,
        }
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    pub(super) fn push_back<K, T>(&mut self, lanes: &mut Pages<Lane<K, T>>, number: u32) {
        let last = self.last;
        let lane = lanes.get_mut(number);
        lane.before = last;
        lane.behind = NIL;
        if last == NIL {
            self.first = number;
        } else {
            lanes.get_mut(last).behind = number;
        }
        self.last = number;
    }

    pub(super) fn remove<K, T>(&mut self, lanes: &mut Pages<Lane<K, T>>, number: u32) {
        let lane = lanes.get_mut(number);
        let (before, behind) = (lane.before, lane.behind);
        if before == NIL {
            self.first = behind;
        } else {
            lanes.get_mut(before).behind = behind;
        }
        if behind == NIL {
            self.last = before;
        } else {
            lanes.get_mut(behind).before = before;
        }
    }
}
