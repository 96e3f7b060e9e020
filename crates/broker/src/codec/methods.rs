//! What has to be known of methods before they are parsed.

use amq_protocol::{
    protocol::{AMQPClass, basic},
    types::ShortString,
};
use bytes::Buf;

const BASIC: u16 = 60;
const QOS: u16 = 10;
const PUBLISH: u16 = 40;
const ACK: u16 = 80;

/// Class and method number, and the arguments behind them.
pub(super) fn number(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let mut number = payload.get(..4)?;
    Some((number.get_u16(), number.get_u16(), &payload[4..]))
}

/// The shape of a method's arguments as far as a field table goes.
#[derive(Debug)]
pub(super) enum Arguments {
    /// AMQP 0-9-1 has no such method.
    Unknown,
    /// No table among them.
    Plain,
    /// A table behind these fields.
    Table(&'static [Field]),
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Field {
    Octet,
    Short,
    ShortString,
}

/// Of the methods of either side, by the numbers of AMQP 0-9-1 and of RabbitMQ's extensions.
pub(super) fn arguments(class: u16, method: u16) -> Arguments {
    use Field::{Octet, Short, ShortString};
    match (class, method) {
        // connection.start, connection.start-ok
        (10, 10) => Arguments::Table(&[Octet, Octet]),
        (10, 11) => Arguments::Table(&[]),
        // exchange.declare
        (40, 10) => Arguments::Table(&[Short, ShortString, ShortString, Octet]),
        // exchange.bind, exchange.unbind, queue.bind
        (40, 30 | 40) | (50, 20) => {
            Arguments::Table(&[Short, ShortString, ShortString, ShortString, Octet])
        }
        // queue.declare
        (50, 10) => Arguments::Table(&[Short, ShortString, Octet]),
        // queue.unbind
        (50, 50) => Arguments::Table(&[Short, ShortString, ShortString, ShortString]),
        // basic.consume
        (BASIC, 20) => Arguments::Table(&[Short, ShortString, ShortString, Octet]),
        _ if is_plain(class, method) => Arguments::Plain,
        _ => Arguments::Unknown,
    }
}

fn is_plain(class: u16, method: u16) -> bool {
    let methods: &[u16] = match class {
        10 => &[20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71],
        20 => &[10, 11, 20, 21, 40, 41],
        30 | 85 => &[10, 11],
        40 => &[11, 20, 21, 31, 51],
        50 => &[11, 21, 30, 31, 40, 41, 51],
        BASIC => &[
            10, 11, 21, 30, 31, 40, 50, 60, 70, 71, 72, 80, 90, 100, 110, 111, 120,
        ],
        90 => &[10, 11, 20, 21, 30, 31],
        _ => &[],
    };
    methods.contains(&method)
}

/// The prefetch in bytes that `basic.qos` opens with, for which [`basic::Qos`] has no field. Zero
/// of other methods.
pub(super) fn prefetch_size(class: u16, method: u16, mut arguments: &[u8]) -> u32 {
    if (class, method) != (BASIC, QOS) {
        return 0;
    }
    arguments.try_get_u32().unwrap_or_default()
}

/// The two methods that come once for each message. The general parser allocates for each of their
/// flags.
pub(super) fn read_frequent(class: u16, method: u16, arguments: &[u8]) -> Option<AMQPClass> {
    match (class, method) {
        (BASIC, PUBLISH) => read_publish(arguments),
        (BASIC, ACK) => read_ack(arguments),
        _ => None,
    }
}

fn read_publish(mut arguments: &[u8]) -> Option<AMQPClass> {
    let rest = &mut arguments;
    let _ticket = rest.try_get_u16().ok()?;
    let exchange = short_string(rest)?;
    let routing_key = short_string(rest)?;
    let flags = last_octet(rest)?;
    Some(AMQPClass::Basic(basic::AMQPMethod::Publish(
        basic::Publish {
            exchange,
            routing_key,
            mandatory: flags & 1 != 0,
            immediate: flags & 2 != 0,
        },
    )))
}

fn read_ack(mut arguments: &[u8]) -> Option<AMQPClass> {
    let delivery_tag = arguments.try_get_u64().ok()?;
    let flags = last_octet(&mut arguments)?;
    Some(AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple: flags & 1 != 0,
    })))
}

fn short_string(rest: &mut &[u8]) -> Option<ShortString> {
    let len = usize::from(rest.try_get_u8().ok()?);
    let (text, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(ShortString::from(str::from_utf8(text).ok()?))
}

fn last_octet(rest: &mut &[u8]) -> Option<u8> {
    match **rest {
        [octet] => Some(octet),
        _ => None,
    }
}
