//! Which hosts are dialled in an outage, how often, and when there is no point.

mod common;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use wharf::{Backoff, GetError};
use wharf_amqp::{ChannelError, Cluster, Endpoint, State};
use wharf_testkit::{
    proxy::{Direction, End, Proxy},
    wait::{eventually, within},
};

use common::{
    SOON, Stage,
    broker::{Node, Vhost},
    quick,
};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// A broker with two addresses.
struct TwoHosts {
    vhost: Vhost,
    a: Proxy,
    b: Proxy,
}

impl TwoHosts {
    async fn new() -> Self {
        let node = Node::shared().await;
        Self {
            vhost: node.vhost().await,
            a: Proxy::to(node.amqp_addr()).await,
            b: Proxy::to(node.amqp_addr()).await,
        }
    }

    fn cluster(&self) -> wharf_amqp::Builder {
        let url = |proxy: &Proxy| self.vhost.url_via(proxy.addr());
        quick(&[url(&self.a), url(&self.b)]).operation_timeout(2 * SOON)
    }
}

async fn use_channel(cluster: &Cluster) {
    let channel = within("a channel", 2 * SOON, cluster.channels().get()).await;
    let channel = channel.unwrap();
    let declare = channel.queue_declare("other".into(), Default::default(), Default::default());
    within("an answer", SOON, declare).await.unwrap();
}

/// Waits for this many failed rounds.
async fn failed_rounds(cluster: &Cluster, rounds: u32) {
    let mut state = cluster.watch();
    let failed =
        state.wait_for(|state| matches!(state, State::Down { attempt, .. } if *attempt >= rounds));
    within("attempts that fail", SOON, failed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_host_is_down_the_other_is_used_and_the_first_once_it_is_back() {
    let hosts = TwoHosts::new().await;
    hosts.a.refuse().await;
    // They are tried in random order.
    for _ in 0..8 {
        hosts.cluster().connect().await.unwrap();
    }
    hosts.b.wait_for_open(0).await;
    let cluster = hosts.cluster().connect().await.unwrap();
    use_channel(&cluster).await;
    hosts.b.wait_for_open(2).await;

    hosts.a.pass().await;
    hosts.b.refuse().await;
    hosts.b.cut();
    // A channel of the lost connection may be lent for as long as nobody knows.
    hosts.b.wait_for_open(0).await;
    hosts.a.wait_for_open(2).await;
    use_channel(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_hosts_are_down_the_first_that_comes_up_is_used() {
    let hosts = TwoHosts::new().await;
    hosts.a.refuse().await;
    hosts.b.refuse().await;
    let cluster = hosts.cluster().connect_lazily().unwrap();
    let waiter = tokio::spawn({
        let cluster = cluster.clone();
        async move { use_channel(&cluster).await }
    });
    failed_rounds(&cluster, 3).await;
    hosts.b.pass().await;
    within("service", SOON, waiter).await.unwrap();
    assert_eq!(hosts.a.counts().accepted, 0);
}

/// Attempts that a silent host took and never ended were counted as under way, and after a few of
/// them no host was dialled again.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_accepts_and_says_nothing_does_not_keep_another_from_being_used() {
    let stage = Stage::on_the_shared_node().await;
    let url = |address| stage.vhost.url_via(address);
    // The system accepts. RabbitMQ would hang up on silence after ten seconds.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stage.proxy.refuse().await;
    let cluster = quick(&[url(nobody.local_addr().unwrap()), url(stage.proxy.addr())])
        .connect_timeout(Duration::from_secs(1))
        .operation_timeout(2 * SOON)
        .connect_lazily()
        .unwrap();
    let waiter = tokio::spawn({
        let cluster = cluster.clone();
        async move { use_channel(&cluster).await }
    });
    failed_rounds(&cluster, 12).await;
    stage.proxy.pass().await;
    within("service", SOON, waiter).await.unwrap();
}

/// A pool that dials whenever somebody needs a connection dials as often as it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_hasten_the_next_attempt() {
    let stage = Stage::on_the_shared_node().await;
    let pauses = Backoff {
        min: NEVER,
        max: NEVER,
    };
    let cluster = stage.cluster().backoff(pauses).connect().await.unwrap();
    let lent = cluster.channels().get().await.unwrap();
    let before = stage.proxy.counts().accepted;
    stage.proxy.accept_and_end(End::Cut);
    stage.proxy.cut();
    eventually("the channel notices", SOON, async || !lent.is_open()).await;
    drop(lent);
    for _ in 0..5 {
        let calls = (0..200).map(|_| cluster.channels().get_timeout(Duration::from_millis(20)));
        let calls = join_all(calls);
        assert!(calls.await.iter().all(Result::is_err));
    }
    assert_eq!(stage.proxy.counts().accepted, before);
    within("an end", SOON, cluster.close_within(SOON)).await;
}

/// As behind a balancer that has lost its servers: two roles, with several connections each, made
/// attempts of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_an_outage_is_one_attempt_however_many_connections_are_missing() {
    let stage = Stage::on_the_shared_node().await;
    // A loss of what has lasted longer than the longest pause would begin the count anew, and some
    // may be noticed late.
    let pauses = Backoff {
        min: Duration::from_millis(10),
        max: NEVER,
    };
    let cluster = stage.cluster().backoff(pauses).connections(3);
    let cluster = cluster.connect().await.unwrap();
    drop(cluster.channels().get().await.unwrap());
    stage.proxy.wait_for_open(6).await;
    let before = stage.proxy.counts().accepted;
    stage.proxy.accept_and_end(End::Reset);
    stage.proxy.cut();
    let mut state = cluster.watch();
    for round in 1..=8 {
        failed_rounds(&cluster, round).await;
        // Counted first: a round may be added in between.
        let attempts = stage.proxy.counts().accepted - before;
        // A loss that is noticed late is told as attempt 0.
        let down = state.wait_for(|state| matches!(state, State::Down { attempt: 1.., .. }));
        let attempt = match &*within("the rounds", SOON, down).await.unwrap() {
            State::Down { attempt, .. } => u64::from(*attempt),
            other => panic!("{other:?}"),
        };
        // The next may be under way. The six losses count as rounds, too.
        assert!(attempts <= attempt + 1, "{attempts} in round {attempt}");
    }
    stage.proxy.pass().await;
    stage.proxy.wait_for_open(6).await;
    use_channel(&cluster).await;
}

/// A cut that took connections of two roles was two losses, with a pause for each, and the second
/// twice as long.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_at_once_counts_as_one_loss() {
    let stage = Stage::on_the_shared_node().await;
    // At least half of it is waited: long enough for every loss to be noticed.
    let pause = Duration::from_secs(8);
    let pauses = Backoff {
        min: pause,
        max: pause,
    };
    let cluster = stage.cluster().backoff(pauses).connections(2);
    let cluster = cluster.channels_per_connection(1).connect().await.unwrap();
    for pool in [cluster.channels(), cluster.confirm_channels()] {
        let lent = join_all([pool.get(), pool.get()]).await;
        assert!(lent.iter().all(Result::is_ok));
    }
    stage.proxy.refuse().await;
    stage.proxy.cut();
    failed_rounds(&cluster, 1).await;
    // The loss, and an attempt.
    let state = cluster.state();
    assert!(matches!(state, State::Down { attempt: 2, .. }), "{state:?}");
}

