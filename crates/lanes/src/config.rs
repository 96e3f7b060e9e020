//! The numbers of lanes, their defaults and bounds.

use std::time::Duration;

use crate::{
    core::{Limits, WhenFull},
    error::BuildError,
};

/// What a pool of this size would hold is beyond what any machine has; it is what a `u32` numbers.
const MOST: usize = 1 << 30;
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The numbers of lanes, as plain data. Every field has a default; the builder's methods of the
/// same names set them one by one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// A batch is flushed when it has this many items, and never has more. Default 10.
    pub items: usize,
    /// A batch is flushed when it weighs this much, and never weighs more: an item that would be
    /// too much begins the next batch. An item that is heavier by itself is refused. At most
    /// 2³² − 1, which is what `None`, the default, stands for. What an item weighs is said by
    /// [`Builder::weigher`](crate::Builder::weigher); without one it is nothing.
    pub bytes: Option<usize>,
    /// A batch is flushed when its first item has waited for so long, however many came after it.
    /// Default 10 seconds.
    pub linger: Duration,
    /// Batches that are handled at the same time. Default 16.
    pub concurrency: usize,
    /// How many items may be held, those in flight included. Default 1,000,000: a bound, so that a
    /// handler that falls behind shows in those who push and not in memory.
    pub max_items: usize,
    /// What these items may weigh together. Default none.
    pub max_bytes: Option<u64>,
    /// How many keys may have items at a time. Default none beyond `max_items`.
    pub max_lanes: Option<usize>,
    /// What happens to an item for which there is no room. Default [`WhenFull::Wait`].
    pub when_full: WhenFull,
    /// What happens to a batch whose handler fails.
    pub retry: Retry,
    /// How long the handler may take for one attempt. Default none. Past it, its future is dropped,
    /// which counts as a failure. If the handler has given the batch to somebody else, the attempt
    /// still lasts, and counts as one that is handled at the time, until they drop it.
    pub handler_timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            items: 10,
            bytes: None,
            linger: Duration::from_secs(10),
            concurrency: 16,
            max_items: 1_000_000,
            max_bytes: None,
            max_lanes: None,
            when_full: WhenFull::Wait,
            retry: Retry::default(),
            handler_timeout: None,
        }
    }
}

impl Config {
    pub(crate) fn limits(&self) -> Result<Limits, BuildError> {
        let bytes = self.bytes.map_or(Ok(u32::MAX), u32::try_from);
        let max_bytes = self.max_bytes.unwrap_or(u64::MAX);
        let max_lanes = self.max_lanes.unwrap_or(MOST);
        let within = |number: usize| (1..=MOST).contains(&number);
        for (name, holds) in [
            ("items", within(self.items)),
            ("bytes", bytes.is_ok_and(|bytes| bytes > 0)),
            ("linger", self.linger <= LONGEST),
            ("concurrency", within(self.concurrency)),
            ("max_items", within(self.max_items)),
            ("max_bytes", max_bytes > 0),
            ("max_lanes", within(max_lanes)),
            ("retry", self.retry.is_valid()),
            (
                "handler_timeout",
                self.handler_timeout != Some(Duration::ZERO),
            ),
        ] {
            if !holds {
                return Err(BuildError::OutOfRange { name });
            }
        }
        // No item may be heavier than a batch, nor than everything.
        let heaviest = max_bytes.min(u64::from(bytes.unwrap_or(u32::MAX)));
        Ok(Limits {
            items: self.items,
            bytes: u32::try_from(heaviest).unwrap_or(u32::MAX),
            linger: nanos(self.linger),
            concurrency: self.concurrency,
            max_items: self.max_items,
            max_bytes,
            max_lanes,
            when_full: self.when_full,
        })
    }
}

/// How often, and with what pauses, a batch is handed to the handler again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included. Default 5. After the last, what is left of the batch
    /// goes to the sink.
    pub attempts: u32,
    /// The pause after the first attempt; it doubles with each further one. Default 100 ms.
    pub pause: Duration,
    /// The longest pause. Default 10 s.
    pub longest: Duration,
    /// The share of each pause that is left to chance, from 0 to 1, so that keys that failed
    /// together do not come back together. Default 0.5.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            jitter: 0.5,
        }
    }
}

impl Retry {
    /// One attempt: what fails goes to the sink.
    #[must_use]
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }

    /// The pause after the n-th attempt (from 1), with a random number from 0 to 1.
    pub(crate) fn pause(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let pause = self.pause.saturating_mul(1 << doublings).min(self.longest);
        pause.mul_f64(1.0 - self.jitter * random)
    }

    fn is_valid(&self) -> bool {
        self.attempts > 0 && self.longest <= LONGEST && (0.0..=1.0).contains(&self.jitter)
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_the_jitter() {
        let retry = Retry::default();
        let pauses: Vec<u128> = (1..10).map(|n| retry.pause(n, 0.0).as_millis()).collect();
        assert_eq!(
            pauses,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(retry.pause(u32::MAX, 1.0), Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let name = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            match config.limits() {
                Err(BuildError::OutOfRange { name }) => name,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(name(|config| config.items = 0), "items");
        assert_eq!(name(|config| config.bytes = Some(0)), "bytes");
        assert_eq!(name(|config| config.bytes = Some(1 << 32)), "bytes");
        assert_eq!(name(|config| config.linger = Duration::MAX), "linger");
        assert_eq!(name(|config| config.concurrency = 0), "concurrency");
        assert_eq!(name(|config| config.max_items = 0), "max_items");
        assert_eq!(name(|config| config.max_bytes = Some(0)), "max_bytes");
        assert_eq!(name(|config| config.max_lanes = Some(0)), "max_lanes");
        assert_eq!(name(|config| config.retry.attempts = 0), "retry");
        assert_eq!(name(|config| config.retry.jitter = f64::NAN), "retry");
        let zero = |config: &mut Config| config.handler_timeout = Some(Duration::ZERO);
        assert_eq!(name(zero), "handler_timeout");
    }

    #[test]
    fn no_item_may_be_heavier_than_everything() {
        let config = Config {
            max_bytes: Some(100),
            ..Config::default()
        };
        assert_eq!(config.limits().unwrap().bytes, 100);
    }
}
