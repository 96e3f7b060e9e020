//! What the benchmarks of the pool share: something to lend, and a place to run.
//!
//! Everything measured runs in spawned tasks on two workers; the criterion thread only waits, for
//! a `block_on` thread is no worker and every wake-up to or from it would cross threads.

use std::{
    convert::Infallible,
    future::Future,
    time::{Duration, Instant},
};

use criterion::Criterion;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use wharf::{Manager, Pool};

/// The smallest manager there is, with the pool's defaults for all it leaves out.
#[derive(Clone, Copy, Debug)]
pub struct Dock;

impl Manager for Dock {
    type Resource = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(0)
    }
}

/// Short runs: a regression shows all the same, and the whole stays under three minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Two workers.
///
/// # Panics
///
/// Panics if the system gives no threads.
#[must_use]
pub fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// A pool of `size` resources, all of them created, that lives as long as the process.
///
/// # Panics
///
/// Panics if the pool cannot be built or filled.
pub fn pool(runtime: &Runtime, size: usize) -> &'static Pool<Dock> {
    let _guard = runtime.enter();
    let pool = Pool::builder(Dock)
        .max_active(size)
        .build()
        .expect("a pool");
    let pool: &'static Pool<Dock> = Box::leak(Box::new(pool));
    runtime.block_on(async {
        let mut leases = Vec::new();
        for _ in 0..size {
            leases.push(pool.get().await.expect("a lease"));
        }
    });
    pool
}

/// How long one task takes.
///
/// # Panics
///
/// Panics if the task does.
pub fn time_one(runtime: &Runtime, task: impl Future<Output = ()> + Send + 'static) -> Duration {
    let timed = runtime.spawn(async move {
        let start = Instant::now();
        task.await;
        start.elapsed()
    });
    runtime.block_on(timed).expect("no panic")
}

/// How long `tasks` tasks take together, from the first spawn to the last end.
///
/// # Panics
///
/// Panics if one of the tasks does.
pub fn time_many<F>(runtime: &Runtime, tasks: usize, task: impl Fn() -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<F> = (0..tasks).map(|_| task()).collect();
    time_one(runtime, async move {
        let crew: JoinSet<()> = tasks.into_iter().collect();
        crew.join_all().await;
    })
}
