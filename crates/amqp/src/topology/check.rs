//! What is found before anything is sent.

use std::collections::HashSet;

use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::{
    Item, Topology,
    entity::{Argument, Arguments, Binding, Exchange, Queue},
    error::{TopologyError, TopologyErrorKind},
};

/// AMQP 0-9-1, section 4.2.5.3: a short string has a length of one byte.
const NAME: usize = 255;

/// A method is one frame (AMQP 0-9-1, section 4.2.6), and a frame of this size is one that any
/// broker takes by default.
const ARGUMENTS: usize = 64 * 1024;

/// Tables and arrays within each other, at most: who reads them recurses.
const DEPTH: usize = 32;

pub(super) fn check(topology: &Topology) -> Result<(), TopologyError> {
    let mut declared = HashSet::new();
    for (place, item) in topology.items().iter().enumerate() {
        let wrong = |reason: String| TopologyError {
            entity: item.entity(),
            kind: TopologyErrorKind::Invalid(reason),
        };
        item.check().map_err(wrong)?;
        let name = match item {
            Item::Exchange(exchange) => Some((true, &exchange.name)),
            Item::Queue(queue) => Some((false, &queue.name)),
            Item::Binding(_) => None,
        };
        if name.is_some_and(|name| !declared.insert(name)) {
            return Err(wrong("it is in the topology twice".to_owned()));
        }
        if let Item::Binding(binding) = item
            && topology.items()[place..]
                .iter()
                .any(|later| later.is_tied_by(binding))
        {
            return Err(wrong("it comes before what it binds".to_owned()));
        }
    }
    Ok(())
}

impl Item {
    fn is_tied_by(&self, binding: &Binding) -> bool {
        match self {
            Self::Exchange(Exchange { name, .. }) => {
                *name == binding.source || (binding.to_exchange && *name == binding.destination)
            }
            Self::Queue(Queue { name, .. }) => !binding.to_exchange && *name == binding.destination,
            Self::Binding(_) => false,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Exchange(exchange) => check_exchange(exchange),
            Self::Queue(queue) => check_queue(queue),
            Self::Binding(binding) => check_binding(binding),
        }
    }
}

fn check_exchange(exchange: &Exchange) -> Result<(), String> {
    if exchange.name.is_empty() {
        return Err("the default exchange is always there, and cannot be declared".to_owned());
    }
    check_new_name(&exchange.name)?;
    if let lapin::ExchangeKind::Custom(kind) = &exchange.kind {
        fits("its kind", kind)?;
    }
    table(&exchange.arguments).map(drop)
}

fn check_queue(queue: &Queue) -> Result<(), String> {
    if queue.name.is_empty() {
        return Err(if queue.named_by_broker {
            "a temporary queue needs a label to be called by".to_owned()
        } else {
            "a queue that the broker names is a temporary one".to_owned()
        });
    }
    check_new_name(&queue.name)?;
    let options = &queue.options;
    let is_quorum = queue.arguments.text("x-queue-type") == Some(b"quorum");
    if is_quorum && (!options.durable || options.exclusive || options.auto_delete) {
        return Err("a quorum queue is durable, not exclusive and not auto-delete".to_owned());
    }
    table(&queue.arguments).map(drop)
}

fn check_binding(binding: &Binding) -> Result<(), String> {
    if binding.source.is_empty() || (binding.to_exchange && binding.destination.is_empty()) {
        return Err("the default exchange cannot be bound".to_owned());
    }
    if binding.destination.is_empty() {
        return Err("it needs a queue".to_owned());
    }
    fits("its destination", &binding.destination)?;
    fits("its source", &binding.source)?;
    fits("its key", &binding.key)?;
    table(&binding.arguments).map(drop)
}

fn check_new_name(name: &str) -> Result<(), String> {
    // AMQP 0-9-1, queue.declare and exchange.declare: names that begin so are the broker's.
    if name.starts_with("amq.") {
        return Err("names that begin with \"amq.\" are reserved to the broker".to_owned());
    }
    fits("its name", name)
}

fn fits(what: &str, text: &str) -> Result<(), String> {
    if text.len() > NAME {
        return Err(format!("{what} has {} bytes, more than {NAME}", text.len()));
    }
    Ok(())
}

/// The arguments as they are sent.
pub(super) fn table(arguments: &Arguments) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    let mut size = 0;
    for (name, Argument(value)) in &arguments.0 {
        fits("the name of an argument", name)?;
        let wrong = |reason: &str| format!("AMQP cannot carry its argument {name:?}: {reason}");
        let value = value.as_ref().map_err(|reason| wrong(reason))?;
        size += name.len() + 2 + weigh(value, DEPTH).map_err(wrong)?;
        let key = ShortString::try_new(name.as_str()).map_err(|error| error.to_string())?;
        table.insert(key, value.clone());
    }
    if size > ARGUMENTS {
        return Err(format!(
            "its arguments take {size} bytes, more than {ARGUMENTS}"
        ));
    }
    Ok(table)
}

/// Bytes that a value takes when it is sent.
fn weigh(value: &AMQPValue, depth: usize) -> Result<usize, &'static str> {
    let depth = depth
        .checked_sub(1)
        .ok_or("too many tables within each other")?;
    Ok(match value {
        AMQPValue::ShortString(_) => return Err("a short string, instead of a long one"),
        AMQPValue::LongString(text) => text.len() + 4,
        AMQPValue::ByteArray(bytes) => bytes.len() + 4,
        AMQPValue::FieldArray(values) => values.as_slice().iter().try_fold(4, |sum, value| {
            Ok::<_, &str>(sum + 1 + weigh(value, depth)?)
        })?,
        AMQPValue::FieldTable(table) => {
            table.inner().iter().try_fold(4, |sum, (name, value)| {
                Ok::<_, &str>(sum + name.as_str().len() + 2 + weigh(value, depth)?)
            })?
        }
        _ => 8,
    })
}
