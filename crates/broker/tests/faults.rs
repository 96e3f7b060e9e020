//! Each fault, to the frame.

mod wire;

use std::time::Duration;

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, channel, connection},
};
use tokio::time::Instant;
use wharf_broker::{Broker, Bytes, Frames};
use wharf_testkit::wait::within;
use wire::{BOUND, HEADER, Wire, broker, login_bytes, publish_bytes};

const QUEUE: &str = "orders";

/// A client with channel 1 in confirm mode and a queue.
async fn publisher(broker: &Broker) -> Wire {
    let mut wire = Wire::open(broker).await;
    wire.confirming(1).await;
    wire.declare(1, QUEUE).await;
    wire
}

fn depth(broker: &Broker) -> usize {
    broker.queue_depth("/", QUEUE).unwrap().0
}

#[tokio::test]
async fn a_connection_is_cut_behind_the_frame_that_was_named_and_that_one_is_answered() {
    // Three frames make a publish: behind 0 to 9 of them, 0 to 3 publishes are whole.
    for frames in 0..10 {
        let broker = broker().await;
        let mut client = publisher(&broker).await;
        let cut = broker.faults().cut_after(Frames(frames));
        let bytes: Vec<u8> = (0..4)
            .flat_map(|_| publish_bytes(1, QUEUE, b"body"))
            .collect();
        client.send_bytes(&bytes).await;
        let mut confirmed = 0;
        while let Some(frame) = client.next().await {
            match frame {
                AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                    confirmed = ack.delivery_tag;
                }
                other => panic!("not an ack: {other:?}"),
            }
        }
        within("the cut", BOUND, cut.happened()).await;
        assert_eq!(confirmed, frames / 3, "behind {frames} frames");
        assert_eq!(depth(&broker) as u64, frames / 3, "behind {frames} frames");
    }
}

#[tokio::test]
async fn a_connection_is_cut_behind_the_frame_that_the_broker_sent() {
    for frames in 1..4 {
        let broker = broker().await;
        let mut client = publisher(&broker).await;
        broker.faults().cut_after(Frames(frames).sent());
        for tag in 1..=frames {
            client.publish(1, QUEUE, b"body").await;
            assert_eq!(client.acks(1).await, [tag]);
        }
        assert_eq!(client.next().await, None, "behind {frames} frames");
        assert_eq!(depth(&broker) as u64, frames);
    }
}

#[tokio::test]
async fn a_confirm_is_lost_and_its_message_is_not() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    broker.faults().cut_after(Frames(0).sent());
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.next().await, None);
    assert_eq!(depth(&broker), 1);
}

#[tokio::test]
async fn a_cut_falls_in_the_middle_of_a_frame() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    broker.faults().cut_after(Bytes(10).sent());
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.next().await, None);
    assert_eq!(client.fragment(), 10);

    let mut client = publisher(&broker).await;
    let publish = publish_bytes(1, QUEUE, b"body");
    let short_of_two = 2 * publish.len() as u64 - 1;
    broker.faults().cut_after(Bytes(short_of_two));
    client.send_bytes(&publish).await;
    client.send_bytes(&publish).await;
    assert_eq!(client.acks(1).await, [1]);
    assert_eq!(client.next().await, None);
    assert_eq!(depth(&broker), 2);
}

#[tokio::test]
async fn every_frame_of_a_handshake_can_be_the_last() {
    for frames in 0..5 {
        let broker = broker().await;
        broker.faults().cut_after(Frames(frames).sent());
        let mut client = Wire::connect(&broker).await;
        client.send_bytes(HEADER).await;
        let mut seen = 0;
        let mut greeted = false;
        loop {
            if seen > 0 && !greeted {
                greeted = true;
                client.send_bytes(&login_bytes("wire", 131_072)).await;
            }
            match client.next().await {
                Some(_) => seen += 1,
                None => break,
            }
            if seen == 3 {
                client
                    .send_bytes(&[1, 0, 1, 0, 0, 0, 5, 0, 20, 0, 10, 0, 0xCE])
                    .await;
            }
        }
        assert_eq!(seen, frames);
    }
}

#[tokio::test]
async fn a_silent_connection_stays_and_says_nothing() {
    let broker = broker().await;
    let mut silent = publisher(&broker).await;
    let step = broker.faults().nth(1).fall_silent_after(Frames(3));
    silent.publish(1, QUEUE, b"heard").await;
    assert_eq!(silent.acks(1).await, [1]);
    silent.publish(1, QUEUE, b"unheard").await;
    within("it is silent", BOUND, step.happened()).await;
    let mut other = publisher(&broker).await;
    for tag in 1..=20 {
        other.publish(1, QUEUE, b"body").await;
        assert_eq!(other.acks(1).await, [tag]);
    }
    assert_eq!(depth(&broker), 21);
    assert_eq!(broker.connections(), 2);
    let nothing = silent.socket.try_read(&mut [0; 16]);
    assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(start_paused = true)]
