//! Many more tasks than resources, each holding for one yield.

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::task::yield_now;
use wharf::Pool;
use wharf_benches::{Dock, criterion, pool, runtime, time_many};

fn queueing(c: &mut Criterion) {
    let runtime = runtime();
    for (tasks, resources) in [(64, 4), (1_000, 8)] {
        let pool = pool(&runtime, resources);
        c.bench_function(
            &format!("queueing/{tasks} tasks, {resources} resources"),
            |b| {
                b.iter_custom(|turns| {
                    let share = turns.div_ceil(tasks as u64);
                    let time = time_many(&runtime, tasks, || take_turns(pool, share));
                    // Every task takes a whole number of turns; the figure is that of one.
                    time.mul_f64(turns as f64 / (share * tasks as u64) as f64)
                });
            },
        );
    }
}

async fn take_turns(pool: &'static Pool<Dock>, turns: u64) {
    for _ in 0..turns {
        let lease = pool.get().await.expect("a lease");
        yield_now().await;
        drop(lease);
    }
}

criterion_group! {
    name = group;
    config = criterion();
    targets = queueing
}
criterion_main!(group);
