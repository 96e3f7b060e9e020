//! A broker with a queue, and a publisher and a checker of its messages.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use wharf_amqp::{Builder, Cluster, Publisher, lapin::types::FieldTable};
use wharf_broker::{Broker, Faults};
use wharf_testkit::{
    checker::{Checker, Verdict},
    wait::{eventually, within},
};

use crate::common::{SOON, assert_books, declare, quick, receive_all, warm};

const NAME: &str = "under test";
/// What the connections under test call themselves.
pub(crate) const PUBLISHING: &str = "under test (publish)";
pub(crate) const CONSUMING: &str = "under test (consume)";

pub(crate) struct Stage {
    pub(crate) broker: Broker,
    pub(crate) checker: Arc<Checker>,
    /// To declare and to look: faults of the connections under test pass it by.
    pub(crate) direct: Cluster,
}

impl Stage {
    /// With a durable queue `q`.
    pub(crate) async fn new() -> Self {
        let broker = Broker::builder().user("app", "secret").start();
        let broker = broker.await.unwrap();
        let direct = quick(&[broker.url("app", "secret")]);
        let direct = direct.name("direct").connect_lazily().unwrap();
        declare(&direct, "q", FieldTable::default()).await;
        Self {
            broker,
            checker: Arc::default(),
            direct,
        }
    }

    /// The cluster under test.
    pub(crate) fn cluster(&self) -> Builder {
        quick(&[self.broker.url("app", "secret")]).name(NAME)
    }

    /// Its publisher, which has published message 0, so that its channel is open.
    pub(crate) async fn publisher(&self) -> Publisher {
        let cluster = self.cluster().connect().await.unwrap();
        self.publisher_of(&cluster, 3 * SOON).await
    }

    pub(crate) async fn publisher_of(&self, cluster: &Cluster, deadline: Duration) -> Publisher {
        let publisher = Publisher::builder(cluster).deadline(deadline);
        let publisher = publisher.build().await.unwrap();
        warm(&publisher, &self.checker, 0).await;
        publisher
    }

    /// Faults of the connection that publishes.
    pub(crate) fn publishing(&self) -> Faults {
        self.broker.faults().named(PUBLISHING)
    }

    /// Faults of the connection that consumes.
    pub(crate) fn consuming(&self) -> Faults {
        self.broker.faults().named(CONSUMING)
    }

    /// Messages in `q`: those ready and those that are delivered and not acknowledged.
    pub(crate) fn depth(&self) -> (usize, usize) {
        self.broker.queue_depth("/", "q").unwrap()
    }

    pub(crate) async fn is_drained(&self) {
        eventually("the queue is empty and nothing is open", SOON, async || {
            self.depth() == (0, 0)
        })
        .await;
    }

    /// Reads `q` to its end: every message has one outcome, none that was confirmed is lost, and the
    /// publisher's books say the same.
    pub(crate) async fn verdict(&self, publisher: &Publisher) -> Verdict {
        receive_all(&self.direct, "q", &self.checker).await;
        let verdict = self.checker.verdict();
        verdict.assert_all_resolved_once();
        assert_books(publisher, &verdict).await;
        verdict
    }
}

/// Runs all of them at once and fails with the first that does.
pub(crate) async fn all<F: Future<Output = ()> + Send + 'static>(runs: impl Iterator<Item = F>) {
    let mut running: JoinSet<()> = runs.collect();
    while let Some(ended) = within("each run", 4 * SOON, running.join_next()).await {
        ended.unwrap();
    }
}
