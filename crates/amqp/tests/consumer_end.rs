//! Consumers that pause, stop, or are dropped: nothing is acknowledged that was not processed.

mod common;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::yield_now};
use wharf_amqp::consumer::{Consumer, ConsumerState, Delivery, Outcome, Stale, StopError};
use wharf_testkit::wait::{eventually, within};

use common::{
    SOON,
    consuming::{PATIENCE, Probe, Stage, id, remaining, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_starts_no_handler_and_keeps_the_subscription() {
    let stage = Stage::new().await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(10)
        .concurrency(2)
        .start(probe.clone())
        .await
        .unwrap();
    stage.publish(0..30).await;
    probe.has_seen(2).await;
    consumer.pause();
    assert!(matches!(consumer.state(), ConsumerState::Paused));
    probe.let_all();
    eventually("those that ran have ended", SOON, async || {
        stage.count("q").await == (18, 10)
    })
    .await;
    assert_eq!(probe.seen().len(), 2);
    assert_eq!(stage.vhost.consumers("q").await, 1);
    // A loss ends no pause.
    stage.proxy.cut();
    eventually("it has subscribed again", SOON, async || {
        consumer.stats().registrations == 2
    })
    .await;
    until(&consumer, "the pause", |state| {
        matches!(state, ConsumerState::Paused)
    })
    .await;
    eventually("the prefetch is used", SOON, async || {
        stage.count("q").await == (18, 10)
    })
    .await;
    assert_eq!(probe.seen().len(), 2);
    consumer.resume();
    assert!(consumer.state().is_running());
    stage.drained("q").await;
    assert_eq!(probe.done().len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_acknowledges_what_was_processed_and_hands_back_the_rest() {
    let stage = Stage::new().await;
    stage.publish(0..100).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .prefetch(50)
        .concurrency(4)
        .start(probe.clone())
        .await
        .unwrap();
    probe.let_some(20);
    probe.has_seen(24).await;
    let state = consumer.watch();
    let stopping = tokio::spawn(consumer.stop_within(SOON));
    // What nobody has begun is back before the last handler ends.
    eventually("the rest is handed back", SOON, async || {
        stage.count("q").await.0 == 76
    })
    .await;
    assert!(!stopping.is_finished());
    probe.let_all();
    stopping.await.unwrap().unwrap();
    assert!(matches!(*state.borrow(), ConsumerState::Stopped));
    let done: HashSet<u64> = probe.done().into_iter().collect();
    assert_eq!(done.len(), 24);
    assert_eq!(probe.seen().len(), 24, "nothing began after the stop");
    assert_eq!(
        remaining(&stage).await,
        (0..100).filter(|id| !done.contains(id)).collect()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_off_what_takes_too_long_and_says_so() {
    let stage = Stage::new().await;
    stage.publish(0..10).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .concurrency(4)
        .start(probe.clone())
        .await
        .unwrap();
    probe.let_some(2);
    probe.has_seen(6).await;
    let began = Instant::now();
    // A tenth of it is for the broker's answer.
    let limit = Duration::from_secs(10);
    let stopped = consumer.stop_within(limit).await;
    assert_eq!(stopped, Err(StopError::CutOff { cut_off: 4 }));
    assert!(began.elapsed() < limit + PATIENCE);
    let done: HashSet<u64> = probe.done().into_iter().collect();
    assert_eq!(done.len(), 2);
    probe.let_all();
    assert_eq!(
        remaining(&stage).await,
        (0..10).filter(|id| !done.contains(id)).collect()
    );
    assert_eq!(probe.done().len(), 2, "nothing goes on after the stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_broker_is_silent_ends_in_time_and_says_so() {
    let stage = Stage::new().await;
    stage.publish(0..10).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.faulty, "q")
        .concurrency(2)
        .start(probe.clone())
        .await
        .unwrap();
    probe.has_seen(2).await;
    stage.proxy.black_hole();
    let began = Instant::now();
    let stopped = consumer.stop_within(Duration::from_millis(500)).await;
    assert_eq!(stopped, Err(StopError::NoAnswer { cut_off: 2 }));
    assert!(began.elapsed() < PATIENCE);
}

/// An acknowledgement may wait for company for a moment. The end does not come in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_just_before_a_hasty_stop_does_not_come_again() {
    let stage = Stage::new().await;
    for round in 0..5 {
        stage.publish((0..10).map(|id| 10 * round + id)).await;
        let mut deliveries = Consumer::builder(&stage.cluster, "q")
            .stream()
            .await
            .unwrap();
        let mut taken = Vec::new();
        for _ in 0..10 {
            taken.push(within("a delivery", SOON, deliveries.next()).await.unwrap());
        }
        let open = taken.split_off(4);
        let expected: HashSet<u64> = open.iter().map(|delivery| id(delivery)).collect();
        for delivery in taken {
            delivery.ack().unwrap();
        }
        let stopped = deliveries.stop_within(Duration::from_millis(1)).await;
        assert!(stopped.is_err(), "six deliveries are open");
        eventually("they are handed back", SOON, async || {
            stage.count("q").await == (6, 0)
        })
        .await;
        for delivery in open {
            assert_eq!(delivery.ack(), Err(Stale));
        }
        assert_eq!(remaining(&stage).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handle_stops_without_waiting_and_what_runs_is_acknowledged() {
    let stage = Stage::new().await;
    stage.publish(0..20).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .concurrency(3)
        .start(probe.clone())
        .await
        .unwrap();
    probe.has_seen(3).await;
    let mut state = consumer.watch();
    drop(consumer);
    eventually("the rest is handed back", SOON, async || {
        stage.count("q").await == (17, 3) && stage.vhost.consumers("q").await == 0
    })
    .await;
    assert_eq!(probe.running(), 3);
    probe.let_all();
    within("its end", SOON, state.wait_for(ConsumerState::has_ended))
        .await
        .unwrap();
    assert_eq!(stage.count("q").await, (17, 0));
    assert_eq!(probe.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_cluster_is_the_end_and_a_stop_after_it_is_quick() {
    let stage = Stage::new().await;
    let consumer = Consumer::builder(&stage.faulty, "q")
        .start(Probe::open())
        .await
        .unwrap();
    stage.faulty.close_within(SOON).await;
    until(&consumer, "the end", |state| {
        matches!(state, ConsumerState::Failed(_))
    })
    .await;
    let began = Instant::now();
    let _ = consumer.stop_within(SOON).await;
    assert!(began.elapsed() < PATIENCE);
}

/// Nobody is left to process anything when the runtime of the handlers has ended.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_runtime_of_its_handlers_ends_a_consumer_hands_everything_back() {
    let stage = Stage::new().await;
    stage.publish(0..20).await;
    let probe = Probe::closed();
    let builder = Consumer::builder(&stage.cluster, "q").concurrency(2);
    let handler = probe.clone();
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let consumer = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let consumer = runtime.block_on(builder.start(handler)).unwrap();
        while probe.seen().len() < 2 {
            std::thread::yield_now();
        }
        drop(runtime);
        end.store(true, Ordering::SeqCst);
        consumer
    })
    .await
    .unwrap();
    assert!(ended.load(Ordering::SeqCst));
    eventually("all are back", SOON, async || {
        stage.count("q").await == (20, 0)
    })
    .await;
    until(&consumer, "the end", ConsumerState::has_ended).await;
}

/// Verdicts come out of order there, and share frames with those that came before.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_acknowledges_exactly_what_was_processed() {
    let stage = Stage::new().await;
    let mut expected: HashSet<u64> = (0..4000).collect();
    stage.publish(0..4000).await;
    for _ in 0..4 {
        let done = Arc::new(Mutex::new(HashSet::new()));
        let log = Arc::clone(&done);
        // Whatever this task is kept from, they are not through before the stop.
        let gate = Arc::new(Semaphore::new(900));
        let leave = Arc::clone(&gate);
        let consumer = Consumer::builder(&stage.cluster, "q")
            .prefetch(64)
            .concurrency(8)
            .start(move |delivery: Delivery| {
                let (log, leave) = (Arc::clone(&log), Arc::clone(&leave));
                async move {
                    let id = id(&delivery);
                    for _ in 0..id % 7 {
                        yield_now().await;
                    }
                    leave.acquire().await.unwrap().forget();
                    log.lock().unwrap().insert(id);
                    Outcome::Ack
                }
            })
            .await
            .unwrap();
        eventually("some are processed", SOON, async || {
            done.lock().unwrap().len() >= 300
        })
        .await;
        // In this order: when the gate opens nothing begins any more.
        let (stopped, ()) = tokio::join!(biased; consumer.stop_within(SOON), async {
            gate.add_permits(100);
        });
        stopped.unwrap();
        for id in &*done.lock().unwrap() {
            assert!(expected.remove(id), "{id} was acknowledged, and came again");
        }
        let left = u64::try_from(expected.len()).unwrap();
        assert_eq!(stage.count("q").await, (left, 0));
    }
    assert!(!expected.is_empty(), "each stop was under load");
    assert_eq!(remaining(&stage).await, expected);
}
