//! The runtime a scenario runs on, and the bound on everything that runs there.

use std::{
    future::Future,
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

use crate::lane::Trouble;

/// Longer than any slice by far.
const BOUND: Duration = Duration::from_secs(20);

/// How long the workers may take to answer after a task was aborted.
const GRACE: Duration = Duration::from_secs(2);

/// The runtime.
#[derive(Debug)]
pub struct Arena(Runtime);

impl Arena {
    /// Two workers. The main thread only waits.
    ///
    /// # Panics
    ///
    /// If the system has no threads left.
    #[must_use]
    pub fn two_workers() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self(runtime.expect("a runtime"))
    }

    /// One worker, so that every allocation counted belongs to the contender.
    ///
    /// # Panics
    ///
    /// If the system has no threads left.
    #[must_use]
    pub fn one_worker() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self(runtime.expect("a runtime"))
    }

    /// Runs what is not measured and has a bound of its own, such as the start of a server.
    pub fn prepare<T>(&self, preparation: impl Future<Output = T>) -> T {
        self.0.block_on(preparation)
    }

    /// Runs `slice` as a task, not on the thread that waits for it: a `block_on` thread is no
    /// worker, and every wake-up to or from it would cross threads.
    ///
    /// # Errors
    ///
    /// [`Trouble`], if the slice has any, panics, or does not end. One that cannot be aborted ends
    /// the program.
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
