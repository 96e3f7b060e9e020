//! How late batches are whose linger is over, while as much comes in as the machine can take.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::runtime::Builder;
use wharf_lanes::{Batch, Failed, Lanes, Reason};
use wharf_race::spread::quantile;

use crate::{contenders::ITEMS, keys::Scattered};

const LINGER: Duration = Duration::from_millis(50);

/// Over these, most batches have a few items only when their linger is over.
const KEYS: u64 = 100_000;

const PUSHERS: usize = 2;

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Lateness {
    /// Items a second.
    pub pace: f64,
    /// How many batches were flushed by the linger.
    pub batches: usize,
    /// In milliseconds.
    pub p50: f64,
    /// The same.
    pub p99: f64,
    /// The same.
    pub worst: f64,
}

/// Two tasks that never pause push for so long; an item is the moment at which it was pushed.
///
/// # Panics
///
/// If nothing was late.
pub fn lateness(workers: usize, long: Duration) -> Lateness {
    let mut builder = match workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(workers.max(1)).enable_all().build();
    let late = Arc::new(Mutex::new(Vec::<f64>::with_capacity(10_000_000)));
    let start = Instant::now();
    let seen = Arc::clone(&late);
    let items = runtime.expect("a runtime").block_on(async {
        let lanes = Lanes::builder(
            move |batch: Batch<u64, u64>| {
                if batch.reason() == Reason::Linger {
                    let due = Duration::from_nanos(batch[0]) + LINGER;
                    let late = start.elapsed().saturating_sub(due);
                    seen.lock()
                        .expect("no panic")
                        .push(late.as_secs_f64() * 1e3);
                }
                async move {
                    drop(batch);
                    Ok::<_, Infallible>(())
                }
            },
            |_: Failed<u64, u64, Infallible>| {},
        )
        .items(ITEMS)
        .linger(LINGER)
        .build()
        .expect("sound numbers");
        let mut pushers = Vec::new();
        for pusher in 0..PUSHERS {
            let lanes = lanes.clone();
            pushers.push(tokio::spawn(async move {
                // None walks in the other's footsteps, where the caches are warm.
                let mut keys = Scattered::new(pusher as u64);
                while start.elapsed() < long {
                    let now = start.elapsed().as_nanos() as u64;
                    lanes.push(keys.next(KEYS), now).await.expect("open");
                }
            }));
        }
        for pusher in pushers {
            pusher.await.expect("no panic");
        }
        lanes.close().await.expect("handled");
        let status = lanes.status();
        assert_eq!(status.handled, status.accepted, "handled");
        status.accepted
    });
    let pace = items as f64 / start.elapsed().as_secs_f64();
    let mut late = std::mem::take(&mut *late.lock().expect("no panic"));
    late.sort_by(f64::total_cmp);
    let at = |share| quantile(&late, share).expect("some were late");
    Lateness {
        pace,
        batches: late.len(),
        p50: at(0.5),
        p99: at(0.99),
        worst: at(1.0),
    }
}
