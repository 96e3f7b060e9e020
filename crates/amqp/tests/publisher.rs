//! Publishing to a broker that is well: what it refuses, what does not fit, and what is under way
//! at a time.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use lapin::{
    options::BasicGetOptions,
    types::{AMQPValue, FieldTable, LongString},
};
use wharf_amqp::{Cluster, HeaderValue, Message, PublishError, Publisher, Receipt, lapin};
use wharf_testkit::{
    checker::Checker,
    wait::{eventually, within},
};

use common::{
    SOON, Stage, assert_books, at_most, broker::Node, declare, none_in_flight, numbered,
    publish_at_once, published, receive_all, tell,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_refuses_exactly_what_it_does_not_take() {
    const FITS: u64 = 100;
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    declare(&stage.direct, "full", at_most(100)).await;
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    // The even ones to the queue that will be full, the odd ones to the other.
    let each = (0..2000).map(|id| {
        let (publisher, checker) = (publisher.clone(), Arc::clone(&checker));
        tokio::spawn(async move {
            let queue = if id % 2 == 0 { "full" } else { "q" };
            checker.sent(id);
            let outcome = publisher.publish(numbered(id).to("", queue)).await;
            tell(&checker, id, &outcome);
            if id % 2 == 1 {
                assert!(outcome.unwrap().is_confirmed(), "{id}");
            }
        })
    });
    for ended in within("every verdict", SOON, join_all(each)).await {
        ended.unwrap();
    }
    assert_eq!(stage.vhost.queue_depth("full").await, FITS);
    receive_all(&stage.direct, "full", &checker).await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, 1000 + FITS);
    assert_eq!(verdict.rejected, 1000 - FITS);
    assert_eq!(publisher.stats().failed, 0);
    assert_books(&publisher, &verdict).await;
}

/// The broker confirms a message that it could route to no queue, and drops it, unless it was
/// mandatory.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_routed_comes_back_to_its_own_sender_if_it_is_mandatory() {
    const TASKS: u64 = 16;
    const EACH: u64 = 200;
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let tasks = (0..TASKS).map(|task| {
        let (publisher, checker) = (publisher.clone(), Arc::clone(&checker));
        tokio::spawn(async move {
            let each = (task * EACH..(task + 1) * EACH).map(|id| {
                let message = match id % 3 {
                    0 => numbered(id).to("amq.fanout", "nobody").mandatory(false),
                    1 => numbered(id).to("amq.fanout", "nobody"),
                    _ => numbered(id),
                };
                let (publisher, checker) = (&publisher, &checker);
                async move {
                    checker.sent(id);
                    let outcome = publisher.publish(message.id(format!("id-{id}"))).await;
                    let receipt = outcome.unwrap();
                    assert_eq!(receipt.id(), format!("id-{id}"));
                    match &receipt {
                        Receipt::Returned { code, text, .. } => {
                            assert_eq!((id % 3, *code, text.as_str()), (1, 312, "NO_ROUTE"));
                            checker.returned(id);
                        }
                        Receipt::Confirmed { republished: 0, .. } => {
                            assert_ne!(id % 3, 1, "{id}");
                            checker.confirmed(id);
                            if id % 3 == 0 {
                                // The one kind that is confirmed and in no queue.
                                checker.received(id);
                            }
                        }
                        other => panic!("{id}: {other:?}"),
                    }
                }
            });
            join_all(each).await;
        })
    });
    for ended in within("every verdict", SOON, join_all(tasks)).await {
        ended.unwrap();
    }
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(
        verdict.returned,
        (0..TASKS * EACH).filter(|id| id % 3 == 1).count() as u64
    );
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_says_what_is_mandatory_where_the_message_does_not() {
    let stage = Stage::on_the_shared_node().await;
    let publisher = Publisher::builder(&stage.direct).mandatory(false);
    let publisher = publisher.build().await.unwrap();
    let nowhere = || Message::new("x").to("", "nowhere");
    let quiet = publisher.publish(nowhere()).await.unwrap();
    assert!(quiet.is_confirmed());
    let told = publisher.publish(nowhere().mandatory(true)).await.unwrap();
    assert!(
        matches!(told, Receipt::Returned { code: 312, .. }),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_arrive_intact() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).frame_max(4096);
    let cluster = cluster.connect().await.unwrap();
    declare(&cluster, "q", FieldTable::default()).await;
    let publisher = Publisher::builder(&cluster).window_bytes(1 << 20);
    let publisher = publisher.build().await.unwrap();
    for size in [0, 4087, 4088, 4089, 4095, 4096, 4097, 16 << 20] {
        let body: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
        let message = Message::new(body.clone()).to("", "q");
        assert!(publisher.publish(message).await.unwrap().is_confirmed());
        assert!(get(&cluster).await.data == body, "a body of {size} bytes");
    }
}

