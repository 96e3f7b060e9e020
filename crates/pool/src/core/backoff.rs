//! How long to wait before the next probe of an outage.

use std::time::Duration;

/// The pause before the n-th probe of an outage: `min × 2ⁿ⁻¹`, at most `max`, of which a random
/// half to whole is waited ("equal jitter", after Marc Brooker, *Exponential Backoff And Jitter*,
/// AWS Architecture Blog, 2015), so that many processes that lost the same peer at once do not
/// come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Backoff {
    /// The pause before the first probe. More than zero.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub min: Duration,
    /// The longest pause. At least `min`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms to 15 s: the first probe comes soon enough for a restart to go unnoticed by patient
    /// callers, the last often enough that an outage ends within the default `wait_timeout`.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(15),
        }
    }
}

impl Backoff {
    /// A pause before probe number `attempt` (from 1).
    pub fn pause(&self, attempt: u32) -> Duration {
        Duration::from_nanos(self.nanos(attempt, &mut fastrand::Rng::new()))
    }

    /// The same in nanoseconds, from a source of chance of the caller's.
    pub(super) fn nanos(&self, attempt: u32, random: &mut fastrand::Rng) -> u64 {
        let doublings = attempt.saturating_sub(1).min(31);
        let whole = self.min.saturating_mul(1 << doublings).min(self.max);
        let whole = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        whole / 2 + random.u64(..=whole / 2)
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_maximum_and_never_fall_below_half() {
        let backoff = Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(2),
        };
        let mut random = fastrand::Rng::with_seed(7);
        for attempt in 1..100 {
            let whole = (100_000_000_u64 << (attempt - 1).min(20)).min(2_000_000_000);
            for _ in 0..50 {
                let pause = backoff.nanos(attempt, &mut random);
                assert!(
                    (whole / 2..=whole).contains(&pause),
                    "attempt {attempt}: {pause}"
                );
            }
        }
    }
}
