//! Refusals of declarations, deletions and bindings.

use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::AMQPValue::{self, Boolean, Double, LongInt, LongLongInt, Void};
use amq_protocol::types::{FieldArray, FieldTable};

use crate::frames::{Sent, content};
use crate::methods::*;

pub(crate) fn cases() -> Vec<Case> {
    let parts = [declarations(), wrong_arguments(), deletions_and_bindings()];
    parts.into_iter().flatten().collect()
}

fn declarations() -> Vec<Case> {
    let mut cases = vec![
        case(
            "passive, missing queue",
            [declare("none", |d| d.passive = true)],
        ),
        case(
            "passive, reserved queue",
            [declare("amq.none", |d| d.passive = true)],
        ),
        case("passive, no name", [declare("", |d| d.passive = true)]),
        case(
            "passive, other properties",
            [declare("plain", |d| {
                d.passive = true;
                d.durable = true;
                d.arguments = with("x-message-ttl", LongInt(5));
            })],
        ),
        case("reserved queue", [declare("amq.mine", |_| {})]),
        case("durable differs", [declare("plain", |d| d.durable = true)]),
        case(
            "auto-delete differs",
            [declare("plain", |d| d.auto_delete = true)],
        ),
        case(
            "exclusive differs",
            [declare("plain", |d| d.exclusive = true)],
        ),
        case("ttl missing", [declare("short", |_| {})]),
        case(
            "ttl differs",
            [declare("short", |d| {
                d.arguments = with("x-message-ttl", LongInt(7));
            })],
        ),
        case(
            "ttl as a longer integer",
            [declare("short", |d| {
                d.arguments = with("x-message-ttl", LongLongInt(60_000));
            })],
        ),
        case(
            "unknown argument differs",
            [declare("plain", |d| {
                d.arguments = with("x-own", LongInt(1));
            })],
        ),
        case(
            "queue type spelled out",
            [declare("plain", |d| {
                d.arguments = with("x-queue-type", text("classic"));
            })],
        ),
        case(
            "no wait, refused",
            [declare("none", |d| {
                d.passive = true;
                d.nowait = true;
            })],
        ),
        case(
            "name with line ends",
            [declare("pl\r\nain", |d| d.passive = true)],
        ),
        case(
            "exclusive, then shared",
            [
                declare("mine", |d| d.exclusive = true),
                declare("mine", |_| {}),
            ],
        ),
        case(
            "missing exchange, passive",
            [declare_exchange("none", "direct", |d| d.passive = true)],
        ),
        case(
            "exchange type differs",
            [declare_exchange("direct", "fanout", |_| {})],
        ),
        case(
            "exchange durable differs",
            [declare_exchange("direct", "direct", |d| d.durable = true)],
        ),
        case(
            "exchange auto-delete differs",
            [declare_exchange("direct", "direct", |d| {
                d.auto_delete = true;
            })],
        ),
        case(
            "exchange internal differs",
            [declare_exchange("direct", "direct", |d| {
                d.internal = true;
            })],
        ),
        case(
            "exchange alternate differs",
            [declare_exchange("direct", "direct", |d| {
                d.arguments = with("alternate-exchange", text("other"));
            })],
        ),
        case(
            "exchange unknown argument differs",
            [declare_exchange("direct", "direct", |d| {
                d.arguments = with("own", text("x"));
            })],
        ),
        case(
            "exchange type unknown",
            [declare_exchange("new", "nonsense", |_| {})],
        ),
        case("exchange type empty", [declare_exchange("new", "", |_| {})]),
        case(
            "exchange reserved",
            [declare_exchange("amq.mine", "direct", |_| {})],
        ),
        case(
            "exchange of the vhost, as it is",
            [declare_exchange("amq.topic", "topic", |d| {
                d.durable = true;
            })],
        ),
        case(
            "exchange of the vhost, transient",
            [declare_exchange("amq.topic", "topic", |_| {})],
        ),
        case("default exchange", [declare_exchange("", "direct", |_| {})]),
        case(
            "default exchange, passive",
            [declare_exchange("", "direct", |d| d.passive = true)],
        ),
        case(
            "alternate is no text",
            [declare_exchange("new", "direct", |d| {
                d.arguments = with("alternate-exchange", LongInt(5));
            })],
        ),
    ];
    for (name, value) in [
        ("x-message-ttl", LongInt(5)),
        ("x-max-length", LongInt(5)),
        ("x-max-length-bytes", LongInt(5)),
        ("x-expires", LongInt(60_000)),
        ("x-dead-letter-exchange", text("other")),
        ("x-max-priority", LongInt(3)),
        ("x-single-active-consumer", Boolean(true)),
        ("x-overflow", text("reject-publish")),
        ("x-queue-mode", text("lazy")),
    ] {
        let again = declare("plain", |d| d.arguments = with(name, value));
        cases.push(case(&format!("{name} added"), [again]));
    }
    cases
}

