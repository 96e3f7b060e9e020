//! Deadlines and ends: what a caller is told when the broker's word does not come, and what becomes
//! of the message after that.

mod common;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;
use wharf_amqp::{Cluster, Message, PublishError, Publisher, Receipt, State};
use wharf_testkit::{
    checker::Checker,
    wait::{eventually, within},
};

use common::{
    SOON, Stage, assert_books, none_in_flight, numbered, publish, publish_at_once, published, warm,
};

/// Long enough for what is to be confirmed, whatever the machine does besides.
const DEADLINE: Duration = Duration::from_secs(5);

/// The dropped future of a publish that timed out is sent all the same: its confirm comes late.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_confirm_is_not_told_again() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(DEADLINE);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.proxy.black_hole();
    let late = within("an outcome", SOON, publish(&publisher, &checker, 1)).await;
    assert!(
        matches!(late, Ok(Receipt::Unknown { republished: 0, .. })),
        "{late:?}"
    );
    let stats = publisher.stats();
    // It may arrive yet: its share of the window stays with it.
    assert_eq!((stats.unknown, stats.in_flight), (1, 1), "{stats:?}");
    stage.proxy.pass().await;
    none_in_flight(&publisher).await;
    let stats = publisher.stats();
    assert_eq!((stats.unknown, stats.confirmed), (1, 1), "{stats:?}");

    // The channel that owed a verdict, number 1, is left for another, or for others, and the
    // connection stays; the other connection is that on which the test declared, with a number 1, too.
    for id in 2..10 {
        warm(&publisher, &checker, id).await;
    }
    eventually("the old channel is closed", SOON, async || {
        matches!(stage.vhost.channel_numbers().await[..], [1, (2..), ..])
    })
    .await;
    assert_eq!(stage.proxy.counts().accepted, 1);
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!((verdict.unknown, verdict.unknown_received), (1, 1));
    assert_eq!((verdict.confirmed, verdict.duplicates), (9, 0));
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_behind_a_black_hole_says_how_many_have_no_verdict() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(DEADLINE);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.proxy.black_hole();
    let publishing = publish_at_once(&publisher, &checker, 1..101);
    published(&publisher, 101).await;
    let unresolved = within("an end", SOON, publisher.close_within(Duration::ZERO)).await;
    assert_eq!(unresolved.unwrap_err().count, 100);
    let late = publisher.publish(Message::new("late")).await;
    let Err(PublishError::Closed(message)) = late else {
        panic!("{late:?}");
    };
    assert_eq!(message.body(), b"late");
    within("the callers' verdicts", SOON, publishing)
        .await
        .unwrap();
    let stats = publisher.stats();
    assert_eq!((stats.unknown, stats.in_flight), (100, 100), "{stats:?}");
    stage.proxy.pass().await;
    none_in_flight(&publisher).await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!((verdict.confirmed, verdict.unknown), (1, 100));
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_what_is_under_way() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.proxy.black_hole();
    let publishing = publish_at_once(&publisher, &checker, 1..1001);
    published(&publisher, 1001).await;
    let mut closing = Box::pin(publisher.close_within(SOON));
    let now = closing.as_mut().now_or_never();
    assert!(now.is_none(), "1,000 are under way: {now:?}");
    stage.proxy.pass().await;
    closing.await.unwrap();
    within("every verdict", SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, 1001);
    assert_books(&publisher, &verdict).await;
}

/// The broker takes them and never says a word, on a connection that is well. They must not have
/// the window to themselves for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_never_confirms_gives_its_window_back() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(10).deadline(DEADLINE);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.vhost.suspend("q").await;
    let publishing = publish_at_once(&publisher, &checker, 1..11);
    published(&publisher, 11).await;
    let message = Message::new("one too many");
    let full = within("an error", SOON, publisher.publish(message)).await;
    let Err(PublishError::WindowFull { limit, message }) = full else {
        panic!("{full:?}");
    };
    assert_eq!((limit, message.body()), (DEADLINE, &b"one too many"[..]));
    within("their end", SOON, publishing).await.unwrap();
    assert_eq!(publisher.stats().unknown, 10);
    none_in_flight(&publisher).await;
    stage.vhost.resume("q").await;
    for id in 11..20 {
        warm(&publisher, &checker, id).await;
    }
    assert_eq!(stage.proxy.counts().accepted, 1, "the connection was well");
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!((verdict.confirmed, verdict.unknown), (10, 10));
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_may_be_without_end() {
    let stage = Stage::on_the_shared_node().await;
    let publisher = Publisher::builder(&stage.direct).deadline(Duration::MAX);
    let publisher = publisher.build().await.unwrap();
    warm(&publisher, &Checker::default(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_cluster_ends_what_is_under_way() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(100 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage
        .proxy
        .black_hole_only(wharf_testkit::proxy::Direction::ToClient);
    let publishing = publish_at_once(&publisher, &checker, 1..101);
    eventually("the broker has them", SOON, async || {
        stage.vhost.queue_depth("q").await == 101
    })
    .await;
    within(
        "an end",
        SOON,
        cluster.close_within(Duration::from_millis(100)),
    )
    .await;
    within("every outcome", SOON, publishing).await.unwrap();
    let late = within("an outcome", SOON, publish(&publisher, &checker, 101)).await;
    assert!(matches!(late, Err(PublishError::Closed(_))), "{late:?}");
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(
        (verdict.confirmed, verdict.unknown, verdict.rejected),
        (1, 100, 1)
    );
    assert_books(&publisher, &verdict).await;
}

/// Where there will never be a channel, nobody waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_know_us_is_an_error_at_once() {
    let stage = Stage::on_the_shared_node().await;
    let url = stage.vhost.url_of("stranger", "secret", stage.proxy.addr());
    let cluster = Cluster::builder([url]).connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster).deadline(100 * SOON);
    let publisher = publisher.build().await.unwrap();
    let outcome = within("an outcome", SOON, publisher.publish(numbered(7))).await;
    let Err(error @ PublishError::NoChannel { .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.into_message().unwrap().body(), b"7");
    let stats = publisher.stats();
    assert_eq!((stats.failed, stats.in_flight), (1, 0), "{stats:?}");
}

/// The pool of channels has a bound of its own for what it waits for; a message has only its
/// deadline.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_operation_timeout_is_no_error_before_the_deadline() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let stage = Stage::on_the_shared_node().await;
    stage.proxy.refuse().await;
    let cluster = stage.cluster().operation_timeout(TIMEOUT);
    let cluster = cluster.connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let start = Instant::now();
    let publishing = publish_at_once(&publisher, &checker, 0..100);
    eventually("the outage is long", SOON, async || {
        start.elapsed() > 3 * TIMEOUT
    })
    .await;
    assert!(matches!(cluster.state(), State::Down { .. }));
    assert!(!publishing.is_finished());
    stage.proxy.pass().await;
    within("every verdict", 2 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, 100);
    assert_books(&publisher, &verdict).await;
}

/// Whoever has a place in the window has one in the line for a channel.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_may_wait_for_the_broker() {
    let stage = Stage::on_the_shared_node().await;
    stage.proxy.refuse().await;
    let cluster = stage.cluster().connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster).window(20_000);
    let publisher = publisher.deadline(3 * SOON).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let publishing = publish_at_once(&publisher, &checker, 0..20_000);
    published(&publisher, 20_000).await;
    stage.proxy.pass().await;
    within("every verdict", 3 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.duplicates), (20_000, 0));
    assert_books(&publisher, &verdict).await;
}
