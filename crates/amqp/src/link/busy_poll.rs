//! Looking again and again before going to sleep.
//!
//! To put a thread to sleep and to wake it costs microseconds, on a virtual machine tens of them, and
//! where a thread waits for an answer that comes sooner than that, looking is cheaper for everybody.
//! How long it looks adapts in the way of KVM's halt polling (Linux, `virt/kvm/halt-polling.rst`): longer
//! and longer while what it waits for comes soon, and not at all when that takes its time.

use std::{
    thread::yield_now,
    time::{Duration, Instant},
};

/// Where it begins.
const FIRST: Duration = Duration::from_micros(10);

/// Between two looks others may have the processor. One who keeps it for longer has use for it, and
/// who then looks waits behind him for as long as his turn takes; who sleeps is woken at once.
const TAKEN: Duration = Duration::from_micros(500);

/// So long others are left alone who had use for the processor. It may have been the host of a virtual
/// machine, which comes and goes. If they have it again sooner than they had been left alone, the next
/// pause is twice as long, up to this factor.
const PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSES: u32 = 20;

pub(super) struct BusyPoll {
    longest: Duration,
    /// How long it looks the next time.
    next: Duration,
    /// Until when it does not look, and for how long it will not have.
    paused: Option<(Instant, Duration)>,
}

impl BusyPoll {
    /// Looks for so long at most; with zero, never.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            next: Duration::ZERO,
            paused: None,
        }
    }

    /// Waits: looks for a while, then sleeps.
    pub(super) fn wait<T>(
        &mut self,
        look: impl FnMut() -> Option<T>,
        sleep: impl FnOnce() -> T,
    ) -> T {
        if self.longest.is_zero() {
            return sleep();
        }
        let began = Instant::now();
        let found = self.look(began, look).unwrap_or_else(sleep);
        let now = Instant::now();
        self.learn(now, now - began);
        found
    }

    fn look<T>(&mut self, began: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut last = began;
        while last - began < self.next {
            let found = look();
            if found.is_some() {
                return found;
            }
            yield_now();
            let now = Instant::now();
            if now - last > TAKEN {
                self.pause(last, now);
                return None;
            }
            last = now;
        }
        None
    }

    /// Somebody else has had the processor in between.
    fn pause(&mut self, last: Instant, now: Instant) {
        let pause = match self.paused {
            Some((until, pause)) if last < until + pause => (2 * pause).min(MOST_PAUSES * PAUSE),
            _ => PAUSE,
        };
        self.paused = Some((now + pause, pause));
    }

    /// It has waited for so long.
    fn learn(&mut self, now: Instant, waited: Duration) {
        let is_paused = self.paused.is_some_and(|(until, _)| now < until);
        self.next = if is_paused || waited > self.longest {
            Duration::ZERO
        } else {
            (self.next * 2).max(FIRST).min(self.longest)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(50);

    fn taught(waits: &[Duration]) -> BusyPoll {
        let mut busy_poll = BusyPoll::new(LONGEST);
        let now = Instant::now();
        waits.iter().for_each(|wait| busy_poll.learn(now, *wait));
        busy_poll
    }

    #[test]
    fn it_looks_for_longer_while_what_it_waits_for_comes_soon() {
        let soon = LONGEST;
        let expected = [10, 20, 40, 50, 50].map(Duration::from_micros);
        for (waits, expected) in (1..).zip(expected) {
            assert_eq!(taught(&vec![soon; waits]).next, expected);
        }
        let late = soon + Duration::from_nanos(1);
        assert_eq!(taught(&[soon, soon, late]).next, Duration::ZERO);
        assert_eq!(taught(&[soon, late, soon]).next, FIRST);
    }

    #[test]
    fn it_sleeps_when_it_has_looked_in_vain_and_not_when_it_has_found_something() {
        let mut busy_poll = taught(&[LONGEST]);
        let mut looks = 0;
        let look = || -> Option<&str> {
            looks += 1;
            None
        };
        assert_eq!(busy_poll.wait(look, || "slept"), "slept");
        assert!(looks > 0);
        let mut busy_poll = taught(&[LONGEST]);
        assert_eq!(busy_poll.wait(|| Some("found"), || "slept"), "found");
    }

    #[test]
    fn it_never_looks_at_first_or_if_it_shall_not() {
        let look = || -> Option<()> { panic!("it looks") };
        BusyPoll::new(LONGEST).wait(look, || ());
        let mut never = BusyPoll::new(Duration::ZERO);
        for _ in 0..10 {
            never.wait(look, || ());
        }
    }

    #[test]
    fn it_leaves_the_processor_for_a_while_to_whoever_has_use_for_it() {
        let mut busy_poll = taught(&[LONGEST]);
        let began = Instant::now();
        // As if another had had the processor.
        let look = || -> Option<()> {
            let since = Instant::now();
            while since.elapsed() <= TAKEN {}
            None
        };
        busy_poll.wait(look, || ());
        let (until, pause) = busy_poll.paused.expect("it took long");
        assert!(pause == PAUSE && until >= began + PAUSE);
        busy_poll.learn(until - Duration::from_nanos(1), LONGEST);
        assert_eq!(busy_poll.next, Duration::ZERO);
        busy_poll.learn(until, LONGEST);
        assert_eq!(busy_poll.next, FIRST);
    }

    #[test]
    fn who_has_use_for_it_again_and_again_is_left_alone_for_longer() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        let mut now = Instant::now();
        let mut pause_after = |looking: u32| {
            let last = now + looking * PAUSE;
            busy_poll.pause(last, last + TAKEN);
            let (until, pause) = busy_poll.paused.expect("just now");
            assert_eq!(until, last + TAKEN + pause);
            now = until;
            pause.div_duration_f64(PAUSE)
        };
        assert_eq!(
            [0; 7].map(&mut pause_after),
            [1., 2., 4., 8., 16., 20., 20.]
        );
        assert_eq!([20, 1, 0, 2].map(&mut pause_after), [1., 1., 2., 1.]);
    }
}
