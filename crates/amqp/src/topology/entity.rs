//! What a topology is made of: exchanges, queues, bindings and their arguments.

use std::{fmt, time::Duration};

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::AMQPValue,
};

/// An exchange. Without further words it is gone when the broker restarts.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    pub(super) name: String,
    pub(super) kind: ExchangeKind,
    pub(super) options: ExchangeDeclareOptions,
    pub(super) arguments: Arguments,
}

impl Exchange {
    fn new(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            options: ExchangeDeclareOptions::default(),
            arguments: Arguments::default(),
        }
    }

    /// Routes by equal keys.
    pub fn direct(name: impl Into<String>) -> Self {
        Self::new(name, ExchangeKind::Direct)
    }

    /// Routes to everything that is bound.
    pub fn fanout(name: impl Into<String>) -> Self {
        Self::new(name, ExchangeKind::Fanout)
    }

    /// Routes by patterns: `*` is a word, `#` any number of them.
    pub fn topic(name: impl Into<String>) -> Self {
        Self::new(name, ExchangeKind::Topic)
    }

    /// Routes by the headers of a message.
    pub fn headers(name: impl Into<String>) -> Self {
        Self::new(name, ExchangeKind::Headers)
    }

    /// An exchange of a plug-in's, such as `x-delayed-message`.
    ///
    /// RabbitMQ 3 closes the whole connection over a kind that it does not know (503, command
    /// invalid). A topology that this happened to on a new connection leaves later ones alone.
    pub fn custom(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self::new(name, ExchangeKind::Custom(kind.into()))
    }

    /// It survives a restart of the broker.
    pub fn durable(mut self) -> Self {
        self.options.durable = true;
        self
    }

    /// It goes when the last thing bound to it goes.
    pub fn auto_delete(mut self) -> Self {
        self.options.auto_delete = true;
        self
    }

    /// Only other exchanges can publish to it.
    pub fn internal(mut self) -> Self {
        self.options.internal = true;
        self
    }

    /// What it cannot route goes to this exchange ([RabbitMQ: alternate exchanges][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/ae
    pub fn alternate(self, exchange: impl Into<String>) -> Self {
        self.argument("alternate-exchange", exchange.into())
    }

    /// Any other argument.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.set(name.into(), value.into());
        self
    }
}

/// A queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// The broker's name for it, or the label of one that the broker names.
    pub(super) name: String,
    pub(super) named_by_broker: bool,
    pub(super) options: QueueDeclareOptions,
    pub(super) arguments: Arguments,
}

impl Queue {
    fn new(name: impl Into<String>, options: QueueDeclareOptions) -> Self {
        Self {
            name: name.into(),
            named_by_broker: false,
            options,
            arguments: Arguments::default(),
        }
    }

    /// A queue that survives a restart of the broker.
    pub fn durable(name: impl Into<String>) -> Self {
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        Self::new(name, options)
    }

    /// A queue that does not survive a restart of the broker.
    pub fn transient(name: impl Into<String>) -> Self {
        Self::new(name, QueueDeclareOptions::default())
    }

    /// A queue with a name that belongs to one connection, and goes with it. Declared on a
    /// connection for consumers, and only there.
    pub fn exclusive(name: impl Into<String>) -> Self {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        Self::new(name, options)
    }

    /// A queue that the broker names, exclusive and auto-delete: it goes with its connection or
    /// its last consumer, and another, with another name, takes its place when that connection is
    /// made again.
    ///
    /// The label is what bindings and consumers call it. The broker never hears of it, so that
    /// processes may use the same. The name of the moment:
    /// [`Declaration::queue_name`](super::Declaration::queue_name).
    pub fn temporary(label: impl Into<String>) -> Self {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        Self {
            named_by_broker: true,
            ..Self::new(label, options)
        }
    }

    /// It goes when its last consumer goes.
    pub fn auto_delete(mut self) -> Self {
        self.options.auto_delete = true;
        self
    }

    /// A replicated queue ([RabbitMQ: quorum queues][1]). It has to be durable.
    ///
    /// [1]: https://www.rabbitmq.com/docs/quorum-queues
    pub fn quorum(self) -> Self {
        self.argument("x-queue-type", "quorum")
    }

    /// What is rejected, expires or is too much goes to this exchange, under this routing key or
    /// its own ([RabbitMQ: dead letter exchanges][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/dlx
    pub fn dead_letter_to(self, exchange: impl Into<String>, key: Option<&str>) -> Self {
        let queue = self.argument("x-dead-letter-exchange", exchange.into());
        match key {
            Some(key) => queue.argument("x-dead-letter-routing-key", key),
            None => queue,
        }
    }

    /// How long a message may wait, in whole milliseconds ([RabbitMQ: TTL][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/ttl
    pub fn message_ttl(self, ttl: Duration) -> Self {
        self.argument("x-message-ttl", ttl)
    }

    /// How long the queue stays without use, in whole milliseconds, more than zero.
    pub fn expires(self, after: Duration) -> Self {
        self.argument("x-expires", after)
    }

