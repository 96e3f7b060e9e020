//! Whether batches are late, and what a push does about it.

use std::sync::atomic::{AtomicU32, Ordering};

/// How often a push gives way for the same late batch. The runtime may poll it again before any of
/// the workers, but not twice.
const OFFERS: u8 = 2;

/// 0 while batches are started in time; otherwise a number that changes with every few that are late.
/// It guards nothing, and is read and written without any order: a number that is lost between threads
/// costs somebody a turn.
#[derive(Debug, Default)]
pub(crate) struct Lateness(AtomicU32);

/// How far a push has gone in giving way: the number for which it did, and how often.
#[derive(Debug, Default)]
pub(crate) struct Courtesy {
    number: u32,
    offers: u8,
}

impl Lateness {
    /// A batch was started.
    pub(crate) fn tell(&self, number: u32) {
        // To write takes the line away from all who push.
        if self.0.load(Ordering::Relaxed) != number {
            self.0.store(number, Ordering::Relaxed);
        }
    }
}

impl Courtesy {
    /// Whether to give way to the workers, before anything else: while batches are late, each push
    /// does it until another batch is started. If none is, then nobody had any use for the turn, for
    /// the handlers wait for something else; until one is, nobody need give way.
    pub(crate) fn gives_way(&mut self, lateness: &Lateness) -> bool {
        let number = lateness.0.load(Ordering::Relaxed);
        if number == 0 || (self.offers > 0 && number != self.number) {
            return false;
        }
        if self.offers == OFFERS {
            let (order, other) = (Ordering::Relaxed, Ordering::Relaxed);
            // An error is a batch that was started meanwhile.
            let _ = lateness.0.compare_exchange(number, 0, order, other);
            return false;
        }
        self.number = number;
        self.offers += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late() -> Lateness {
        let lateness = Lateness::default();
        lateness.tell(7);
        lateness
    }

    #[test]
    fn a_push_gives_way_once_for_each_time_that_batches_are_late() {
        let lateness = late();
        let mut push = Courtesy::default();
        assert!(push.gives_way(&lateness));
        lateness.tell(8);
        assert!(!push.gives_way(&lateness), "the turn was taken");
        assert!(Courtesy::default().gives_way(&lateness), "the next push");
        lateness.tell(0);
        assert!(!Courtesy::default().gives_way(&lateness), "none is late");
    }

    #[test]
    fn nobody_gives_way_any_more_where_that_is_of_no_use() {
        let lateness = late();
        let (mut push, mut other) = (Courtesy::default(), Courtesy::default());
        assert!(push.gives_way(&lateness) && push.gives_way(&lateness));
        assert!(other.gives_way(&lateness));
        assert!(!push.gives_way(&lateness), "nobody came");
        assert!(!other.gives_way(&lateness));
        assert!(!Courtesy::default().gives_way(&lateness));
        lateness.tell(7);
        assert!(Courtesy::default().gives_way(&lateness), "somebody works");
    }
}
