//! The tasks that run a handler, on the user's runtime.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::task::AbortHandle;

use super::{Delivery, Handler, Outcome, keeper::Core, state::Counters};
use crate::telemetry::Timer;

/// Starts as many as there may be deliveries in processing.
pub(super) fn start(
    core: &Arc<Core>,
    handler: &Arc<dyn Handler>,
    concurrency: usize,
    limit: Option<Duration>,
) -> Vec<AbortHandle> {
    let alive = Arc::new(AtomicUsize::new(concurrency));
    let workers = (0..concurrency).map(|_| {
        let worker = Worker {
            core: Arc::clone(core),
            handler: Arc::clone(handler),
            limit,
            alive: Arc::clone(&alive),
        };
        tokio::spawn(worker.work()).abort_handle()
    });
    workers.collect()
}

struct Worker {
    core: Arc<Core>,
    handler: Arc<dyn Handler>,
    limit: Option<Duration>,
    alive: Arc<AtomicUsize>,
}

impl Worker {
    async fn work(self) {
        while let Some(delivery) = self.core.inbox.take().await {
            // Dropped here, at an await, the ticket hands the message back.
            let (delivery, ticket, place) = delivery.into_parts();
            let outcome = self.process(delivery).await;
            // One that is stale has been counted.
            let _ = ticket.settle(outcome);
            drop(place);
        }
    }

    async fn process(&self, delivery: Delivery) -> Outcome {
        // What is handed back for a second try is not for a third.
        let failed = if delivery.redelivered {
            Outcome::Reject
        } else {
            Outcome::Requeue
        };
        let counters = &self.core.counters;
        let timer = Timer::start();
        let handling = async { self.handler.handle(delivery).await };
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let handled = match self.limit {
            Some(limit) => tokio::time::timeout(limit, handling).await,
            None => Ok(handling.await),
        };
        counters.told.handled(&timer);
        match handled {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(_)) => {
                counters.told.panicked();
                Counters::add(&counters.panics, 1);
            }
            Err(_) => {
                counters.told.timed_out();
                Counters::add(&counters.timeouts, 1);
            }
        }
        failed
    }
}

impl Drop for Worker {
    /// When the last is gone, because its runtime is, nobody would process what is delivered.
    fn drop(&mut self) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.leave();
        }
    }
}
