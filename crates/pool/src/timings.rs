//! How long things took, split by how they ended.

use std::{cell::Cell, sync::PoisonError};

use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

use crate::core::Timed;

/// The timings of a pool, in parts that threads keep to, so that recording disturbs nobody.
pub(crate) struct TimingShards(Box<[CachePadded<std::sync::Mutex<Timings>>]>);

impl TimingShards {
    pub(crate) fn new(shards: u32) -> Self {
        Self(
            (0..shards.next_power_of_two())
                .map(|_| CachePadded::default())
                .collect(),
        )
    }

    pub(crate) fn record(&self, what: Timed, nanos: u64) {
        let shard = &self.0[thread_number() & (self.0.len() - 1)];
        let mut timings = shard.lock().unwrap_or_else(PoisonError::into_inner);
        timings.of(what).record(nanos);
    }

    pub(crate) fn sum(&self) -> Timings {
        let mut sum = Timings::default();
        for shard in &self.0 {
            sum.add(&shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        sum
    }
}

fn thread_number() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    if NUMBER.get() == usize::MAX {
        NUMBER.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
    NUMBER.get()
}

/// Durations in nanoseconds, up to an hour, to one significant digit. Made when the first value
/// comes, so that outcomes which never happen cost nothing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timing(Option<Box<Histogram<u64>>>);

const LONGEST: u64 = 3_600_000_000_000;

impl Timing {
    fn record(&mut self, nanos: u64) {
        self.0
            .get_or_insert_with(|| {
                Box::new(
                    Histogram::new_with_bounds(1, LONGEST, 1).expect("bug: bounds are constant"),
                )
            })
            .saturating_record(nanos);
    }

    fn add(&mut self, other: &Timing) {
        match (&mut self.0, &other.0) {
            (Some(sum), Some(other)) => {
                sum.add(&**other).expect("bug: bounds are constant");
            }
            (sum @ None, Some(other)) => *sum = Some(other.clone()),
            (_, None) => {}
        }
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

impl Timings {
    fn of(&mut self, what: Timed) -> &mut Timing {
        match what {
            Timed::WaitServed => &mut self.wait_served,
            Timed::WaitTimedOut => &mut self.wait_timed_out,
            Timed::WaitCancelled => &mut self.wait_cancelled,
            Timed::WaitFailed => &mut self.wait_failed,
            Timed::Created => &mut self.created,
            Timed::CreateFailed => &mut self.create_failed,
            Timed::Held => &mut self.held,
        }
    }

    fn add(&mut self, other: &Timings) {
        self.wait_served.add(&other.wait_served);
        self.wait_timed_out.add(&other.wait_timed_out);
        self.wait_cancelled.add(&other.wait_cancelled);
        self.wait_failed.add(&other.wait_failed);
        self.created.add(&other.created);
        self.create_failed.add(&other.create_failed);
        self.held.add(&other.held);
    }
}
