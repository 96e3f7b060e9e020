//! Publishing through faults of the network: each message has one outcome, none that was confirmed
//! is lost, and what was open when a connection went is published again.

mod common;

use std::{sync::Arc, time::Duration};

use lapin::options::BasicGetOptions;
use tokio::time::Instant;
use wharf_amqp::{Publisher, State, lapin};
use wharf_testkit::{
    checker::Checker,
    proxy::{Direction, End, Proxy},
    wait::{eventually, within},
};

use common::{
    Load, SOON, Stage, assert_books,
    broker::{Node, Vhost},
    publish, publish_at_once, published, quick, warm,
};

/// An open confirm of a connection that was closed is an error in lapin, and nobody publishes the
/// message again.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_loses_none_of_ten_thousand_open_confirms() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(10_000);
    let publisher = publisher.deadline(3 * SOON).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    // The broker gets none of them, so that it can confirm none before it closes.
    stage.proxy.black_hole_only(Direction::ToServer);
    let publishing = publish_at_once(&publisher, &checker, 1..10_001);
    published(&publisher, 10_001).await;
    assert_eq!(publisher.stats().in_flight, 10_000);
    stage.vhost.close_all_connections("maintenance").await;
    stage.proxy.wait_for_connections(2).await;
    stage.proxy.pass().await;
    within("every verdict", 3 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, 10_001);
    let republished = publisher.stats().republished;
    assert!(republished > 9_000, "{republished} were open");
    assert_books(&publisher, &verdict).await;
}

/// Here the broker has the messages, and only its word is lost: most of what was open is in the
/// queue twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_loses_none_of_ten_thousand_open_confirms() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(10_000);
    let publisher = publisher.deadline(3 * SOON).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.proxy.drop_replies();
    let publishing = publish_at_once(&publisher, &checker, 1..10_001);
    published(&publisher, 10_001).await;
    eventually("the broker has many", SOON, async || {
        stage.vhost.queue_depth("q").await > 1000
    })
    .await;
    stage.proxy.reset();
    stage.proxy.pass().await;
    within("every verdict", 3 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, 10_001);
    assert!(verdict.duplicates > 1000 - 1, "{verdict}");
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_broker_closes_again_and_again_loses_nothing() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let load = Load::start(&publisher, &checker, 200);
    for closed in 1.. {
        load.confirmed(&publisher, 1000).await;
        stage.vhost.close_all_connections("maintenance").await;
        stage.proxy.wait_for_connections(1 + closed).await;
        // Whether a close hits open confirms is the network's luck, but not for long.
        if closed >= 5 && publisher.stats().republished > 0 {
            break;
        }
        assert!(closed < 30, "nothing was ever open: {publisher:?}");
    }
    load.confirmed(&publisher, 1000).await;
    load.stop().await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, verdict.sent);
    assert_books(&publisher, &verdict).await;
}

/// Whether so many have come to the suspended queue `q` on this connection, which is the `nth`. It
/// has one more from before.
async fn has_open(stage: &Stage, nth: u64, messages: u64) -> bool {
    match &stage.vhost {
        // The queue itself answers nothing.
        Vhost::RabbitMq(vhost) => {
            let open = format!(
                "lists:sum([N || [{{vhost, <<\"{}\">>}}, {{messages_unconfirmed, N}}] \
                 <- rabbit_channel:info_all([vhost, messages_unconfirmed])])",
                vhost.name()
            );
            vhost.rabbit().eval(&open).await == messages.to_string()
        }
        Vhost::Embedded(_) => stage.vhost.queue_depth("q").await == 1 + nth * messages,
    }
}

/// Closing by hand is no hint that a message is at fault, so it never counts against those that were
/// open.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_open_at_five_closes_in_a_row_are_published_a_sixth_time() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    // No word of the queue's for as long as this lasts, while connections come and go.
    stage.vhost.suspend("q").await;
    let publishing = publish_at_once(&publisher, &checker, 1..101);
    published(&publisher, 101).await;
    for closed in 1..=5 {
        eventually("they are published again", SOON, async || {
            publisher.stats().republished == (closed - 1) * 100
        })
        .await;
        // What is not on its way by then is not open.
        eventually("the broker has them", SOON, async || {
            has_open(&stage, closed, 100).await
        })
        .await;
        stage.vhost.close_all_connections("maintenance").await;
        stage.proxy.wait_for_connections(1 + closed).await;
    }
    stage.vhost.resume("q").await;
    within("every verdict", 3 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!((verdict.confirmed, verdict.unknown), (101, 0));
    assert_eq!(publisher.stats().republished, 500);
    assert_books(&publisher, &verdict).await;
}

