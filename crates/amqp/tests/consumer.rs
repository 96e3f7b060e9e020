//! Consumers: delivering, settling, coming back after every kind of loss, and stopping.

use std::{
    collections::HashSet,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::sync::Semaphore;
use wharf_amqp::{
    Cluster,
    consumer::{
        ConsumeError, Consumer, ConsumerState, Delivery, Handler, OpenDelivery, Outcome, Stale,
        StopError,
    },
};
use wharf_testkit::{
    checker::Checker,
    proxy::Proxy,
    rabbit::{Rabbit, Vhost},
    wait::{eventually, eventually_some, within},
};

const SOON: Duration = Duration::from_secs(20);

async fn connect(uri: String) -> Cluster {
    Cluster::builder([uri])
        .connect_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(15))
        .heartbeat(2)
        .connect()
        .await
        .unwrap()
}

/// A virtual host with a queue, a cluster that is reached directly, and one through a proxy.
struct Stage {
    vhost: Vhost,
    cluster: Cluster,
    proxy: Proxy,
    faulty: Cluster,
}

impl Stage {
    async fn new() -> Self {
        let rabbit = Rabbit::shared().await;
        let vhost = rabbit.vhost().await;
        let proxy = Proxy::to(rabbit.amqp_addr()).await;
        let cluster = connect(vhost.url()).await;
        let faulty = connect(vhost.url_via(proxy.addr())).await;
        declare(&cluster, "q", FieldTable::default()).await;
        Self {
            vhost,
            cluster,
            proxy,
            faulty,
        }
    }

    async fn publish(&self, ids: impl IntoIterator<Item = u64>) {
        publish(&self.cluster, "q", ids).await;
    }

    /// Ready and unacknowledged messages.
    async fn count(&self, queue: &str) -> (u64, u64) {
        count(&self.vhost, queue).await
    }

    async fn drained(&self, queue: &str) {
        eventually("the queue is empty and nothing is open", SOON, async || {
            self.count(queue).await == (0, 0)
        })
        .await;
    }
}

async fn count(vhost: &Vhost, queue: &str) -> (u64, u64) {
    let item = async |item| vhost.queue_info(queue, item).await.parse().unwrap();
    (
        item("messages_ready").await,
        item("messages_unacknowledged").await,
    )
}

async fn declare(cluster: &Cluster, queue: &str, arguments: FieldTable) {
    let channel = cluster.channels().get().await.unwrap();
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .unwrap();
}

/// A queue that dead-letters into another, which is named `dead`.
async fn declare_with_dead_letters(cluster: &Cluster, queue: &str) {
    let channel = cluster.channels().get().await.unwrap();
    let exchange = channel.exchange_declare(
        "dlx".into(),
        lapin::ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    exchange.await.unwrap();
    declare(cluster, "dead", FieldTable::default()).await;
    let bind = channel.queue_bind(
        "dead".into(),
        "dlx".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-dead-letter-exchange".into(),
        AMQPValue::LongString("dlx".into()),
    );
    declare(cluster, queue, arguments).await;
}

async fn publish(cluster: &Cluster, queue: &str, ids: impl IntoIterator<Item = u64>) {
    let channel = cluster.confirm_channels().get().await.unwrap();
    let mut confirms = Vec::new();
    for id in ids {
        let body = id.to_be_bytes();
        let publish = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default().with_delivery_mode(2),
        );
        confirms.push(publish.await.unwrap());
    }
    for confirm in join_all(confirms).await {
        assert!(confirm.unwrap().is_ack());
    }
}

fn id(delivery: &Delivery) -> u64 {
    u64::from_be_bytes(delivery.data.as_slice().try_into().unwrap())
}

/// What a handler has seen, and leave for it to go on.
#[derive(Clone)]
struct Probe(Arc<Inner>);

struct Inner {
    seen: Mutex<Vec<u64>>,
    done: Mutex<Vec<u64>>,
    running: AtomicUsize,
    most: AtomicUsize,
    leave: Semaphore,
}

impl Probe {
    fn closed() -> Self {
        Self(Arc::new(Inner {
            seen: Mutex::default(),
            done: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            leave: Semaphore::new(0),
        }))
    }

    fn open() -> Self {
        let probe = Self::closed();
        probe.let_all();
        probe
    }

    fn let_all(&self) {
        self.0.leave.add_permits(1_000_000);
    }

    fn seen(&self) -> Vec<u64> {
        self.0.seen.lock().unwrap().clone()
    }

