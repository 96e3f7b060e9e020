//! A broker of three nodes with quorum queues: its nodes go and come, and no confirmed message is
//! lost.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Mutex, MutexGuard, OnceCell},
    task::JoinSet,
};
use wharf::Backoff;
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Receipt, State, Topology,
    consumer::{Delivery, Outcome},
    topology::{Declaration, Queue},
};
use wharf_testkit::{
    checker::Checker,
    proxy::Proxy,
    rabbit::{self, Rabbit, Vhost},
    wait::{eventually, within},
};

const SOON: Duration = Duration::from_secs(60);

/// The nodes, for one test at a time: each leaves them as it found them.
async fn nodes() -> MutexGuard<'static, rabbit::Cluster> {
    static NODES: OnceCell<Mutex<rabbit::Cluster>> = OnceCell::const_new();
    let start = async || Mutex::new(rabbit::Cluster::start(3).await);
    let nodes = NODES.get_or_init(start).await.lock().await;
    // What a test that failed has left behind.
    for node in nodes.nodes() {
        if node.pid().is_none() {
            node.restart().await;
        }
        node.start_app().await;
    }
    nodes.wait_until_whole().await;
    nodes
}

fn client(uris: impl IntoIterator<Item = String>) -> wharf_amqp::Builder {
    Cluster::builder(uris)
        .heartbeat(5)
        .connect_timeout(Duration::from_secs(5))
}

/// A quorum queue that this node leads, for that is where a queue is led that is declared there.
async fn quorum_queue(vhost: &Vhost, node: &Rabbit, name: &str) -> (Cluster, Declaration) {
    let declaring = client([vhost.url_via(node.amqp_addr())]).connect().await;
    let declaring = declaring.unwrap();
    let topology = Topology::new().queue(Queue::durable(name).quorum());
    let declaration = declaring.declare(&topology).await.unwrap();
    assert_eq!(vhost.leader(name).await, node.name());
    (declaring, declaration)
}

/// A client of all nodes, by way of proxies, that is connected to the first.
async fn client_on_the_first(nodes: &rabbit::Cluster, vhost: &Vhost) -> (Cluster, Vec<Proxy>) {
    let proxies = join_all(nodes.nodes().iter().map(|node| Proxy::to(node.amqp_addr()))).await;
    for other in &proxies[1..] {
        other.refuse().await;
    }
    let at_once = Backoff {
        min: Duration::from_millis(1),
        max: Duration::from_secs(1),
    };
    let cluster = client(proxies.iter().map(|proxy| vhost.url_via(proxy.addr())));
    let cluster = cluster.backoff(at_once).connect().await.unwrap();
    for other in &proxies[1..] {
        other.pass().await;
    }
    (cluster, proxies)
}

