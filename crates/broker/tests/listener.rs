//! Sockets: how many, how long, how large, and how they end.

mod wire;

use std::{net::TcpListener, time::Duration};

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, connection},
};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use wharf_broker::{Broker, StartError};
use wharf_testkit::wait::eventually;
use wire::{BOUND, HEADER, Wire, broker, builder, pass, publish_bytes, publish_bytes_with};

#[tokio::test]
async fn a_client_publishes_and_gets_a_message_of_many_frames() {
    let broker = broker().await;
    let url = broker.url("app", "secret");
    let client = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = client.create_channel().await.unwrap();
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare("large".into(), options, FieldTable::default())
        .await
        .unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let confirm = channel
        .basic_publish(
            "".into(),
            "large".into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default(),
        )
        .await
        .unwrap();
    assert!(confirm.await.unwrap().is_ack());
    let got = channel
        .basic_get("large".into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got.delivery.data, body);
    client.close(200, "bye".into()).await.unwrap();
    eventually("the connection is gone", BOUND, async || {
        broker.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let deadline = Duration::from_secs(60);
    let broker = builder().handshake_timeout(deadline).start().await.unwrap();
    let mut silent = Wire::connect(&broker).await;
    let mut slow = Wire::connect(&broker).await;
    slow.send_bytes(HEADER).await;
    slow.method().await;
    // The head of connection.start-ok and no more of it.
    slow.send_bytes(&[1, 0, 0, 0, 0, 1, 0, 0, 10]).await;
    pass(deadline).await;
    assert_eq!(silent.next().await, None);
    assert_eq!(slow.next().await, None);
    eventually("both are gone", BOUND, async || broker.connections() == 0).await;
    Wire::open(&broker).await;
}

#[tokio::test]
async fn one_connection_more_than_allowed_is_closed_at_once() {
    let broker = builder().max_connections(2).start().await.unwrap();
    let first = Wire::open(&broker).await;
    let _second = Wire::open(&broker).await;
    let mut third = Wire::connect(&broker).await;
    assert_eq!(third.next().await, None);
    drop(first);
    eventually("there is a place again", BOUND, async || {
        let mut again = Wire::connect(&broker).await;
        again.send_bytes(HEADER).await;
        again.next().await.is_some()
    })
    .await;
}

/// Whoever opened handshakes and did not end them once kept all others out.
#[tokio::test]
async fn of_too_many_handshakes_the_oldest_is_put_out() {
    let broker = builder().max_pending_connections(2).start().await.unwrap();
    let opened = Wire::open(&broker).await;
    let mut first = Wire::connect(&broker).await;
    let mut second = Wire::connect(&broker).await;
    for waiting in [&mut first, &mut second] {
        waiting.send_bytes(HEADER).await;
        waiting.method().await;
    }
    let newcomer = Wire::open(&broker).await;
    assert!(first.next().await.is_none(), "it is put out");
    // The second has its place still, and the newcomer needs none any more.
    assert_eq!(broker.connections(), 3);
    drop((opened, second, newcomer));
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_and_others_are_served() {
    let patience = Duration::from_millis(300);
    let broker = builder().send_timeout(patience).start().await.unwrap();
    let mut reader = Wire::open(&broker).await;
    reader.channel(1).await;
    reader.declare(1, "flood").await;
    let mut deaf = Wire::open(&broker).await;
    deaf.channel(1).await;
    deaf.consume(1, "flood").await;
    // More than the outbox and both sockets' buffers hold.
    let body = vec![7; 100_000];
    for _ in 0..400 {
        reader.publish(1, "flood", &body).await;
    }
    reader.declare(1, "answered").await;
    eventually("it is cut", BOUND, async || broker.connections() == 1).await;
    reader.declare(1, "answered still").await;
}

#[tokio::test]
async fn stopping_tells_every_client_and_waits_for_its_answer() {
    let broker = broker().await;
    let addr = broker.addr();
    let mut client = Wire::open(&broker).await;
    let stopping = tokio::spawn(broker.stop_within(BOUND));
    let (code, text) = client.closed().await;
    assert_eq!(code, 320);
    assert_eq!(
        text,
        "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    );
    assert!(!stopping.is_finished());
    TcpListener::bind(addr).unwrap();
    client.close_ok().await;
    assert_eq!(client.next().await, None);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_cut_when_the_time_is_over() {
    let broker = broker().await;
    let mut client = Wire::open(&broker).await;
    let stopped = broker.stop_within(Duration::from_millis(100)).await;
    assert_eq!(stopped.unwrap_err().cut, 1);
    assert_eq!(client.closed().await.0, 320);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn dropping_a_broker_frees_its_port_at_once_and_cuts_its_clients() {
    let broker = broker().await;
    let addr = broker.addr();
    let mut client = Wire::open(&broker).await;
    drop(broker);
    let again = Broker::builder().listen(addr).start().await.unwrap();
    assert_eq!(again.addr(), addr);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_port_that_is_taken_and_settings_out_of_bounds_are_told() {
    let taken = broker().await;
    let second = Broker::builder().listen(taken.addr()).start().await;
    assert!(matches!(second, Err(StartError::Bind { .. })));
    let open = Broker::builder().listen("0.0.0.0:0").start().await;
    assert!(matches!(open, Err(StartError::NoUser { .. })));
    let small = Broker::builder().frame_max(100).start().await;
    assert!(matches!(
        small,
        Err(StartError::Setting {
            setting: "frame_max",
            ..
        })
    ));
}

#[tokio::test]
async fn a_url_escapes_what_a_url_can_not_hold() {
    let broker = Broker::builder()
        .user("ann/bob", "p@ss:w%rd")
        .vhost("/eu")
        .start()
        .await
        .unwrap();
    let url = broker.url("ann/bob", "p@ss:w%rd");
    let port = broker.addr().port();
    assert_eq!(
        url,
        format!("amqp://ann%2Fbob:p%40ss%3Aw%25rd@127.0.0.1:{port}/%2Feu")
    );
    Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn limits_without_end_are_no_limits_and_an_outbox_of_nothing_is_refused() {
    let broker = builder()
        .handshake_timeout(Duration::MAX)
        .send_timeout(Duration::MAX)
        .max_connections(usize::MAX)
        .max_pending_connections(usize::MAX)
        .outbox(usize::MAX)
        .memory(usize::MAX)
        .start()
        .await
        .unwrap();
    let mut client = Wire::open(&broker).await;
    client.confirming(1).await;
    client.publish(1, "nowhere", b"body").await;
    assert_eq!(client.acks(1).await, [1]);
    let refused = builder().outbox(0).start().await;
    assert!(matches!(
        refused,
        Err(StartError::Setting {
            setting: "outbox",
            ..
        })
    ));
}

#[tokio::test]
async fn a_client_that_answers_the_close_and_keeps_its_socket_was_not_cut() {
    let broker = broker().await;
    let mut client = Wire::open(&broker).await;
    let answering = async {
        assert_eq!(client.closed().await.0, 320);
        client.close_ok().await;
    };
    let limit = Duration::from_millis(500);
    let (stopped, ()) = tokio::join!(broker.stop_within(limit), answering);
    // Only the answer itself may come too late.
    assert!(stopped.err().is_none_or(|late| late.cut > 0));
}

#[tokio::test]
async fn what_is_published_is_not_in_the_brokers_debug_output() {
    let broker = broker().await;
    let mut client = Wire::open(&broker).await;
    client.confirming(1).await;
    client.declare(1, "q").await;
    client.publish(1, "q", b"confidential").await;
    client.acks(1).await;
    let body = format!("{:?}", bytes::Bytes::from_static(b"confidential"));
    let shown = format!("{broker:?}");
    assert!(
        !shown.contains(&body) && !shown.contains("secret"),
        "{shown}"
    );
}

#[tokio::test]
async fn another_protocol_gets_the_header_of_this_one_and_the_end() {
    let broker = broker().await;
    let mut client = Wire::connect(&broker).await;
    client
        .send_bytes(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await;
    assert!(matches!(
        client.next().await,
        Some(AMQPFrame::ProtocolHeader(_))
    ));
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_frame_larger_than_agreed_is_answered_before_it_is_there() {
    let broker = builder().frame_max(8_192).start().await.unwrap();
    let mut client = Wire::connect(&broker).await;
    client.frame_max = 8_192;
    client.greet("wire").await;
    client.method().await;
    // The body of 300 MB is only claimed.
    client.send_bytes(&[3, 0, 1, 0x12, 0, 0, 0]).await;
    assert_eq!(client.closed().await.0, 501);
    client.close_ok().await;
}

#[tokio::test]
async fn a_thousand_connections_are_served_side_by_side() {
    let broker = broker().await;
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        clients.push(Wire::open(&broker).await);
    }
    assert_eq!(broker.connections(), 1_000);
    for client in &mut clients {
        client.channel(1).await;
    }
    drop(clients);
    eventually("all are gone", BOUND, async || broker.connections() == 0).await;
}

#[tokio::test]
async fn frames_that_come_byte_by_byte_are_frames() {
    let broker = broker().await;
    let mut client = Wire::open(&broker).await;
    client.confirming(1).await;
    for byte in publish_bytes(1, "nowhere", b"body") {
        client.send_bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.acks(1).await, [1]);
    let close = connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    });
    client.send(0, AMQPClass::Connection(close)).await;
    assert!(matches!(
        client.method().await,
        AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))
    ));
    assert_eq!(client.next().await, None);
}

/// One client's messages to many queues once kept all others waiting until everything was done that
/// one read had brought.
#[tokio::test]
async fn a_client_whose_messages_go_to_many_queues_takes_turns_with_others() {
    const QUEUES: usize = 300;
    const MESSAGES: usize = 1_000;
    let broker = broker().await;
    let mut busy = Wire::open(&broker).await;
    busy.channel(1).await;
    for number in 0..QUEUES {
        let name = format!("q-{number}");
        busy.declare(1, &name).await;
        busy.bind(1, "amq.fanout", &name).await;
    }
    let mut other = Wire::open(&broker).await;
    other.channel(1).await;
    let publish = publish_bytes_with(1, "amq.fanout", "", BasicProperties::default(), b"body");
    busy.send_bytes(&publish.repeat(MESSAGES)).await;
    let mut turns = Vec::new();
    while turns.len() < 5 {
        other.declare(1, "answered").await;
        let (ready, _) = broker.queue_depth("/", "q-0").unwrap();
        turns.push(ready);
    }
    assert!(turns[4] < MESSAGES, "{turns:?}");
    eventually("all is published", BOUND, async || {
        broker.queue_depth("/", "q-0") == Some((MESSAGES, 0))
    })
    .await;
}

/// What has expired is taken away in portions, and an answer waits for the last of them.
#[tokio::test]
async fn a_message_behind_thousands_that_expired_is_got_at_once() {
    let broker = broker().await;
    let mut client = Wire::open(&broker).await;
    client.confirming(1).await;
    client.declare(1, "q").await;
    client.publish(1, "q", b"first").await;
    client.acks(1).await;
    let short = BasicProperties::default().with_expiration("1".into());
    let expired = publish_bytes_with(1, "", "q", short, b"expired");
    for _ in 0..5 {
        client.send_bytes(&expired.repeat(1_000)).await;
    }
    client.publish(1, "q", b"last").await;
    eventually("all are published", BOUND, async || {
        broker.queue_depth("/", "q") == Some((5_002, 0))
    })
    .await;
    // Behind a message that has not expired, they wait in their places.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for _ in 0..2 {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: "q".into(),
            no_ack: true,
        });
        client.send(1, AMQPClass::Basic(get)).await;
    }
    let mut got = Vec::new();
    while got.len() < 2 {
        match client.next().await {
            Some(AMQPFrame::Body(1, body)) => got.push(body),
            Some(AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_)))) => {
                panic!("there is another message");
            }
            Some(_) => {}
            None => panic!("the connection is gone"),
        }
    }
    assert_eq!(got, [&b"first"[..], b"last"]);
}

/// Nobody reads from a publisher while there is an alarm, and nobody noticed that it was gone.
#[tokio::test]
async fn a_publisher_that_goes_while_it_is_blocked_is_gone() {
    let broker = broker().await;
    broker.faults().block("low on patience");
    for reads_what_it_is_told in [true, false] {
        let mut client = Wire::open(&broker).await;
        client.confirming(1).await;
        client.publish(1, "nowhere", b"body").await;
        if reads_what_it_is_told {
            client.method().await;
        }
        // Nobody reads this.
        let rest = publish_bytes(1, "nowhere", &[7; 10_000]);
        client.send_bytes(&rest).await;
        assert_eq!(broker.connections(), 1);
        drop(client);
        eventually("it is gone", BOUND, async || broker.connections() == 0).await;
    }
}