async fn get(cluster: &Cluster) -> lapin::message::BasicGetMessage {
    let channel = cluster.channels().get().await.unwrap();
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get("q".into(), options).await.unwrap();
    got.expect("the queue has a message")
}

/// A message with this much in its headers, by the publisher's reckoning.
fn with_headers(bytes: usize) -> Message {
    // 64 for the other properties, 1 for the length of the name, 9 for that of the value.
    let value = "v".repeat(bytes - 64 - 1 - "name".len() - 9 - 1 - "id".len());
    Message::new("x").to("", "q").id("id").header("name", value)
}

/// lapin panics over a long name, and RabbitMQ closes the connection over a header frame that is
/// too large.
#[tokio::test(flavor = "multi_thread")]
async fn what_amqp_cannot_carry_is_refused_before_anything_is_sent() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).frame_max(4096);
    let cluster = cluster.connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster)
        .window(1)
        .build()
        .await
        .unwrap();
    let long = || "n".repeat(256);
    let message = || Message::new("x").to("", "q");
    let deep = (0..20).fold(HeaderValue::Void, |inner, _| HeaderValue::List(vec![inner]));
    let bad = [
        ("exchange", message().to(long(), "q")),
        ("routing_key", message().to("", long())),
        ("id", message().id(long())),
        ("content_type", message().content_type(long())),
        ("content_encoding", message().content_encoding(long())),
        ("correlation_id", message().correlation_id(long())),
        ("reply_to", message().reply_to(long())),
        ("kind", message().kind(long())),
        ("app_id", message().app_id(long())),
        ("ttl", message().ttl(Duration::from_millis(1 << 32))),
        ("headers.nnn", message().header(long(), 1)),
        ("headers.deep", message().header("deep", deep)),
        ("headers.large", message().header("large", u64::MAX)),
        ("headers", with_headers(4089)),
    ];
    for (field, message) in bad {
        let outcome = within("a verdict", SOON, publisher.publish(message)).await;
        let Err(PublishError::Invalid(invalid)) = outcome else {
            panic!("{field}: {outcome:?}");
        };
        assert!(invalid.field.starts_with(field), "{field}: {invalid}");
    }
    let stats = publisher.stats();
    assert_eq!((stats.published, stats.in_flight), (0, 0), "{stats:?}");
    assert_eq!(vhost.connections().await, [], "nothing was sent");

    // The window's only share came back each time; and the largest headers that are let through do
    // fit.
    declare(&cluster, "q", FieldTable::default()).await;
    let largest = within("a verdict", SOON, publisher.publish(with_headers(4088))).await;
    assert!(largest.unwrap().is_confirmed());
    let properties = get(&cluster).await.properties.clone();
    let value = &properties.headers().as_ref().unwrap().inner()["name"];
    assert!(matches!(value, AMQPValue::LongString(text) if text.as_bytes().len() > 4000));
}

