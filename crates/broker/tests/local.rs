//! The client in the process, beside clients with sockets.

mod wire;

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use amq_protocol::frame::AMQPFrame;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{Connection, ConnectionProperties};
use tokio::task::JoinSet;
use wharf_broker::{
    AMQPValue, AckError, BasicProperties, Broker, CommandError, ConsumeOptions, ConsumerEnd,
    Disconnected, FieldTable, Local, LocalConsumer, LocalDelivery, PublishError, QueueOptions,
};
use wharf_testkit::wait::within;
use wire::{BOUND, Wire, broker, builder, publish_bytes};

fn attach(broker: &Broker) -> Local {
    broker.attach("app", "local").unwrap()
}

async fn publish(local: &Local, queue: &str, body: impl Into<Bytes>) {
    let properties = BasicProperties::default();
    let publish = local.publish("", queue, &properties, body.into());
    within("the publish", BOUND, publish).await.unwrap();
}

/// The body of the next delivery, and whether it came before.
async fn next(consumer: &mut LocalConsumer) -> (String, bool) {
    let delivery = within("a delivery", BOUND, consumer.recv()).await;
    let delivery = delivery.expect("not the end");
    let body = String::from_utf8(delivery.body().to_vec()).unwrap();
    (body, delivery.redelivered())
}

async fn ended(consumer: &mut LocalConsumer) {
    let end = within("the end", BOUND, consumer.recv()).await;
    assert!(end.is_none(), "{end:?}");
}

/// A queue of its own and its consumer.
fn consuming(local: &Local, queue: &str, options: ConsumeOptions) -> LocalConsumer {
    local.declare_queue(queue, QueueOptions::new()).unwrap();
    local.consume(queue, options).unwrap()
}

fn try_publish(local: &Local, queue: &str, body: impl Into<Bytes>) -> Result<(), PublishError> {
    local.try_publish("", queue, &BasicProperties::default(), body.into())
}

/// What is there, body by body.
fn all(consumer: &mut LocalConsumer) -> Vec<(String, bool)> {
    let text = |it: LocalDelivery| String::from_utf8(it.body().to_vec()).unwrap();
    std::iter::from_fn(|| consumer.try_recv())
        .map(|it| (text(it.clone()), it.redelivered()))
        .collect()
}

fn some(bodies: &[(&str, bool)]) -> Vec<(String, bool)> {
    let owned = bodies
        .iter()
        .map(|(body, again)| ((*body).to_owned(), *again));
    owned.collect()
}

