//! Getting from a pool of pools.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use wharf::{Config, KeyedPool};
use wharf_benches::{Dock, criterion, runtime, time_many, time_one};

const TASKS: u64 = 16;

type Keyed = KeyedPool<u64, Dock>;

fn keyed(c: &mut Criterion) {
    let runtime = runtime();
    for keys in [1, 1_000] {
        let pool = pool(&runtime, keys);
        c.bench_function(&format!("keyed/get, {keys} keys"), |b| {
            b.iter_custom(|cycles| {
                time_one(
                    &runtime,
                    tokio::task::unconstrained(walk(pool, keys, cycles)),
                )
            });
        });
    }
    let pool = pool(&runtime, TASKS);
    c.bench_function("keyed/16 tasks on 2 workers, 16 keys", |b| {
        b.iter_custom(|cycles| {
            let share = cycles.div_ceil(TASKS);
            time_many(&runtime, TASKS as usize, || walk(pool, TASKS, share))
        });
    });
}

fn pool(runtime: &Runtime, keys: u64) -> &'static Keyed {
    let _guard = runtime.enter();
    let mut config = Config::default();
    config.max_active = 16;
    let builder = KeyedPool::builder(|_: &u64| Dock).per_key(config);
    let pool: &'static Keyed = Box::leak(Box::new(builder.build().expect("a pool")));
    runtime.block_on(walk(pool, keys, keys));
    pool
}

async fn walk(pool: &'static Keyed, keys: u64, cycles: u64) {
    for cycle in 0..cycles {
        let mut lease = pool.get(&(cycle % keys)).await.expect("a lease");
        black_box(&mut *lease);
    }
}

criterion_group! {
    name = group;
    config = criterion();
    targets = keyed
}
criterion_main!(group);
