//! A million callers join the line, and all of them give up, in random order.
//!
//! The figures are per waiter. Both contain what the benchmark itself does to the caller's
//! future, which lies somewhere in a few hundred megabytes: to reach it misses every cache.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use wharf::{Lease, Pool};
use wharf_benches::{Dock, criterion, runtime};

const WAITERS: usize = 1_000_000;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

fn cancel_storm(c: &mut Criterion) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let pool: &'static Pool<Dock> = Box::leak(Box::new(full_pool()));
    let lease = runtime.block_on(pool.get()).expect("a lease");

    let mut group = c.benchmark_group("cancel_storm");
    // One storm a sample: each takes a good part of a second.
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("join a line of a million", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| storm(pool).joined).sum());
    });
    group.bench_function("leave a line of a million", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| storm(pool).left).sum());
    });
    group.finish();
    still_lends(pool, lease);
}

fn full_pool() -> Pool<Dock> {
    let builder = Pool::builder(Dock).max_active(1).max_waiters(WAITERS);
    builder.build().expect("a pool")
}

/// Per waiter.
struct Storm {
    joined: Duration,
    left: Duration,
}

fn storm(pool: &'static Pool<Dock>) -> Storm {
    let mut line: Vec<Waiting> = (0..WAITERS).map(|_| waiting(pool)).collect();
    let mut context = Context::from_waker(Waker::noop());

    let start = Instant::now();
    for waiting in &mut line {
        assert!(
            waiting.as_mut().poll(&mut context).is_pending(),
            "the only resource is out"
        );
    }
    let joined = start.elapsed();

    fastrand::shuffle(&mut line);
    let start = Instant::now();
    drop(line);
    let left = start.elapsed();

    Storm {
        joined: per_waiter(joined),
        left: per_waiter(left),
    }
}

fn waiting(pool: &'static Pool<Dock>) -> Waiting {
    Box::pin(async {
        drop(pool.get().await.expect("a lease"));
    })
}

fn per_waiter(time: Duration) -> Duration {
    time / WAITERS as u32
}

/// After all that, the pool still lends its one resource.
fn still_lends(pool: &Pool<Dock>, lease: Lease<'_, Dock>) {
    drop(lease);
    drop(pool.try_get().expect("the resource is back"));
}

criterion_group! {
    name = group;
    config = criterion().sample_size(10);
    targets = cancel_storm
}
criterion_main!(group);