fn depth(broker: &Broker, queue: &str) -> (usize, usize) {
    broker.queue_depth("/", queue).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, CommandError>) -> u16 {
    match result {
        Err(CommandError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn deliveries_come_in_order_with_all_that_was_published() {
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut consumer = local.consume("q", ConsumeOptions::new()).unwrap();
    let properties = BasicProperties::default().with_message_id("7".into());
    let body = Bytes::from_static(b"0");
    let first = local.publish("", "q", &properties, body.clone()).await;
    assert_eq!(first, Ok(()));
    for number in 1..1_000 {
        publish(&local, "q", number.to_string()).await;
    }
    let first = consumer.recv().await.unwrap();
    assert_eq!((first.exchange(), first.routing_key()), ("", "q"));
    assert_eq!(first.properties(), &properties);
    assert_eq!(first.body().as_ptr(), body.as_ptr(), "nothing is copied");
    for number in 1..1_000 {
        assert_eq!(next(&mut consumer).await, (number.to_string(), false));
    }
    assert!(consumer.try_recv().is_none());
}

#[tokio::test]
async fn stopping_the_broker_ends_a_client_that_does_nothing() {
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut consumer = local.consume("q", ConsumeOptions::new()).unwrap();
    let _wire = Wire::open(&broker).await;
    let stopping = broker.stop_within(Duration::from_millis(10));
    // The socket does not answer; of the two it is the only one that was asked.
    let cut = within("the stop", BOUND, stopping).await.unwrap_err().cut;
    assert_eq!(cut, 1);
    ended(&mut consumer).await;
    let why = local.disconnected().unwrap();
    assert!(
        matches!(why, Disconnected::Closed { code: 320, .. }),
        "{why}"
    );
}

#[tokio::test]
async fn dropping_the_broker_ends_its_clients_and_leaves_nothing_of_it() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let body = Bytes::from(vec![1; 100]);
    publish(&local, "q", body.clone()).await;
    assert!(!body.is_unique());
    let mut consumer = local.consume("empty", ConsumeOptions::new());
    assert!(consumer.is_err());
    local.declare_queue("empty", QueueOptions::new()).unwrap();
    consumer = local.consume("empty", ConsumeOptions::new());
    let mut consumer = consumer.unwrap();
    let waiting = tokio::spawn(async move { consumer.recv().await.is_none() });
    tokio::task::yield_now().await;
    drop(broker);
    assert!(within("the end", BOUND, waiting).await.unwrap());
    assert_eq!(local.disconnected(), Some(Disconnected::BrokerGone));
    let properties = BasicProperties::default();
    let refused = local.try_publish("", "q", &properties, Bytes::new());
    assert_eq!(refused, Err(Disconnected::BrokerGone.into()));
    within("its end", BOUND, async {
        while !body.is_unique() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_prefetch_bounds_what_is_not_acknowledged() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut consumer = consuming(&local, "q", ConsumeOptions::new().prefetch(3));
    for number in 0..10 {
        publish(&local, "q", number.to_string()).await;
    }
    let mut deliveries: Vec<_> = std::iter::from_fn(|| consumer.try_recv()).collect();
    assert_eq!((deliveries.len(), depth(&broker, "q")), (3, (7, 3)));
    local.ack(deliveries[1].tag(), false).unwrap();
    deliveries.push(next_delivery(&mut consumer).await);
    assert!(consumer.try_recv().is_none());
    local.ack(deliveries[3].tag(), true).unwrap();
    assert_eq!(depth(&broker, "q"), (3, 3));
    local
        .reject(next_delivery(&mut consumer).await.tag(), false)
        .unwrap();
    let back = next_delivery(&mut consumer).await;
    assert_eq!(back.body(), "5");
    local.reject(back.tag(), true).unwrap();
    // It comes again at once, behind what was delivered before.
    let again = some(&[("6", false), ("7", false), ("5", true)]);
    assert_eq!(all(&mut consumer), again);
    assert_eq!(depth(&broker, "q"), (2, 3));
}

async fn next_delivery(consumer: &mut LocalConsumer) -> LocalDelivery {
    let delivery = within("a delivery", BOUND, consumer.recv()).await;
    delivery.expect("not the end")
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_back_with_its_consumer_or_its_client() {
    let broker = broker().await;
    let first = attach(&broker);
    let mut dropped = consuming(&first, "q", ConsumeOptions::new().prefetch(3));
    for number in 0..4 {
        publish(&first, "q", number.to_string()).await;
    }
    // Of the three one is acknowledged, one received, one fetched, and the next not even that.
    let acked = next_delivery(&mut dropped).await;
    next_delivery(&mut dropped).await;
    first.ack(acked.tag(), false).unwrap();
    drop(dropped);
    assert_eq!(depth(&broker, "q"), (3, 0));
    let mut left = first.consume("q", ConsumeOptions::new()).unwrap();
    let back = some(&[("1", true), ("2", true), ("3", true)]);
    assert_eq!(all(&mut left), back);
    assert_eq!(depth(&broker, "q"), (0, 3));
    publish(&first, "q", "4").await;
    let second = attach(&broker);
    drop(first);
    assert_eq!(broker.connections(), 1);
    assert_eq!(depth(&broker, "q"), (4, 0));
    // What had reached it is still there for whom it may concern, and then it is over.
    assert_eq!(next(&mut left).await, ("4".to_owned(), false));
    ended(&mut left).await;
    let end = ConsumerEnd::Disconnected(Disconnected::ClientGone);
    assert_eq!(left.end(), Some(end));
    let mut taker = second.consume("q", ConsumeOptions::new()).unwrap();
    assert_eq!(all(&mut taker).len(), 4);
}

#[tokio::test]
async fn a_tag_means_nothing_once_its_consumer_is_gone() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut first = consuming(&local, "q", ConsumeOptions::new());
    publish(&local, "q", "x").await;
    let old = next_delivery(&mut first).await.tag();
    drop(first);
    assert_eq!(local.ack(old, false), Err(AckError::ConsumerGone));
    // The next one has the same channel and the same delivery tags on it.
    let mut second = local.consume("q", ConsumeOptions::new()).unwrap();
    next_delivery(&mut second).await;
    assert_eq!(local.ack(old, false), Err(AckError::ConsumerGone));
    assert_eq!(depth(&broker, "q"), (0, 1));
}

#[tokio::test]
async fn settling_twice_ends_that_consumer_and_no_other() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut clumsy = consuming(&local, "clumsy", ConsumeOptions::new());
    let mut other = consuming(&local, "other", ConsumeOptions::new());
    for queue in ["clumsy", "clumsy", "other"] {
        publish(&local, queue, "x").await;
    }
    let tag = next_delivery(&mut clumsy).await.tag();
    local.ack(tag, false).unwrap();
    let twice = local.ack(tag, false).unwrap_err();
    assert!(
        matches!(twice, AckError::Refused { code: 406, .. }),
        "{twice}"
    );
    assert_eq!(next(&mut clumsy).await, ("x".to_owned(), false));
    ended(&mut clumsy).await;
    let end = clumsy.end().unwrap();
    assert!(
        matches!(end, ConsumerEnd::Closed { code: 406, .. }),
        "{end}"
    );
    assert_eq!(local.ack(tag, false), Err(AckError::ConsumerGone));
    assert_eq!(depth(&broker, "clumsy"), (1, 0));
    drop(clumsy);
    let tag = next_delivery(&mut other).await.tag();
    local.ack(tag, false).unwrap();
    assert_eq!(local.disconnected(), None);
}

#[tokio::test]
async fn what_is_refused_changes_nothing_else() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    publish(&local, "q", "unacknowledged").await;
    let durable = local.declare_queue("q", QueueOptions::new().durable());
    assert_eq!(refused(durable), 406);
    assert_eq!(
        refused(local.consume("nowhere", ConsumeOptions::new())),
        404
    );
    assert_eq!(refused(local.bind_queue("q", "nowhere", "")), 404);
    let exclusive = local.consume("q", ConsumeOptions::new().exclusive());
    assert_eq!(refused(exclusive), 403);
    let properties = BasicProperties::default();
    let body = Bytes::from_static(b"x");
    let missing = local
        .publish("nowhere", "q", &properties, body.clone())
        .await;
    assert!(matches!(
        missing,
        Err(PublishError::Refused { code: 404, .. })
    ));
    let claim = BasicProperties::default().with_user_id("admin".into());
    let forged = local.publish("", "q", &claim, body.clone()).await;
    assert!(matches!(
        forged,
        Err(PublishError::Refused { code: 406, .. })
    ));
    let long = "x".repeat(256);
    let named = local.publish("", &long, &properties, body.clone()).await;
    assert!(matches!(named, Err(PublishError::TooLong(_))));
    assert!(matches!(
        local.declare_queue(&long, QueueOptions::new()),
        Err(CommandError::TooLong(_))
    ));
    let mut headers = FieldTable::default();
    headers.insert(
        "h".into(),
        AMQPValue::LongString("x".repeat(131_072).into()),
    );
    let wide = BasicProperties::default().with_headers(headers);
    let wide = local.publish("", "q", &wide, body.clone()).await;
    assert!(matches!(wide, Err(PublishError::Refused { code: 501, .. })));
    let own = BasicProperties::default().with_user_id("app".into());
    assert_eq!(local.publish("", "q", &own, body).await, Ok(()));

    let tag = next_delivery(&mut consumer).await.tag();
    local.ack(tag, false).unwrap();
    assert_eq!(next(&mut consumer).await, ("x".to_owned(), false));
    assert_eq!(depth(&broker, "q"), (0, 1));
    assert!(broker.attach(&long, "").is_err());
}

#[tokio::test]
async fn a_publisher_learns_of_no_queue_of_a_full_one_and_of_a_message_too_large() {
    let broker = builder().max_message_size(10).start().await.unwrap();
    let local = attach(&broker);
    let nowhere = try_publish(&local, "nowhere", "x");
    assert_eq!(nowhere, Err(PublishError::Unroutable));
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let overflow = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), overflow);
    let options = QueueOptions::new().arguments(arguments);
    local.declare_queue("full", options).unwrap();
    assert_eq!(try_publish(&local, "full", "x"), Ok(()));
    let full = try_publish(&local, "full", "x");
    assert_eq!(full, Err(PublishError::Rejected));
    let large = try_publish(&local, "full", "more than ten");
    assert!(matches!(
        large,
        Err(PublishError::Refused { code: 406, .. })
    ));
    let mut consumer = local.consume("full", ConsumeOptions::new()).unwrap();
    next_delivery(&mut consumer).await;
    assert_eq!(try_publish(&local, "full", ""), Ok(()));
    assert_eq!(next(&mut consumer).await.0, "");
}

