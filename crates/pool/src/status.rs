//! What a pool says about itself.

use std::time::Duration;

use crate::timings::{Timing, Timings};

/// The state of a pool at one moment, and its running totals.
///
/// The numbers belong together: `idle + leased + upkeep` are the resources that exist, and with
/// `creating` and `closing` they never exceed `max_active`, except while the surplus of a
/// downward `resize` has not come back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The bound in force.
    pub max_active: usize,
    /// Resources nobody uses.
    pub idle: usize,
    /// Resources lent out, or being looked at or checked on their way out.
    pub leased: usize,
    /// Idle resources that upkeep is checking.
    pub upkeep: usize,
    /// Creations under way.
    pub creating: usize,
    /// Destructions under way.
    pub closing: usize,
    /// Callers in line.
    pub waiting: usize,
    /// Whether an outage is on.
    pub is_down: bool,
    /// Whether the pool is closed.
    pub is_closed: bool,
    /// Totals since the pool was built.
    pub totals: Totals,
    /// How long things took since the pool was built.
    pub times: Times,
}

impl Status {
    /// What counts towards `max_active`.
    pub fn active(&self) -> usize {
        self.idle + self.leased + self.upkeep + self.creating + self.closing
    }
}

/// Totals since the pool was built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Leases given.
    pub leases: u64,
    /// Waits that ended with a resource.
    pub waits_served: u64,
    /// Waits that ended at their deadline.
    pub waits_timed_out: u64,
    /// Waits that the caller gave up.
    pub waits_cancelled: u64,
    /// Callers that were told of a failure to create.
    pub waits_refused: u64,
    /// Waits that ended because the pool was closed.
    pub waits_closed: u64,
    /// Callers turned away because the line was full.
    pub overloaded: u64,
    /// Waiters turned away because the line was standing.
    pub shed: u64,
    /// Resources created.
    pub created: u64,
    /// Resources added from outside.
    pub added: u64,
    /// Creations that failed, timed out or panicked.
    pub create_failed: u64,
    /// Creations that were no longer needed when their turn came.
    pub create_abandoned: u64,
    /// Resources retired, to be destroyed.
    pub retired: u64,
    /// Resources taken out of the pool by their holders.
    pub detached: u64,
    /// Outages.
    pub outages: u64,
}

/// How long things took, by how they ended. Nothing is recorded for a `get` that finds an idle
/// resource.
#[derive(Debug, Clone)]
pub struct Times(pub(crate) Timings);

impl Times {
    /// Waits that ended with a resource.
    pub fn wait_served(&self) -> Summary {
        Summary::of(&self.0.wait_served)
    }

    /// Waits that ended at their deadline.
    pub fn wait_timed_out(&self) -> Summary {
        Summary::of(&self.0.wait_timed_out)
    }

    /// Waits that the caller gave up.
    pub fn wait_cancelled(&self) -> Summary {
        Summary::of(&self.0.wait_cancelled)
    }

    /// Waits that ended with any other error.
    pub fn wait_failed(&self) -> Summary {
        Summary::of(&self.0.wait_failed)
    }

    /// Creations that succeeded.
    pub fn created(&self) -> Summary {
        Summary::of(&self.0.created)
    }

    /// Creations that failed, timed out or panicked.
    pub fn create_failed(&self) -> Summary {
        Summary::of(&self.0.create_failed)
    }

    /// Leases, of which one in 64 is timed.
    pub fn held(&self) -> Summary {
        Summary::of(&self.0.held)
    }
}

/// A distribution of durations, in buckets of one significant digit from 1 ns to 1 hour; anything
/// longer counts as an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many there were. The durations below are zero if there were none.
    pub count: u64,
    /// The mean.
    pub mean: Duration,
    /// The median.
    pub p50: Duration,
    /// 90 in 100 were no longer.
    pub p90: Duration,
    /// 99 in 100 were no longer.
    pub p99: Duration,
    /// 999 in 1,000 were no longer.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Summary {
    fn of(timing: &Timing) -> Self {
        let Some(histogram) = timing.histogram() else {
            return Self::default();
        };
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean: Duration::from_nanos(histogram.mean() as u64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}
