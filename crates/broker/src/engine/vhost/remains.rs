//! What was in queues that are purged or gone. Dropping it takes as long as there is of it.

use slab::Slab;

use super::{
    SLICE, VHost,
    ready::{Place, Ready},
};

/// The messages of one queue, which nobody will see any more.
#[derive(Debug)]
pub(super) struct Remains {
    ready: Ready,
    lent: slab::IntoIter<Place>,
}

impl VHost {
    /// Takes over what was in a queue, and drops it if that is quickly done. What is not dropped is
    /// held, and counts as such.
    pub(super) fn abandon(&mut self, ready: Ready, lent: Slab<Place>) {
        if ready.is_empty() && lent.is_empty() {
            return;
        }
        let is_first = self.remains.is_empty();
        let lent = lent.into_iter();
        self.remains.push_back(Remains { ready, lent });
        if is_first {
            self.clear_away();
        }
    }

    /// Drops some of what remains.
    pub(super) fn clear_away(&mut self) {
        let end = self.work + SLICE;
        while self.work < end {
            let Some(remains) = self.remains.front_mut() else {
                return;
            };
            self.work += 1;
            match remains.pop() {
                Some(place) => drop(self.store.leave(place.message)),
                None => drop(self.remains.pop_front()),
            }
        }
    }
}

impl Remains {
    fn pop(&mut self) -> Option<Place> {
        let lent = || self.lent.next().map(|(_, place)| place);
        self.ready.pop().or_else(lent)
    }
}