#[tokio::test]
async fn sockets_and_the_process_send_each_other_messages_of_any_size() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut here = consuming(&local, "here", ConsumeOptions::new());
    let url = broker.url("app", "secret");
    let client = Connection::connect(&url, ConnectionProperties::default());
    let channel = client.await.unwrap().create_channel().await.unwrap();
    local.declare_queue("there", QueueOptions::new()).unwrap();
    let consume = channel.basic_consume(
        "there".into(),
        "".into(),
        Default::default(),
        FieldTable::default(),
    );
    let mut there = consume.await.unwrap();
    for size in [0, 1, 100, 131_064, 131_065, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        publish(&local, "there", body.clone()).await;
        let got = within("a delivery", BOUND, there.next()).await;
        let got = got.unwrap().unwrap();
        assert_eq!(got.data, body);
        let publish = channel.basic_publish(
            "".into(),
            "here".into(),
            Default::default(),
            &got.data,
            BasicProperties::default().with_type("t".into()),
        );
        publish.await.unwrap();
        let got = next_delivery(&mut here).await;
        assert_eq!(got.body(), &body);
        let kind = got.properties().kind().as_ref().unwrap();
        assert_eq!(kind.as_str(), "t");
    }
}

#[tokio::test]
async fn an_exclusive_queue_is_nobody_elses_and_goes_with_its_client() {
    let broker = broker().await;
    let local = attach(&broker);
    let options = QueueOptions::new().exclusive();
    let declared = local.declare_queue("", options.clone()).unwrap();
    assert!(declared.name.starts_with("amq.gen-"), "{declared:?}");
    let queue = &*declared.name;
    local.bind_queue(queue, "amq.topic", "a.*").unwrap();
    let other = attach(&broker);
    assert_eq!(refused(other.consume(queue, ConsumeOptions::new())), 405);
    local.declare_queue("named", options.clone()).unwrap();
    assert_eq!(refused(other.declare_queue("named", options)), 405);
    let mut consumer = local.consume(queue, ConsumeOptions::new()).unwrap();
    let properties = BasicProperties::default();
    let published = other.try_publish("amq.topic", "a.b", &properties, Bytes::new());
    assert_eq!(published, Ok(()));
    let delivery = next_delivery(&mut consumer).await;
    assert_eq!(
        (delivery.exchange(), delivery.routing_key()),
        ("amq.topic", "a.b")
    );
    let owner = broker.open_connections()[0].nth;
    assert_eq!(broker.queues("/")[0].owner, Some(owner));
    drop(local);
    assert_eq!(broker.queue_depth("/", queue), None);
    assert_eq!(
        try_publish(&other, queue, "x"),
        Err(PublishError::Unroutable)
    );
}