/// lapin 4.12 does not notice at each point of the handshake that the peer is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_leaves_during_the_handshake_costs_no_connect_timeout() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    stage.proxy.wait_for_open(1).await;
    let whole = stage.proxy.counts().to_client;
    drop(cluster);
    stage.proxy.wait_for_open(0).await;
    // Only the first attempt meets the end.
    let once = Backoff {
        min: NEVER,
        max: NEVER,
    };
    for bytes in (1..whole).rev().take(40) {
        stage.proxy.end_after(bytes, Direction::ToClient, End::Cut);
        let connecting = stage.cluster().connect_timeout(10 * SOON);
        let connecting = connecting.backoff(once).connect();
        let outcome = within("an answer", SOON, connecting).await;
        assert!(outcome.is_err(), "connected with {bytes} of {whole} bytes");
    }
}

/// Whoever waited for a connection waited for ever for one that the broker refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_gone_when_the_connection_is_lost_is_final() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let user = format!("user-of-{}", vhost.name());
    vhost.add_user(&user, "sesame").await;
    let cluster = quick(&[vhost.url_of(&user, "sesame", proxy.addr())]);
    let cluster = cluster.connect().await.unwrap();
    vhost.delete_user(&user).await;
    proxy.cut();
    let mut state = cluster.watch();
    let end = within("an end", SOON, state.wait_for(State::is_closed)).await;
    let refused =
        matches!(&*end.unwrap(), State::Closed { cause: Some(cause) } if cause.is_final());
    assert!(refused);
    let attempts = proxy.counts().accepted;
    let error = within("an answer", SOON, cluster.channels().get()).await;
    let GetError::Refused(cause) = error.map(drop).unwrap_err() else {
        panic!("not refused")
    };
    let closed = ChannelError::Closed(None).to_string();
    assert_eq!(cause.to_string(), closed);
    assert_eq!(proxy.counts().accepted, attempts);
}

