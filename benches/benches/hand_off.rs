//! Two tasks and one resource: every put hands it to the other, who was waiting.

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::task::yield_now;
use wharf::Pool;
use wharf_benches::{Dock, criterion, pool, runtime, time_many};

fn hand_off(c: &mut Criterion) {
    let runtime = runtime();
    let pool = pool(&runtime, 1);
    c.bench_function("hand_off/2 tasks, 1 resource", |b| {
        b.iter_custom(|turns| {
            let share = turns.div_ceil(2);
            time_many(&runtime, 2, || take_turns(pool, share))
        });
    });
}

async fn take_turns(pool: &'static Pool<Dock>, turns: u64) {
    for _ in 0..turns {
        let lease = pool.get().await.expect("a lease");
        // The other joins the line meanwhile.
        yield_now().await;
        drop(lease);
    }
}

criterion_group! {
    name = group;
    config = criterion();
    targets = hand_off
}
criterion_main!(group);