#[tokio::test]
async fn while_memory_is_low_publishers_wait_and_all_else_goes_on() {
    let broker = builder().memory(100_000).start().await.unwrap();
    let local = Arc::new(attach(&broker));
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    let mut published = 0;
    let body = Bytes::from(vec![0; 10_000]);
    while try_publish(&local, "q", body.clone()) == Ok(()) {
        published += 1;
        assert!(published < 20, "never blocked");
    }
    assert_eq!(
        try_publish(&local, "q", body.clone()),
        Err(PublishError::Blocked)
    );
    assert!(broker.open_connections()[0].blocked);
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        let (local, body) = (Arc::clone(&local), body.clone());
        waiting.spawn(async move { publish(&local, "q", body).await });
    }
    tokio::task::yield_now().await;
    let properties = BasicProperties::default();
    let cancelled = local.publish("", "q", &properties, body.clone());
    assert_eq!(cancelled.now_or_never(), None);
    assert!(waiting.try_join_next().is_none());
    // Another client has its first message taken, as with sockets.
    let other = attach(&broker);
    assert_eq!(try_publish(&other, "q", body.clone()), Ok(()));
    assert_eq!(
        try_publish(&other, "q", body.clone()),
        Err(PublishError::Blocked)
    );
    // Whatever frees memory lets them go on.
    local.declare_queue("another", QueueOptions::new()).unwrap();
    let mut got = 0;
    while got < published + 6 {
        let tag = next_delivery(&mut consumer).await.tag();
        local.ack(tag, false).unwrap();
        got += 1;
    }
    within("all publishers", BOUND, waiting.join_all()).await;
    assert_eq!(depth(&broker, "q"), (0, 0));
    assert!(
        consumer.try_recv().is_none(),
        "the dropped one has published nothing"
    );
    assert_eq!(try_publish(&other, "q", body), Ok(()));
}

