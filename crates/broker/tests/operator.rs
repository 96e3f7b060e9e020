//! What the program that holds a broker sees of it, and does to it.

mod wire;

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, queue},
    types::FieldTable,
};
use futures_util::StreamExt;
use lapin::{Connection, ConnectionProperties};
use wharf_broker::{Broker, ConnectionStatus, QueueStatus};
use wharf_testkit::wait::{eventually, within};
use wire::{BOUND, HEADER, Wire, broker};

/// Number, name, channels, and whether it is blocked.
fn told(broker: &Broker) -> Vec<(u64, Option<String>, Vec<u16>, bool)> {
    let told = |one: ConnectionStatus| {
        assert_eq!((&*one.user, &*one.vhost), ("app", "/"));
        (one.nth, one.name, one.channels, one.blocked)
    };
    broker.open_connections().into_iter().map(told).collect()
}

/// Name, messages ready and unacknowledged, consumers, owner.
fn queues(broker: &Broker) -> Vec<(String, usize, usize, usize, Option<u64>)> {
    let told = |one: QueueStatus| (one.name, one.ready, one.unacked, one.consumers, one.owner);
    broker.queues("/").into_iter().map(told).collect()
}

fn name(name: &str) -> Option<String> {
    Some(name.to_owned())
}

async fn exclusive(wire: &mut Wire, name: &str) {
    let declare = queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    });
    wire.send(1, AMQPClass::Queue(declare)).await;
    wire.method().await;
}

#[tokio::test]
async fn open_connections_are_told_with_their_channels_and_whether_they_are_blocked() {
    let broker = broker().await;
    // It counts, and is not open.
    let mut greeted = Wire::connect(&broker).await;
    greeted.send_bytes(HEADER).await;
    greeted.method().await;
    let mut first = Wire::open_as(&broker, "first").await;
    let _second = Wire::open_as(&broker, "second").await;
    for channel in [7, 3, 5] {
        first.channel(channel).await;
    }
    first.send(7, close_channel()).await;
    first.method().await;
    let expected = [
        (2, name("first"), vec![3, 5], false),
        (3, name("second"), vec![], false),
    ];
    assert_eq!(told(&broker), expected);

    let blocked = broker.faults().block("for a while");
    blocked.happened().await;
    first.publish(3, "nowhere", b"x").await;
    first.method().await;
    let expected = [
        (2, name("first"), vec![3, 5], true),
        (3, name("second"), vec![], false),
    ];
    assert_eq!(told(&broker), expected);
    broker.faults().unblock().happened().await;
    first.method().await;
    assert!(told(&broker).iter().all(|(.., blocked)| !blocked));

    drop(first);
    eventually("the first is gone", BOUND, async || {
        told(&broker) == [(3, name("second"), vec![], false)]
    })
    .await;
}

fn close_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: "".into(),
        class_id: 0,
        method_id: 0,
    }))
}

#[tokio::test]
async fn one_connection_is_closed_with_a_code_and_a_text_and_no_other() {
    let broker = broker().await;
    let mut first = Wire::open_as(&broker, "first").await;
    let mut second = Wire::open_as(&broker, "second").await;
    second.channel(1).await;
    exclusive(&mut second, "its").await;
    assert!(broker.close_connection(2, 320, "CONNECTION_FORCED - enough"));
    let closed = second.closed().await;
    assert_eq!(closed, (320, "CONNECTION_FORCED - enough".to_owned()));
    // It is not open any more, and what it had is gone.
    assert_eq!(told(&broker), [(1, name("first"), vec![], false)]);
    assert_eq!(queues(&broker), []);
    assert!(!broker.close_connection(2, 320, "again"));
    assert!(!broker.close_connection(3, 320, "nobody"));
    second.close_ok().await;
    assert_eq!(second.next().await, None);
    first.channel(1).await;
    first.declare(1, "works").await;
}

#[tokio::test]
async fn queues_are_told_with_their_messages_consumers_and_owners() {
    let broker = broker().await;
    let mut wire = Wire::open(&broker).await;
    let mut other = Wire::open(&broker).await;
    other.channel(1).await;
    exclusive(&mut other, "b").await;
    wire.confirming(1).await;
    for queue in ["c", "a"] {
        wire.declare(1, queue).await;
    }
    wire.consume(1, "c").await;
    for _ in 0..3 {
        wire.publish(1, "a", b"x").await;
        wire.method().await;
    }
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "a".into(),
        no_ack: false,
    });
    wire.send(1, AMQPClass::Basic(get)).await;
    wire.method().await;
    let expected = [
        ("a".to_owned(), 2, 1, 0, None),
        ("b".to_owned(), 0, 0, 0, Some(2)),
        ("c".to_owned(), 0, 0, 1, None),
    ];
    assert_eq!(queues(&broker), expected);
    assert_eq!(broker.queues("/elsewhere"), []);
}

#[tokio::test]
async fn a_queue_is_deleted_whoever_has_it_and_its_consumer_is_told() {
    let broker = broker().await;
    let mut wire = Wire::open(&broker).await;
    wire.channel(1).await;
    exclusive(&mut wire, "its").await;
    wire.declare(1, "stays").await;
    wire.consume(1, "its").await;
    assert!(broker.delete_queue("/", "its"));
    assert_eq!(broker.queue_depth("/", "its"), None);
    assert!(!broker.delete_queue("/", "its"));
    assert!(!broker.delete_queue("/elsewhere", "stays"));
    assert_eq!(broker.queue_depth("/", "stays"), Some((0, 0)));
    // The name is free for anybody.
    wire.declare(1, "its").await;
    assert_eq!(queues(&broker)[0], ("its".to_owned(), 0, 0, 0, None));
}

#[tokio::test]
async fn a_consumer_whose_queue_the_program_deletes_gets_a_cancel() {
    let broker = broker().await;
    let url = broker.url("app", "secret");
    let client = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = client.create_channel().await.unwrap();
    let declared = channel.queue_declare("q".into(), Default::default(), FieldTable::default());
    declared.await.unwrap();
    let consumer = channel.basic_consume(
        "q".into(),
        "".into(),
        Default::default(),
        FieldTable::default(),
    );
    let mut deliveries = consumer.await.unwrap();
    assert!(broker.delete_queue("/", "q"));
    let end = within("the end of its deliveries", BOUND, deliveries.next()).await;
    assert!(end.is_none(), "{end:?}");
    assert!(channel.status().connected());
}

#[tokio::test]
async fn users_come_and_go_while_connections_stay() {
    let broker = broker().await;
    let enters = async |user: &str, password: &str| {
        let url = broker.url(user, password);
        let client = Connection::connect(&url, ConnectionProperties::default()).await;
        client.is_ok()
    };
    assert!(!enters("clerk", "first").await);
    broker.add_user("clerk", "first").unwrap();
    assert!(enters("clerk", "first").await);
    broker.add_user("clerk", "second").unwrap();
    assert!(!enters("clerk", "first").await);
    assert!(enters("clerk", "second").await);
    assert!(enters("app", "secret").await);

    let mut open = Wire::open(&broker).await;
    assert!(broker.remove_user("app"));
    assert!(!broker.remove_user("app"));
    assert!(!enters("app", "secret").await);
    assert!(enters("clerk", "second").await);
    open.channel(1).await;
    open.declare(1, "works").await;
}
