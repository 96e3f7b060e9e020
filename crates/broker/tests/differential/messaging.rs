//! Refusals of messages, consumers, verdicts and modes.

use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, tx};
use amq_protocol::types::AMQPValue::{self, Double, LongInt};
use amq_protocol::types::{FieldArray, FieldTable};

use crate::frames::{Sent, content};
use crate::methods::*;

pub(crate) fn cases() -> Vec<Case> {
    let parts = [consuming(), publishing(), modes(), transactions()];
    parts.into_iter().flatten().collect()
}

fn consuming() -> Vec<Case> {
    let settle = |method: basic::AMQPMethod| Sent::Method(1, AMQPClass::Basic(method));
    let ack = |delivery_tag, multiple| {
        settle(basic::AMQPMethod::Ack(basic::Ack {
            delivery_tag,
            multiple,
        }))
    };
    let nack = |delivery_tag, multiple| {
        let requeue = true;
        settle(basic::AMQPMethod::Nack(basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        }))
    };
    let reject = |delivery_tag| {
        settle(basic::AMQPMethod::Reject(basic::Reject {
            delivery_tag,
            requeue: true,
        }))
    };
    let qos = |prefetch_count, global| {
        settle(basic::AMQPMethod::Qos(basic::Qos {
            prefetch_count,
            global,
        }))
    };
    let recover = |requeue| settle(basic::AMQPMethod::Recover(basic::Recover { requeue }));
    let recover_async = |requeue| {
        settle(basic::AMQPMethod::RecoverAsync(basic::RecoverAsync {
            requeue,
        }))
    };
    let cancel = |tag: &str| {
        let (consumer_tag, nowait) = (tag.into(), false);
        settle(basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag,
            nowait,
        }))
    };
    vec![
        case("consume a missing queue", [consume("none", "c", |_| {})]),
        case("consume no queue", [consume("", "c", |_| {})]),
        case("get from a missing queue", [get("none")]),
        case("get from no queue", [get("")]),
        case("get from an empty queue", [get("single")]),
        case(
            "a tag used twice",
            [
                consume("plain", "c", |_| {}),
                Sent::Pause,
                consume("plain", "c", |_| {}),
            ],
        ),
        case(
            "exclusive where another consumes",
            [
                consume("plain", "c", |_| {}),
                Sent::Pause,
                consume("plain", "d", |c| c.exclusive = true),
            ],
        ),
        case(
            "where another consumes exclusively",
            [
                consume("plain", "c", |c| c.exclusive = true),
                Sent::Pause,
                consume("plain", "d", |_| {}),
            ],
        ),
        case(
            "exclusive with a single active consumer",
            [consume("single", "c", |c| c.exclusive = true)],
        ),
        case(
            "priority as text",
            [consume("plain", "c", |c| {
                c.arguments = with("x-priority", text("a"));
            })],
        ),
        case(
            "priority as a fraction",
            [consume("plain", "c", |c| {
                c.arguments = with("x-priority", Double(1.0));
            })],
        ),
        case(
            "unknown argument",
            [consume("plain", "c", |c| {
                c.arguments = with("x-own", LongInt(1));
            })],
        ),
        case(
            "offset of a stream",
            [consume("plain", "c", |c| {
                c.arguments = with("x-stream-offset", text("first"));
            })],
        ),
        case("cancel an unknown consumer", [cancel("none")]),
        case("ack an unknown tag", [ack(1, false)]),
        case("ack tag 0", [ack(0, false)]),
        case("ack everything there is not", [ack(0, true)]),
        case("ack up to an unknown tag", [ack(5, true)]),
        case("nack an unknown tag", [nack(1, false)]),
        case("nack everything there is not", [nack(0, true)]),
        case("reject an unknown tag", [reject(1)]),
        case("reject tag 0", [reject(0)]),
        case("recover", [recover(true)]),
        case("recover to the same consumer", [recover(false)]),
        case("recover-async", [recover_async(true)]),
        case("recover-async to the same consumer", [recover_async(false)]),
        case("prefetch of none", [qos(0, false)]),
        case("prefetch of the channel", [qos(65_535, true)]),
        // The methods have no field for the size, which is always 0 there.
        case(
            "prefetch by size",
            [Sent::Bytes(
                b"\x01\0\x01\0\0\0\x0b\0\x3c\0\x0a\0\0\0\x01\0\0\0\xce".to_vec(),
            )],
        ),
    ]
}

