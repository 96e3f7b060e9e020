//! Getting and putting back where there is always a resource.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::task::{unconstrained, yield_now};
use wharf::Pool;
use wharf_benches::{Dock, criterion, pool, runtime, time_many, time_one};

const RESOURCES: usize = 16;
const TASKS: usize = 16;
/// Cycles between two yields, so that all tasks take part.
const STRIDE: u64 = 1024;

fn alone(c: &mut Criterion) {
    let runtime = runtime();
    let pool = pool(&runtime, RESOURCES);
    c.bench_function("hot_path/get", |b| {
        b.iter_custom(|cycles| time_one(&runtime, unconstrained(get(pool, cycles))));
    });
    c.bench_function("hot_path/get_owned", |b| {
        b.iter_custom(|cycles| time_one(&runtime, unconstrained(get_owned(pool, cycles))));
    });
    c.bench_function("hot_path/try_get", |b| {
        b.iter(|| {
            let mut lease = pool.try_get().expect("a lease");
            black_box(&mut *lease);
        });
    });
}

/// The time is the span between two cycles' ends, whichever worker they end on.
fn together(c: &mut Criterion) {
    let runtime = runtime();
    let pool = pool(&runtime, RESOURCES);
    c.bench_function("hot_path/16 tasks on 2 workers", |b| {
        b.iter_custom(|cycles| {
            let share = cycles.div_ceil(TASKS as u64);
            time_many(&runtime, TASKS, || unconstrained(get(pool, share)))
        });
    });
}

async fn get(pool: &'static Pool<Dock>, cycles: u64) {
    for cycle in 1..=cycles {
        let mut lease = pool.get().await.expect("a lease");
        black_box(&mut *lease);
        drop(lease);
        if cycle % STRIDE == 0 {
            yield_now().await;
        }
    }
}

async fn get_owned(pool: &'static Pool<Dock>, cycles: u64) {
    for _ in 0..cycles {
        let mut lease = pool.get_owned().await.expect("a lease");
        black_box(&mut *lease);
    }
}

criterion_group! {
    name = hot_path;
    config = criterion();
    targets = alone, together
}
criterion_main!(hot_path);
