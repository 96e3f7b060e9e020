//! Cases, and the methods they are made of.

use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};

use crate::frames::Sent;

/// Something a client does on an open channel 1, after the declarations of [`crate::refusals::ground`].
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) sent: Vec<Sent>,
}

pub(crate) fn case(title: &str, sent: impl Into<Vec<Sent>>) -> Case {
    Case {
        title: title.to_owned(),
        sent: sent.into(),
    }
}

pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

pub(crate) fn with(name: &str, value: AMQPValue) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), value);
    table
}

pub(crate) fn declare(name: &str, change: impl FnOnce(&mut queue::Declare)) -> Sent {
    let mut declare = queue::Declare {
        queue: name.into(),
        ..queue::Declare::default()
    };
    change(&mut declare);
    queue_method(queue::AMQPMethod::Declare(declare))
}

pub(crate) fn declare_exchange(
    name: &str,
    kind: &str,
    change: impl FnOnce(&mut exchange::Declare),
) -> Sent {
    let mut declare = exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        ..exchange::Declare::default()
    };
    change(&mut declare);
    exchange_method(exchange::AMQPMethod::Declare(declare))
}

pub(crate) fn delete(name: &str, if_unused: bool, if_empty: bool) -> Sent {
    let (queue, nowait) = (name.into(), false);
    queue_method(queue::AMQPMethod::Delete(queue::Delete {
        queue,
        if_unused,
        if_empty,
        nowait,
    }))
}

pub(crate) fn delete_exchange(name: &str, if_unused: bool) -> Sent {
    let (exchange, nowait) = (name.into(), false);
    exchange_method(exchange::AMQPMethod::Delete(exchange::Delete {
        exchange,
        if_unused,
        nowait,
    }))
}

pub(crate) fn purge(name: &str) -> Sent {
    queue_method(queue::AMQPMethod::Purge(queue::Purge {
        queue: name.into(),
        nowait: false,
    }))
}

pub(crate) fn bind(queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> Sent {
    queue_method(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        nowait: false,
        arguments,
    }))
}

pub(crate) fn unbind(queue: &str, exchange: &str, key: &str) -> Sent {
    queue_method(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        arguments: FieldTable::default(),
    }))
}

pub(crate) fn bind_exchange(destination: &str, source: &str) -> Sent {
    exchange_method(exchange::AMQPMethod::Bind(exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        ..exchange::Bind::default()
    }))
}

pub(crate) fn consume(queue: &str, tag: &str, change: impl FnOnce(&mut basic::Consume)) -> Sent {
    let mut consume = basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        ..basic::Consume::default()
    };
    change(&mut consume);
    Sent::Method(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
}

pub(crate) fn get(queue: &str) -> Sent {
    let get = basic::Get {
        queue: queue.into(),
        no_ack: true,
    };
    Sent::Method(1, AMQPClass::Basic(basic::AMQPMethod::Get(get)))
}

pub(crate) fn publish(exchange: &str, key: &str, mandatory: bool) -> basic::Publish {
    basic::Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory,
        immediate: false,
    }
}

pub(crate) fn select() -> Sent {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    Sent::Method(1, AMQPClass::Confirm(select))
}

pub(crate) fn queue_method(method: queue::AMQPMethod) -> Sent {
    Sent::Method(1, AMQPClass::Queue(method))
}

pub(crate) fn exchange_method(method: exchange::AMQPMethod) -> Sent {
    Sent::Method(1, AMQPClass::Exchange(method))
}

pub(crate) fn channel_method(number: u16, method: channel::AMQPMethod) -> Sent {
    Sent::Method(number, AMQPClass::Channel(method))
}