#[tokio::test]
async fn a_publisher_that_waits_goes_on_when_somebody_else_frees_the_memory() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    broker.faults().block("for a while").happened().await;
    publish(&local, "q", "first").await;
    let publisher = Arc::clone(&local);
    let waiting = tokio::spawn(async move { publish(&publisher, "q", "second").await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    // Nobody has looked at the first delivery, so the client is known to have something to look at.
    broker.faults().unblock().happened().await;
    within("the publisher", BOUND, waiting).await.unwrap();
    assert_eq!(
        all(&mut consumer),
        some(&[("first", false), ("second", false)])
    );
}

#[tokio::test]
async fn the_end_of_the_connection_reaches_all_who_wait() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    broker.faults().block("for good").happened().await;
    let mut waiting = JoinSet::new();
    for number in 0..3 {
        let mut consumer = consuming(&local, &number.to_string(), ConsumeOptions::new());
        waiting.spawn(async move {
            assert!(consumer.recv().await.is_none());
            consumer.end() == Some(ConsumerEnd::Disconnected(forced()))
        });
    }
    local.declare_queue("q", QueueOptions::new()).unwrap();
    publish(&local, "q", "taken").await;
    for _ in 0..3 {
        let local = Arc::clone(&local);
        waiting.spawn(async move {
            let properties = BasicProperties::default();
            let result = local.publish("", "q", &properties, Bytes::new()).await;
            result == Err(forced().into())
        });
    }
    tokio::task::yield_now().await;
    assert_eq!(broker.close_connections_of("nobody", 320, "no"), 0);
    assert_eq!(broker.close_connections_of("app", 320, "enough"), 1);
    assert_eq!(broker.connections(), 0, "it is asked for no answer");
    let told = within("all who wait", BOUND, waiting.join_all()).await;
    assert_eq!(told, [true; 6]);
    assert_eq!(local.disconnected(), Some(forced()));
    let declared = local.declare_queue("q", QueueOptions::new());
    assert_eq!(declared, Err(forced().into()));
}

fn forced() -> Disconnected {
    Disconnected::Closed {
        code: 320,
        text: "enough".to_owned(),
    }
}

#[tokio::test]
async fn a_client_is_told_of_among_the_connections() {
    let broker = broker().await;
    let local = attach(&broker);
    let first = consuming(&local, "q", ConsumeOptions::new());
    let _second = local.consume("q", ConsumeOptions::new()).unwrap();
    drop(first);
    let open = broker.open_connections();
    let one = &open[0];
    assert_eq!((one.nth, &*one.user, &*one.vhost), (1, "app", "/"));
    assert_eq!(one.name.as_deref(), Some("local"));
    assert_eq!(
        (&*one.channels, one.blocked, open.len()),
        (&[1, 3][..], false, 1)
    );
    assert!(broker.close_connection(1, 320, "enough"));
    assert_eq!(local.disconnected(), Some(forced()));
    assert_eq!(broker.open_connections(), []);
}

