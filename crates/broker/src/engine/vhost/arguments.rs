//! Arguments of exchanges, queues and consumers: RabbitMQ's checks and words.

use std::{sync::Arc, time::Duration};

use amq_protocol::types::{AMQPValue, FieldTable};

use super::Refusal;

/// Ten years, the longest time to live there is, in milliseconds (`rabbit_misc:check_expiry`).
const MAX_EXPIRY: i64 = 315_360_000_000;

/// The arguments that RabbitMQ knows for other types of queue only.
const OF_OTHER_TYPES: [&str; 10] = [
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
    "x-stream-max-segment-size-bytes",
    "x-stream-offset",
];

/// The arguments that make two declarations of a queue differ.
pub(super) const OF_QUEUES: [&str; 13] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
];

/// What a queue's arguments ask for.
#[derive(Debug, Default)]
pub(super) struct QueueArguments {
    pub(super) expires: Option<Duration>,
    pub(super) message_ttl: Option<Duration>,
    pub(super) dead_letters: Option<Arc<DeadLetterRoute>>,
    pub(super) max_length: Option<usize>,
    pub(super) max_bytes: Option<usize>,
    pub(super) max_priority: u8,
    pub(super) overflow: Overflow,
    pub(super) single_active: bool,
}

/// Where dead letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetterRoute {
    pub(super) exchange: String,
    /// The message keeps its own routing keys if absent.
    pub(super) routing_key: Option<String>,
}

/// What happens to a message for which there is no room, or makes room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

impl QueueArguments {
    /// Reads and checks the arguments in RabbitMQ's order. `what` names the queue in its words.
    pub(super) fn parse(arguments: &FieldTable, what: &str) -> Result<Self, Refusal> {
        let read = Reader { arguments, what };
        read.dead_letter_exchange_type()?;
        read.queue_type()?;
        let parsed = Self {
            expires: read.expires()?,
            message_ttl: read.integer("x-message-ttl", expiry)?.map(millis),
            dead_letters: read.dead_letters()?.map(Arc::new),
            max_length: read.integer("x-max-length", not_negative)?.map(size),
            max_bytes: read.integer("x-max-length-bytes", not_negative)?.map(size),
            max_priority: read.integer("x-max-priority", priority)?.map_or(0, level),
            overflow: read.overflow()?,
            single_active: {
                read.queue_mode()?;
                read.integer("x-queue-version", version)?;
                read.boolean("x-single-active-consumer")?
            },
        };
        read.keys()?;
        Ok(parsed)
    }
}

/// Checks a consumer's arguments and reads its priority.
pub(super) fn consumer_priority(arguments: &FieldTable, what: &str) -> Result<i64, Refusal> {
    let read = Reader { arguments, what };
    let priority = read.integer("x-priority", |_| Ok(()))?;
    read.boolean("x-cancel-on-ha-failover")?;
    if arguments.contains_key("x-stream-offset") {
        return Err(read.foreign("x-stream-offset"));
    }
    Ok(priority.unwrap_or(0))
}

/// The alternate exchange of an exchange's arguments.
pub(super) fn alternate_exchange(
    arguments: &FieldTable,
    what: &str,
) -> Result<Option<String>, Refusal> {
    match arguments.inner().get("alternate-exchange") {
        None => Ok(None),
        Some(AMQPValue::LongString(name)) => Ok(Some(name.to_string())),
        Some(other) => Err(invalid_type(other, "alternate-exchange", what)),
    }
}

