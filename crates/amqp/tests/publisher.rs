//! Publishing through faults: each message has one outcome, and none that was confirmed is lost.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use futures_util::future::join_all;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use wharf_amqp::{Cluster, Message, PublishError, Publisher, Receipt, lapin};
use wharf_testkit::{
    checker::Checker,
    proxy::Proxy,
    rabbit::Rabbit,
    wait::{eventually, within},
};

const SOON: Duration = Duration::from_secs(30);

async fn declare(cluster: &Cluster, queue: &str) {
    let channel = cluster.channels().get().await.unwrap();
    let declare = channel.queue_declare(
        queue.into(),
        QueueDeclareOptions::default(),
        Default::default(),
    );
    declare.await.unwrap();
}

async fn receive_all(cluster: &Cluster, queue: &str, checker: &Checker) {
    let channel = cluster.channels().get().await.unwrap();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.into(), options).await.unwrap() {
        let id = std::str::from_utf8(&message.data).unwrap();
        checker.received(id.parse().unwrap());
    }
}

/// Publishes so many at once and tells the checker.
async fn publish(publisher: &Publisher, checker: &Arc<Checker>, count: u64) {
    let each = (0..count).map(|id| {
        let (publisher, checker) = (publisher.clone(), Arc::clone(checker));
        tokio::spawn(async move {
            let message = Message::new(id.to_string()).to("", "q");
            checker.sent(id);
            match publisher.publish(message).await {
                Ok(Receipt::Confirmed { .. }) => checker.confirmed(id),
                Ok(Receipt::Unknown { .. }) => checker.unknown(id),
                other => panic!("{other:?}"),
            }
        })
    });
    for ended in within("every outcome", 2 * SOON, join_all(each)).await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_costs_the_offender_alone() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).connect().await.unwrap();
    declare(&cluster, "q").await;
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let each = (0..500).map(|id| {
        let exchange = if id == 250 { "missing" } else { "" };
        publisher.publish(Message::new("x").to(exchange, "q"))
    });
    let outcomes = within("every outcome", SOON, join_all(each)).await;
    for (id, outcome) in outcomes.into_iter().enumerate() {
        if id == 250 {
            assert!(
                matches!(outcome, Err(PublishError::Refused { .. })),
                "{outcome:?}"
            );
        } else {
            assert!(outcome.unwrap().is_confirmed());
        }
    }
}

/// An open confirm of a lost connection is an error in lapin, although most of such messages are in
/// the queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_loses_no_confirmed_message() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    let cluster = Cluster::builder([vhost.url_via(proxy.addr())])
        .connect()
        .await
        .unwrap();
    declare(&cluster, "q").await;
    let publisher = Publisher::builder(&cluster)
        .window(10_000)
        .build()
        .await
        .unwrap();
    let checker = Arc::new(Checker::default());
    // Confirms cannot come: all are open when the connection goes.
    proxy.drop_replies();
    let publishing = tokio::spawn({
        let (publisher, checker) = (publisher.clone(), Arc::clone(&checker));
        async move { publish(&publisher, &checker, 10_000).await }
    });
    eventually("messages are under way", SOON, async || {
        publisher.stats().published == 10_000
    })
    .await;
    proxy.reset();
    proxy.pass().await;
    publishing.await.unwrap();
    receive_all(&cluster, "q", &checker).await;
    checker.verdict().assert_valid();
    checker.verdict().assert_all_resolved_once();
    assert_eq!(publisher.stats().in_flight, 0);
    assert_eq!(publisher.stats().confirmed, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_never_comes_is_unknown_at_the_deadline() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    let cluster = Cluster::builder([vhost.url_via(proxy.addr())])
        .connect()
        .await
        .unwrap();
    declare(&cluster, "q").await;
    let limit = Duration::from_secs(1);
    let publisher = Publisher::builder(&cluster)
        .deadline(limit)
        .build()
        .await
        .unwrap();
    assert!(
        publisher
            .publish(Message::new("1").to("", "q"))
            .await
            .unwrap()
            .is_confirmed()
    );
    proxy.black_hole();
    let receipt = within(
        "a verdict",
        SOON,
        publisher.publish(Message::new("2").to("", "q")),
    );
    assert!(matches!(
        receipt.await.unwrap(),
        Receipt::Unknown { republished: 0, .. }
    ));
    assert_eq!(publisher.stats().in_flight, 1);
    proxy.pass().await;
    eventually("its share is back", SOON, async || {
        publisher.stats().in_flight == 0
    })
    .await;
    assert_eq!(publisher.stats().unknown, 1);
    assert_eq!(publisher.stats().confirmed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_leaves_nothing_behind() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).connect().await.unwrap();
    declare(&cluster, "q").await;
    let publisher = Publisher::builder(&cluster)
        .window(10)
        .build()
        .await
        .unwrap();
    for _ in 0..200 {
        let publish = publisher.publish(Message::new("x").to("", "q"));
        let mut publish = Box::pin(publish);
        let mut context = Context::from_waker(Waker::noop());
        assert!(publish.as_mut().poll(&mut context).is_pending());
        tokio::task::yield_now().await;
    }
    publisher.close_within(SOON).await.unwrap();
    assert_eq!(publisher.stats().in_flight, 0);
    let closed = publisher.publish(Message::new("late")).await;
    assert!(matches!(closed, Err(PublishError::Closed(_))), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_arrive_intact() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()])
        .frame_max(4096)
        .connect()
        .await
        .unwrap();
    declare(&cluster, "q").await;
    let publisher = Publisher::builder(&cluster)
        .window_bytes(1 << 20)
        .build()
        .await
        .unwrap();
    for size in [0, 4087, 4088, 4089, 4095, 4096, 4097, 16 << 20] {
        let body: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
        let message = Message::new(body.clone()).to("", "q");
        assert!(publisher.publish(message).await.unwrap().is_confirmed());
        let channel = cluster.channels().get().await.unwrap();
        let options = BasicGetOptions { no_ack: true };
        let message = channel
            .basic_get("q".into(), options)
            .await
            .unwrap()
            .unwrap();
        assert!(message.data == body, "a body of {size} bytes");
    }
}
