//! When to try again what failed.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Failures in a row, with a pause after each that is twice as long as the one before.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    pub(super) fn failed(&mut self) {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16));
        self.at = Some(Instant::now() + pause.min(LONGEST));
        self.failures += 1;
    }

    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn works(&self) -> bool {
        self.failures == 0
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at(now).is_none()
    }

    /// The end of the pause, if there is one at this moment.
    pub(super) fn at(&self, now: Instant) -> Option<Instant> {
        self.at.filter(|at| *at > now)
    }
}
