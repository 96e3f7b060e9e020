//! How long things took, split by how they ended.

use hdrhistogram::Histogram;

/// Durations in nanoseconds, up to an hour, to one significant digit. Made when the first value
/// comes, so that outcomes which never happen cost nothing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timing(Option<Box<Histogram<u64>>>);

const LONGEST: u64 = 3_600_000_000_000;

impl Timing {
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0
            .get_or_insert_with(|| {
                Box::new(
                    Histogram::new_with_bounds(1, LONGEST, 1).expect("bug: bounds are constant"),
                )
            })
            .saturating_record(nanos);
    }

    pub(crate) fn histogram(&self) -> Option<&Histogram<u64>> {
        self.0.as_deref()
    }
}

/// One timing for each outcome.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timings {
    /// Waits that ended with a resource.
    pub(crate) wait_served: Timing,
    /// Waits that ended at their deadline.
    pub(crate) wait_timed_out: Timing,
    /// Waits that the caller gave up.
    pub(crate) wait_cancelled: Timing,
    /// Waits that ended with any other error.
    pub(crate) wait_failed: Timing,
    /// Creations that succeeded.
    pub(crate) created: Timing,
    /// Creations that failed, timed out or panicked.
    pub(crate) create_failed: Timing,
    /// Sampled leases.
    pub(crate) held: Timing,
}