/// Reads `expiration`, which is milliseconds in decimal digits.
pub(super) fn expiration(text: &str) -> Result<Duration, Refusal> {
    let refuse =
        |why: String| Refusal::precondition_failed(format!("invalid expiration '{text}': {why}"));
    // Erlang breaks what it prints at column 80.
    let too_large = |digits: &str| {
        let column = format!("invalid expiration '{text}': {{").chars().count();
        let broken = column + "value_too_large,}".len() + digits.len() > 80;
        let gap = if broken {
            format!("\n{}", " ".repeat(column))
        } else {
            String::new()
        };
        refuse(format!("{{value_too_large,{gap}{digits}}}"))
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    if digits == 0 {
        return Err(refuse("no_integer".to_owned()));
    }
    let (number, rest) = text.split_at(text.len() - unsigned.len() + digits);
    if !rest.is_empty() {
        return Err(refuse(format!("{{leftover_string,\"{rest}\"}}")));
    }
    let Ok(value) = number.parse::<i64>() else {
        let digits = number.trim_start_matches('+').trim_start_matches('0');
        return Err(too_large(digits));
    };
    expiry(value).map_err(refuse)?;
    Ok(millis(value))
}

/// Refuses a declaration whose argument differs from what is there, in RabbitMQ's words. Integers
/// are equal by value, whatever their width.
pub(super) fn assert_equivalent(
    current: &FieldTable,
    received: &FieldTable,
    keys: &[&str],
    what: &str,
) -> Result<(), Refusal> {
    for key in keys {
        let pair = (current.inner().get(*key), received.inner().get(*key));
        let (now, new) = match pair {
            (now, new) if now == new => continue,
            (Some(now), Some(new)) => {
                if integer_of(now).is_some() && integer_of(now) == integer_of(new) {
                    continue;
                }
                (quoted(&value_text(now)), quoted(&value_text(new)))
            }
            (now, new) if *key == "x-queue-type" && is_classic(now.or(new)) => continue,
            (now, new) => (typed_text(now), typed_text(new)),
        };
        return Err(inequivalent(key, what, &new, &now));
    }
    Ok(())
}

/// Refuses a declaration whose property differs from what is there.
pub(super) fn assert_same<T: Copy + PartialEq + std::fmt::Display>(
    current: T,
    received: T,
    key: &str,
    what: &str,
) -> Result<(), Refusal> {
    if current == received {
        return Ok(());
    }
    let (new, now) = (received.to_string(), current.to_string());
    Err(inequivalent(key, what, &quoted(&new), &quoted(&now)))
}

fn inequivalent(key: &str, what: &str, received: &str, current: &str) -> Refusal {
    Refusal::precondition_failed(format!(
        "inequivalent arg '{key}' for {what}: received {received} but current is {current}"
    ))
}

fn is_classic(value: Option<&AMQPValue>) -> bool {
    matches!(value, Some(AMQPValue::LongString(text)) if text.as_bytes() == b"classic")
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}

fn typed_text(value: Option<&AMQPValue>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| {
            let (text, name) = (value_text(value), type_name(value));
            format!("the value '{text}' of type '{name}'")
        },
    )
}

/// A value as RabbitMQ prints it.
pub(super) fn value_text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::Boolean(it) => it.to_string(),
        AMQPValue::LongString(it) => it.to_string(),
        AMQPValue::ShortString(it) => it.to_string(),
        AMQPValue::ByteArray(it) => String::from_utf8_lossy(it.as_slice()).into_owned(),
        AMQPValue::Timestamp(it) => it.to_string(),
        AMQPValue::Float(it) => format!("{it:?}"),
        AMQPValue::Double(it) => format!("{it:?}"),
        AMQPValue::DecimalValue(it) => format!("{{{},{}}}", it.scale, it.value),
        AMQPValue::Void => "undefined".to_owned(),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => "[...]".to_owned(),
        _ => integer_of(value).unwrap_or_default().to_string(),
    }
}

/// The name RabbitMQ gives to a value's type.
pub(super) fn type_name(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::ShortShortInt(_) => "byte",
        AMQPValue::ShortShortUInt(_) => "unsignedbyte",
        AMQPValue::ShortInt(_) => "short",
        AMQPValue::ShortUInt(_) => "unsignedshort",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongUInt(_) => "unsignedint",
        AMQPValue::LongLongInt(_) => "long",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => "longstr",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "binary",
        AMQPValue::Void => "void",
    }
}

fn integer_of(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(it) => (*it).into(),
        AMQPValue::ShortShortUInt(it) => (*it).into(),
        AMQPValue::ShortInt(it) => (*it).into(),
        AMQPValue::ShortUInt(it) => (*it).into(),
        AMQPValue::LongInt(it) => (*it).into(),
        AMQPValue::LongUInt(it) => (*it).into(),
        AMQPValue::LongLongInt(it) => *it,
        _ => return None,
    })
}

fn invalid_type(value: &AMQPValue, key: &str, what: &str) -> Refusal {
    let name = type_name(value);
    Refusal::precondition_failed(format!("invalid type '{name}' for arg '{key}' in {what}"))
}

/// Reads arguments of a queue or consumer, and words what is wrong with them.
struct Reader<'a> {
    arguments: &'a FieldTable,
    what: &'a str,
}

