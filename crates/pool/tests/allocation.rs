//! A warm pool allocates nothing: not for a get and a put, not while waiting, not for a check.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; this one only counts"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::Barrier,
    task::{JoinSet, yield_now},
};
use wharf::{Manager, Pool};

#[derive(Default)]
struct Numbers {
    checks: AtomicU64,
}

impl Manager for Numbers {
    type Resource = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(7)
    }

    async fn check(&self, _: &mut u64) -> Result<(), Infallible> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Rounds that fill every buffer: cells, lists, histograms, the runtime's queues.
const WARM_UP: usize = 500;
const ROUNDS: usize = 2_000;

#[test]
fn the_counter_counts() {
    let counter = Counter::new();
    let runtime = current_thread(counter);
    runtime.block_on(async {
        drop(std::hint::black_box(Box::new(1)));
        counter.run();
        drop(std::hint::black_box(Box::new(1)));
        let count = counter.stop();
        drop(std::hint::black_box(Box::new(1)));
        assert_eq!(count, 1);
    });
}

#[test]
fn a_warm_get_and_put_allocates_nothing() {
    let counter = Counter::new();
    current_thread(counter).block_on(async {
        let pool = pool(16);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                counter.run();
            }
            drop(pool.get().await.unwrap());
        }
        counter.assert_none();
    });
}

#[test]
fn an_owned_lease_and_a_try_get_allocate_nothing() {
    let counter = Counter::new();
    current_thread(counter).block_on(async {
        let pool = pool(16);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                counter.run();
            }
            let owned = pool.get_owned().await.unwrap();
            drop(owned);
            drop(pool.try_get().unwrap());
            drop(pool.try_get_owned().unwrap());
            drop(pool.get_timeout(Duration::from_secs(1)).await.unwrap());
        }
        counter.assert_none();
    });
}

#[test]
#[cfg(not(feature = "metrics"))] // Upkeep publishes with labels made anew, once an epoch.
fn a_check_at_checkout_and_the_rounds_of_upkeep_allocate_nothing() {
    let counter = Counter::new();
    current_thread(counter).block_on(async {
        let pool = pool(16);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                counter.run();
            }
            // Longer than `check_interval` and an epoch, and all of it shorter than a life.
            tokio::time::advance(Duration::from_millis(600)).await;
            drop(pool.get().await.unwrap());
        }
        counter.assert_none();
        let checks = pool.manager().checks.load(Ordering::Relaxed) as usize;
        assert!(checks > ROUNDS, "{checks} checks");
    });
}

#[test]
fn waiting_in_line_allocates_nothing() {
    share(|pool| async {
        let lease = pool.get().await.unwrap();
        yield_now().await;
        drop(lease);
    });
}

#[test]
fn waiting_with_a_timeout_of_its_own_allocates_nothing() {
    share(|pool| async {
        let lease = pool.get_timeout(Duration::from_secs(5)).await.unwrap();
        yield_now().await;
        drop(lease);
    });
}

#[test]
fn waiting_without_any_timeout_allocates_nothing() {
    share(|pool| async {
        let lease = pool.get_timeout(Duration::MAX).await.unwrap();
        yield_now().await;
        drop(lease);
    });
}

#[test]
fn waiting_for_an_owned_lease_allocates_nothing() {
    share(|pool| async {
        let lease = pool.get_owned().await.unwrap();
        yield_now().await;
        drop(lease);
    });
}

#[test]
fn giving_up_a_wait_allocates_nothing() {
    share(|pool| async {
        let lease = pool.get().await.unwrap();
        let mut vain = std::pin::pin!(pool.get());
        let waker = std::task::Waker::noop();
        drop(
            vain.as_mut()
                .poll(&mut std::task::Context::from_waker(waker)),
        );
        yield_now().await;
        drop(lease);
    });
}