/// Resets between frames and in the midst of them, both ways.
#[tokio::test(flavor = "multi_thread")]
async fn resets_in_full_flow_lose_nothing() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let load = Load::start(&publisher, &checker, 200);
    for fault in 1..=9 {
        load.confirmed(&publisher, 2000).await;
        match fault % 3 {
            0 => stage.proxy.reset(),
            1 => stage
                .proxy
                .end_after(20_011, Direction::ToServer, End::Reset),
            _ => stage.proxy.end_after(1_009, Direction::ToClient, End::Cut),
        }
        stage.proxy.wait_for_connections(1 + fault).await;
    }
    load.confirmed(&publisher, 2000).await;
    load.stop().await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, verdict.sent);
    assert!(verdict.confirmed >= 20_000, "{verdict}");
    // What ended in the midst of frames had open confirms for certain.
    assert!(publisher.stats().republished >= 6, "{publisher:?}");
    assert_eq!(stage.proxy.counts().accepted, 1 + 9);
    assert_books(&publisher, &verdict).await;
}

/// A peer that vanished without a word: writes succeed for ever, and TCP itself takes minutes to
/// notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_noticed_by_the_heartbeat_and_loses_nothing() {
    const HEARTBEAT: u16 = 2;
    let node = Node::shared().await;
    let stage = Stage::on(&node).await;
    let other = Proxy::to(node.amqp_addr()).await;
    let urls = [&stage.proxy, &other].map(|proxy| stage.vhost.url_via(proxy.addr()));
    let cluster = quick(&urls)
        .heartbeat(HEARTBEAT)
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap();
    let publisher = Publisher::builder(&cluster).window(500);
    let publisher = publisher.deadline(3 * SOON).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let load = Load::start(&publisher, &checker, 100);
    load.confirmed(&publisher, 1000).await;
    let (silent, well) = if stage.proxy.counts().open == 1 {
        (&stage.proxy, &other)
    } else {
        (&other, &stage.proxy)
    };
    silent.black_hole();
    let start = Instant::now();
    well.wait_for_connections(1).await;
    load.confirmed(&publisher, 1000).await;
    let noticed = start.elapsed();
    // Promised is twice the heartbeat; five times that is for a busy machine.
    let bound = 10 * Duration::from_secs(HEARTBEAT.into());
    assert!(noticed < bound, "noticed after {noticed:?}");
    load.stop().await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, verdict.sent);
    // Each of the tasks had one under way.
    assert!(publisher.stats().republished >= 90, "{publisher:?}");
    assert_books(&publisher, &verdict).await;
}

/// The broker confirms many with one frame; lapin completes those in no order.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_confirmed_at_a_stroke_are_resolved_once_each() {
    const ACK: u64 = 21;
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    for round in 0.. {
        // They arrive together.
        stage.proxy.black_hole_only(Direction::ToServer);
        let before = stage.proxy.counts().to_client;
        let publishing = publish_at_once(&publisher, &checker, round * 500 + 1..round * 500 + 501);
        published(&publisher, round * 500 + 501).await;
        stage.proxy.pass().await;
        within("every verdict", SOON, publishing).await.unwrap();
        let verdicts = stage.proxy.counts().to_client - before;
        if verdicts < 500 * ACK / 2 {
            break;
        }
        assert!(
            round < 20,
            "the broker confirms each by itself: {verdicts} bytes"
        );
    }
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, verdict.sent);
    assert_eq!(publisher.stats().republished, 0);
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_before_the_broker_is_there_waits_for_it() {
    let stage = Stage::on_the_shared_node().await;
    stage.proxy.refuse().await;
    let cluster = stage.cluster().connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    // One task that sends one after the other, and one that sends all at once.
    let in_turn = tokio::spawn({
        let (publisher, checker) = (publisher.clone(), Arc::clone(&checker));
        async move {
            for id in 0..100 {
                let outcome = publish(&publisher, &checker, id).await;
                assert!(outcome.unwrap().is_confirmed());
            }
        }
    });
    let at_once = publish_at_once(&publisher, &checker, 100..600);
    published(&publisher, 501).await;
    let mut state = cluster.watch();
    let down = state.wait_for(|state| matches!(state, State::Down { .. }));
    within("the outage is seen", SOON, down).await.unwrap();
    stage.proxy.pass().await;
    within("the first task", SOON, in_turn).await.unwrap();
    within("the second task", SOON, at_once).await.unwrap();

    let channel = stage.direct.channels().get().await.unwrap();
    let options = BasicGetOptions { no_ack: true };
    let mut all = Vec::new();
    while let Some(message) = channel.basic_get("q".into(), options).await.unwrap() {
        let id: u64 = std::str::from_utf8(&message.data).unwrap().parse().unwrap();
        checker.received(id);
        all.push(id);
    }
    let turns: Vec<_> = all.iter().copied().filter(|id| *id < 100).collect();
    assert!(turns.is_sorted(), "{turns:?}");
    let verdict = checker.verdict();
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.duplicates), (600, 0));
    assert_books(&publisher, &verdict).await;
}