async fn confirms_come_late_by_the_time_that_was_named() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let long = Duration::from_secs(10);
    let late = broker.faults().delay_confirms(long).times(2);
    let start = Instant::now();
    for _ in 0..3 {
        client.publish(1, QUEUE, b"body").await;
    }
    // The third is not delayed.
    assert_eq!(client.acks(3).await, [3, 1, 2]);
    assert!(start.elapsed() >= long);
    assert_eq!(late.count(), 2);
    assert_eq!(depth(&broker), 3);
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_comes_late_is_not_taken_for_the_next_channels() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    broker.faults().delay_confirms(Duration::from_secs(10));
    let start = Instant::now();
    client.publish(1, QUEUE, b"first").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let close = channel::AMQPMethod::Close(channel::Close::default());
    client.send(1, AMQPClass::Channel(close)).await;
    client.method().await;
    client.confirming(1).await;
    client.publish(1, QUEUE, b"second").await;
    assert_eq!(client.acks(1).await, [1]);
    assert!(start.elapsed() >= Duration::from_secs(15));
}

#[tokio::test]
async fn confirms_are_swallowed_as_often_as_it_says() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let swallowed = broker.faults().swallow_confirms().times(2);
    for _ in 0..3 {
        client.publish(1, QUEUE, b"body").await;
    }
    assert_eq!(client.acks(1).await, [3]);
    assert_eq!(swallowed.count(), 2);
    assert_eq!(depth(&broker), 3);
}

#[tokio::test]
async fn confirms_are_turned_round_in_groups() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let faults = broker.faults();
    faults.clone().reorder_confirms(3);
    for _ in 0..8 {
        client.publish(1, QUEUE, b"body").await;
    }
    assert_eq!(client.acks(6).await, [3, 2, 1, 6, 5, 4]);
    faults.clear();
    assert_eq!(client.acks(2).await, [7, 8]);
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.acks(1).await, [9]);
}

#[tokio::test]
async fn messages_are_rejected_by_what_they_are() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let nacked = broker
        .faults()
        .when(|publish| publish.routing_key() == QUEUE && publish.body() == b"poison")
        .nack();
    client.publish(1, QUEUE, b"food").await;
    assert_eq!(client.acks(1).await, [1]);
    client.publish(1, QUEUE, b"poison").await;
    match client.method().await {
        AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => assert_eq!(nack.delivery_tag, 2),
        other => panic!("not a nack: {other:?}"),
    }
    assert_eq!(nacked.count(), 1);
    assert_eq!(depth(&broker), 1);
}

#[tokio::test]
async fn a_message_comes_back_before_its_confirm() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    broker.faults().always().give_back().times(1);
    client.publish(1, QUEUE, b"body").await;
    match client.method().await {
        AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => {
            assert_eq!(returned.reply_code, 312);
            assert_eq!(returned.routing_key.as_str(), QUEUE);
        }
        other => panic!("not a return: {other:?}"),
    }
    assert!(matches!(client.next().await, Some(AMQPFrame::Header(1, _))));
    assert_eq!(
        client.next().await,
        Some(AMQPFrame::Body(1, b"body".to_vec()))
    );
    assert_eq!(client.acks(1).await, [1]);
    assert_eq!(depth(&broker), 0);
}

#[tokio::test]
async fn a_message_is_there_twice_and_confirmed_once() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    broker.faults().always().duplicate().times(1);
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.acks(1).await, [1]);
    assert_eq!(depth(&broker), 2);
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.acks(1).await, [2]);
    assert_eq!(depth(&broker), 3);
}

#[tokio::test]
async fn a_block_is_told_to_who_publishes_and_holds_until_it_ends() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let blocked = broker.faults().block("low on memory");
    within("it is blocked", BOUND, blocked.happened()).await;
    client.publish(1, QUEUE, b"body").await;
    match client.method().await {
        AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) => {
            assert_eq!(blocked.reason.as_str(), "low on memory");
        }
        other => panic!("not blocked: {other:?}"),
    }
    let mut other = Wire::open(&broker).await;
    other.channel(1).await;
    assert_eq!(depth(&broker), 0);
    broker.faults().unblock();
    assert!(matches!(
        client.method().await,
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_))
    ));
    assert_eq!(client.acks(1).await, [1]);
    assert_eq!(depth(&broker), 1);
}

#[tokio::test]
async fn channels_and_connections_are_closed_with_a_code_and_text_of_ones_own() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let closed = broker
        .faults()
        .when(|publish| publish.body() == b"bad")
        .close_channel(406, "PRECONDITION_FAILED - bad");
    client.publish(1, QUEUE, b"good").await;
    assert_eq!(client.acks(1).await, [1]);
    client.publish(1, QUEUE, b"bad").await;
    let told = client.closed().await;
    assert_eq!(told, (406, "PRECONDITION_FAILED - bad".to_owned()));
    assert_eq!(closed.count(), 1);

    let mut client = publisher(&broker).await;
    broker.faults().close_channels(404, "NOT_FOUND - gone");
    assert_eq!(client.closed().await.0, 404);

    let mut client = publisher(&broker).await;
    broker
        .faults()
        .always()
        .close_connection(541, "INTERNAL_ERROR");
    client.publish(1, QUEUE, b"body").await;
    assert_eq!(client.closed().await, (541, "INTERNAL_ERROR".to_owned()));
    client.close_ok().await;
    assert_eq!(client.next().await, None);

    let mut client = publisher(&broker).await;
    broker
        .faults()
        .close_connections(320, "CONNECTION_FORCED - now");
    assert_eq!(client.closed().await.0, 320);
    assert_eq!(depth(&broker), 1);
}

