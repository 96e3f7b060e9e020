//! Connections: made when needed, by one attempt at a time, noticed when lost, made again.

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use wharf_amqp::{BuildError, Cluster, State};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, within},
};

use common::broker::Node;

const SOON: Duration = Duration::from_secs(20);

fn quick(uri: String) -> wharf_amqp::Builder {
    Cluster::builder([uri])
        .connect_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(15))
        .heartbeat(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_lent_and_works() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = quick(vhost.url()).connect().await.unwrap();
    let channel = cluster.channels().get().await.unwrap();
    let queue = channel
        .queue_declare(
            "q".into(),
            QueueDeclareOptions::default(),
            Default::default(),
        )
        .await
        .unwrap();
    assert_eq!(queue.name().as_str(), "q");
    drop(channel);
    assert_eq!(cluster.channels().status().idle, 1);
    assert!(cluster.state().is_up());
    cluster.close_within(SOON).await;
    assert!(cluster.state().is_closed());
    assert!(cluster.channels().get().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_final_and_tried_once() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let uri = vhost.url_of("nobody", "sesame", proxy.addr());
    let error = quick(uri).connect().await.unwrap_err();
    let BuildError::Connect(cause) = &error else {
        panic!("{error}")
    };
    assert!(cause.is_final(), "{cause:?}");
    assert!(!format!("{error} {error:?}").contains("sesame"));
    assert_eq!(proxy.counts().accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_virtual_host_is_final() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let uri = format!("{}-not", vhost.url());
    let error = quick(uri).connect().await.unwrap_err();
    assert!(
        matches!(&error, BuildError::Connect(cause) if cause.is_final()),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_costs_a_connect_timeout() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    proxy.black_hole();
    let cluster = quick(vhost.url_via(proxy.addr())).connect_timeout(Duration::from_millis(500));
    let error = within("an end to connecting", SOON, cluster.connect())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BuildError::Connect(cause) if !cause.is_final()),
        "{error:?}"
    );
}

/// A pool of channels whose connection was lost went on lending the dead ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_again_and_no_dead_channel_is_lent() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = quick(vhost.url_via(proxy.addr())).connect().await.unwrap();
    for cut in 0..5 {
        let lent = join_all((0..4).map(|_| cluster.channels().get())).await;
        let old: Vec<_> = lent.into_iter().map(Result::unwrap).collect();
        if cut % 2 == 0 {
            proxy.cut();
        } else {
            proxy.reset();
        }
        eventually("the channels notice", SOON, async || {
            old.iter().all(|channel| !channel.is_open())
        })
        .await;
        drop(old);
        for lease in join_all((0..4).map(|_| cluster.channels().get())).await {
            let channel = lease.unwrap();
            assert!(channel.is_open());
            let declare = channel.queue_declare(
                "q".into(),
                QueueDeclareOptions::default(),
                FieldTable::default(),
            );
            declare.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_idle_when_its_connection_was_lost_is_not_lent() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = quick(vhost.url_via(proxy.addr())).connect().await.unwrap();
    let lent = join_all((0..4).map(|_| cluster.channels().get())).await;
    let witness = lent.into_iter().map(Result::unwrap).next_back().unwrap();
    assert_eq!(cluster.channels().status().idle, 3);
    proxy.cut();
    eventually("a channel notices", SOON, async || !witness.is_open()).await;
    for lease in join_all((0..4).map(|_| cluster.channels().get())).await {
        assert!(lease.unwrap().is_open());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_in_an_outage_cost_one_attempt_at_a_time_and_are_all_served() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = quick(vhost.url_via(proxy.addr()))
        .operation_timeout(Duration::from_secs(60))
        .connect()
        .await
        .unwrap();
    let lent = cluster.channels().get().await.unwrap();
    let before = proxy.counts().accepted;
    proxy.accept_and_end(wharf_testkit::proxy::End::Cut);
    proxy.cut();
    let mut state = cluster.watch();
    within(
        "word of the outage",
        SOON,
        state.wait_for(|state| matches!(state, State::Down { .. })),
    )
    .await
    .unwrap();
    eventually("the channel notices", SOON, async || !lent.is_open()).await;
    drop(lent);
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let cluster = cluster.clone();
            tokio::spawn(async move { cluster.channels().get().await.map(drop) })
        })
        .collect();
    eventually("all wait", SOON, async || {
        cluster.channels().status().waiting == 1000
    })
    .await;
    eventually(
        "several rounds",
        SOON,
        async || matches!(cluster.state(), State::Down { attempt, .. } if attempt >= 5),
    )
    .await;
    // Counted first: a round may be added in between.
    let attempts = proxy.counts().accepted - before;
    // A loss that is noticed late is told as attempt 0.
    let down = state.wait_for(|state| matches!(state, State::Down { attempt: 1.., .. }));
    let rounds = match &*within("the rounds", SOON, down).await.unwrap() {
        State::Down { attempt, .. } => *attempt,
        other => panic!("{other:?}"),
    };
    // One is perhaps under way.
    assert!(attempts <= u64::from(rounds) + 1, "{attempts}, {rounds}");
    proxy.pass().await;
    for waiter in within("all are served", SOON, join_all(waiters)).await {
        waiter.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_host_is_down_another_is_used() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let cluster = Cluster::builder([vhost.url_via(nobody), vhost.url()])
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await
        .unwrap();
    assert!(cluster.channels().get().await.unwrap().is_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_broker_begins_in_an_outage_and_ends_it_by_itself() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    proxy.refuse().await;
    let cluster = quick(vhost.url_via(proxy.addr())).connect_lazily().unwrap();
    let waiter = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.channels().get().await.map(drop) }
    });
    let mut state = cluster.watch();
    within(
        "word of the outage",
        SOON,
        state.wait_for(|state| matches!(state, State::Down { .. })),
    )
    .await
    .unwrap();
    proxy.pass().await;
    within("service", SOON, waiter).await.unwrap().unwrap();
    within("word of its end", SOON, state.wait_for(State::is_up))
        .await
        .unwrap();
}

