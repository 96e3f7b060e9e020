//! What the tests of consumers share: a stage of their own, and a handler that is watched.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::Semaphore, time::timeout};
use wharf_amqp::{
    Cluster,
    consumer::{Consumer, ConsumerState, Delivery, Handler, Outcome, Stats},
};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, within},
};

use super::{
    SOON,
    broker::{Node, Vhost},
    connect, declare,
};

/// More than anything takes that does not wait for the operation timeout of [`watchful`](super::watchful).
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// A virtual host with a queue, a cluster that is reached directly, and one through a proxy.
pub(crate) struct Stage {
    pub(crate) vhost: Vhost,
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
    pub(crate) faulty: Cluster,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let node = Node::shared().await;
        let vhost = node.vhost().await;
        let proxy = Proxy::to(node.amqp_addr()).await;
        let cluster = connect(vhost.url()).await;
        let faulty = connect(vhost.url_via(proxy.addr())).await;
        declare(&cluster, "q", FieldTable::default()).await;
        Self {
            vhost,
            cluster,
            proxy,
            faulty,
        }
    }

    pub(crate) async fn publish(&self, ids: impl IntoIterator<Item = u64>) {
        publish(&self.cluster, "q", ids).await;
    }

    /// Ready and unacknowledged messages.
    pub(crate) async fn count(&self, queue: &str) -> (u64, u64) {
        self.vhost.count(queue).await
    }

    pub(crate) async fn drained(&self, queue: &str) {
        eventually("the queue is empty and nothing is open", SOON, async || {
            self.count(queue).await == (0, 0)
        })
        .await;
    }
}

/// A queue that dead-letters into another, which is named `dead`.
pub(crate) async fn declare_with_dead_letters(cluster: &Cluster, queue: &str) {
    let channel = cluster.channels().get().await.unwrap();
    let exchange = channel.exchange_declare(
        "dlx".into(),
        lapin::ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    exchange.await.unwrap();
    declare(cluster, "dead", FieldTable::default()).await;
    let bind = channel.queue_bind(
        "dead".into(),
        "dlx".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-dead-letter-exchange".into(),
        AMQPValue::LongString("dlx".into()),
    );
    declare(cluster, queue, arguments).await;
}

pub(crate) async fn publish(cluster: &Cluster, queue: &str, ids: impl IntoIterator<Item = u64>) {
    let channel = cluster.confirm_channels().get().await.unwrap();
    let mut confirms = Vec::new();
    for id in ids {
        let body = id.to_be_bytes();
        let publish = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default().with_delivery_mode(2),
        );
        confirms.push(publish.await.unwrap());
    }
    for confirm in join_all(confirms).await {
        assert!(confirm.unwrap().is_ack());
    }
}

pub(crate) fn id(delivery: &Delivery) -> u64 {
    u64::from_be_bytes(delivery.data.as_slice().try_into().unwrap())
}

/// What a handler has seen, and leave for it to go on.
#[derive(Clone)]
pub(crate) struct Probe(Arc<Inner>);

struct Inner {
    seen: Mutex<Vec<u64>>,
    done: Mutex<Vec<u64>>,
    running: AtomicUsize,
    most: AtomicUsize,
    leave: Semaphore,
}

impl Probe {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Inner {
            seen: Mutex::default(),
            done: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            leave: Semaphore::new(0),
        }))
    }

    pub(crate) fn open() -> Self {
        let probe = Self::closed();
        probe.let_all();
        probe
    }

    pub(crate) fn let_all(&self) {
        self.0.leave.add_permits(1_000_000);
    }

    pub(crate) fn let_some(&self, count: usize) {
        self.0.leave.add_permits(count);
    }

    pub(crate) fn seen(&self) -> Vec<u64> {
        self.0.seen.lock().unwrap().clone()
    }

    pub(crate) fn done(&self) -> Vec<u64> {
        self.0.done.lock().unwrap().clone()
    }

    pub(crate) fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub(crate) async fn has_seen(&self, count: usize) {
        eventually("handlers have begun", SOON, async || {
            self.seen().len() >= count
        })
        .await;
    }
}

#[async_trait::async_trait]
impl Handler for Probe {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let id = id(&delivery);
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        // Last: what has been seen is running.
        self.0.seen.lock().unwrap().push(id);
        self.0.leave.acquire().await.unwrap().forget();
        self.0.done.lock().unwrap().push(id);
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        Outcome::Ack
    }
}

pub(crate) async fn until(consumer: &Consumer, what: &str, is: impl FnMut(&ConsumerState) -> bool) {
    let mut state = consumer.watch();
    within(what, SOON, state.wait_for(is)).await.unwrap();
}

/// Waits until it has counted so much: what the broker has been told is counted a little later.
pub(crate) async fn counted(consumer: &Consumer, what: &str, is: impl Fn(&Stats) -> bool) {
    let counting = eventually(what, 2 * SOON, async || is(&consumer.stats()));
    let is_so = timeout(SOON, counting).await.is_ok();
    assert!(is_so, "not {what}: {:?}", consumer.stats());
}

pub(crate) async fn registered(consumer: &Consumer, times: u64) {
    eventually("it has subscribed again", SOON, async || {
        consumer.stats().registrations >= times && consumer.state().is_running()
    })
    .await;
}

/// Takes everything that is in the queue.
pub(crate) async fn remaining(stage: &Stage) -> HashSet<u64> {
    let (ready, unacked) = stage.count("q").await;
    assert_eq!(unacked, 0);
    let mut rest = Consumer::builder(&stage.cluster, "q")
        .stream()
        .await
        .unwrap();
    let mut ids = HashSet::new();
    for _ in 0..ready {
        let delivery = within("the rest", SOON, rest.next()).await.unwrap();
        ids.insert(id(&delivery));
        delivery.ack().unwrap();
    }
    rest.stop_within(SOON).await.unwrap();
    assert_eq!(stage.count("q").await, (0, 0));
    ids
}
