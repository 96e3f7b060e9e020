//! What the own process holds, to see that it stays flat.
//!
//! Threads and memory are read from `/proc/self` and therefore need Linux. Allocations are counted
//! in a program that installs the counting allocator:
//!
//! ```
//! use wharf_testkit::usage::{Allocations, COUNTING, CountingAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: &CountingAllocator = COUNTING;
//!
//! let before = Allocations::now();
//! drop(vec![1, 2, 3]);
//! let between = Allocations::now() - before;
//! assert_eq!((between.made, between.live_bytes), (1, 0));
//! ```

use std::alloc::System;
use std::fs;
use std::ops::Sub;

/// The system's allocator with counters before it.
pub type CountingAllocator = stats_alloc::StatsAlloc<System>;

/// The allocator whose counters [`Allocations::now`] reads.
pub static COUNTING: &CountingAllocator = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Counts over all threads since the program began, or between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocations {
    /// Blocks asked for; a block that grew or shrank counts again.
    pub made: isize,
    /// Bytes asked for and not yet freed; negative where more was freed than made.
    pub live_bytes: isize,
}

impl Allocations {
    /// The counters at this moment; zeros where the allocator is not installed.
    #[must_use]
    pub fn now() -> Self {
        let stats = COUNTING.stats();
        let signed = usize::cast_signed;
        Self {
            made: signed(stats.allocations) + signed(stats.reallocations),
            live_bytes: signed(stats.bytes_allocated) - signed(stats.bytes_deallocated),
        }
    }
}

impl Sub for Allocations {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            made: self.made - earlier.made,
            live_bytes: self.live_bytes - earlier.live_bytes,
        }
    }
}

/// Operating system threads of this process.
///
/// # Panics
///
/// Where there is no `/proc/self/status`.
#[must_use]
pub fn threads() -> u64 {
    status("Threads:")
}

/// Bytes of this process that are in memory (its resident set).
///
/// # Panics
///
/// Where there is no `/proc/self/status`.
#[must_use]
pub fn rss() -> u64 {
    status("VmRSS:") * 1024
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status is readable");
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("/proc/self/status has no number after `{field}`"))
}
