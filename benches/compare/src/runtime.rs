//! The runtime a scenario runs on, and the bound on everything that runs there.

use std::future::Future;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::lane::Trouble;

/// Longer than any slice by two orders of magnitude.
const BOUND: Duration = Duration::from_secs(10);

/// How long the workers may take to answer after a task was aborted.
const GRACE: Duration = Duration::from_secs(2);

pub struct Arena(Runtime);

impl Arena {
    /// Two workers, as the scenarios say. The main thread only waits.
    pub fn two_workers() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self(runtime.expect("a runtime"))
    }

    /// One worker, so that every allocation counted belongs to the contender.
    pub fn one_worker() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self(runtime.expect("a runtime"))
    }

    /// Runs `slice` as a task, not on the thread that waits for it: a `block_on` thread is no
    /// worker, and every wake-up to or from it would cross threads.
    pub fn run<T: Send + 'static>(
        &self,
        slice: impl Future<Output = Result<T, Trouble>> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (done, outcome) = sync_channel(1);
        let task = self.0.spawn(async move {
            // Nobody listens any more if the bound has passed.
            let _ = done.send(slice.await);
        });
        match outcome.recv_timeout(BOUND) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Failed("a panic".into())),
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                self.demand_workers();
                Err(Trouble::Hung(BOUND))
            }
        }
    }

    /// A task that cannot be aborted spins on its worker, and with one core less nothing measured
    /// afterwards would be worth printing.
    fn demand_workers(&self) {
        let workers = self.0.metrics().num_workers();
        let present = Arc::new(AtomicUsize::new(0));
        let everyone = move |present: &AtomicUsize| present.load(Ordering::Relaxed) == workers;
        for _ in 0..workers {
            let present = Arc::clone(&present);
            self.0.spawn(async move {
                present.fetch_add(1, Ordering::Relaxed);
                // Blocks its worker on purpose, so that the next such task needs another one.
                wait_until(|| everyone(&present));
            });
        }
        if !wait_until(|| everyone(&present)) {
            eprintln!("it holds on to a worker thread: run again with --without");
            exit(2);
        }
    }
}

fn wait_until(condition: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    while !condition() && since.elapsed() < GRACE {
        sleep(Duration::from_millis(1));
    }
    condition()
}
