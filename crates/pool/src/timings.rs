//! How long things took, split by how they ended.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam_utils::CachePadded;

use crate::core::Timed;

/// The timings of a pool, in parts that threads keep to, so that recording disturbs nobody. One
/// part is made when its first value comes. Clones are handles to the same timings, which several
/// pools may share.
#[derive(Clone)]
pub(crate) struct TimingShards(Arc<[CachePadded<Shard>]>);

type Shard = [OnceLock<Box<Buckets>>; Timed::COUNT];

/// Log-linear buckets: 16 for each power of two of nanoseconds.
struct Buckets {
    counts: [AtomicU64; BUCKETS],
}

const SUB_BITS: u32 = 4;
/// Up to 2^42 nanoseconds, which is over an hour.
const BUCKETS: usize = (42 - SUB_BITS as usize + 1) << SUB_BITS;

impl TimingShards {
    pub(crate) fn new(shards: u32) -> Self {
        Self(
            (0..shards.next_power_of_two())
                .map(|_| CachePadded::default())
                .collect(),
        )
    }

    #[inline]
    pub(crate) fn record(&self, what: Timed, nanos: u64) {
        let shard = &self.0[thread_number() & (self.0.len() - 1)];
        let buckets = shard[what as usize].get_or_init(Buckets::new);
        buckets.counts[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was recorded of one kind, as counts of bucket values.
    pub(crate) fn of(&self, what: Timed) -> Timing {
        let mut timing = Timing::default();
        for buckets in self.0.iter().filter_map(|shard| shard[what as usize].get()) {
            timing.add(buckets);
        }
        timing
    }
}

/// Values below 32 have a bucket each; from there on 16 share a power of two.
fn bucket_of(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let bucket = ((shift as usize) << SUB_BITS) + (nanos >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn value_of(bucket: usize) -> u64 {
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let least = ((bucket - (shift << SUB_BITS)) as u64) << shift;
    least + (1 << shift) - 1
}

impl Buckets {
    fn new() -> Box<Self> {
        Box::new(Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
        })
    }
}

fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    if NUMBER.get() == usize::MAX {
        NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    NUMBER.get()
}

/// How often each duration was recorded.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timing {
    counts: Vec<u64>,
}

impl Timing {
    fn add(&mut self, buckets: &Buckets) {
        self.counts.resize(BUCKETS, 0);
        for (count, more) in self.counts.iter_mut().zip(&buckets.counts) {
            *count += more.load(Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn mean(&self) -> u64 {
        let sum: u128 = (0..)
            .zip(&self.counts)
            .map(|(bucket, count)| u128::from(value_of(bucket)) * u128::from(*count))
            .sum();
        sum.checked_div(u128::from(self.count())).unwrap_or(0) as u64
    }

    /// The value that this share of the durations does not exceed, from 0 to 1.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return value_of(bucket);
            }
        }
        0
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_within_a_sixteenth_of_what_is_said_of_it() {
        let mut last = 0;
        for nanos in (0..100_000).chain((17..42).map(|power| (1 << power) + 12_345)) {
            let bucket = bucket_of(nanos);
            let value = value_of(bucket);
            assert!(bucket >= last, "{nanos}");
            assert!(
                nanos <= value && value - nanos <= nanos / 16,
                "{nanos}: {value}"
            );
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_the_mean_are_those_of_what_was_recorded() {
        let shards = TimingShards::new(2);
        for nanos in 1..=1000 {
            shards.record(Timed::WaitServed, nanos * 1000);
        }
        let timing = shards.of(Timed::WaitServed);
        assert_eq!(timing.count(), 1000);
        assert!((500_500..=500_500 + 500_500 / 16).contains(&timing.mean()));
        for (share, exact) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let value = timing.quantile(share);
            assert!(
                (exact..=exact + exact / 16).contains(&value),
                "{share}: {value}"
            );
        }
        assert_eq!(shards.of(Timed::Held).quantile(0.5), 0);
    }
}
