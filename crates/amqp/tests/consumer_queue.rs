//! Consumers whose queue is deleted, or absent when they come back.

mod common;

use std::time::Duration;

use lapin::types::FieldTable;
use wharf::Backoff;
use wharf_amqp::consumer::{ConsumeError, Consumer, ConsumerState};
use wharf_testkit::wait::eventually;

use common::{
    SOON,
    consuming::{Probe, Stage, publish, registered, until},
    declare, quick,
};

/// lapin's stream ends with a bare `None` then, on a channel that is open; who polls on waits for
/// ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_and_made_again_is_consumed_again() {
    let stage = Stage::new().await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .start(probe.clone())
        .await
        .unwrap();
    stage.vhost.delete_queue("q").await;
    until(&consumer, "word of the cancellation", |state| {
        matches!(state, ConsumerState::Recovering { cause, .. }
            if matches!(**cause, ConsumeError::Cancelled | ConsumeError::NoQueue(_)))
    })
    .await;
    until(&consumer, "a failed attempt", |state| {
        matches!(state, ConsumerState::Recovering { cause, attempt: 2.. }
            if matches!(**cause, ConsumeError::NoQueue(_)))
    })
    .await;
    declare(&stage.cluster, "q", FieldTable::default()).await;
    registered(&consumer, 2).await;
    stage.publish([7]).await;
    probe.has_seen(1).await;
    stage.drained("q").await;
}

/// What the broker had delivered when it cancelled is still the channel's to settle.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_processed_when_the_queue_went_harms_no_later_delivery() {
    let stage = Stage::new().await;
    stage.publish(0..10).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .prefetch(5)
        .concurrency(5)
        .start(probe.clone())
        .await
        .unwrap();
    probe.has_seen(5).await;
    stage.vhost.delete_queue("q").await;
    until(&consumer, "word of the cancellation", |state| {
        matches!(state, ConsumerState::Recovering { .. })
    })
    .await;
    declare(&stage.cluster, "q", FieldTable::default()).await;
    registered(&consumer, 2).await;
    stage.publish(100..110).await;
    probe.let_all();
    eventually("the others are processed", SOON, async || {
        probe.done().len() == 15
    })
    .await;
    stage.drained("q").await;
    assert_eq!(consumer.stats().registrations, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_queue_is_gone_after_a_cut_tries_again_and_another_goes_on() {
    let stage = Stage::new().await;
    declare(&stage.cluster, "other", FieldTable::default()).await;
    let (probe, other) = (Probe::open(), Probe::open());
    let consumer = Consumer::builder(&stage.faulty, "q")
        .start(probe.clone())
        .await
        .unwrap();
    let neighbour = Consumer::builder(&stage.faulty, "other")
        .start(other.clone())
        .await
        .unwrap();
    stage.proxy.refuse().await;
    stage.proxy.cut();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    stage.vhost.delete_queue("q").await;
    stage.proxy.pass().await;
    registered(&neighbour, 2).await;
    until(&consumer, "attempts", |state| {
        matches!(state, ConsumerState::Recovering { attempt: 3.., .. })
    })
    .await;
    publish(&stage.cluster, "other", 0..100).await;
    other.has_seen(100).await;
    assert_eq!(neighbour.stats().registrations, 2, "it was left alone");
    declare(&stage.cluster, "q", FieldTable::default()).await;
    registered(&consumer, 2).await;
    stage.publish([1]).await;
    probe.has_seen(1).await;
}

/// The broker closes a channel for each attempt, and a connection bears only so many of those: it
/// is replaced in time. Whoever consumes on the old one stays on it, and only on that.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_attempts_for_an_absent_queue_disturb_no_neighbour() {
    let stage = Stage::new().await;
    declare(&stage.cluster, "other", FieldTable::default()).await;
    let hasty = Backoff {
        min: Duration::from_millis(1),
        max: Duration::from_millis(2),
    };
    let cluster = quick(&[stage.vhost.url()]).backoff(hasty);
    let cluster = cluster.connect().await.unwrap();
    let (probe, other) = (Probe::open(), Probe::open());
    let consumer = Consumer::builder(&cluster, "q").start(probe.clone());
    let consumer = consumer.await.unwrap();
    let neighbour = Consumer::builder(&cluster, "other").start(other.clone());
    let neighbour = neighbour.await.unwrap();
    stage.vhost.delete_queue("q").await;
    for round in 1..=3 {
        until(&consumer, "attempts", |state| {
            matches!(state, ConsumerState::Recovering { attempt, .. } if *attempt >= 200 * round)
        })
        .await;
        publish(&stage.cluster, "other", 0..10).await;
        eventually("the neighbour goes on", SOON, async || {
            neighbour.stats().acked == u64::from(10 * round)
        })
        .await;
    }
    let stats = neighbour.stats();
    assert_eq!((stats.registrations, stats.stale), (1, 0), "{stats:?}");
    eventually("worn connections are gone", SOON, async || {
        let connections = stage.vhost.connections().await;
        let consuming = connections.iter();
        let of_cluster = consuming.filter(|each| each.name.ends_with("(consume)"));
        of_cluster.count() <= 2
    })
    .await;
    declare(&stage.cluster, "q", FieldTable::default()).await;
    registered(&consumer, 2).await;
    stage.publish([1]).await;
    probe.has_seen(1).await;
}