    fn done(&self) -> Vec<u64> {
        self.0.done.lock().unwrap().clone()
    }

    fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    async fn has_seen(&self, count: usize) {
        eventually("handlers have begun", SOON, async || {
            self.seen().len() >= count
        })
        .await;
    }
}

#[async_trait::async_trait]
impl Handler for Probe {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let id = id(&delivery);
        self.0.seen.lock().unwrap().push(id);
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        self.0.leave.acquire().await.unwrap().forget();
        self.0.done.lock().unwrap().push(id);
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        Outcome::Ack
    }
}

async fn until(consumer: &Consumer, what: &str, is: impl FnMut(&ConsumerState) -> bool) {
    let mut state = consumer.watch();
    within(what, SOON, state.wait_for(is)).await.unwrap();
}

async fn registered(consumer: &Consumer, times: u64) {
    eventually("it has subscribed again", SOON, async || {
        consumer.stats().registrations >= times && consumer.state().is_running()
    })
    .await;
}

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
    let stats = consumer.stats();
    assert_eq!(
        (stats.delivered, stats.registrations),
        (1000, 1),
        "{stats:?}"
    );
    assert_eq!((stats.acked, stats.stale), (1000, 0), "{stats:?}");
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
    assert!(stats.ack_frames * 5 < stats.acked, "{stats:?}");
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
    assert_eq!(consumer.stats().ack_frames - before, 20);
    // A frame is 21 bytes, and a heartbeat 8.
    assert!(stage.proxy.counts().to_server - bytes >= 20 * 21);
}

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
    until(&consumer, "word of the loss", |state| {
        matches!(state, ConsumerState::Recovering { .. })
    })
    .await;
    registered(&consumer, 2).await;
    eventually("they are delivered again", SOON, async || {
        consumer.stats().delivered >= 200
    })
    .await;
    probe.let_all();
    stage.drained("q").await;
    let stats = consumer.stats();
    assert_eq!(stats.stale, 100, "{stats:?}");
    assert_eq!(stats.acked, 300, "{stats:?}");
    assert_eq!(
        stats.registrations, 2,
        "no channel was lost over a stale tag: {stats:?}"
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
    let consumer = Consumer::builder(&stage.faulty, "q")
        .prefetch(100)
        .concurrency(4)
        .start(move |delivery: Delivery| {
            seen.received(id(&delivery));
            async { Outcome::Ack }
        })
        .await
        .unwrap();
    for cut in 1..=4 {
        let acked = consumer.stats().acked;
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
    stage.drained("q").await;
    checker.verdict().assert_valid();
    consumer.stop_within(SOON).await.unwrap();
}

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
        until(&consumer, "word of the loss", |state| !state.is_running()).await;
    }
    probe.let_all();
    stage.drained("q").await;
    // What was waiting when its channel went was not processed for nothing.
    assert_eq!(consumer.stats().stale, 3);
    assert_eq!(probe.done().len(), 103);
}

