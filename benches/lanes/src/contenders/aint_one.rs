//! The crate `batch-aint-one`. Its `add` waits until an item has been handled, so whoever pushes keeps
//! the futures of all that are not, and polls them now and then.

use std::{sync::Arc, time::Duration};

use batch_aint_one::{Batcher, BatchingPolicy, Limits, OnFull, Processor};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use tokio::{
    task::coop::unconstrained,
    time::{sleep, timeout},
};

use super::{Contender, Handled, ITEMS};

/// So many items may wait on their way in.
const UNDER_WAY: usize = 10_000;

/// A batcher, and the adds that have not been answered.
pub struct AintOne {
    batcher: Arc<Batcher<Counting>>,
    adds: FuturesUnordered<BoxFuture<'static, ()>>,
    since: usize,
}

#[derive(Debug, Clone)]
struct Counting(Handled);

impl Processor for Counting {
    type Key = u64;
    type Input = u64;
    type Output = ();
    type Error = String;
    type Resources = ();

    async fn acquire_resources(&self, _key: u64) -> Result<(), String> {
        Ok(())
    }

    async fn process(
        &self,
        _key: u64,
        inputs: impl Iterator<Item = u64> + Send,
        _resources: (),
    ) -> Result<Vec<()>, String> {
        let outputs: Vec<()> = inputs.map(|_| ()).collect();
        self.0.add(outputs.len());
        Ok(outputs)
    }
}

impl Contender for AintOne {
    const NAME: &'static str = "batch-aint-one";

    fn open(linger: Duration, handled: &Handled) -> Self {
        let limits = Limits::builder()
            .max_batch_size(ITEMS)
            .max_key_concurrency(1)
            .max_key_queued_items(1_000_000)
            .max_items_awaiting_worker(UNDER_WAY)
            .build();
        let batcher = Batcher::builder()
            .name("compared")
            .processor(Counting(handled.clone()))
            .limits(limits)
            .batching_policy(BatchingPolicy::Duration(linger, OnFull::Process))
            .build();
        Self {
            batcher: Arc::new(batcher),
            adds: FuturesUnordered::new(),
            since: 0,
        }
    }

    async fn push(&mut self, key: u64, item: u64) {
        let batcher = Arc::clone(&self.batcher);
        // Each future that is ready is polled once: without `unconstrained` all of a backlog would be
        // polled in vain for every hundred that go on, since a task may do so much in a turn.
        self.adds.push(Box::pin(unconstrained(async move {
            batcher.add(key, item).await.expect("handled");
        })));
        self.since += 1;
        if self.since == 100 {
            self.since = 0;
            tokio::select! {
                biased;
                () = async { while self.adds.next().await.is_some() {} } => {}
                () = tokio::task::yield_now() => {}
            }
        }
    }

    async fn rest(&mut self, time: Duration) {
        let answered = async { while self.adds.next().await.is_some() {} };
        tokio::join!(timeout(time, answered), sleep(time)).1
    }

    async fn finish(mut self) {
        while self.adds.next().await.is_some() {}
    }
}
