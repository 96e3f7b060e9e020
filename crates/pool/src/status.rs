//! What a pool says about itself.

use std::time::Duration;

use crate::{
    core::Timed,
    timings::{Timing, TimingShards},
};

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

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.leases += other.leases;
        self.waits_served += other.waits_served;
        self.waits_timed_out += other.waits_timed_out;
        self.waits_cancelled += other.waits_cancelled;
        self.waits_refused += other.waits_refused;
        self.waits_closed += other.waits_closed;
        self.overloaded += other.overloaded;
        self.shed += other.shed;
        self.created += other.created;
        self.added += other.added;
        self.create_failed += other.create_failed;
        self.create_abandoned += other.create_abandoned;
        self.retired += other.retired;
        self.detached += other.detached;
        self.outages += other.outages;
    }
}

/// How long things took, by how they ended. Nothing is recorded for a `get` that finds an idle
/// resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// Waits that ended with a resource.
    pub wait_served: Summary,
    /// Waits that ended at their deadline.
    pub wait_timed_out: Summary,
    /// Waits that the caller gave up.
    pub wait_cancelled: Summary,
    /// Waits that ended with any other error.
    pub wait_failed: Summary,
    /// Creations that succeeded.
    pub created: Summary,
    /// Creations that failed, timed out or panicked.
    pub create_failed: Summary,
    /// Leases, of which one in 64 is timed.
    pub held: Summary,
}

impl Times {
    pub(crate) fn of(shards: &TimingShards) -> Self {
        let summary = |what| Summary::of(&shards.of(what));
        Self {
            wait_served: summary(Timed::WaitServed),
            wait_timed_out: summary(Timed::WaitTimedOut),
            wait_cancelled: summary(Timed::WaitCancelled),
            wait_failed: summary(Timed::WaitFailed),
            created: summary(Timed::Created),
            create_failed: summary(Timed::CreateFailed),
            held: summary(Timed::Held),
        }
    }
}

/// A distribution of durations, in buckets a sixteenth wide; the values below are upper ends of
/// buckets. Anything over an hour counts as a little over an hour.
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
        let at = |share| Duration::from_nanos(timing.quantile(share));
        Self {
            count: timing.count(),
            mean: Duration::from_nanos(timing.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}
