//! Frames where they do not belong, and bytes that are no frames.

use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection, queue};

use crate::frames::{Sent, open, start_ok, tune_ok};
use crate::methods::*;

pub(crate) fn cases() -> Vec<Case> {
    let parts = [out_of_order(), malformed()];
    parts.into_iter().flatten().collect()
}

fn out_of_order() -> Vec<Case> {
    let header = |size| Sent::Header(1, size, BasicProperties::default());
    let begun = || {
        Sent::Method(
            1,
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish("", "none", true))),
        )
    };
    let channel_open = |number| channel_method(number, channel::AMQPMethod::Open(channel::Open {}));
    let close = |number| {
        let close = channel::Close {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        };
        channel_method(number, channel::AMQPMethod::Close(close))
    };
    let close_ok =
        |number| channel_method(number, channel::AMQPMethod::CloseOk(channel::CloseOk {}));
    let connection = |number, method| Sent::Method(number, AMQPClass::Connection(method));
    let on = |number, sent| match sent {
        Sent::Method(_, method) => Sent::Method(number, method),
        other => other,
    };
    vec![
        case(
            "method on a channel that is not open",
            [on(5, declare("plain", |_| {})), Sent::End],
        ),
        case(
            "header on a channel that is not open",
            [Sent::Header(5, 1, BasicProperties::default()), Sent::End],
        ),
        case(
            "body on a channel that is not open",
            [Sent::Body(5, b"x".to_vec()), Sent::End],
        ),
        case("close of a channel that is not open", [close(5), Sent::End]),
        case(
            "close-ok of a channel that is not open",
            [close_ok(5), Sent::End],
        ),
        case("close-ok unasked", [close_ok(1)]),
        case("channel opened twice", [channel_open(1)]),
        case("header without a publish", [header(1)]),
        case("body without a publish", [Sent::Body(1, b"x".to_vec())]),
        case(
            "method where a header belongs",
            [begun(), declare("plain", |_| {})],
        ),
        case(
            "body where a header belongs",
            [begun(), Sent::Body(1, b"x".to_vec())],
        ),
        case(
            "method where a body belongs",
            [begun(), header(5), declare("plain", |_| {})],
        ),
        case(
            "header where a body belongs",
            [begun(), header(5), header(5)],
        ),
        case("close where a body belongs", [begun(), header(5), close(1)]),
        case(
            "body after a message of none",
            [begun(), header(0), Sent::Body(1, Vec::new())],
        ),
        case(
            "an empty body in between",
            [
                begun(),
                header(5),
                Sent::Body(1, Vec::new()),
                Sent::Body(1, b"hello".to_vec()),
            ],
        ),
        case("second connection.open", [open("/")]),
        case("start-ok again", [start_ok("guest", "guest")]),
        case("tune-ok again", [tune_ok(1, 4096, 1)]),
        case("channel.open on channel 0", [channel_open(0)]),
        case(
            "queue.declare on channel 0",
            [on(0, declare("plain", |_| {}))],
        ),
        case(
            "connection.close-ok unasked",
            [connection(
                0,
                connection::AMQPMethod::CloseOk(connection::CloseOk {}),
            )],
        ),
        case("connection.close on a channel", [on(1, open("/"))]),
        case(
            "connection.blocked from a client",
            [connection(
                0,
                connection::AMQPMethod::Blocked(connection::Blocked { reason: "x".into() }),
            )],
        ),
        case(
            "declare-ok from a client",
            [Sent::Method(
                1,
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                    queue: "plain".into(),
                    message_count: 0,
                    consumer_count: 0,
                })),
            )],
        ),
        case(
            "qos-ok from a client",
            [Sent::Method(
                1,
                AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
            )],
        ),
        case(
            "flow-ok from a client",
            [channel_method(
                1,
                channel::AMQPMethod::FlowOk(channel::FlowOk { active: true }),
            )],
        ),
        case(
            "open-ok from a client",
            [channel_method(
                1,
                channel::AMQPMethod::OpenOk(channel::OpenOk {}),
            )],
        ),
    ]
}

fn malformed() -> Vec<Case> {
    let bytes = |bytes: &[u8]| vec![Sent::Bytes(bytes.to_vec())];
    vec![
        case(
            "bad frame end",
            bytes(b"\x01\0\x01\0\0\0\x05\0\x14\0\x0a\0\xcd"),
        ),
        case("frame type 4", bytes(b"\x04\0\x01\0\0\0\0\xce")),
        case("frame type 9 on channel 0", bytes(b"\x09\0\0\0\0\0\0\xce")),
        case("heartbeat on a channel", bytes(b"\x08\0\x01\0\0\0\0\xce")),
        case(
            "heartbeat with a payload",
            bytes(b"\x08\0\0\0\0\0\x01a\xce"),
        ),
        case(
            "method frame of three bytes",
            bytes(b"\x01\0\x01\0\0\0\x03\0\x32\0\xce"),
        ),
        case(
            "truncated arguments",
            bytes(b"\x01\0\x01\0\0\0\x08\0\x32\0\x0a\0\0\x05a\xce"),
        ),
        case("a frame of 4 GiB", bytes(b"\x01\0\x01\xff\xff\xff\xff")),
        case(
            "a frame one byte too large",
            bytes(b"\x03\0\x01\0\x02\0\x01"),
        ),
        case("a heartbeat of 2 GiB", bytes(b"\x08\0\0\x80\0\0\0")),
        case("header of another class", {
            let mut sent = vec![Sent::Method(
                1,
                AMQPClass::Basic(basic::AMQPMethod::Publish(publish("", "none", true))),
            )];
            sent.extend(bytes(
                b"\x02\0\x01\0\0\0\x0e\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\xce",
            ));
            sent
        }),
    ]
}
