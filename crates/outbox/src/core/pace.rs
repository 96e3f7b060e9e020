//! How fast deliveries may begin: the pause after a failure, and the rate limit.

use std::{num::NonZeroU32, time::Duration};

use super::Nanos;

/// The pause after the n-th failure in a row: `min × 2ⁿ⁻¹`, at most `max`, of which a random half to
/// whole is waited ("equal jitter", after Marc Brooker, *Exponential Backoff And Jitter*, AWS
/// Architecture Blog, 2015), so that many processes that lost the same destination do not come back
/// at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure. More than zero.
    pub min: Duration,
    /// The longest pause. At least `min`.
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms to 15 s.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(15),
        }
    }
}

impl Backoff {
    pub(super) fn pause(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.min.saturating_mul(1 << doublings).min(self.max);
        let whole = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(whole / 2 + random.u64(..=whole / 2))
    }
}

/// How many deliveries may begin in a time, those that are tried again included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many a second in the long run.
    pub per_second: NonZeroU32,
    /// So many at once, after a time in which there were none.
    pub burst: NonZeroU32,
}

/// The generic cell rate algorithm (ITU-T I.371): one number says when the next would come if all
/// came evenly.
#[derive(Debug)]
pub(super) struct Meter {
    interval: Nanos,
    slack: Nanos,
    due: Nanos,
}

impl Meter {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = 1_000_000_000 / u64::from(rate.per_second.get());
        Self {
            interval,
            slack: interval.saturating_mul(u64::from(rate.burst.get() - 1)),
            due: 0,
        }
    }

    /// When the next may begin.
    pub(super) fn next(&self) -> Nanos {
        self.due.saturating_sub(self.slack)
    }

    pub(super) fn count(&mut self, now: Nanos) {
        self.due = self.due.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_maximum_and_never_fall_below_half() {
        let backoff = Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(2),
        };
        let mut random = fastrand::Rng::with_seed(7);
        for failures in 1..100 {
            let whole = Duration::from_millis(100 << (failures - 1).min(20)).min(backoff.max);
            for _ in 0..50 {
                let pause = backoff.pause(failures, &mut random);
                assert!(
                    pause >= whole / 2 && pause <= whole,
                    "{failures}: {pause:?}"
                );
            }
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_evenly() {
        let mut meter = Meter::new(Rate {
            per_second: NonZeroU32::new(10).unwrap(),
            burst: NonZeroU32::new(3).unwrap(),
        });
        let mut now = 5_000_000_000;
        let mut begun = Vec::new();
        for _ in 0..6 {
            now = now.max(meter.next());
            meter.count(now);
            begun.push((now - 5_000_000_000) / 1_000_000);
        }
        assert_eq!(begun, [0, 0, 0, 100, 200, 300]);
    }
}