/// A call on a channel that the broker closes leaves the neighbours alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closed_is_not_lent_again_and_its_neighbours_live() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = quick(vhost.url()).connect().await.unwrap();
    let neighbour = cluster.channels().get().await.unwrap();
    let offender = cluster.channels().get().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let missing = offender.queue_declare("missing".into(), passive, FieldTable::default());
    missing.await.unwrap_err();
    eventually("the channel notices", SOON, async || !offender.is_open()).await;
    let dead = offender.id();
    drop(offender);
    let next = cluster.channels().get().await.unwrap();
    assert!(next.is_open() && (next.id() != dead || neighbour.id() == dead));
    assert!(neighbour.is_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_closes_the_connections() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = quick(vhost.url()).connect().await.unwrap();
    drop(cluster.channels().get().await.unwrap());
    let connections = vhost.connections().await;
    assert_eq!(connections.len(), 2, "{connections:?}");
    drop(cluster);
    eventually("no connection is left", SOON, async || {
        vhost.connections().await.is_empty()
    })
    .await;
}

/// lapin does not use the number of a channel again that the broker closed, and a connection ran
/// out of numbers.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_channels_that_the_broker_closed_cost_no_capacity_and_no_error() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = quick(format!("{}?channel_max=16", vhost.url()))
        .channels_per_connection(8)
        .connect()
        .await
        .unwrap();
    for _ in 0..100 {
        let lent = join_all((0..4).map(|_| cluster.channels().get())).await;
        let lent: Vec<_> = lent.into_iter().map(Result::unwrap).collect();
        for channel in &lent {
            let passive = QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let missing = channel.queue_declare("missing".into(), passive, FieldTable::default());
            missing.await.unwrap_err();
        }
    }
    let all = join_all((0..8).map(|_| cluster.channels().get())).await;
    assert!(
        all.iter()
            .flatten()
            .filter(|channel| channel.is_open())
            .count()
            == 8
    );
}

/// As behind a balancer that has lost its servers after the handshake: each new connection was
/// made at once, and a thousand in three seconds.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_are_not_made_in_a_storm() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = quick(vhost.url_via(proxy.addr())).connect().await.unwrap();
    let mut state = cluster.watch();
    let (began, before) = (Instant::now(), proxy.counts().accepted);
    for made in 1..=5 {
        proxy.cut();
        // The state may be up again before this task has its turn.
        proxy.wait_for_connections(before + made).await;
        within("a connection", SOON, state.wait_for(State::is_up))
            .await
            .unwrap();
    }
    // 100 ms doubled five times up to 5 s, of which at least half is waited.
    let least = Duration::from_millis(50 + 100 + 200 + 400 + 800);
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    assert_eq!(proxy.counts().accepted - before, 5);
}