#[tokio::test]
async fn a_cancelled_consumer_gets_what_was_delivered_and_may_settle_it() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    for body in ["0", "1"] {
        publish(&local, "q", body).await;
    }
    consumer.cancel().unwrap();
    consumer.cancel().unwrap();
    publish(&local, "q", "2").await;
    let first = next_delivery(&mut consumer).await;
    assert_eq!(next(&mut consumer).await, ("1".to_owned(), false));
    ended(&mut consumer).await;
    assert_eq!(consumer.end(), Some(ConsumerEnd::Cancelled));
    local.ack(first.tag(), false).unwrap();
    assert_eq!(depth(&broker, "q"), (1, 1));
    drop(consumer);
    assert_eq!(depth(&broker, "q"), (2, 0));
}

#[tokio::test]
async fn a_consumer_learns_that_its_queue_is_gone() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    publish(&local, "q", "x").await;
    let tag = next_delivery(&mut consumer).await.tag();
    let waiting = tokio::spawn(async move {
        ended(&mut consumer).await;
        consumer
    });
    tokio::task::yield_now().await;
    assert!(broker.delete_queue("/", "q"));
    let consumer = within("its end", BOUND, waiting).await.unwrap();
    assert_eq!(consumer.end(), Some(ConsumerEnd::Cancelled));
    local.ack(tag, false).unwrap();
}

/// What a script did as a client had just looked at its output was not heard before the next thing
/// happened to it.
#[tokio::test]
async fn a_script_that_follows_a_publish_reaches_the_clients_own_consumer() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    let waiting = tokio::spawn(async move {
        ended(&mut consumer).await;
        consumer.end()
    });
    tokio::task::yield_now().await;
    let script = broker.faults().always().pass();
    script.then().close_channels(541, "INTERNAL_ERROR");
    let _ = try_publish(&local, "nowhere", "x");
    let end = within("the end", BOUND, waiting).await.unwrap().unwrap();
    assert!(
        matches!(end, ConsumerEnd::Closed { code: 541, .. }),
        "{end}"
    );
    assert_eq!(local.disconnected(), None);
    local.declare_queue("again", QueueOptions::new()).unwrap();
    publish(&local, "again", "x").await;
}

#[tokio::test]
async fn no_more_than_the_outbox_is_handed_out_and_receiving_makes_room() {
    // Of 200 bytes each, as the outbox counts.
    let broker = builder().outbox(10_000).start().await.unwrap();
    let local = attach(&broker);
    let options = ConsumeOptions::new().no_ack();
    let mut greedy = consuming(&local, "greedy", options);
    let mut other = consuming(&local, "other", options);
    let body = Bytes::from(vec![b'x'; 72]);
    for _ in 0..200 {
        publish(&local, "greedy", body.clone()).await;
    }
    publish(&local, "other", "y").await;
    assert_eq!(depth(&broker, "greedy"), (150, 0));
    assert_eq!(depth(&broker, "other"), (1, 0));
    // A quarter is received, half of it is free: each time more comes.
    for _ in 0..24 {
        assert!(greedy.try_recv().is_some());
    }
    assert_eq!(depth(&broker, "greedy"), (150, 0));
    for _ in 24..26 {
        assert!(greedy.try_recv().is_some());
    }
    assert_ne!(depth(&broker, "greedy"), (150, 0));
    // However little of it was received last, the other one is not forgotten.
    let mut received = 26;
    while greedy.try_recv().is_some() {
        received += 1;
    }
    assert_eq!(received, 200);
    assert_eq!(next(&mut other).await, ("y".to_owned(), false));
    // What a dropped consumer has not received makes room, too.
    for _ in 0..100 {
        publish(&local, "greedy", body.clone()).await;
    }
    assert_eq!(depth(&broker, "greedy"), (50, 0));
    greedy.try_recv().unwrap();
    drop(greedy);
    publish(&local, "other", "y").await;
    assert_eq!(next(&mut other).await, ("y".to_owned(), false));
}

