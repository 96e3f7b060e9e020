//! How many items a second go through, on one thread.

use std::time::{Duration, Instant};

use tokio::{runtime::Builder, time::timeout};
use wharf_race::quiet::processor_time;

use crate::{
    contenders::{Contender, Handled, ITEMS},
    keys::Scattered,
};

/// Longer than any run: batches are flushed when they are full, and what is left at the end.
const LINGER: Duration = Duration::from_secs(600);

/// Whoever has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(120);

const MILLION: u64 = 1_000_000;

/// Which keys items have, and in which order. Each has as many as fill batches, but for `Scattered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One item for each of a million keys, and then all over again, ten times.
    InTurn,
    /// Ten million items with keys of a million, without any order.
    Scattered,
    /// One item for each of ten thousand keys, a hundred times.
    FewInTurn,
    /// Ten items of a key, then another key, for a hundred thousand.
    InRows,
}

impl Work {
    fn items(self) -> u64 {
        match self {
            Self::InTurn | Self::Scattered => 10 * MILLION,
            Self::FewInTurn | Self::InRows => MILLION,
        }
    }
}

/// Pushes all items and has them handled; tells how many a second of processor time that were. It is
/// the same as a second of one thread, and nobody is cut off, so it does not depend on how much of a
/// processor there was; it does on who else uses its caches.
///
/// # Panics
///
/// If an item is missing, or not handled in time.
pub fn items_a_second<C: Contender>(work: Work) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let handled = Handled::default();
        let mut contender = C::open(LINGER, &handled);
        let mut keys = Scattered::new(0);
        let before = processor_time("self").unwrap_or_default();
        let start = Instant::now();
        for item in 0..work.items() {
            let key = match work {
                Work::InTurn => item % MILLION,
                Work::Scattered => keys.next(MILLION),
                Work::FewInTurn => item % 10_000,
                Work::InRows => item / ITEMS as u64,
            };
            contender.push(key, item).await;
        }
        let finished = timeout(PATIENCE, contender.finish()).await;
        assert!(finished.is_ok(), "{} does not finish {work:?}", C::NAME);
        let took = processor_time("self").map_or(start.elapsed(), |now| now - before);
        assert_eq!(handled.count(), work.items(), "{}: handled", C::NAME);
        work.items() as f64 / took.as_secs_f64()
    })
}

/// How long it takes to open a million lanes, in seconds, and how many there are after they were
/// closed.
///
/// # Panics
///
/// If there are not a million in between.
pub fn open_a_million() -> (f64, usize) {
    use crate::contenders::lanes::Wharf;
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let handled = Handled::default();
        let mut wharf = Wharf::open(LINGER, &handled);
        let before = processor_time("self").unwrap_or_default();
        let start = Instant::now();
        for key in 0..MILLION {
            wharf.push(key, key).await;
        }
        let took = processor_time("self").map_or(start.elapsed(), |now| now - before);
        assert_eq!(wharf.0.status().lanes, MILLION as usize);
        wharf.0.flush_all().await;
        (took.as_secs_f64(), wharf.0.status().lanes)
    })
}
