//! How late batches are whose linger is over, while as much comes in as the machine can take.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;
use wharf_lanes::{Batch, Failed, Lanes, Reason};
use wharf_race::host::Watch;

use crate::{
    contenders::ITEMS,
    keys::Scattered,
    lateness::{Lateness, Record},
};

const LINGER: Duration = Duration::from_millis(50);

/// Over these, most batches have a few items only when their linger is over.
const KEYS: u64 = 100_000;

const PUSHERS: usize = 2;

/// The first is the first linger: in its first half nothing is due.
const SLICE: Duration = LINGER.saturating_mul(2);

/// Two tasks that never pause push for so long; an item is the moment at which it was pushed. Tells how
/// many items a second that were, and how late the batches that the linger flushed.
///
/// # Panics
///
/// If an item is not handled.
pub fn lateness(workers: usize, long: Duration) -> (f64, Lateness) {
    let mut builder = match workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(workers.max(1)).enable_all().build();
    let record = Arc::new(Record::in_slices_of(SLICE));
    let seen = Arc::clone(&record);
    let slices = (long + LINGER).div_duration_f64(SLICE).ceil() as usize;
    let start = Instant::now();
    let watch = Watch::begin(start, SLICE, slices);
    let items = runtime.expect("a runtime").block_on(async {
        let lanes = Lanes::builder(
            move |batch: Batch<u64, u64>| {
                if batch.reason() == Reason::Linger {
                    let due = Duration::from_nanos(batch[0]) + LINGER;
                    seen.enter(due, start.elapsed());
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
    let record = Arc::into_inner(record).expect("the handler is gone with its runtime");
    (pace, Lateness::of(&record.into_slices(), &watch.loud()))
}
