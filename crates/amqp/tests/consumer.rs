//! Consumers: delivering, settling, and what handlers may do.

mod common;

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lapin::types::{AMQPValue, FieldTable};
use wharf_amqp::{
    Cluster,
    consumer::{ConsumeError, Consumer, Delivery, OpenDelivery, Outcome},
};
use wharf_testkit::wait::{eventually, within};

use common::{
    SOON,
    consuming::{PATIENCE, Probe, Stage, counted, declare_with_dead_letters, id, publish},
};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_concurrency_of_one_everything_is_processed_in_order_and_acknowledged() {
    let stage = Stage::new().await;
    stage.publish(0..1000).await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .prefetch(50)
        .start(probe.clone())
        .await
        .unwrap();
    eventually("all are processed", SOON, async || {
        probe.done().len() == 1000
    })
    .await;
    assert_eq!(probe.done(), (0..1000).collect::<Vec<_>>());
    stage.drained("q").await;
    counted(&consumer, "all acknowledged", |stats| stats.acked == 1000).await;
    let stats = consumer.stats();
    assert_eq!(
        (stats.delivered, stats.registrations),
        (1000, 1),
        "{stats:?}"
    );
    assert_eq!(stats.stale, 0, "{stats:?}");
    assert!(consumer.state().is_running());
    consumer.stop_within(SOON).await.unwrap();
    assert_eq!(stage.vhost.consumers("q").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_share_frames_and_a_lone_one_goes_at_once() {
    let stage = Stage::new().await;
    stage.publish(0..5000).await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(200)
        .concurrency(8)
        .start(probe.clone())
        .await
        .unwrap();
    eventually("all are acknowledged", SOON, async || {
        consumer.stats().acked == 5000
    })
    .await;
    let stats = consumer.stats();
    // How many share one depends on who has his turn when; the ledger's own tests say when they do.
    assert!(stats.ack_frames < stats.acked, "{stats:?}");
    stage.drained("q").await;
    let before = stats.ack_frames;
    let bytes = stage.proxy.counts().to_server;
    for lone in 0..20 {
        stage.publish([5000 + lone]).await;
        eventually("it is acknowledged", SOON, async || {
            consumer.stats().acked == 5001 + lone
        })
        .await;
    }
    // A frame is counted after what it acknowledges. There cannot be more of them than that.
    counted(&consumer, "a frame for each", |stats| {
        stats.ack_frames >= before + 20
    })
    .await;
    // What is counted as acknowledged may still be on its way.
    stage.drained("q").await;
    // A frame is 21 bytes, and a heartbeat 8.
    assert!(stage.proxy.counts().to_server - bytes >= 20 * 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_concurrency_is_reached_and_not_passed() {
    let stage = Stage::new().await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .concurrency(8)
        .start(probe.clone())
        .await
        .unwrap();
    consumer.pause();
    stage.publish(0..500).await;
    eventually("the prefetch is used", SOON, async || {
        consumer.stats().delivered == 100
    })
    .await;
    // All wait, and no other comes that would call a handler.
    consumer.resume();
    probe.has_seen(8).await;
    assert_eq!(probe.running(), 8);
    probe.let_all();
    stage.drained("q").await;
    assert_eq!(probe.most(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_requeued_comes_again_and_what_is_rejected_is_dead_lettered() {
    let stage = Stage::new().await;
    declare_with_dead_letters(&stage.cluster, "work").await;
    publish(&stage.cluster, "work", 0..90).await;
    let consumer = Consumer::builder(&stage.cluster, "work")
        .concurrency(3)
        .start(async |delivery: Delivery| match id(&delivery) % 3 {
            0 => Outcome::Ack,
            1 if delivery.redelivered => Outcome::Ack,
            1 => Outcome::Requeue,
            _ => Outcome::Reject,
        })
        .await
        .unwrap();
    eventually("a third is dead-lettered", SOON, async || {
        stage.count("dead").await == (30, 0)
    })
    .await;
    stage.drained("work").await;
    counted(&consumer, "all counted", |stats| {
        (stats.acked, stats.requeued, stats.rejected) == (60, 30, 30)
    })
    .await;
    assert_eq!(consumer.stats().registrations, 1, "no frame was wrong");
}

/// A panic took the consumer with it, or its message came for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_a_requeue_the_first_time_and_a_dead_letter_the_second() {
    let stage = Stage::new().await;
    declare_with_dead_letters(&stage.cluster, "work").await;
    publish(&stage.cluster, "work", 0..20).await;
    let tries = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&tries);
    let consumer = Consumer::builder(&stage.cluster, "work")
        .concurrency(2)
        .start(move |delivery: Delivery| {
            let log = Arc::clone(&log);
            async move {
                let id = id(&delivery);
                if id == 13 {
                    log.lock().unwrap().push(delivery.redelivered);
                    panic!("thirteen, as arranged");
                }
                Outcome::Ack
            }
        })
        .await
        .unwrap();
    eventually("it is dead-lettered", SOON, async || {
        stage.count("dead").await == (1, 0)
    })
    .await;
    stage.drained("work").await;
    assert_eq!(*tries.lock().unwrap(), [false, true]);
    counted(&consumer, "all counted", |stats| {
        (stats.requeued, stats.rejected, stats.acked) == (1, 1, 19)
    })
    .await;
    assert_eq!(consumer.stats().panics, 2);
    assert!(consumer.state().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_holds_up_no_other_and_its_time_is_up_some_day() {
    let stage = Stage::new().await;
    declare_with_dead_letters(&stage.cluster, "work").await;
    publish(&stage.cluster, "work", 0..200).await;
    let consumer = Consumer::builder(&stage.cluster, "work")
        .prefetch(10)
        .concurrency(2)
        .handler_timeout(Duration::from_millis(300))
        .start(async |delivery: Delivery| {
            if id(&delivery) == 0 {
                pending::<()>().await;
            }
            Outcome::Ack
        })
        .await
        .unwrap();
    eventually("the others are acknowledged", SOON, async || {
        consumer.stats().acked == 199
    })
    .await;
    eventually("it is dead-lettered", SOON, async || {
        stage.count("dead").await == (1, 0)
    })
    .await;
    counted(&consumer, "all counted", |stats| {
        (stats.requeued, stats.rejected) == (1, 1)
    })
    .await;
    assert_eq!(consumer.stats().timeouts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gives_deliveries_to_settle_and_takes_back_those_that_are_dropped() {
    let stage = Stage::new().await;
    declare_with_dead_letters(&stage.cluster, "work").await;
    publish(&stage.cluster, "work", 0..4).await;
    let mut deliveries = Consumer::builder(&stage.cluster, "work")
        .prefetch(4)
        .stream()
        .await
        .unwrap();
    let mut next = async || within("a delivery", SOON, deliveries.next()).await.unwrap();
    let mut taken: Vec<OpenDelivery> = Vec::new();
    for _ in 0..4 {
        taken.push(next().await);
    }
    taken.pop().unwrap().ack().unwrap();
    taken.pop().unwrap().reject().unwrap();
    taken.pop().unwrap().requeue().unwrap();
    let again = next().await;
    assert!(again.redelivered);
    assert_eq!(id(&again), 1);
    again.ack().unwrap();
    drop(taken);
    let again = next().await;
    assert!(again.redelivered);
    assert_eq!(id(&again), 0);
    again.ack().unwrap();
    stage.drained("work").await;
    eventually("it is dead-lettered", SOON, async || {
        stage.count("dead").await == (1, 0)
    })
    .await;
    deliveries.stop_within(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_succeed_says_why_at_once() {
    let stage = Stage::new().await;
    let began = Instant::now();
    let start = |builder: wharf_amqp::consumer::Builder| builder.start(Probe::open());
    let missing = start(Consumer::builder(&stage.cluster, "missing")).await;
    assert!(
        matches!(missing, Err(ConsumeError::NoQueue(_))),
        "{missing:?}"
    );
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("high".into()));
    let wrong = start(Consumer::builder(&stage.cluster, "q").arguments(arguments)).await;
    assert!(matches!(wrong, Err(ConsumeError::Invalid(_))), "{wrong:?}");
    let holder = start(Consumer::builder(&stage.cluster, "q").exclusive(true))
        .await
        .unwrap();
    let second = start(Consumer::builder(&stage.cluster, "q")).await;
    assert!(matches!(second, Err(ConsumeError::InUse(_))), "{second:?}");
    for (builder, what) in [
        (Consumer::builder(&stage.cluster, ""), "queue"),
        (Consumer::builder(&stage.cluster, "q".repeat(256)), "queue"),
        (
            Consumer::builder(&stage.cluster, "q").tag("t".repeat(256)),
            "tag",
        ),
        (
            Consumer::builder(&stage.cluster, "q").prefetch(0),
            "prefetch",
        ),
        (
            Consumer::builder(&stage.cluster, "q").concurrency(0),
            "concurrency",
        ),
    ] {
        let wrong = start(builder).await;
        assert!(
            matches!(wrong, Err(ConsumeError::Setting { field, .. }) if field == what),
            "{wrong:?}"
        );
    }
    assert!(began.elapsed() < PATIENCE);
    assert!(holder.state().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_broker_ends_with_the_operation_timeout() {
    let stage = Stage::new().await;
    stage.proxy.refuse().await;
    let cluster = Cluster::builder([stage.vhost.url_via(stage.proxy.addr())])
        .operation_timeout(Duration::from_millis(700))
        .connect_lazily()
        .unwrap();
    let began = Instant::now();
    let start = Consumer::builder(&cluster, "q").start(Probe::open());
    let start = within("an end", SOON, start).await;
    assert!(matches!(start, Err(ConsumeError::Timeout(_))), "{start:?}");
    assert!(began.elapsed() < PATIENCE);
}
