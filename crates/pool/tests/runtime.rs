//! Where the pool runs: a caller needs no runtime of its own once the pool has one.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
    time::advance,
};
use wharf::{GetError, KeyedPool, Manager, Pool, Stage};

#[derive(Default)]
struct Numbers {
    checks: AtomicUsize,
}

impl Manager for Numbers {
    type Resource = u32;
    type Error = Infallible;

    async fn create(&self) -> Result<u32, Infallible> {
        Ok(7)
    }

    async fn check(&self, _: &mut u32) -> Result<(), Infallible> {
        self.checks.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// A runtime whose time stands still unless it is told to go on.
fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// Lets time pass, and the pool's tasks do what is due.
async fn pass(time: Duration) {
    advance(time).await;
    for _ in 0..8 {
        yield_now().await;
    }
}

fn lonely_pool(runtime: &Runtime) -> Pool<Numbers> {
    Pool::builder(Numbers::default())
        .max_active(1)
        .runtime(runtime.handle().clone())
        .build()
        .expect("the configuration is sound")
}

#[test]
fn a_pool_built_off_its_runtime_creates_on_it() {
    let runtime = paused();
    let pool = lonely_pool(&runtime);
    let mut get = Box::pin(pool.get());
    assert!(get.as_mut().now_or_never().is_none());
    runtime.block_on(pass(Duration::ZERO));
    let lease = get.now_or_never().expect("created").expect("no failure");
    assert_eq!(*lease, 7);
}

#[test]
fn a_wait_off_the_runtime_keeps_its_deadline() {
    let runtime = paused();
    let pool = lonely_pool(&runtime);
    let _lease = runtime.block_on(pool.get()).expect("created");
    let mut get = Box::pin(pool.get_timeout(Duration::from_secs(1)));
    assert!(get.as_mut().now_or_never().is_none());
    runtime.block_on(pass(Duration::from_secs(2)));
    let error = get.now_or_never().expect("over").expect_err("timed out");
    assert!(matches!(
        error,
        GetError::Timeout {
            stage: Stage::Wait,
            ..
        }
    ));
}

/// A check at checkout made its timer on the caller's runtime and not on the pool's. A caller
/// without a runtime fared well as long as resources were fresh, and panicked when the first check
/// was due.
#[test]
fn a_check_that_is_due_needs_no_runtime_of_its_caller() {
    // Off the runtime there is no paused time either: it goes by while the pool is used.
    let runtime = Runtime::new().expect("a runtime");
    let pool = Pool::builder(Numbers::default())
        .check_interval(Duration::from_nanos(1))
        .runtime(runtime.handle().clone())
        .build()
        .expect("the configuration is sound");
    pool.add(7).expect("there is room");
    let began = Instant::now();
    while pool.manager().checks.load(Relaxed) == 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "no check is due");
        let lease = pool.get().now_or_never().expect("checked at once");
        assert_eq!(*lease.expect("no failure"), 7);
    }
}

#[test]
fn a_pool_whose_runtime_is_gone_moves_to_the_next_that_somebody_waits_on() {
    let first = paused();
    let pool = lonely_pool(&first);
    first.block_on(pool.get()).expect("created").discard();
    drop(first);
    let second = paused();
    let lease = second.block_on(pool.get()).expect("created again");
    assert_eq!(*lease, 7);
    drop(lease);
    second.block_on(pool.close());
    assert_eq!(pool.status().active(), 0);
}

/// Upkeep panicked on a runtime without timers, which the pool took for the end of that runtime. It
/// moved to the caller's, which was the same, and so on thousands of times in a second.
#[test]
#[should_panic(expected = "timers are disabled")]
fn a_runtime_without_timers_is_refused_with_a_clear_panic() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let pool = Pool::builder(Numbers::default())
            .wait_timeout(Duration::from_millis(100))
            .build()
            .expect("the configuration is sound");
        drop(pool.get().await);
    });
}

fn runtime_without_timers() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// The last handle of a pool that had no runtime (yet, or any more) wanted to move to the one it was
/// dropped on, and the drop panicked where that has no timers. The pool was not even closed.
#[test]
fn a_pool_without_a_runtime_may_be_dropped_on_one_without_timers() {
    let pool = Pool::builder(Numbers::default()).build().unwrap();
    pool.add(3).unwrap();
    runtime_without_timers().block_on(async {
        drop(pool.close());
        assert!(pool.is_closed());
        drop(pool);
    });
}

#[test]
fn a_keyed_pool_whose_runtime_is_gone_may_be_dropped_on_one_without_timers() {
    let first = Runtime::new().unwrap();
    let pool = first.block_on(async {
        let pool = KeyedPool::builder(|_: &u32| Numbers::default())
            .build()
            .unwrap();
        for key in 0..3 {
            drop(pool.get(&key).await.unwrap());
        }
        pool
    });
    drop(first);
    runtime_without_timers().block_on(async move { drop(pool) });
}