/// Samples how many messages are under way for as long as it is there.
fn watch_window(publisher: &Publisher) -> (Arc<AtomicU64>, Arc<AtomicBool>) {
    let (most, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (publisher, peak, over) = (publisher.clone(), Arc::clone(&most), Arc::clone(&stop));
    tokio::spawn(async move {
        while !over.load(Ordering::Relaxed) {
            peak.fetch_max(publisher.stats().in_flight, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    (most, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_under_way_than_the_window_has_room_for() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(20);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let (most, stop) = watch_window(&publisher);
    stage.proxy.black_hole();
    let tasks: Vec<_> = (0..8)
        .map(|task| publish_at_once(&publisher, &checker, task * 500..task * 500 + 500))
        .collect();
    eventually("it is used to the full", SOON, async || {
        most.load(Ordering::Relaxed) >= 20
    })
    .await;
    stage.proxy.pass().await;
    for ended in within("every verdict", SOON, join_all(tasks)).await {
        ended.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(most.load(Ordering::Relaxed), 20);
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_books(&publisher, &verdict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_window_is_under_way_alone() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window_bytes(1000);
    let publisher = publisher.build().await.unwrap();
    let publish = |bytes: usize| {
        let publisher = publisher.clone();
        let message = Message::new(vec![b'x'; bytes]).to("", "q");
        let mut publish =
            Box::pin(async move { publisher.publish(message).await.unwrap().is_confirmed() });
        // It is under way, or in line, from here on.
        assert!(publish.as_mut().now_or_never().is_none());
        tokio::spawn(publish)
    };
    assert!(publish(1).await.unwrap());
    none_in_flight(&publisher).await;
    // No verdict comes: whatever is under way stays so.
    stage.proxy.black_hole();
    let three: Vec<_> = (0..3).map(|_| publish(300)).collect();
    published(&publisher, 1 + 3).await;
    let (most, stop) = watch_window(&publisher);
    let large = publish(5000);
    let after: Vec<_> = (0..3).map(|_| publish(300)).collect();
    // Whoever went by the others would be under way by the time that the broker has answered this.
    declare(&stage.direct, "q", FieldTable::default()).await;
    eventually("the window is watched", SOON, async || {
        most.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(most.load(Ordering::Relaxed), 3);
    assert_eq!(publisher.stats().published, 1 + 3);
    stop.store(true, Ordering::Relaxed);
    stage.proxy.pass().await;
    for publish in three.into_iter().chain([large]).chain(after) {
        assert!(within("a verdict", SOON, publish).await.unwrap());
    }
    assert_eq!(publisher.stats().confirmed, 8);

    stage.proxy.black_hole();
    let large = publish(5000);
    published(&publisher, 9).await;
    let after: Vec<_> = (0..3).map(|_| publish(1)).collect();
    declare(&stage.direct, "q", FieldTable::default()).await;
    assert_eq!(publisher.stats().in_flight, 1, "the large one has it all");
    stage.proxy.pass().await;
    for publish in after.into_iter().chain([large]) {
        assert!(within("a verdict", SOON, publish).await.unwrap());
    }
    none_in_flight(&publisher).await;
    assert_eq!(stage.vhost.queue_depth("q").await, 12);
}

/// Quorum queues.
mod rabbitmq_only {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_quorum_queue_confirms_what_it_has() {
        let stage = Stage::on_the_shared_node().await;
        let mut arguments = FieldTable::default();
        let kind = LongString::from("quorum");
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind));
        declare(&stage.direct, "quorum", arguments).await;
        let cluster = stage.cluster().connect().await.unwrap();
        let publisher = Publisher::builder(&cluster).build().await.unwrap();
        let checker = Checker::default();
        let each = (0..1000).map(|id| {
            let (publisher, checker) = (&publisher, &checker);
            async move {
                checker.sent(id);
                let outcome = publisher.publish(numbered(id).to("", "quorum")).await;
                tell(checker, id, &outcome);
                assert!(outcome.unwrap().is_confirmed());
            }
        });
        within("every verdict", SOON, join_all(each)).await;
        assert_eq!(stage.vhost.queue_depth("quorum").await, 1000);
        receive_all(&stage.direct, "quorum", &checker).await;
        let verdict = checker.verdict();
        verdict.assert_exact();
        assert_eq!(verdict.duplicates, 0);
        assert_books(&publisher, &verdict).await;
    }
}