/// Bodies that are counted as long as anybody holds them.
struct Counted(Arc<AtomicUsize>, [u8; 100]);

impl Counted {
    fn body(held: &Arc<AtomicUsize>) -> Bytes {
        held.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Self(Arc::clone(held), [7; 100]))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A publisher that outruns its consumer, which lets it have the thread again and again. The most
/// messages that were held at a time.
async fn run(messages: usize, options: ConsumeOptions, acks: bool) -> usize {
    let broker = builder().memory(1_000_000).outbox(50_000);
    let broker = broker.start().await.unwrap();
    let held = Arc::new(AtomicUsize::new(0));
    let local = Arc::new(attach(&broker));
    let mut consumer = consuming(&local, "q", options);
    let (sender, bodies) = (attach(&broker), Arc::clone(&held));
    let publisher = tokio::spawn(async move {
        let properties = BasicProperties::default();
        for _ in 0..messages {
            let body = Counted::body(&bodies);
            sender.publish("", "q", &properties, body).await.unwrap();
        }
    });
    let mut most = 0;
    for number in 1..=messages {
        let delivery = next_delivery(&mut consumer).await;
        if acks && number % 50 == 0 {
            local.ack(delivery.tag(), true).unwrap();
        }
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
        most = most.max(held.load(Ordering::Relaxed));
    }
    publisher.await.unwrap();
    most
}

#[tokio::test]
async fn of_a_million_messages_few_are_held_at_a_time() {
    // In the queue what the memory allows, of more than 500 bytes each, and beyond it what the outbox
    // does. That the publisher had to wait shows in how near they come.
    let (queued, handed_out) = (1_000_000 / 500, 50_000 / 228);
    let most = run(500_000, ConsumeOptions::new().no_ack(), false).await;
    assert!((queued / 2..queued + handed_out).contains(&most), "{most}");
    let most = run(500_000, ConsumeOptions::new().prefetch(100), true).await;
    assert!((queued / 2..queued).contains(&most), "{most}");
}

/// Lost wakeups would stop one of them for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_between_tasks_never_stop() {
    let broker = broker().await;
    let mut tasks = JoinSet::new();
    let local = Arc::new(attach(&broker));
    for pair in 0..4 {
        let (there, back) = (format!("{pair} there"), format!("{pair} back"));
        let mut requests = consuming(&local, &there, ConsumeOptions::new().prefetch(2));
        // Half of the pairs share one client, the others have one each.
        let client = if pair % 2 == 0 {
            Arc::clone(&local)
        } else {
            Arc::new(attach(&broker))
        };
        let mut answers = consuming(&client, &back, ConsumeOptions::new().prefetch(2));
        let server = Arc::clone(&local);
        tasks.spawn(async move {
            for _ in 0..5_000 {
                let request = next_delivery(&mut requests).await;
                publish(&server, &back, request.body().clone()).await;
                server.ack(request.tag(), false).unwrap();
            }
        });
        tasks.spawn(async move {
            for number in 0..5_000 {
                publish(&client, &there, number.to_string()).await;
                let answer = next_delivery(&mut answers).await;
                assert_eq!(answer.body(), &number.to_string());
                client.ack(answer.tag(), false).unwrap();
            }
        });
    }
    within("all of them", 3 * BOUND, tasks.join_all()).await;
}

/// Whoever was woken for all and goes away before it is polled leaves the others to be woken.
#[tokio::test]
async fn a_recv_that_is_dropped_takes_neither_a_delivery_nor_a_wakeup_with_it() {
    let broker = broker().await;
    let (local, sender) = (attach(&broker), attach(&broker));
    let mut first = consuming(&local, "first", ConsumeOptions::new());
    let mut second = consuming(&local, "second", ConsumeOptions::new());
    let mut abandoned = Box::pin(first.recv());
    assert!((&mut abandoned).now_or_never().is_none());
    let waiting = tokio::spawn(async move { next(&mut second).await });
    tokio::task::yield_now().await;
    publish(&sender, "first", "1").await;
    publish(&sender, "second", "2").await;
    drop(abandoned);
    let got = within("the second", BOUND, waiting).await.unwrap();
    assert_eq!(got, ("2".to_owned(), false));
    assert_eq!(next(&mut first).await, ("1".to_owned(), false));
}