fn wrong_arguments() -> Vec<Case> {
    let arguments = [
        ("x-message-ttl", text("abc")),
        ("x-message-ttl", LongInt(-1)),
        ("x-message-ttl", Double(1.5)),
        ("x-message-ttl", Boolean(true)),
        ("x-message-ttl", Void),
        ("x-message-ttl", LongLongInt(1 << 62)),
        ("x-message-ttl", AMQPValue::Timestamp(5)),
        (
            "x-message-ttl",
            AMQPValue::FieldTable(FieldTable::default()),
        ),
        (
            "x-message-ttl",
            AMQPValue::FieldArray(FieldArray::default()),
        ),
        ("x-message-ttl", AMQPValue::ByteArray(b"5".to_vec().into())),
        ("x-expires", text("abc")),
        ("x-expires", LongInt(-1)),
        ("x-expires", LongInt(0)),
        ("x-expires", LongLongInt(6_307_200_000_000)),
        ("x-max-length", text("abc")),
        ("x-max-length", LongInt(-1)),
        ("x-max-length-bytes", text("abc")),
        ("x-max-length-bytes", LongInt(-1)),
        ("x-dead-letter-exchange", LongInt(5)),
        ("x-dead-letter-routing-key", LongInt(5)),
        ("x-dead-letter-routing-key", text("key")),
        ("x-overflow", text("sideways")),
        ("x-overflow", LongInt(5)),
        ("x-max-priority", text("abc")),
        ("x-max-priority", LongInt(-1)),
        ("x-max-priority", LongInt(256)),
        ("x-single-active-consumer", text("true")),
        ("x-single-active-consumer", LongInt(1)),
        ("x-queue-type", text("heap")),
        ("x-queue-type", LongInt(5)),
        ("x-queue-mode", text("busy")),
        ("x-queue-mode", LongInt(5)),
        ("x-queue-version", LongInt(3)),
        ("x-queue-version", text("a")),
        ("x-delivery-limit", LongInt(3)),
        ("x-max-age", text("1h")),
        ("x-quorum-initial-group-size", LongInt(3)),
        ("x-dead-letter-strategy", text("at-most-once")),
        ("x-stream-max-segment-size-bytes", LongInt(1)),
    ];
    let declaration = |(name, value): (&str, AMQPValue)| {
        let title = format!("{name} = {value:?}");
        case(
            &title,
            [declare("never", |d| d.arguments = with(name, value))],
        )
    };
    arguments.into_iter().map(declaration).collect()
}

fn deletions_and_bindings() -> Vec<Case> {
    let none = FieldTable::default;
    vec![
        case("delete a missing queue", [delete("none", false, false)]),
        case("delete no queue", [delete("", false, false)]),
        case(
            "delete a used queue",
            [
                consume("plain", "c", |_| {}),
                Sent::Pause,
                delete("plain", true, false),
            ],
        ),
        case("delete a filled queue", {
            let mut sent = content(
                publish("", "plain", false),
                BasicProperties::default(),
                b"x",
            );
            sent.push(delete("plain", false, true));
            sent
        }),
        case("purge a queue of one", [purge("plain")]),
        case("purge a missing queue", [purge("none")]),
        case("purge no queue", [purge("")]),
        case(
            "delete a missing exchange",
            [delete_exchange("none", false)],
        ),
        case("delete a used exchange", [delete_exchange("direct", true)]),
        case(
            "delete an exchange of the vhost",
            [delete_exchange("amq.direct", false)],
        ),
        case("delete the default exchange", [delete_exchange("", false)]),
        case(
            "bind a missing queue",
            [bind("none", "direct", "key", none())],
        ),
        case(
            "bind to a missing exchange",
            [bind("plain", "none", "key", none())],
        ),
        case("bind neither", [bind("none", "nothing", "key", none())]),
        case(
            "bind to the default exchange",
            [bind("plain", "", "key", none())],
        ),
        case("bind no queue", [bind("", "direct", "key", none())]),
        case(
            "bind by an unknown match",
            [bind(
                "plain",
                "amq.headers",
                "",
                with("x-match", text("some")),
            )],
        ),
        case(
            "bind by a match that is no text",
            [bind(
                "plain",
                "amq.headers",
                "",
                with("x-match", LongInt(5)),
            )],
        ),
        case("unbind a missing queue", [unbind("none", "direct", "key")]),
        case(
            "unbind from a missing exchange",
            [unbind("plain", "none", "key")],
        ),
        case(
            "unbind what is not bound",
            [unbind("plain", "direct", "other")],
        ),
        case(
            "unbind from the default exchange",
            [unbind("plain", "", "plain")],
        ),
        case("bind a missing exchange", [bind_exchange("none", "direct")]),
        case(
            "bind from a missing exchange",
            [bind_exchange("direct", "none")],
        ),
        case(
            "bind from the default exchange",
            [bind_exchange("direct", "")],
        ),
        case("bind the default exchange", [bind_exchange("", "direct")]),
        case(
            "bind an exchange to itself",
            [bind_exchange("direct", "direct")],
        ),
    ]
}
