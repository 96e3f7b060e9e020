//! Consumers that lose their connection: what was open comes again, and they come back as they were.

mod common;

use std::sync::{Arc, Mutex};

use lapin::types::FieldTable;
use tokio::sync::Semaphore;
use wharf_amqp::consumer::{ConsumeError, Consumer, ConsumerState, Delivery, Outcome, Stale};
use wharf_testkit::{
    checker::Checker,
    wait::{eventually, eventually_some, within},
};

use common::{
    SOON, connect,
    consuming::{Probe, Stage, counted, id, publish, registered, until},
    declare,
};

/// A channel that is lost takes the right to acknowledge with it: the delivery tags of the next one
/// are others. Clients that did so acknowledged the wrong messages, or lost the channel again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_what_was_open_comes_again_and_late_verdicts_are_not_sent() {
    let stage = Stage::new().await;
    let checker = Checker::default();
    for id in 0..300 {
        checker.sent(id);
    }
    stage.publish(0..300).await;
    (0..300).for_each(|id| checker.confirmed(id));
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(100)
        .concurrency(100)
        .start(probe.clone())
        .await
        .unwrap();
    probe.has_seen(100).await;
    stage.proxy.cut();
    registered(&consumer, 2).await;
    eventually("they are delivered again", SOON, async || {
        consumer.stats().delivered >= 200
    })
    .await;
    probe.let_all();
    stage.drained("q").await;
    // A handler that is slow may have one of the lost channel's still.
    counted(&consumer, "all settled", |stats| {
        (stats.stale, stats.acked) == (100, 300)
    })
    .await;
    assert_eq!(
        consumer.stats().registrations,
        2,
        "no channel was lost over a stale tag"
    );
    probe.done().into_iter().for_each(|id| checker.received(id));
    checker.verdict().assert_valid();
    assert_eq!(checker.verdict().duplicates, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_over_many_cuts_under_load() {
    let stage = Stage::new().await;
    let checker = Arc::new(Checker::default());
    (0..20_000).for_each(|id| checker.sent(id));
    stage.publish(0..20_000).await;
    (0..20_000).for_each(|id| checker.confirmed(id));
    let seen = Arc::clone(&checker);
    let gate = Arc::new(Semaphore::new(0));
    let leave = Arc::clone(&gate);
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(100)
        .concurrency(4)
        .start(move |delivery: Delivery| {
            seen.received(id(&delivery));
            let leave = Arc::clone(&leave);
            async move {
                leave.acquire().await.unwrap().forget();
                Outcome::Ack
            }
        })
        .await
        .unwrap();
    for cut in 1..=4 {
        let acked = consumer.stats().acked;
        // Whatever this task is kept from, there are some left for the next cut.
        gate.add_permits(4000);
        eventually("some are acknowledged", SOON, async || {
            consumer.stats().acked > acked + 500
        })
        .await;
        if cut % 2 == 0 {
            stage.proxy.cut();
        } else {
            stage.proxy.reset();
        }
        registered(&consumer, cut + 1).await;
    }
    gate.add_permits(1_000_000);
    stage.drained("q").await;
    checker.verdict().assert_valid();
    consumer.stop_within(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prefetch_holds_before_and_after_a_recovery() {
    let stage = Stage::new().await;
    stage.publish(0..100).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(7)
        .concurrency(3)
        .start(probe.clone())
        .await
        .unwrap();
    for registration in 1..=3 {
        registered(&consumer, registration).await;
        eventually("the prefetch is used", SOON, async || {
            stage.count("q").await == (93, 7)
        })
        .await;
        assert!(probe.most() <= 3);
        stage.proxy.reset();
    }
    registered(&consumer, 4).await;
    probe.let_all();
    stage.drained("q").await;
    // What was waiting when its channel went was not processed for nothing.
    counted(&consumer, "all settled", |stats| {
        (stats.stale, stats.acked) == (3, 100)
    })
    .await;
    assert_eq!(probe.done().len(), 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_after_a_cut_and_a_stale_delivery_says_so() {
    let stage = Stage::new().await;
    stage.publish([1]).await;
    let mut deliveries = Consumer::builder(&stage.faulty, "q")
        .stream()
        .await
        .unwrap();
    let first = within("a delivery", SOON, deliveries.next()).await.unwrap();
    assert!(!first.is_stale());
    stage.proxy.reset();
    let second = within("it comes again", SOON, deliveries.next())
        .await
        .unwrap();
    assert!(first.is_stale() && !second.is_stale());
    assert!(second.redelivered);
    assert_eq!(first.ack(), Err(Stale));
    assert_eq!(stage.count("q").await, (0, 1), "the second is still open");
    second.ack().unwrap();
    stage.drained("q").await;
    assert_eq!(deliveries.stats().stale, 1);
}

/// The broker may not have noticed yet that an exclusive consumer's former connection is gone, and
/// refuse its successor: that is no reason to give up.
#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_consumer_takes_its_place_again_when_its_former_self_is_gone() {
    let stage = Stage::new().await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .exclusive(true)
        .start(probe.clone())
        .await
        .unwrap();
    // Another holds the place while this one is away.
    stage.proxy.refuse().await;
    stage.proxy.cut();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    let usurper = eventually_some("the place is free", SOON, async || {
        let usurper = Consumer::builder(&stage.cluster, "q").exclusive(true);
        usurper.start(Probe::open()).await.ok()
    })
    .await;
    stage.proxy.pass().await;
    until(&consumer, "refusals", |state| {
        matches!(state, ConsumerState::Recovering { cause, attempt: 2.. }
            if matches!(**cause, ConsumeError::InUse(_)))
    })
    .await;
    usurper.stop_within(SOON).await.unwrap();
    registered(&consumer, 2).await;
    stage.publish([1]).await;
    probe.has_seen(1).await;
}

/// An acknowledgement with `multiple` covers everything before it on its channel: one that covers
/// what a handler still has is a lost message when that handler's process ends.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_in_company_leave_out_what_is_still_being_processed() {
    let stage = Stage::new().await;
    stage.publish(0..500).await;
    let held = |id| id % 100 == 7;
    let gate = Arc::new(Semaphore::new(0));
    let (log, leave) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&gate));
    let begun = Arc::clone(&log);
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(50)
        .concurrency(12)
        .start(move |delivery: Delivery| {
            let (begun, leave) = (Arc::clone(&begun), Arc::clone(&leave));
            async move {
                if held(id(&delivery)) {
                    begun.lock().unwrap().push(id(&delivery));
                    leave.acquire().await.unwrap().forget();
                }
                Outcome::Ack
            }
        })
        .await
        .unwrap();
    eventually("all others are acknowledged", SOON, async || {
        consumer.stats().acked == 495 && stage.count("q").await == (0, 5)
    })
    .await;
    stage.proxy.cut();
    eventually("those that were open come again", SOON, async || {
        log.lock().unwrap().len() == 10
    })
    .await;
    let mut again = log.lock().unwrap().split_off(5);
    again.sort_unstable();
    assert_eq!(again, [7, 107, 207, 307, 407]);
    gate.add_permits(10);
    stage.drained("q").await;
    counted(&consumer, "all settled", |stats| {
        (stats.acked, stats.stale) == (500, 5)
    })
    .await;
}

/// Permissions.
mod rabbitmq_only {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_consumer_that_may_no_longer_read_its_queue_fails_and_another_goes_on() {
        let stage = Stage::new().await;
        declare(&stage.cluster, "other", FieldTable::default()).await;
        let (rabbit, user) = (stage.vhost.rabbit(), format!("of {}", stage.vhost.name()));
        stage.vhost.add_user(&user, "secret").await;
        let uri = stage.vhost.url_of(&user, "secret", stage.proxy.addr());
        let cluster = connect(uri.replace("of ", "of%20")).await;
        let consumer = Consumer::builder(&cluster, "q")
            .start(Probe::open())
            .await
            .unwrap();
        let other = Probe::open();
        let neighbour = Consumer::builder(&cluster, "other")
            .start(other.clone())
            .await
            .unwrap();
        let vhost = stage.vhost.name();
        rabbit
        .eval(&format!(
            "ok = rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"{vhost}\">>, \
             <<\"\">>, <<\"\">>, <<\"other\">>, <<\"test\">>)"
        ))
        .await;
        stage.proxy.cut();
        until(&consumer, "the end", |state| {
        matches!(state, ConsumerState::Failed(cause) if matches!(**cause, ConsumeError::Refused(_)))
    })
    .await;
        registered(&neighbour, 2).await;
        publish(&stage.cluster, "other", [1]).await;
        other.has_seen(1).await;
        let refused = Consumer::builder(&cluster, "q").start(Probe::open()).await;
        assert!(
            matches!(refused, Err(ConsumeError::Refused(_))),
            "{refused:?}"
        );
        rabbit.delete_user(&user).await;
    }
}
