//! Who has a channel, and when: publishers share channels with each other and with those who borrow
//! them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::join_all;
use wharf_amqp::{
    Cluster, Message, Publisher, Receipt,
    lapin::{BasicProperties, options::BasicPublishOptions},
};
use wharf_testkit::wait::within;

use crate::{common::SOON, stage::Stage};

/// A publisher once gave its channel back while messages that it had submitted were still to be
/// published: the next to have the channel published at the same time, and each got confirms of the
/// other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_borrows_the_channel_next_gets_verdicts_of_his_own() {
    const TASKS: u64 = 500;
    const MESSAGES: u64 = 200;
    let stage = Stage::new().await;
    let cluster = one_channel(&stage).await;
    let publisher = Publisher::builder(&cluster).mandatory(false);
    let publisher = publisher.build().await.unwrap();
    let rejected = |publish: &wharf_broker::Publish<'_>| publish.routing_key() == "rejected";
    stage.broker.faults().when(rejected).nack();
    let wrong = Arc::new(AtomicU64::new(0));
    let borrower = tokio::spawn(borrow(cluster, Arc::clone(&wrong)));
    let tasks = (0..TASKS).map(|_| {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            let mut confirmed = 0;
            for _ in 0..MESSAGES {
                let outcome = publisher.publish(message("taken")).await;
                confirmed += u64::from(outcome.is_ok_and(|receipt| receipt.is_confirmed()));
            }
            confirmed
        })
    });
    let confirmed = within("all verdicts", 4 * SOON, join_all(tasks)).await;
    borrower.abort();
    let confirmed: u64 = confirmed.into_iter().map(Result::unwrap).sum();
    assert_eq!(confirmed, TASKS * MESSAGES);
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
}

/// Publishes what is rejected, on borrowed channels, a hundred at a time; counts other verdicts.
async fn borrow(cluster: Cluster, wrong: Arc<AtomicU64>) {
    loop {
        let channel = cluster.confirm_channels().get().await.unwrap();
        let publish = || {
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish("".into(), "rejected".into(), options, b"m", properties)
        };
        let sent = join_all((0..100).map(|_| publish())).await;
        drop(channel);
        for confirm in sent {
            if !confirm.unwrap().await.unwrap().is_nack() {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A publisher once kept its channel for as long as one of its messages had no verdict.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_confirm_does_not_keep_the_channel_from_another_publisher() {
    let stage = Stage::new().await;
    let cluster = one_channel(&stage).await;
    let slow = Publisher::builder(&cluster).build().await.unwrap();
    let other = Publisher::builder(&cluster).build().await.unwrap();
    let is_slow = |publish: &wharf_broker::Publish<'_>| publish.routing_key() == "slow";
    let swallowed = stage.broker.faults().when(is_slow).swallow_confirms();
    let slow = tokio::spawn(async move { slow.publish(message("slow").mandatory(false)).await });
    within("it was sent", SOON, swallowed.happened()).await;
    let outcome = within("a verdict", SOON / 2, other.publish(message("q"))).await;
    slow.abort();
    assert!(
        matches!(outcome, Ok(Receipt::Confirmed { .. })),
        "{outcome:?}"
    );
}

async fn one_channel(stage: &Stage) -> Cluster {
    let cluster = stage.cluster().channels_per_connection(1);
    cluster.connect().await.unwrap()
}

fn message(to: &str) -> Message {
    Message::new("m").to("", to)
}
