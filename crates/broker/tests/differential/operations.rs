//! What a sequence of operations is made of.
//!
//! Names are few, so that operations meet: four queues, three exchanges, three consumer tags, two
//! connections with two channels each. Everything an operation refers to is a number; each side
//! turns it into names and delivery tags of its own.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

pub(crate) const CONNECTIONS: usize = 2;
pub(crate) const CHANNELS: usize = 2;
/// Queues named `q0` to `q3`; numbers above mean server-named queues, in the order they came.
pub(crate) const QUEUES: usize = 4;
pub(crate) const EXCHANGES: usize = 3;
pub(crate) const TAGS: usize = 3;
pub(crate) const KEYS: [&str; 9] = ["a", "a.b", "b", "", "#", "a.*", "q0", "q1", "q3"];

/// One run: what the names mean, and what is done with them.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) queues: Vec<QueueSpec>,
    pub(crate) exchanges: Vec<ExchangeSpec>,
    pub(crate) steps: Vec<Step>,
}

/// An operation and the channel it is done on.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) connection: usize,
    pub(crate) channel: usize,
    pub(crate) operation: Operation,
}

#[derive(Clone, Debug)]
pub(crate) struct QueueSpec {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
pub(crate) struct ExchangeSpec {
    pub(crate) kind: &'static str,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) alternate: Option<usize>,
}

/// An argument of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    Ttl(i32),
    MaxLength(i32),
    MaxBytes(i32),
    Overflow(&'static str),
    /// Through the default exchange to `q3`.
    DeadLetterToLast,
    /// Through an exchange, with the message's own routing key.
    DeadLetterVia(usize),
    SingleActive,
    MaxPriority(i32),
    Expires(i32),
    /// One that RabbitMQ refuses.
    Wrong(&'static str, Wrong),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    Negative,
    Text,
    Number,
}

/// How a declaration differs from the queue's specification.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Twist {
    Passive,
    Durable,
    AutoDelete,
    Exclusive,
    With(Argument),
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Topology(Topology),
    Traffic(Traffic),
    Mode(Mode),
    CloseChannel,
    CloseConnection,
}

/// What is there, and what is bound to what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topology {
    DeclareQueue {
        queue: usize,
        twist: Option<Twist>,
    },
    DeclareServerNamed {
        exclusive: bool,
        auto_delete: bool,
    },
    DeleteQueue {
        queue: usize,
        if_unused: bool,
        if_empty: bool,
    },
    Purge {
        queue: usize,
    },
    DeclareExchange {
        exchange: usize,
        twist: Option<ExchangeTwist>,
    },
    DeleteExchange {
        exchange: usize,
        if_unused: bool,
    },
    Bind(Binding),
    Unbind(Binding),
    BindExchange {
        destination: usize,
        source: usize,
        key: &'static str,
    },
    UnbindExchange {
        destination: usize,
        source: usize,
        key: &'static str,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) queue: usize,
    pub(crate) exchange: usize,
    pub(crate) key: &'static str,
    pub(crate) match_on: Match,
}

/// Messages and consumers.
#[derive(Clone, Debug)]
pub(crate) enum Traffic {
    Publish(Publish),
    Get {
        queue: usize,
        no_ack: bool,
    },
    Consume(Consume),
    Cancel {
        tag: usize,
    },
    Settle {
        pick: usize,
        verdict: Verdict,
        multiple: bool,
    },
    /// Delivery tag 0 with `multiple`: everything outstanding.
    SettleAll {
        verdict: Verdict,
    },
    SettleUnknown {
        verdict: Verdict,
    },
    Recover {
        requeue: bool,
    },
}

/// How a channel works.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Qos { count: u16, global: bool },
    ConfirmSelect,
    TxSelect,
    TxCommit,
    TxRollback,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ExchangeTwist {
    Passive,
    Durable,
    Internal,
    AutoDelete,
    Kind(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Ack,
    Requeue,
    Discard,
    /// `basic.reject`; it knows no `multiple`.
    Reject {
        requeue: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Publish {
    /// The default exchange if `None`.
    pub(crate) exchange: Option<usize>,
    pub(crate) key: &'static str,
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
    pub(crate) expiration: Option<&'static str>,
    pub(crate) priority: Option<u8>,
    pub(crate) persistent: bool,
    pub(crate) headers: Headers,
    pub(crate) size: usize,
    pub(crate) times: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Consume {
    pub(crate) queue: usize,
    /// The server's to name if `None`.
    pub(crate) tag: Option<usize>,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: Option<i32>,
    /// Whether a tag in use is used again, which ends the connection.
    pub(crate) reuse: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Headers {
    None,
    A,
    AAndB,
    Private,
}

/// Arguments of a binding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Match {
    None,
    All,
    Any,
    AnyWithX,
    Wrong,
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

impl Headers {
    pub(crate) fn table(self) -> Option<FieldTable> {
        let one = AMQPValue::LongInt(1);
        match self {
            Self::None => None,
            Self::A => Some(table([("a", one)])),
            Self::AAndB => Some(table([("a", one), ("b", text("x"))])),
            Self::Private => Some(table([("x-h", one)])),
        }
    }
}

impl Match {
    pub(crate) fn table(self) -> FieldTable {
        let one = AMQPValue::LongInt(1);
        match self {
            Self::None => FieldTable::default(),
            Self::All => table([("a", one), ("b", text("x"))]),
            Self::Any => table([("x-match", text("any")), ("a", one), ("b", text("y"))]),
            Self::AnyWithX => table([("x-match", text("any-with-x")), ("x-h", one)]),
            Self::Wrong => table([("x-match", text("some"))]),
        }
    }
}

impl Argument {
    fn add_to(self, table: &mut FieldTable) {
        let mut add = |name: &str, value| {
            table.insert(name.into(), value);
        };
        match self {
            Self::Ttl(time) => add("x-message-ttl", AMQPValue::LongInt(time)),
            Self::MaxLength(length) => add("x-max-length", AMQPValue::LongInt(length)),
            Self::MaxBytes(bytes) => add("x-max-length-bytes", AMQPValue::LongInt(bytes)),
            Self::Overflow(how) => add("x-overflow", text(how)),
            Self::DeadLetterToLast => {
                add("x-dead-letter-exchange", text(""));
                add("x-dead-letter-routing-key", text("q3"));
            }
            Self::DeadLetterVia(exchange) => {
                add("x-dead-letter-exchange", text(&exchange_name(exchange)));
            }
            Self::SingleActive => add("x-single-active-consumer", AMQPValue::Boolean(true)),
            Self::MaxPriority(levels) => add("x-max-priority", AMQPValue::LongInt(levels)),
            Self::Expires(time) => add("x-expires", AMQPValue::LongInt(time)),
            Self::Wrong(name, Wrong::Negative) => add(name, AMQPValue::LongInt(-1)),
            Self::Wrong(name, Wrong::Number) => add(name, AMQPValue::LongInt(1)),
            Self::Wrong(name, Wrong::Text) => add(name, text("nonsense")),
        }
    }
}

impl QueueSpec {
    pub(crate) fn arguments(&self, twist: Option<Twist>) -> FieldTable {
        let mut table = FieldTable::default();
        for argument in &self.arguments {
            argument.add_to(&mut table);
        }
        if let Some(Twist::With(argument)) = twist {
            argument.add_to(&mut table);
        }
        table
    }

    fn expires_messages(&self) -> bool {
        let has_ttl = |argument: &Argument| matches!(argument, Argument::Ttl(_));
        self.arguments.iter().any(has_ttl)
    }
}

impl Scenario {
    /// Whether messages may expire at any step.
    pub(crate) fn expires_messages(&self) -> bool {
        self.queues.iter().any(QueueSpec::expires_messages)
    }
}

/// The name of an exchange, those that every vhost has after the own ones.
pub(crate) fn exchange_name(exchange: usize) -> String {
    match exchange {
        number if number < EXCHANGES => format!("e{number}"),
        number => [
            "amq.direct",
            "amq.fanout",
            "amq.topic",
            "amq.headers",
            "",
            "nowhere",
        ][(number - EXCHANGES) % 6]
            .to_owned(),
    }
}

impl Step {
    /// Whether the messages it publishes expire soon.
    pub(crate) fn lets_messages_expire(&self) -> bool {
        let Operation::Traffic(Traffic::Publish(publish)) = &self.operation else {
            return false;
        };
        publish.expiration == Some("20")
    }
}

impl Operation {
    /// Whether it is a mistake for which a broker may close the connection.
    pub(crate) fn ends_the_connection(&self) -> bool {
        match self {
            Self::Topology(Topology::DeclareExchange { twist, .. }) => {
                matches!(twist, Some(ExchangeTwist::Kind(_)))
            }
            Self::Traffic(Traffic::Publish(publish)) => publish.immediate,
            Self::Traffic(Traffic::Consume(consume)) => consume.reuse,
            Self::Traffic(Traffic::Recover { requeue }) => !requeue,
            _ => false,
        }
    }
}

impl ExchangeSpec {
    pub(crate) fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        if let Some(alternate) = self.alternate {
            let name = AMQPValue::LongString(exchange_name(alternate).into());
            arguments.insert("alternate-exchange".into(), name);
        }
        arguments
    }
}

impl Consume {
    pub(crate) fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        if let Some(priority) = self.priority {
            let priority = AMQPValue::LongInt(priority);
            arguments.insert("x-priority".into(), priority);
        }
        arguments
    }
}

impl Publish {
    /// The message's name, and filling.
    pub(crate) fn body(&self, message: usize) -> String {
        let name = format!("m{message}");
        let filling = self.size.saturating_sub(name.len());
        name + &" ".repeat(filling)
    }

    /// Of the message of this place among those it publishes.
    pub(crate) fn properties(&self, place: usize) -> BasicProperties {
        let mut properties = BasicProperties::default()
            .with_message_id(format!("id-{place}").into())
            .with_delivery_mode(if self.persistent { 2 } else { 1 });
        if let Some(expiration) = self.expiration {
            properties = properties.with_expiration(expiration.into());
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(headers) = self.headers.table() {
            properties = properties.with_headers(headers);
        }
        properties
    }
}
