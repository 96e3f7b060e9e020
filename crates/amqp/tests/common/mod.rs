//! What the tests of this crate share: a place to publish in, messages with numbers, and the books.

#![allow(dead_code, reason = "each test binary uses the part it needs")]

pub(crate) mod broker;
pub(crate) mod consuming;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::{task::JoinHandle, time::timeout};
use wharf::Backoff;
use wharf_amqp::{Builder, Cluster, Message, PublishError, Publisher, Receipt, lapin};
use wharf_testkit::{
    checker::{Checker, Verdict},
    proxy::Proxy,
    wait::{eventually, eventually_some, within},
};

use broker::{Connection, Node, Vhost};

/// For whatever happens in milliseconds on a machine that is not busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A vhost with a durable queue `q`, and a proxy before it.
pub(crate) struct Stage {
    pub(crate) vhost: Vhost,
    pub(crate) proxy: Proxy,
    /// Past the proxy, to declare and to look.
    pub(crate) direct: Cluster,
}

impl Stage {
    pub(crate) async fn on_the_shared_node() -> Self {
        Self::on(&Node::shared().await).await
    }

    pub(crate) async fn on(node: &Node) -> Self {
        let vhost = node.vhost().await;
        // It has no connection that publishes until it does.
        let direct = quick(&[vhost.url()]).connect_lazily().unwrap();
        declare(&direct, "q", FieldTable::default()).await;
        Self {
            proxy: Proxy::to(node.amqp_addr()).await,
            direct,
            vhost,
        }
    }

    /// A cluster through the proxy.
    pub(crate) fn cluster(&self) -> Builder {
        quick(&[self.vhost.url_via(self.proxy.addr())])
    }

    /// The connections that publish, as the broker sees them.
    pub(crate) async fn publishing(&self) -> Vec<Connection> {
        let mut connections = self.vhost.connections().await;
        connections.retain(|connection| connection.name.ends_with("(publish)"));
        connections
    }

    /// Reads `q` to its end, and holds it against what was reported.
    pub(crate) async fn verdict(&self, checker: &Checker) -> Verdict {
        receive_all(&self.direct, "q", checker).await;
        checker.verdict()
    }
}

/// A cluster that comes back quickly, for tests that have many outages.
pub(crate) fn quick(urls: &[String]) -> Builder {
    Cluster::builder(urls).backoff(Backoff {
        min: Duration::from_millis(10),
        max: Duration::from_millis(200),
    })
}

/// A cluster that notices a silent peer soon.
pub(crate) fn watchful(url: String) -> Builder {
    Cluster::builder([url])
        .connect_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(15))
        .heartbeat(2)
}

pub(crate) async fn connect(url: String) -> Cluster {
    watchful(url).connect().await.unwrap()
}

/// Declares a durable queue.
pub(crate) async fn declare(cluster: &Cluster, queue: &str, arguments: FieldTable) {
    let channel = cluster.channels().get().await.unwrap();
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declared = channel.queue_declare(queue.into(), options, arguments);
    declared.await.unwrap();
}

/// Publishes to an exchange by a plain channel, and says whether that went into a queue.
pub(crate) async fn is_routed(
    cluster: &Cluster,
    exchange: &str,
    key: &str,
    headers: FieldTable,
) -> bool {
    let channel = cluster.confirm_channels().get().await.unwrap();
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let properties = BasicProperties::default().with_headers(headers);
    let sent = channel.basic_publish(exchange.into(), key.into(), options, &[0; 8], properties);
    let confirm = within("a confirm", SOON, sent.await.unwrap())
        .await
        .unwrap();
    confirm.is_ack() && confirm.take_message().is_none()
}

/// For a queue that refuses what is beyond so many messages.
pub(crate) fn at_most(messages: i32) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(messages));
    let reject = LongString::from("reject-publish");
    arguments.insert("x-overflow".into(), AMQPValue::LongString(reject));
    arguments
}

/// Message number so many, for `q`.
pub(crate) fn numbered(id: u64) -> Message {
    Message::new(id.to_string()).to("", "q").persistent()
}

/// Publishes one, so that the channel is open and nothing is under way.
pub(crate) async fn warm(publisher: &Publisher, checker: &Checker, id: u64) {
    let outcome = within("a first verdict", SOON, publish(publisher, checker, id));
    assert!(outcome.await.unwrap().is_confirmed());
    none_in_flight(publisher).await;
}