/// Publishes until it is told to stop.
struct Load {
    confirmed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Each task publishes one message after the other, to these queues in turn. Its number is in
    /// its messages.
    fn start(
        publisher: &Publisher,
        checker: &Arc<Checker>,
        tasks: Range<u64>,
        queues: &'static [&'static str],
    ) -> Self {
        let mut load = Self {
            confirmed: Arc::default(),
            stop: Arc::default(),
            tasks: JoinSet::new(),
        };
        for task in tasks {
            let publisher = publisher.clone();
            let (checker, stop) = (Arc::clone(checker), Arc::clone(&load.stop));
            let confirmed = Arc::clone(&load.confirmed);
            load.tasks.spawn(async move {
                for number in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let id = task << 32 | number;
                    let queue = queues[number as usize % queues.len()];
                    let message = Message::new(id.to_be_bytes()).to("", queue).persistent();
                    checker.sent(id);
                    match publisher.publish(message).await.unwrap() {
                        Receipt::Confirmed { .. } => {
                            checker.confirmed(id);
                            // What is counted is the first queue's.
                            if queue == queues[0] {
                                confirmed.fetch_add(1, Relaxed);
                            }
                        }
                        Receipt::Rejected { .. } => checker.rejected(id),
                        Receipt::Unknown { .. } => checker.unknown(id),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        load
    }

    /// Until so many more are confirmed.
    async fn goes_on(&self, what: &str, more: u64) {
        let enough = self.confirmed.load(Relaxed) + more;
        eventually(what, SOON, async || self.confirmed.load(Relaxed) >= enough).await;
    }

    async fn stop(&mut self) {
        self.stop.store(true, Relaxed);
        while let Some(ended) = within("every verdict", SOON, self.tasks.join_next()).await {
            ended.unwrap();
        }
    }
}

async fn consume(cluster: &Cluster, queue: &str, checker: &Arc<Checker>) -> Consumer {
    let checker = Arc::clone(checker);
    let handler = move |delivery: Delivery| {
        let id = delivery.data.try_into().expect("a number");
        checker.received(u64::from_be_bytes(id));
        std::future::ready(Outcome::Ack)
    };
    let consumer = Consumer::builder(cluster, queue).prefetch(500);
    consumer.start(handler).await.unwrap()
}

/// A share of the window comes back a little after the verdict.
async fn none_in_flight(publisher: &Publisher) {
    eventually("every share of the window is back", SOON, async || {
        publisher.stats().in_flight == 0
    })
    .await;
}

/// When all that was confirmed has been consumed, nothing that was not to be has been.
async fn check(checker: &Checker) {
    eventually("all that was confirmed is consumed", SOON, async || {
        checker.verdict().lost.is_empty()
    })
    .await;
    checker.verdict().assert_exact();
}

/// A channel that publishes to a quorum queue for the first time while the queue has no leader is
/// refused by it for ever (RabbitMQ 3.10), and whoever came back at once after the leader was
/// killed had every message rejected from then on. It is so for that queue and that channel: on
/// another channel, or to another queue, all goes well.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_of_a_queue_is_killed_confirms_resume_and_rejections_end() {
    let nodes = nodes().await;
    let [leader, survivor, ..] = nodes.nodes() else {
        panic!("there are nodes")
    };
    let vhost = leader.vhost().await;
    let _led = quorum_queue(&vhost, leader, "led").await;
    let _steady = quorum_queue(&vhost, survivor, "steady").await;
    let (cluster, _proxies) = client_on_the_first(&nodes, &vhost).await;
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::default();
    let consumers = [
        consume(&cluster, "led", &checker).await,
        consume(&cluster, "steady", &checker).await,
    ];
    let mut load = Load::start(&publisher, &checker, 0..64, &["led"]);
    // One that publishes little, and not to that queue alone.
    let (apart, _proxies_apart) = client_on_the_first(&nodes, &vhost).await;
    let quiet = Publisher::builder(&apart).build().await.unwrap();
    let mut mixed = Load::start(&quiet, &checker, 64..65, &["led", "steady"]);
    load.goes_on("messages are confirmed", 1000).await;
    mixed.goes_on("messages are confirmed", 10).await;

    leader.kill().await;
    load.goes_on("confirms resume", 1000).await;
    mixed
        .goes_on("confirms resume beside another queue", 10)
        .await;
    leader.restart().await;
    nodes.wait_until_whole().await;
    let back = client([vhost.url_via(leader.amqp_addr())])
        .connect()
        .await
        .unwrap();
    let through_it = Publisher::builder(&back).build().await.unwrap();
    let mut more = Load::start(&through_it, &checker, 65..66, &["led"]);
    more.goes_on("confirms through the node that is back", 100)
        .await;

    for load in [&mut load, &mut mixed, &mut more] {
        load.stop().await;
    }
    check(&checker).await;
    for publisher in [publisher, quiet, through_it] {
        none_in_flight(&publisher).await;
    }
    for consumer in consumers {
        consumer.stop_within(SOON).await.unwrap();
    }
}

/// How often a cluster has been without a connection that it needs.
fn count_outages(cluster: &Cluster) -> Arc<AtomicU64> {
    let outages = Arc::new(AtomicU64::new(0));
    let (count, mut state) = (Arc::clone(&outages), cluster.watch());
    tokio::spawn(async move {
        while state.wait_for(State::is_up).await.is_ok() {
            if state.wait_for(|state| !state.is_up()).await.is_ok() {
                count.fetch_add(1, Relaxed);
            }
        }
    });
    outages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_one_reconnect_a_node_and_role_and_no_message() {
    let nodes = nodes().await;
    let vhost = nodes.nodes()[0].vhost().await;
    let _queue = quorum_queue(&vhost, &nodes.nodes()[0], "q").await;
    let publishing = client(nodes.urls_of(&vhost)).connect().await.unwrap();
    let consuming = client(nodes.urls_of(&vhost)).connect_lazily().unwrap();
    let publisher = Publisher::builder(&publishing).build().await.unwrap();
    let checker = Arc::default();
    let mut load = Load::start(&publisher, &checker, 0..16, &["q"]);
    let consumer = consume(&consuming, "q", &checker).await;
    let losses = [count_outages(&publishing), count_outages(&consuming)];
    load.goes_on("messages are confirmed", 500).await;

    for (turn, node) in (1..).zip(nodes.nodes()) {
        node.stop_app().await;
        load.goes_on("confirms resume", 200).await;
        node.start_app().await;
        nodes.wait_until_whole().await;
        load.goes_on("confirms go on", 200).await;
        let seen = losses.each_ref().map(|count| count.load(Relaxed));
        assert!(
            seen.iter().all(|seen| *seen <= turn),
            "{seen:?} after {turn}"
        );
    }
    load.stop().await;
    check(&checker).await;
    assert!(
        consumer.stats().registrations <= 4,
        "{:?}",
        consumer.stats()
    );
    none_in_flight(&publisher).await;
    consumer.stop_within(SOON).await.unwrap();
}

/// The broker takes the message and says nothing, for as long as the majority is away.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_message_is_unknown_at_its_deadline_and_later_ones_are_confirmed() {
    let nodes = nodes().await;
    let [others @ .., alone] = nodes.nodes() else {
        panic!("there are nodes")
    };
    let vhost = alone.vhost().await;
    let _queue = quorum_queue(&vhost, alone, "q").await;
    let cluster = client([vhost.url()]).connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(Duration::from_secs(5));
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let publish = async |id: u64| {
        let message = Message::new(id.to_be_bytes()).to("", "q").persistent();
        checker.sent(id);
        let receipt = publisher.publish(message.id(id.to_string())).await.unwrap();
        match &receipt {
            Receipt::Confirmed { .. } => checker.confirmed(id),
            Receipt::Rejected { .. } => checker.rejected(id),
            Receipt::Unknown { .. } => checker.unknown(id),
            other => panic!("{other:?}"),
        }
        receipt
    };
    assert!(publish(0).await.is_confirmed());

    for other in others {
        other.stop_app().await;
    }
    let receipt = within("a verdict", SOON, publish(1)).await;
    assert!(
        matches!(&receipt, Receipt::Unknown { republished: 0, .. }),
        "{receipt:?}"
    );
    assert_eq!(receipt.id(), "1");
    // On a channel that has not published to the queue before, it is as good as anything but
    // confirmed.
    let receipt = within("a verdict", SOON, publish(2)).await;
    assert!(!receipt.is_confirmed(), "{receipt:?}");
    for other in others {
        other.start_app().await;
    }
    nodes.wait_until_whole().await;

    let mut id = 2;
    eventually("confirms resume", SOON, || {
        id += 1;
        async move { publish(id).await.is_confirmed() }
    })
    .await;
    for id in 1000..1100 {
        assert!(publish(id).await.is_confirmed());
    }
    none_in_flight(&publisher).await;
    let consumer = consume(&cluster, "q", &checker).await;
    check(&checker).await;
    assert_eq!(publisher.stats().unknown, checker.verdict().unknown);
    consumer.stop_within(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_down_is_used_when_it_is_back() {
    let nodes = nodes().await;
    let [a, b, ..] = nodes.nodes() else {
        panic!("there are nodes")
    };
    let vhost = a.vhost().await;
    let (to_a, to_b) = (
        Proxy::to(a.amqp_addr()).await,
        Proxy::to(b.amqp_addr()).await,
    );
    to_a.refuse().await;
    let uris = [&to_a, &to_b].map(|proxy| vhost.url_via(proxy.addr()));
    let cluster = client(uris).connect().await.unwrap();
    assert_eq!((to_a.counts().open, to_b.counts().open), (0, 1));
    assert!(cluster.confirm_channels().get().await.unwrap().is_open());
    to_a.pass().await;
    to_b.refuse().await;
    to_b.cut();
    to_a.wait_for_open(1).await;
    eventually("a channel through it", SOON, async || {
        let channel = cluster.confirm_channels().get().await;
        channel.is_ok_and(|channel| channel.is_open())
    })
    .await;
    assert_eq!(to_b.counts().open, 0);
}