    /// Messages that it holds, at most. More push the oldest out, unless
    /// [`reject_publish`](Self::reject_publish).
    pub fn max_length(self, messages: u64) -> Self {
        self.argument("x-max-length", messages)
    }

    /// Bytes of bodies that it holds, at most.
    pub fn max_length_bytes(self, bytes: u64) -> Self {
        self.argument("x-max-length-bytes", bytes)
    }

    /// A full queue refuses messages: their publisher's confirm is a rejection.
    pub fn reject_publish(self) -> Self {
        self.argument("x-overflow", "reject-publish")
    }

    /// How often a message of a quorum queue is delivered again before it is dead-lettered or
    /// dropped.
    pub fn delivery_limit(self, times: u32) -> Self {
        self.argument("x-delivery-limit", times)
    }

    /// Messages have priorities up to this one.
    pub fn max_priority(self, most: u8) -> Self {
        self.argument("x-max-priority", u32::from(most))
    }

    /// One consumer at a time gets messages.
    pub fn single_active_consumer(self) -> Self {
        self.argument("x-single-active-consumer", true)
    }

    /// Any other argument.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.set(name.into(), value.into());
        self
    }

    /// It belongs to the connection that declares it.
    pub(super) fn is_own(&self) -> bool {
        self.options.exclusive
    }
}

/// What an exchange passes on to a queue, or to another exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    pub(super) destination: String,
    pub(super) to_exchange: bool,
    pub(super) source: String,
    pub(super) key: String,
    pub(super) arguments: Arguments,
}

impl Binding {
    /// From an exchange to a queue, which may be the label of a
    /// [temporary](Queue::temporary) one.
    pub fn new(queue: impl Into<String>, exchange: impl Into<String>) -> Self {
        Self {
            destination: queue.into(),
            to_exchange: false,
            source: exchange.into(),
            key: String::new(),
            arguments: Arguments::default(),
        }
    }

    /// From an exchange to another ([RabbitMQ: exchange to exchange bindings][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/e2e
    pub fn between(destination: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            to_exchange: true,
            ..Self::new(destination, source)
        }
    }

    /// The routing key or pattern. Empty by default.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// An argument: of a binding to a headers exchange, a header to look for, or `x-match`, which
    /// is `all` or `any` of them.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.set(name.into(), value.into());
        self
    }
}

/// The value of an argument. What AMQP cannot carry is found before anything is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument(pub(super) Result<AMQPValue, &'static str>);

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self(Ok(AMQPValue::LongString(text.into())))
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<bool> for Argument {
    fn from(yes: bool) -> Self {
        Self(Ok(AMQPValue::Boolean(yes)))
    }
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        Self(Ok(AMQPValue::LongLongInt(number.into())))
    }
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Self(Ok(AMQPValue::LongLongInt(number.into())))
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self(Ok(AMQPValue::LongLongInt(number)))
    }
}

impl From<u64> for Argument {
    fn from(number: u64) -> Self {
        let number = i64::try_from(number).map_err(|_| "a number of more than 63 bits");
        Self(number.map(AMQPValue::LongLongInt))
    }
}

/// In whole milliseconds.
impl From<Duration> for Argument {
    fn from(time: Duration) -> Self {
        // RabbitMQ's timers take no more (`?MAX_EXPIRY_TIMER`).
        let millis = u32::try_from(time.as_millis()).map_err(|_| "more than 49 days");
        Self(millis.map(|millis| AMQPValue::LongLongInt(millis.into())))
    }
}

/// As it is, and not every one can be sent: `ShortString` has no code in RabbitMQ's dialect
/// ([AMQP 0-9-1 errata][1], section 3).
///
/// [1]: https://www.rabbitmq.com/amqp-0-9-1-errata
impl From<AMQPValue> for Argument {
    fn from(value: AMQPValue) -> Self {
        Self(Ok(value))
    }
}

/// In the order in which they were given; the last value of a name counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Arguments(pub(super) Vec<(String, Argument)>);

impl Arguments {
    fn set(&mut self, name: String, value: Argument) {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
    }

    /// The text of an argument, if it is one.
    pub(super) fn text(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        match &value.0 {
            Ok(AMQPValue::LongString(text)) => Some(text.as_bytes()),
            _ => None,
        }
    }
}

/// Which part of a topology is meant, as in an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entity {
    /// The exchange of this name.
    Exchange(String),
    /// The queue of this name.
    Queue(String),
    /// The queue with this label, which the broker names.
    TemporaryQueue(String),
    /// A binding.
    Binding {
        /// The queue's or exchange's name, or the queue's label.
        destination: String,
        /// The exchange's name.
        source: String,
        /// The routing key or pattern.
        key: String,
    },
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange {}", Short(name)),
            Self::Queue(name) => write!(f, "queue {}", Short(name)),
            Self::TemporaryQueue(label) => write!(f, "temporary queue {}", Short(label)),
            Self::Binding {
                destination,
                source,
                key,
            } => {
                let (destination, source, key) = (Short(destination), Short(source), Short(key));
                write!(f, "binding of {destination} to {source} by {key}")
            }
        }
    }
}

/// A name in quotes, and no more of it than a line of a log takes.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}