#[tokio::test]
async fn a_burst_of_a_socket_is_received_without_a_wait() {
    let broker = broker().await;
    let local = attach(&broker);
    let mut consumer = consuming(&local, "q", ConsumeOptions::new());
    let mut wire = Wire::open(&broker).await;
    wire.channel(1).await;
    let burst: Vec<u8> = (0..1_000_u32)
        .flat_map(|number| publish_bytes(1, "q", &number.to_be_bytes()))
        .collect();
    wire.send_bytes(&burst).await;
    wire.declare(1, "answered").await;
    for number in 0..1_000_u32 {
        let delivery = consumer.try_recv().expect("all of it is there");
        assert_eq!(delivery.body()[..], number.to_be_bytes());
    }
    assert!(consumer.try_recv().is_none());
}

/// The broker's tasks are not polled here: it is the publisher's thread that writes.
#[tokio::test]
async fn what_the_process_publishes_is_written_without_waking_the_tasks_of_sockets() {
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut wire = Wire::open(&broker).await;
    wire.channel(1).await;
    wire.consume(1, "q").await;
    let mut socket = wire.into_blocking();
    for number in 0..3 {
        let body = format!("number {number}").into_bytes();
        try_publish(&local, "q", body.clone()).unwrap();
        let mut read: Vec<u8> = Vec::new();
        while !read.windows(body.len()).any(|part| part == body) {
            let mut bytes = [0; 1024];
            let count = socket.read(&mut bytes).expect("it is written by now");
            read.extend(&bytes[..count]);
        }
    }
}

#[tokio::test]
async fn what_a_socket_does_not_take_at_once_is_written_by_its_task() {
    const MESSAGES: u32 = 300;
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut wire = Wire::open(&broker).await;
    wire.channel(1).await;
    wire.consume(1, "q").await;
    for number in 0..MESSAGES {
        let mut body = vec![0; 100_000];
        body[..4].copy_from_slice(&number.to_be_bytes());
        try_publish(&local, "q", body).unwrap();
    }
    let mut expected = 0_u32;
    while expected < MESSAGES {
        if let AMQPFrame::Body(_, body) = wire.next().await.expect("not the end") {
            assert_eq!(
                (body.len(), &body[..4]),
                (100_000, &expected.to_be_bytes()[..])
            );
            expected += 1;
        }
    }
}

/// Threads of the process and tasks of sockets write to the same socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_write_for_a_socket_keep_the_order_of_each() {
    const EACH: u64 = 3_000;
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut reader = Wire::open(&broker).await;
    reader.channel(1).await;
    reader.consume(1, "q").await;
    let of_process = (1..=2_u64).map(|publisher| {
        let local = Arc::clone(&local);
        std::thread::spawn(move || {
            for number in 0..EACH {
                let body = (publisher << 32 | number).to_be_bytes().to_vec();
                while let Err(error) = try_publish(&local, "q", body.clone()) {
                    assert_eq!(error, PublishError::Blocked);
                    std::thread::yield_now();
                }
            }
        })
    });
    let of_process: Vec<_> = of_process.collect();
    let mut writer = Wire::open(&broker).await;
    writer.channel(1).await;
    let of_socket = tokio::spawn(async move {
        for number in 0..EACH {
            writer.publish(1, "q", &number.to_be_bytes()).await;
        }
        writer
    });
    let mut expected = [0; 3];
    while expected != [EACH; 3] {
        if let AMQPFrame::Body(_, body) = reader.next().await.expect("not the end") {
            let number = u64::from_be_bytes(body.try_into().unwrap());
            let next = &mut expected[(number >> 32) as usize];
            assert_eq!(number & u64::from(u32::MAX), *next);
            *next += 1;
        }
    }
    of_process
        .into_iter()
        .for_each(|publisher| publisher.join().unwrap());
    drop(of_socket.await.unwrap());
}
