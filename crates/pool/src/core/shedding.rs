//! Controlled delay: when the line stands, its oldest waiters are turned away.

use std::time::Duration;

use super::Moment;

/// Queue-delay shedding. A line whose oldest waiters have all waited longer than `target` for a
/// whole `interval` is not a burst but a standing queue: from then on waiters are failed with
/// [`GetError::Shed`](crate::GetError::Shed) at a rate that grows until the delay is below the
/// target again.
///
/// The algorithm is `CoDel` (K. Nichols and V. Jacobson, *Controlling Queue Delay*, ACM Queue 10(5),
/// 2012; pseudo-code in RFC 8289, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Shedding {
    /// The wait that is still acceptable when it persists. More than zero.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub target: Duration,
    /// For how long the wait may exceed the target. At least `target`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub interval: Duration,
}

/// `CoDel`'s state. Asked once for each waiter that is about to be served.
#[derive(Debug, Clone)]
pub(super) struct CoDel {
    target: u64,
    interval: u64,
    /// When the delay will have been above the target for an interval; none while it is below.
    first_above: Option<Moment>,
    dropping: bool,
    drop_next: Moment,
    count: u32,
    last_count: u32,
}

impl CoDel {
    pub(super) fn new(shedding: Shedding) -> Self {
        Self {
            target: super::nanos(shedding.target),
            interval: super::nanos(shedding.interval),
            first_above: None,
            dropping: false,
            drop_next: 0,
            count: 0,
            last_count: 0,
        }
    }

    /// Whether the oldest waiter, which has waited `delay`, is to be turned away. `last` says that
    /// nobody stands behind it: the line is about to empty, and is not standing.
    pub(super) fn sheds(&mut self, delay: u64, last: bool, now: Moment) -> bool {
        let persistent = self.is_persistent(delay, last, now);
        if self.dropping {
            if !persistent {
                self.dropping = false;
                return false;
            }
            if now < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next = self.control_law(self.drop_next);
            return true;
        }
        if !persistent {
            return false;
        }
        self.dropping = true;
        // If dropping ended a short while ago, start near the rate that controlled the line then.
        let drops = self.count.saturating_sub(self.last_count);
        let recent = now.saturating_sub(self.drop_next) < 16 * self.interval;
        self.count = if drops > 1 && recent { drops } else { 1 };
        self.last_count = self.count;
        self.drop_next = self.control_law(now);
        true
    }

    fn is_persistent(&mut self, delay: u64, last: bool, now: Moment) -> bool {
        if delay < self.target || last {
            self.first_above = None;
            return false;
        }
        match self.first_above {
            None => {
                self.first_above = Some(now.saturating_add(self.interval));
                false
            }
            Some(at) => now >= at,
        }
    }

    fn control_law(&self, at: Moment) -> Moment {
        at.saturating_add((self.interval as f64 / f64::from(self.count).sqrt()) as u64)
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn codel() -> CoDel {
        CoDel::new(Shedding {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        })
    }

    #[test]
    fn a_burst_shorter_than_the_interval_is_not_shed() {
        let mut codel = codel();
        assert!((0..100).all(|ms| !codel.sheds(20 * MS, false, ms * MS)));
        assert!(!codel.sheds(MS, false, 100 * MS));
        assert!((101..200).all(|ms| !codel.sheds(20 * MS, false, ms * MS)));
    }

    #[test]
    fn a_standing_queue_is_shed_faster_and_faster_until_the_delay_falls() {
        let mut codel = codel();
        let shed: Vec<u64> = (0..1000)
            .filter(|ms| codel.sheds(20 * MS, false, ms * MS))
            .collect();
        assert_eq!(shed[0], 100);
        let gaps: Vec<u64> = shed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.windows(2).all(|pair| pair[1] <= pair[0] + 1),
            "{gaps:?}"
        );
        assert!(gaps.last() < gaps.first());
        assert!(!codel.sheds(MS, false, 1001 * MS));
        assert!(!codel.sheds(20 * MS, false, 1002 * MS));
    }

    #[test]
    fn the_only_waiter_is_never_shed() {
        let mut codel = codel();
        assert!((0..1000).all(|ms| !codel.sheds(500 * MS, true, ms * MS)));
    }
}