/// Publishes a numbered message, and tells the checker.
pub(crate) async fn publish(
    publisher: &Publisher,
    checker: &Checker,
    id: u64,
) -> Result<Receipt, PublishError> {
    checker.sent(id);
    let outcome = publisher.publish(numbered(id)).await;
    tell(checker, id, &outcome);
    outcome
}

pub(crate) fn tell(checker: &Checker, id: u64, outcome: &Result<Receipt, PublishError>) {
    match outcome {
        Ok(Receipt::Confirmed { .. }) => checker.confirmed(id),
        Ok(Receipt::Returned { .. }) => checker.returned(id),
        Ok(Receipt::Unknown { .. }) => checker.unknown(id),
        // An error is the promise that no queue has it.
        Ok(Receipt::Rejected { .. }) | Err(_) => checker.rejected(id),
        Ok(other) => panic!("{other:?}"),
    }
}

/// Publishes all of them at once, from one task: each has been handed to the connection, if there
/// is a channel, when the publisher has counted the next.
pub(crate) fn publish_at_once(
    publisher: &Publisher,
    checker: &Arc<Checker>,
    ids: Range<u64>,
) -> JoinHandle<()> {
    let (publisher, checker) = (publisher.clone(), Arc::clone(checker));
    tokio::spawn(async move {
        join_all(ids.map(|id| publish(&publisher, &checker, id))).await;
    })
}

/// Waits until the publisher has taken so many messages.
pub(crate) async fn published(publisher: &Publisher, count: u64) {
    eventually("they are published", SOON, async || {
        publisher.stats().published == count
    })
    .await;
}

/// Waits until no message has a share of the window: it comes back a little after the verdict, and
/// to whoever comes next a little after it is counted.
pub(crate) async fn none_in_flight(publisher: &Publisher) {
    let back = publisher.flush(SOON).await;
    back.expect("every share of the window comes back");
    // A publisher that is closed does not wait.
    eventually("every share of the window is back", SOON, async || {
        publisher.stats().in_flight == 0
    })
    .await;
}

/// The publisher's counts are those of the callers, when all of them waited to the end.
pub(crate) async fn assert_books(publisher: &Publisher, verdict: &Verdict) {
    none_in_flight(publisher).await;
    let stats = publisher.stats();
    let told = [
        ("confirmed", stats.confirmed, verdict.confirmed),
        ("returned", stats.returned, verdict.returned),
        ("unknown", stats.unknown, verdict.unknown),
        ("refused", stats.rejected + stats.failed, verdict.rejected),
        ("all", stats.published, verdict.sent),
    ];
    for (what, counted, told) in told {
        assert_eq!(counted, told, "{what}: {stats:?}, {verdict}");
    }
    let copies = verdict.duplicates <= stats.republished;
    assert!(copies, "copies that are not counted: {stats:?}, {verdict}");
}

/// Reads a queue to its end.
pub(crate) async fn receive_all(cluster: &Cluster, queue: &str, checker: &Checker) {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    // Who closed its connection with others may not have been heard yet.
    let (channel, ready) = eventually_some("a channel that works", SOON, || async move {
        let channel = cluster.channels().get().await.ok()?;
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let ready = declared.await.ok()?.message_count();
        Some((channel, ready))
    })
    .await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..Default::default()
    };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.unwrap();
    for _ in 0..ready {
        let delivery = within("a message of the queue", SOON, consumer.next()).await;
        let body = delivery.unwrap().unwrap().data;
        let id = std::str::from_utf8(&body).unwrap();
        checker.received(id.parse().unwrap());
    }
    channel.discard();
}

/// Tasks that publish one message after the other for as long as a fault lasts.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(publisher: &Publisher, checker: &Arc<Checker>, tasks: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(0));
        let one = |_| {
            let (publisher, checker) = (publisher.clone(), Arc::clone(checker));
            let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    let _ = publish(&publisher, &checker, id).await;
                }
            })
        };
        let tasks = (0..tasks).map(one).collect();
        Self { stop, tasks }
    }

    /// Waits until so many more are confirmed.
    pub(crate) async fn confirmed(&self, publisher: &Publisher, more: u64) {
        let before = publisher.stats();
        let goal = before.confirmed + more;
        let come = async || publisher.stats().confirmed >= goal;
        let coming = eventually("confirms come", 4 * SOON, come);
        if timeout(2 * SOON, coming).await.is_err() {
            let after = publisher.stats();
            panic!("not {more} confirms more: {before:?}, then {after:?}");
        }
    }

    /// Waits until every message has its verdict.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in within("every verdict", 3 * SOON, join_all(self.tasks)).await {
            task.unwrap();
        }
    }
}