#[test]
#[cfg(not(feature = "metrics"))] // Upkeep publishes with labels made anew, once an epoch.
fn waiting_on_several_threads_allocates_nothing() {
    let counter = Counter::new();
    let runtime = counter.counted(Builder::new_multi_thread().worker_threads(2));
    let pool = leaked(4);
    // The first time that a thread is parked by a lock it makes what it is parked on, and the first
    // time that it records a duration the buckets for that. On a busy machine a worker may come to
    // either only after everybody is warm. Each happens once, so a run without them comes soon.
    let mut counts = Vec::new();
    while counts.len() < 30 && !counts.contains(&0) {
        counts.push(
            runtime.block_on(take_turns(counter, pool, 16, |pool| async {
                let lease = pool.get().await.unwrap();
                yield_now().await;
                drop(lease);
            })),
        );
    }
    assert!(counts.contains(&0), "{counts:?}");
}

/// A long line that never empties, a short one that does so all the time, and a longer one.
fn share<F>(turn: impl Fn(&'static Pool<Numbers>) -> F + Copy + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    for (tasks, resources) in [(8, 2), (3, 2), (64, 4)] {
        let counter = Counter::new();
        let count =
            current_thread(counter).block_on(take_turns(counter, leaked(resources), tasks, turn));
        assert_eq!(count, 0, "{tasks} tasks on {resources} resources");
    }
}

/// Several tasks go round and round, with more of them than resources. Only what they do once
/// everybody is warm is counted, and nobody has ended by then.
async fn take_turns<F>(
    counter: Counter,
    pool: &'static Pool<Numbers>,
    tasks: usize,
    turn: impl Fn(&'static Pool<Numbers>) -> F + Copy + Send + Sync + 'static,
) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(tasks + 1));
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let barrier = Arc::clone(&barrier);
        running.spawn(async move {
            for _ in 0..WARM_UP {
                turn(pool).await;
            }
            barrier.wait().await;
            barrier.wait().await;
            for _ in 0..ROUNDS {
                turn(pool).await;
            }
            barrier.wait().await;
            barrier.wait().await;
        });
    }
    barrier.wait().await;
    counter.run();
    barrier.wait().await;
    barrier.wait().await;
    let count = counter.stop();
    barrier.wait().await;
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let waits = pool.status().totals.waits_served as usize;
    assert!(waits >= ROUNDS, "only {waits} of the gets waited");
    count
}

fn leaked(max_active: usize) -> &'static Pool<Numbers> {
    Box::leak(Box::new(pool(max_active)))
}

fn pool(max_active: usize) -> Pool<Numbers> {
    Pool::builder(Numbers::default())
        .max_active(max_active)
        .build()
        .unwrap()
}

fn current_thread(counter: Counter) -> Runtime {
    counter.enlist();
    counter.counted(Builder::new_current_thread().start_paused(true))
}

/// Counts the allocations of the threads that are enlisted, while it runs.
#[derive(Clone, Copy)]
struct Counter(&'static Counts);

#[derive(Default)]
struct Counts {
    counting: AtomicBool,
    count: AtomicU64,
}

impl Counter {
    fn new() -> Self {
        Self(Box::leak(Box::default()))
    }

    /// This thread's allocations are counted from now on, while the counter runs.
    fn enlist(self) {
        COUNTER.set(Some(self.0));
    }

    fn counted(self, builder: &mut Builder) -> Runtime {
        builder
            .enable_all()
            .on_thread_start(move || self.enlist())
            .build()
            .unwrap()
    }

    fn run(self) {
        self.0.counting.store(true, Ordering::SeqCst);
    }

    /// How many there were since it ran.
    fn stop(self) -> u64 {
        self.0.counting.store(false, Ordering::SeqCst);
        self.0.count.swap(0, Ordering::SeqCst)
    }

    #[track_caller]
    fn assert_none(self) {
        assert_eq!(self.stop(), 0, "allocations");
    }
}

thread_local! {
    static COUNTER: Cell<Option<&'static Counts>> = const { Cell::new(None) };
}

fn note() {
    // A thread that is going down is not counted.
    if let Ok(Some(counts)) = COUNTER.try_with(Cell::get)
        && counts.counting.load(Ordering::SeqCst)
    {
        counts.count.fetch_add(1, Ordering::SeqCst);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
