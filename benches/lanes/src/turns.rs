//! What a key with much more than its share costs the others.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Builder, sync::Semaphore, task::yield_now};
use wharf_lanes::{Batch, Failed, Lanes};

use crate::contenders::ITEMS;

const OTHERS: u64 = 64;

/// Batches of each of the others.
const BATCHES: usize = 200;

const HOT: u64 = u64::MAX;

/// How long a handler is at work.
const WORK: Duration = Duration::from_micros(20);

/// The time until all batches of the others have been handled, in seconds, with or without a key
/// that has ten times as much as all of them together.
///
/// # Panics
///
/// If an item is not accepted.
pub fn others_take(is_there_a_hot_key: bool) -> f64 {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let gate = Arc::new(Semaphore::new(0));
        let closed = Arc::clone(&gate);
        let lanes = Lanes::builder(
            move |batch: Batch<u64, u64>| {
                let gate = Arc::clone(&closed);
                async move {
                    drop(gate.acquire().await.expect("open"));
                    let start = Instant::now();
                    while start.elapsed() < WORK {
                        yield_now().await;
                    }
                    drop(batch);
                    Ok::<_, Infallible>(())
                }
            },
            // The hot key's, at the end.
            |_: Failed<u64, u64, Infallible>| {},
        )
        .items(ITEMS)
        .concurrency(4)
        .max_items(100_000_000)
        .build()
        .expect("sound numbers");
        let share = ITEMS * BATCHES;
        if is_there_a_hot_key {
            for item in 0..10 * OTHERS * share as u64 {
                lanes.push(HOT, item).await.expect("open");
            }
        }
        for item in 0..share as u64 {
            for key in 0..OTHERS {
                lanes.push(key, item).await.expect("open");
            }
        }
        let start = Instant::now();
        gate.add_permits(4);
        for key in 0..OTHERS {
            lanes.flush(&key).await;
        }
        let took = start.elapsed().as_secs_f64();
        drop(lanes.close_within(Duration::ZERO).await);
        took
    })
}