/// lapin takes the host of `amqp://[::1]` for `localhost`.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_reached_by_its_ipv6_address() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
        println!("no IPv6 on this machine: the address is only parsed");
        return;
    };
    let address = listener.local_addr().unwrap();
    tokio::spawn(forward(listener, node.amqp_addr()));
    let by_uri = Cluster::builder([vhost.url_via(address)]);
    let mut config = wharf_amqp::Config::default();
    config.vhost = vhost.name().into();
    config.hosts = vec![Endpoint {
        host: "::1".into(),
        port: address.port(),
        tls: false,
    }];
    for builder in [by_uri, Cluster::from_config(config)] {
        let cluster = within("a connection", SOON, builder.connect()).await;
        use_channel(&cluster.unwrap()).await;
    }
}

async fn forward(listener: TcpListener, server: SocketAddr) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut server = TcpStream::connect(server).await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    }
}

/// With lapin on the runtime of its user, a computation that did not yield for a while cost every
/// connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_survive_a_runtime_that_stands_still() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().heartbeat(3).connect().await.unwrap();
    let channel = cluster.channels().get().await.unwrap();
    let before = stage.proxy.counts().accepted;
    let mut state = cluster.watch();
    state.borrow_and_update();
    let still = || {
        // real time: the broker misses a client after two or three heartbeats of three seconds
        std::thread::sleep(Duration::from_secs(15));
    };
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(async move { still() }))
        .collect();
    still();
    join_all(workers).await;
    assert!(channel.is_open());
    let declare = channel.queue_declare("other".into(), Default::default(), Default::default());
    within("an answer", SOON, declare).await.unwrap();
    assert!(cluster.state().is_up() && !state.has_changed().unwrap());
    assert_eq!(stage.proxy.counts().accepted, before);
}

/// A connection that was being dialled as its cluster was closed was nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_comes_too_late_is_closed() {
    let stage = Stage::on_the_shared_node().await;
    for _ in 0..10 {
        let cluster = stage.cluster().connect_lazily().unwrap();
        let accepted = stage.proxy.counts().accepted;
        stage.proxy.black_hole();
        let waiter = tokio::spawn({
            let cluster = cluster.clone();
            async move { cluster.channels().get().await.map(drop) }
        });
        stage.proxy.wait_for_connections(accepted + 1).await;
        // Not for as long as it may.
        within("an end", SOON, cluster.close_within(10 * SOON)).await;
        stage.proxy.pass().await;
        let error = within("an answer", SOON, waiter).await.unwrap();
        assert!(matches!(error, Err(GetError::Closed)), "{error:?}");
        eventually("it is closed", SOON, async || {
            stage.proxy.counts().open == 0
        })
        .await;
        // The cluster is still there.
        assert!(cluster.state().is_closed());
    }
}

/// Limits of a virtual host.
mod rabbitmq_only {
    use super::*;

    /// Connections that the broker had not missed yet filled the limit, and those that came to replace
    /// them were taken for refused for good: the broker has one code for both.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_limit_of_connections_is_an_outage_that_ends_when_there_is_room() {
        let stage = Stage::on_the_shared_node().await;
        let limit = async |most: &str| {
            let vhost = stage.vhost.name();
            let set = format!(
                "ok = rabbit_vhost_limit:parse_set(<<\"{vhost}\">>, \
             <<\"{{\\\"max-connections\\\": {most}}}\">>, <<\"test\">>)"
            );
            stage.vhost.rabbit().eval(&set).await;
        };
        // The stage's own connections are there.
        limit("1").await;
        let cluster = stage.cluster().operation_timeout(2 * SOON);
        let cluster = cluster.connect_lazily().unwrap();
        let waiter = tokio::spawn({
            let cluster = cluster.clone();
            async move { use_channel(&cluster).await }
        });
        failed_rounds(&cluster, 3).await;
        let told = match cluster.state() {
            State::Down { cause, .. } => cause.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(told.contains("limit (1) is reached"), "{told}");
        limit("-1").await;
        within("service", SOON, waiter).await.unwrap();
    }
}
