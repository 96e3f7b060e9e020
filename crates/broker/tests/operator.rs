//! What the program that holds a broker sees of it, and does to it.

mod wire;

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, connection, queue},
    types::FieldTable,
};
use futures_util::StreamExt;
use lapin::{Connection, ConnectionProperties};
use wharf_broker::{Broker, ConnectionStatus, QueueStatus, StartError};
use wharf_testkit::wait::{eventually, within};
use wire::{BOUND, HEADER, Wire, broker, login_methods};

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

/// By hand: clients put a password of their own in the place of an empty one.
async fn enters(broker: &Broker, user: &str, password: &str) -> bool {
    let mut wire = Wire::connect(broker).await;
    wire.send_bytes(HEADER).await;
    wire.method().await;
    let start_ok = connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties: FieldTable::default(),
        mechanism: "PLAIN".into(),
        response: format!("\0{user}\0{password}").into(),
        locale: "en_US".into(),
    });
    wire.send(0, AMQPClass::Connection(start_ok)).await;
    wire.next().await.is_some()
}

/// Which of these passwords let a user in.
async fn accepted<'a>(broker: &Broker, user: &str, passwords: &[&'a str]) -> Vec<&'a str> {
    let mut accepted = Vec::new();
    for password in passwords {
        if enters(broker, user, password).await {
            accepted.push(*password);
        }
    }
    accepted
}

#[tokio::test]
async fn a_user_may_have_several_passwords_and_any_of_them_will_do() {
    let broker = wire::builder().user("app", "other").user("none", "");
    let broker = broker.start().await.unwrap();
    let tried = ["secret", "other", "third", "", "secre", "secretother"];
    let let_in = accepted(&broker, "app", &tried).await;
    assert_eq!(let_in, ["secret", "other"]);
    assert!(broker.accept_password("app", "third"));
    let let_in = accepted(&broker, "app", &tried).await;
    assert_eq!(let_in, ["secret", "other", "third"]);
    assert!(broker.set_passwords("app", ["third", "fourth"]));
    assert_eq!(accepted(&broker, "app", &tried).await, ["third"]);
    assert!(enters(&broker, "app", "fourth").await);
    assert!(broker.set_passwords("app", [""; 0]));
    assert!(accepted(&broker, "app", &tried).await.is_empty());
    assert!(!broker.accept_password("nobody", "x"));
    assert!(!broker.set_passwords("nobody", ["x"]));
    // Who was given the empty one has it, and no other.
    assert_eq!(accepted(&broker, "none", &tried).await, [""]);
    broker.add_user("none", "x").unwrap();
    assert!(!enters(&broker, "none", "").await);
    broker.add_user("none", "").unwrap();
    assert_eq!(accepted(&broker, "none", &tried).await, [""]);
}

#[tokio::test]
async fn what_a_user_may_open_is_what_was_said_last() {
    let broker = wire::builder().vhost("/").vhost("own");
    let broker = broker.user_of("app", "other", ["own"]);
    let broker = broker.start().await.unwrap();
    for password in ["secret", "other"] {
        let opens = async |vhost: &str| {
            let url = broker.url_of("app", password, vhost);
            let client = Connection::connect(&url, ConnectionProperties::default());
            client.await.is_ok()
        };
        assert!(!opens("/").await);
        assert!(opens("own").await);
    }
}

#[tokio::test]
async fn a_users_name_fits_a_short_string() {
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    let started = Broker::builder().user(&long, "").start().await;
    assert!(matches!(
        started,
        Err(StartError::Setting {
            setting: "user",
            ..
        })
    ));
    let broker = Broker::builder().user(&fits, "").start().await.unwrap();
    assert!(enters(&broker, &fits, "").await);
    broker.add_user(&long, "").unwrap_err();
    assert!(!enters(&broker, &long, "").await);
    broker.add_user(fits, "x").unwrap();
}

#[tokio::test]
async fn all_connections_of_a_user_are_closed_and_nobody_elses() {
    let broker = wire::builder().user("clerk", "secret").start().await;
    let broker = broker.unwrap();
    let mut first = Wire::open(&broker).await;
    let mut second = Wire::open(&broker).await;
    // Has logged in and not opened its virtual host.
    let mut entering = Wire::connect(&broker).await;
    entering.send_bytes(HEADER).await;
    entering.method().await;
    let [start_ok, tune_ok, open] = login_methods("entering", 131_072, 60);
    entering.send_bytes(&start_ok).await;
    entering.method().await;
    // Has not even logged in.
    let mut greeted = Wire::connect(&broker).await;
    greeted.send_bytes(HEADER).await;
    greeted.method().await;
    let local = broker.attach("app", "local").unwrap();
    let clerk = broker.attach("clerk", "clerk").unwrap();

    assert_eq!(broker.close_connections_of("app", 320, "enough"), 4);
    for closed in [&mut first, &mut second] {
        assert_eq!(closed.closed().await, (320, "enough".to_owned()));
    }
    assert!(local.disconnected().is_some());
    assert_eq!(entering.next().await, None);
    // Those that are being closed are not closed again.
    assert_eq!(broker.close_connections_of("app", 320, "enough"), 0);
    assert_eq!(clerk.disconnected(), None);
    greeted
        .send_bytes(&[start_ok, tune_ok, open].concat())
        .await;
    greeted.method().await;
    greeted.method().await;
    greeted.channel(1).await;
    assert_eq!(broker.open_connections().len(), 2);
}

#[tokio::test]
async fn users_come_and_go_while_connections_stay() {
    let broker = broker().await;
    let enters = async |user: &str, password: &str| enters(&broker, user, password).await;
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