/// A connection that both publishes and consumes is stopped as a whole when the broker is short of
/// memory: acknowledgements hang behind the publish, and nothing gets better.
#[tokio::test(flavor = "multi_thread")]
async fn while_publishers_are_blocked_deliveries_and_acknowledgements_go_on() {
    let rabbit = Rabbit::start().await;
    let vhost = rabbit.vhost().await;
    let cluster = connect(vhost.url()).await;
    declare(&cluster, "q", FieldTable::default()).await;
    publish(&cluster, "q", 0..500).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&cluster, "q")
        .prefetch(20)
        .concurrency(2)
        .start(probe.clone())
        .await
        .unwrap();
    rabbit.set_memory_alarm().await;
    let blocked = tokio::spawn({
        let cluster = cluster.clone();
        async move { publish(&cluster, "q", 500..600).await }
    });
    let mut state = cluster.watch();
    let is_blocked = |state: &wharf_amqp::State| matches!(state, wharf_amqp::State::Blocked { .. });
    within("the block", SOON, state.wait_for(is_blocked))
        .await
        .unwrap();
    probe.let_all();
    eventually("all are acknowledged", SOON, async || {
        consumer.stats().acked >= 500 && count(&vhost, "q").await == (0, 0)
    })
    .await;
    assert!(!blocked.is_finished());
    // One that starts now is served, too.
    let second = Consumer::builder(&cluster, "q")
        .start(Probe::open())
        .await
        .unwrap();
    within("its end", SOON, second.stop_within(SOON))
        .await
        .unwrap();
    rabbit.clear_memory_alarm().await;
    within("the publisher", SOON, blocked).await.unwrap();
    eventually("the rest", SOON, async || consumer.stats().acked == 600).await;
    assert_eq!(consumer.stats().registrations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_broker_is_noticed_within_heartbeats_and_consumed_from_again() {
    let rabbit = Rabbit::start().await;
    let vhost = rabbit.vhost().await;
    let cluster = connect(vhost.url()).await;
    declare(&cluster, "q", FieldTable::default()).await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&cluster, "q")
        .start(probe.clone())
        .await
        .unwrap();
    rabbit.pause().await;
    let stopped = Instant::now();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    let noticed = stopped.elapsed();
    assert!(
        noticed < Duration::from_secs(8),
        "{noticed:?} at 2 s between heartbeats"
    );
    rabbit.resume().await;
    registered(&consumer, 2).await;
    publish(&cluster, "q", [1]).await;
    probe.has_seen(1).await;
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
    assert!(began.elapsed() < Duration::from_secs(2));
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
    let stats = consumer.stats();
    assert_eq!(
        (stats.panics, stats.requeued, stats.rejected),
        (2, 1, 1),
        "{stats:?}"
    );
    assert_eq!(stats.acked, 19);
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
    let stats = consumer.stats();
    assert_eq!(
        (stats.timeouts, stats.requeued, stats.rejected),
        (2, 1, 1),
        "{stats:?}"
    );
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
    eventually("all are counted", SOON, async || {
        let stats = consumer.stats();
        (stats.acked, stats.requeued, stats.rejected) == (60, 30, 30)
    })
    .await;
    assert_eq!(consumer.stats().registrations, 1, "no frame was wrong");
}

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
    probe.0.leave.add_permits(20);
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
    probe.0.leave.add_permits(2);
    probe.has_seen(6).await;
    let began = Instant::now();
    let stopped = consumer.stop_within(Duration::from_millis(500)).await;
    assert_eq!(stopped, Err(StopError::CutOff { cut_off: 4 }));
    assert!(began.elapsed() < Duration::from_secs(2));
    let done: HashSet<u64> = probe.done().into_iter().collect();
    assert_eq!(done.len(), 2);
    probe.let_all();
    assert_eq!(
        remaining(&stage).await,
        (0..10).filter(|id| !done.contains(id)).collect()
    );
    assert_eq!(probe.done().len(), 2, "nothing goes on after the stop");
}

/// Takes everything that is in the queue.
async fn remaining(stage: &Stage) -> HashSet<u64> {
    let (ready, unacked) = stage.count("q").await;
    assert_eq!(unacked, 0);
    let mut rest = Consumer::builder(&stage.cluster, "q")
        .stream()
        .await
        .unwrap();
    let mut ids = HashSet::new();
    for _ in 0..ready {
        let delivery = within("the rest", SOON, rest.next()).await.unwrap();
        ids.insert(id(&delivery));
        delivery.ack().unwrap();
    }
    rest.stop_within(SOON).await.unwrap();
    assert_eq!(stage.count("q").await, (0, 0));
    ids
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
async fn the_concurrency_is_reached_and_not_passed() {
    let stage = Stage::new().await;
    stage.publish(0..500).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&stage.cluster, "q")
        .concurrency(8)
        .start(probe.clone())
        .await
        .unwrap();
    probe.has_seen(8).await;
    eventually("the prefetch is used", SOON, async || {
        consumer.stats().delivered == 100
    })
    .await;
    assert_eq!(probe.running(), 8);
    probe.let_all();
    stage.drained("q").await;
    assert_eq!(probe.most(), 8);
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
    assert_eq!(stage.count("dead").await, (1, 0));
    deliveries.stop_within(SOON).await.unwrap();
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
    assert!(began.elapsed() < Duration::from_secs(5));
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
    assert!(began.elapsed() < Duration::from_secs(3));
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
    assert!(began.elapsed() < Duration::from_secs(2));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_may_no_longer_read_its_queue_fails_and_another_goes_on() {
    let stage = Stage::new().await;
    declare(&stage.cluster, "other", FieldTable::default()).await;
    let (rabbit, user) = (stage.vhost.rabbit(), format!("of {}", stage.vhost.name()));
    rabbit.add_user(&user, "secret").await;
    stage.vhost.permit(&user).await;
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