impl Reader<'_> {
    fn find(&self, key: &str) -> Option<&AMQPValue> {
        self.arguments.inner().get(key)
    }

    fn invalid(&self, key: &str, why: &str) -> Refusal {
        let what = self.what;
        Refusal::precondition_failed(format!("invalid arg '{key}' for {what}: {why}"))
    }

    fn unacceptable(&self, key: &str, value: &AMQPValue) -> Refusal {
        self.invalid(key, &format!("{{unacceptable_type,{}}}", type_name(value)))
    }

    fn foreign(&self, key: &str) -> Refusal {
        let what = self.what;
        Refusal::precondition_failed(format!(
            "invalid arg '{key}' for {what} of queue type rabbit_classic_queue"
        ))
    }

    fn integer(
        &self,
        key: &str,
        check: impl FnOnce(i64) -> Result<(), String>,
    ) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.find(key) else {
            return Ok(None);
        };
        let Some(number) = integer_of(value) else {
            let why = format!("\"expected integer, got {}\"", type_name(value));
            return Err(self.invalid(key, &why));
        };
        check(number).map_err(|why| self.invalid(key, &why))?;
        Ok(Some(number))
    }

    fn boolean(&self, key: &str) -> Result<bool, Refusal> {
        match self.find(key) {
            None => Ok(false),
            Some(AMQPValue::Boolean(value)) => Ok(*value),
            Some(other) => Err(self.unacceptable(key, other)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, Refusal> {
        match self.find(key) {
            None => Ok(None),
            Some(AMQPValue::LongString(text)) => Ok(Some(text.to_string())),
            Some(other) => Err(self.unacceptable(key, other)),
        }
    }

    fn dead_letter_exchange_type(&self) -> Result<(), Refusal> {
        match self.find("x-dead-letter-exchange") {
            None | Some(AMQPValue::LongString(_)) => Ok(()),
            Some(other) => Err(invalid_type(other, "x-dead-letter-exchange", self.what)),
        }
    }

    fn queue_type(&self) -> Result<(), Refusal> {
        match self.text("x-queue-type")?.as_deref() {
            None | Some("classic") => Ok(()),
            Some(kind @ ("quorum" | "stream")) => Err(Refusal::not_implemented(format!(
                "queue type '{kind}' of {}",
                self.what
            ))),
            Some(kind) => {
                let why = format!("\"unsupported queue type '{kind}'\"");
                Err(self.invalid("x-queue-type", &why))
            }
        }
    }

    fn expires(&self) -> Result<Option<Duration>, Refusal> {
        let check = |value| match value {
            0 => Err("{value_zero,0}".to_owned()),
            value => expiry(value),
        };
        Ok(self.integer("x-expires", check)?.map(millis))
    }

    fn dead_letters(&self) -> Result<Option<DeadLetterRoute>, Refusal> {
        let exchange = self.text("x-dead-letter-exchange")?;
        let routing_key = self.text("x-dead-letter-routing-key")?;
        match exchange {
            Some(exchange) => Ok(Some(DeadLetterRoute {
                exchange,
                routing_key,
            })),
            None if routing_key.is_some() => {
                let why = "routing_key_but_no_dlx_defined";
                Err(self.invalid("x-dead-letter-routing-key", why))
            }
            None => Ok(None),
        }
    }

    fn overflow(&self) -> Result<Overflow, Refusal> {
        match self.text("x-overflow")?.as_deref() {
            None | Some("drop-head") => Ok(Overflow::DropHead),
            Some("reject-publish") => Ok(Overflow::RejectPublish),
            Some("reject-publish-dlx") => Ok(Overflow::RejectPublishDlx),
            Some(_) => Err(self.invalid("x-overflow", "invalid_overflow")),
        }
    }

    fn queue_mode(&self) -> Result<(), Refusal> {
        match self.text("x-queue-mode")?.as_deref() {
            None | Some("default" | "lazy") => Ok(()),
            Some(mode) => {
                let why = format!("\"unsupported queue mode '{mode}'\"");
                Err(self.invalid("x-queue-mode", &why))
            }
        }
    }

    fn keys(&self) -> Result<(), Refusal> {
        let mut keys = self.arguments.inner().keys();
        match keys.find(|key| OF_OTHER_TYPES.contains(&key.as_str())) {
            Some(key) => Err(self.foreign(key.as_str())),
            None => Ok(()),
        }
    }
}

fn not_negative(value: i64) -> Result<(), String> {
    if value < 0 {
        return Err(format!("{{value_negative,{value}}}"));
    }
    Ok(())
}

fn expiry(value: i64) -> Result<(), String> {
    not_negative(value)?;
    if value > MAX_EXPIRY {
        return Err(format!("{{value_too_large,{value}}}"));
    }
    Ok(())
}

fn priority(value: i64) -> Result<(), String> {
    not_negative(value)?;
    if value > 255 {
        return Err(format!("{{max_value_exceeded,{value}}}"));
    }
    Ok(())
}

fn version(value: i64) -> Result<(), String> {
    not_negative(value)?;
    match value {
        1 | 2 => Ok(()),
        _ => Err(format!("\"unsupported queue version '{value}'\"")),
    }
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(value.unsigned_abs())
}

fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn level(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