fn publishing() -> Vec<Case> {
    let plain = BasicProperties::default;
    let message = |title: &str, publish, properties| {
        // Answered first: RabbitMQ may end a connection before a channel of it has had its say.
        let mut sent = vec![select(), Sent::Pause];
        sent.extend(content(publish, properties, b"x"));
        case(title, sent)
    };
    let mut cases = vec![
        message(
            "to a missing exchange",
            publish("none", "key", false),
            plain(),
        ),
        message(
            "to a missing exchange, mandatory",
            publish("none", "key", true),
            plain(),
        ),
        message(
            "to an internal exchange",
            publish("inner", "key", false),
            plain(),
        ),
        message(
            "to nobody, mandatory",
            publish("direct", "nobody", true),
            plain(),
        ),
        message("to nobody", publish("direct", "nobody", false), plain()),
        message(
            "by nobody else",
            publish("", "none", true),
            plain().with_user_id("guest".into()),
        ),
        message(
            "by somebody else",
            publish("", "none", true),
            plain().with_user_id("me".into()),
        ),
        message(
            "delivery mode 3",
            publish("", "none", true),
            plain().with_delivery_mode(3),
        ),
        message(
            "delivery mode 0",
            publish("", "none", true),
            plain().with_delivery_mode(0),
        ),
        message(
            "priority 255",
            publish("", "none", true),
            plain().with_priority(255),
        ),
        message(
            "immediate",
            basic::Publish {
                immediate: true,
                ..publish("", "plain", false)
            },
            plain(),
        ),
        message(
            "CC is no array",
            publish("", "none", true),
            plain().with_headers(with("CC", text("x"))),
        ),
        message(
            "BCC is no array",
            publish("", "none", true),
            plain().with_headers(with("BCC", text("x"))),
        ),
        message("CC and BCC to nobody", publish("", "none", true), {
            let to = |name: &str| AMQPValue::FieldArray(FieldArray::from(vec![text(name)]));
            let mut headers = with("CC", to("n2"));
            headers.insert("BCC".into(), to("n3"));
            plain().with_headers(headers)
        }),
    ];
    for expiration in ["abc", "-1", "", "1.5", "0", "+5", " 5", "5 ", "4294967296"] {
        let properties = plain().with_expiration(expiration.into());
        let title = format!("expiration {expiration:?}");
        cases.push(message(&title, publish("", "none", true), properties));
    }
    cases
}

fn modes() -> Vec<Case> {
    let flow = |active| channel_method(1, channel::AMQPMethod::Flow(channel::Flow { active }));
    vec![
        case("confirm.select twice", [select(), select()]),
        case("tx.select twice", [tx_select(), tx_select()]),
        case("tx after confirm", [select(), tx_select()]),
        case("confirm after tx", [tx_select(), select()]),
        case("commit without tx", [commit()]),
        case("rollback without tx", [rollback()]),
        case("commit with confirms", [select(), commit()]),
        case("flow off", [flow(false)]),
    ]
}

/// A publish is routed at once, and delivered or returned at the commit.
fn transactions() -> Vec<Case> {
    let message = |exchange: &str, key: &str| {
        let publish = publish(exchange, key, true);
        content(publish, BasicProperties::default(), b"x")
    };
    let mine = || declare("mine", |declare| declare.exclusive = true);
    let bound = |exchange| bind("mine", exchange, "k", FieldTable::default());
    // What was published, what happens before the commit, and what comes of it.
    let in_tx = |title: &str, before: Vec<Sent>, published: Vec<Sent>, meanwhile: Vec<Sent>| {
        let parts = [
            before,
            vec![tx_select()],
            published,
            meanwhile,
            vec![Sent::Pause, commit(), Sent::Committed, get("mine")],
        ];
        case(title, parts.concat())
    };
    vec![
        in_tx("nothing in tx", vec![mine()], vec![], vec![]),
        in_tx(
            "to a queue in tx",
            vec![mine()],
            message("", "mine"),
            vec![],
        ),
        in_tx("to nobody in tx", vec![mine()], message("", "none"), vec![]),
        in_tx(
            "to nobody in tx, rolled back",
            vec![mine()],
            message("", "none"),
            vec![rollback()],
        ),
        case(
            "to a missing exchange in tx",
            [vec![tx_select()], message("none", "k")].concat(),
        ),
        in_tx(
            "unbound before the commit",
            vec![mine(), bound("direct")],
            message("direct", "k"),
            vec![unbind("mine", "direct", "k")],
        ),
        in_tx(
            "bound before the commit",
            vec![mine()],
            message("direct", "k"),
            vec![bound("direct")],
        ),
        in_tx(
            "exchange deleted before the commit",
            vec![
                mine(),
                declare_exchange("brief", "fanout", |_| {}),
                bound("brief"),
            ],
            message("brief", "k"),
            vec![delete_exchange("brief", false)],
        ),
        in_tx(
            "queue deleted before the commit",
            vec![declare("brief", |_| {}), mine()],
            message("", "brief"),
            vec![delete("brief", false, false)],
        ),
        in_tx(
            "queue declared again before the commit",
            vec![mine()],
            message("", "mine"),
            vec![delete("mine", false, false), mine()],
        ),
    ]
}

fn tx(method: tx::AMQPMethod) -> Sent {
    Sent::Method(1, AMQPClass::Tx(method))
}

fn tx_select() -> Sent {
    tx(tx::AMQPMethod::Select(tx::Select {}))
}

fn commit() -> Sent {
    tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

fn rollback() -> Sent {
    tx(tx::AMQPMethod::Rollback(tx::Rollback {}))
}