#[tokio::test]
async fn a_script_closes_the_connection_exactly_behind_a_frame() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let third = broker.faults().after(Frames(9));
    let _ = third
        .then()
        .close_connections(320, "CONNECTION_FORCED - now");
    let bytes: Vec<u8> = (0..5)
        .flat_map(|_| publish_bytes(1, QUEUE, b"body"))
        .collect();
    client.send_bytes(&bytes).await;
    let mut confirmed = 0;
    loop {
        match client.method().await {
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => confirmed = ack.delivery_tag,
            AMQPClass::Connection(connection::AMQPMethod::Close(_)) => break,
            other => panic!("neither an ack nor a close: {other:?}"),
        }
    }
    assert!(confirmed <= 3);
    assert_eq!(depth(&broker), 3);
}

#[tokio::test]
async fn connects_are_refused_as_often_as_it_says() {
    let broker = broker().await;
    let refused = broker.faults().refuse_connects().times(2);
    for _ in 0..2 {
        let mut client = Wire::connect(&broker).await;
        assert_eq!(client.next().await, None);
    }
    within("both", BOUND, refused.happened()).await;
    Wire::open(&broker).await;
}

#[tokio::test(start_paused = true)]
async fn connects_stall_for_the_time_that_was_named() {
    let broker = broker().await;
    broker
        .faults()
        .stall_connects(Duration::from_secs(5))
        .times(1);
    let start = Instant::now();
    let mut client = Wire::connect(&broker).await;
    client.send_bytes(HEADER).await;
    client.method().await;
    assert!(start.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn logins_are_refused_with_a_code_and_text() {
    let broker = broker().await;
    broker
        .faults()
        .of_user("app")
        .refuse_logins(530, "NOT_ALLOWED - not today")
        .times(1);
    let mut client = Wire::connect(&broker).await;
    client.greet("wire").await;
    let told = client.closed().await;
    assert_eq!(told, (530, "NOT_ALLOWED - not today".to_owned()));
    Wire::open(&broker).await;
}

#[tokio::test]
async fn a_filter_leaves_all_others_alone() {
    let broker = broker().await;
    let mut first = Wire::open_as(&broker, "first").await;
    let mut second = Wire::open_as(&broker, "second").await;
    for client in [&mut first, &mut second] {
        client.confirming(1).await;
        client.declare(1, QUEUE).await;
    }
    broker.faults().named("second").always().nack();
    broker.faults().nth(2).cut_after(Frames(6));
    for tag in 1..=10 {
        first.publish(1, QUEUE, b"body").await;
        assert_eq!(first.acks(1).await, [tag]);
    }
    for _ in 0..2 {
        second.publish(1, QUEUE, b"body").await;
        assert!(matches!(
            second.method().await,
            AMQPClass::Basic(basic::AMQPMethod::Nack(_))
        ));
    }
    assert_eq!(second.next().await, None);
    assert_eq!(depth(&broker), 10);
}

#[tokio::test(start_paused = true)]
async fn steps_follow_each_other() {
    let broker = broker().await;
    let mut client = publisher(&broker).await;
    let swallowed = broker.faults().swallow_confirms().times(1);
    let waited = swallowed.then().wait(Duration::from_secs(10));
    let blocked = waited.then().block("script");
    let unblocked = blocked.then().unblock();
    let cut = unblocked.then().always().pass().times(2);
    cut.then().cut_after(Frames(0));
    assert_eq!(blocked.count(), 0);
    client.publish(1, QUEUE, b"swallowed").await;
    unblocked.happened().await;
    assert_eq!([swallowed.count(), waited.count(), blocked.count()], [1; 3]);
    for _ in 0..2 {
        client.publish(1, QUEUE, b"passed").await;
    }
    let mut confirms = 0;
    while let Some(frame) = client.next().await {
        if let AMQPFrame::Method(1, AMQPClass::Basic(_)) = frame {
            confirms += 1;
        }
    }
    assert!(confirms >= 1);
    assert_eq!(depth(&broker), 3);
}

#[tokio::test]
#[should_panic(expected = "nothing can come behind a step without an end")]
async fn behind_a_step_without_an_end_nothing_can_come() {
    let broker = broker().await;
    let _ = broker.faults().swallow_confirms().then();
}

#[tokio::test]
#[should_panic(expected = "the script was cleared before this step happened")]
async fn waiting_for_what_was_cleared_does_not_hang() {
    let broker = broker().await;
    let step = broker.faults().cut_after(Frames(1));
    broker.faults().clear();
    step.happened().await;
}
