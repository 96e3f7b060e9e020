//! Counting heap allocations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::yield_now;
use wharf_race::lane::Trouble;

use crate::allocator;
use crate::contender::Contender;
use crate::slice::Allocations;
use crate::tasks::{Race, STRIDE, crew, hold_for_a_yield, stride};

/// Counts the allocations of one task that never waits.
pub async fn audit_one<C: Contender>(pool: &'static C) -> Allocations {
    const STRIDES: u64 = 16;
    stride(pool, STRIDES, false).await;
    allocator::start();
    stride(pool, STRIDES, false).await;
    Allocations {
        count: allocator::stop(),
        cycles: STRIDES * STRIDE,
    }
}

/// Counts the allocations of tasks that queue. On one worker, every yield of this task lets all
/// others run until each of them waits or yields.
pub async fn audit_queue<C: Contender>(
    pool: &'static C,
    tasks: usize,
) -> Result<Allocations, Trouble> {
    const PASSES: usize = 5_000;
    let race = Race::of(tasks);
    let cycles = Arc::new(AtomicU64::new(0));
    let queue = crew(tasks, |_| {
        count_turns(pool, race.clone(), Arc::clone(&cycles))
    });
    let auditor = async {
        yields(PASSES).await;
        let before = cycles.load(Ordering::Relaxed);
        allocator::start();
        yields(PASSES).await;
        let count = allocator::stop();
        race.end();
        Allocations {
            count,
            cycles: cycles.load(Ordering::Relaxed) - before,
        }
    };
    let (allocations, served) = tokio::join!(auditor, queue);
    served.map(|_| allocations)
}

async fn yields(passes: usize) {
    for _ in 0..passes {
        yield_now().await;
    }
}

async fn count_turns<C: Contender>(pool: &'static C, race: Race, cycles: Arc<AtomicU64>) {
    while !race.is_over() {
        hold_for_a_yield(pool).await;
        cycles.fetch_add(1, Ordering::Relaxed);
    }
}
