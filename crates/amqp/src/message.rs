//! A message to be published.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, ByteArray, FieldArray, FieldTable, LongString, ShortString},
};

#[cfg(feature = "durable")]
mod stored;

#[cfg(feature = "durable")]
pub use stored::MessageCodec;

/// How deep lists and tables in headers may be nested.
const DEEPEST: usize = 16;

/// The longest time to live in milliseconds ([RabbitMQ: TTL][1] takes 32 bits).
///
/// [1]: https://www.rabbitmq.com/docs/ttl
const LONGEST_TTL: u128 = u32::MAX as u128;

/// A message to be published: a body, where it goes, and its properties.
///
/// Nothing is checked while it is put together; [`Publisher::publish`](crate::Publisher::publish)
/// refuses one that AMQP cannot carry before anything is sent, and names the field.
///
/// ```
/// use std::time::Duration;
/// use wharf_amqp::Message;
///
/// let message = Message::new("paid")
///     .to("orders", "eu.paid")
///     .persistent()
///     .ttl(Duration::from_secs(60))
///     .header("attempt", 1);
/// assert_eq!(message.body(), b"paid");
/// ```
#[derive(Clone, PartialEq)]
#[must_use = "a message does nothing until it is published"]
pub struct Message {
    body: Bytes,
    exchange: String,
    routing_key: String,
    persistent: bool,
    mandatory: Option<bool>,
    ttl: Option<Duration>,
    priority: Option<u8>,
    timestamp: Option<SystemTime>,
    id: Option<String>,
    /// Names and short strings, in no order.
    texts: Vec<(Field, String)>,
    headers: Vec<(String, HeaderValue)>,
}

/// A property that is a short string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "durable", derive(serde::Serialize, serde::Deserialize))]
enum Field {
    ContentType,
    ContentEncoding,
    CorrelationId,
    ReplyTo,
    Type,
    AppId,
}

impl Message {
    /// Takes the body. Without [`to`](Self::to) the message goes nowhere: to the default exchange,
    /// with an empty routing key.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self::of_bytes(body.into())
    }

    /// The same with a body that is shared and not copied, as when one goes to several places.
    pub fn of_bytes(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            exchange: String::new(),
            routing_key: String::new(),
            persistent: false,
            mandatory: None,
            ttl: None,
            priority: None,
            timestamp: None,
            id: None,
            texts: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Makes the body of a value, with the content type `application/json`.
    ///
    /// # Errors
    ///
    /// [`InvalidMessage`] if the value has no form in JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, InvalidMessage> {
        let body = serde_json::to_vec(value)
            .map_err(|error| InvalidMessage::new("body", format!("it is no JSON: {error}")))?;
        Ok(Self::new(body).content_type("application/json"))
    }

    /// Where it goes. The default exchange, `""`, leads to the queue named by the routing key. Both
    /// have at most 255 bytes.
    pub fn to(mut self, exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        self.exchange = exchange.into();
        self.routing_key = routing_key.into();
        self
    }

    /// A durable queue keeps it through a restart of the broker.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// After so long in a queue it is dropped or dead-lettered. Counted in milliseconds, rounded
    /// up; at most 2³² − 1 of them.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether it comes back if it can be routed to no queue. Without it the broker confirms such a
    /// message, and drops it ([RabbitMQ: confirms][1]). Default: as the publisher has it.
    ///
    /// [1]: https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = Some(mandatory);
        self
    }

    /// Adds a header. A later one replaces an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// What tells this message from all others, at most 255 bytes. One is made when none is given.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// A MIME type, at most 255 bytes.
    pub fn content_type(self, content_type: impl Into<String>) -> Self {
        self.text(Field::ContentType, content_type.into())
    }

    /// A MIME encoding, at most 255 bytes.
    pub fn content_encoding(self, encoding: impl Into<String>) -> Self {
        self.text(Field::ContentEncoding, encoding.into())
    }

    /// Which request this answers, at most 255 bytes.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.text(Field::CorrelationId, id.into())
    }

    /// The queue that an answer should go to, at most 255 bytes.
    pub fn reply_to(self, queue: impl Into<String>) -> Self {
        self.text(Field::ReplyTo, queue.into())
    }

    /// The application's name for messages of this kind, at most 255 bytes.
    pub fn kind(self, kind: impl Into<String>) -> Self {
        self.text(Field::Type, kind.into())
    }

    /// The application that sends it, at most 255 bytes.
    pub fn app_id(self, id: impl Into<String>) -> Self {
        self.text(Field::AppId, id.into())
    }

    /// Matters to queues with priorities only.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// When it was made. AMQP carries whole seconds since 1970.
    pub fn timestamp(mut self, timestamp: SystemTime) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The exchange it goes to; empty for the default one.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// Its routing key.
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// The id, if it has one yet: one that a publisher gave back has.
    pub fn message_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn text(mut self, field: Field, text: String) -> Self {
        self.texts.retain(|(other, _)| *other != field);
        self.texts.push((field, text));
        self
    }

    /// How many bytes it counts for in a window.
    pub(crate) fn weight(&self) -> usize {
        self.body.len()
    }

    /// How many bytes it has in memory, about.
    #[cfg(feature = "outbox")]
    pub(crate) fn footprint(&self) -> usize {
        let names = self.exchange.len() + self.routing_key.len();
        size_of::<Self>() + self.body.len() + names + self.size()
    }

    /// How long it may wait in a queue.
    #[cfg(feature = "outbox")]
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.ttl
    }

    /// Another copy for the broker: with this id if it has none, and with what is left of its time if
    /// that has begun.
    #[cfg(feature = "outbox")]
    pub(crate) fn copy(&self, id: impl fmt::Display, left: Option<Duration>) -> Self {
        let mut copy = self.clone();
        copy.id.get_or_insert_with(|| id.to_string());
        copy.ttl = self.ttl.map(|ttl| left.map_or(ttl, |left| left.min(ttl)));
        copy
    }

    /// What AMQP makes of it, with frames of this many bytes.
    pub(crate) fn pack(
        mut self,
        mandatory: bool,
        frame: u32,
    ) -> Result<(Packed, Wire), InvalidMessage> {
        if self.id.is_none() {
            self.id = Some(fresh_id());
        }
        let packed = Packed {
            mandatory: self.mandatory.unwrap_or(mandatory),
            size: self.size(),
            message: self,
        };
        if let Some(invalid) = packed.overflow(frame) {
            return Err(invalid);
        }
        let wire = packed.message.wire()?;
        Ok((packed, wire))
    }

    /// At most so many bytes of properties.
    fn size(&self) -> usize {
        let id = self.id.as_ref().map_or(0, |id| 1 + id.len());
        let texts: usize = self.texts.iter().map(|(_, text)| 1 + text.len()).sum();
        64 + id + texts + table_size(&self.headers)
    }

    fn wire(&self) -> Result<Wire, InvalidMessage> {
        let mut properties = self.properties()?;
        if let Some(id) = &self.id {
            properties = properties.with_message_id(short("id", id.clone())?);
        }
        for (field, text) in &self.texts {
            properties = field.set(properties, short(field.name(), text.clone())?);
        }
        Ok(Wire {
            exchange: short("exchange", self.exchange.clone())?,
            routing_key: short("routing_key", self.routing_key.clone())?,
            properties,
        })
    }

    fn properties(&self) -> Result<BasicProperties, InvalidMessage> {
        let mut properties = BasicProperties::default();
        if self.persistent {
            properties = properties.with_delivery_mode(2);
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(ttl) = self.ttl {
            properties = properties.with_expiration(short("ttl", milliseconds(ttl)?)?);
        }
        if let Some(timestamp) = self.timestamp {
            properties = properties.with_timestamp(seconds("timestamp", timestamp)?);
        }
        if !self.headers.is_empty() {
            properties = properties.with_headers(table("headers", &self.headers, 0)?);
        }
        Ok(properties)
    }
}

impl fmt::Debug for Message {
    /// Without the body, which may be large or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("texts", &self.texts)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A message that AMQP can carry.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) mandatory: bool,
    /// At most so many bytes of properties.
    size: usize,
    /// It has an id.
    message: Message,
}

/// One copy of a message in AMQP's terms, all but the body.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
}

impl Packed {
    pub(crate) fn id(&self) -> &str {
        let id = self.message.message_id();
        id.expect("bug: it got one when it was packed")
    }

    /// Takes it from the last handle, or copies it.
    pub(crate) fn into_id(this: Arc<Self>) -> String {
        match Arc::try_unwrap(this) {
            Ok(packed) => packed
                .message
                .id
                .expect("bug: it got one when it was packed"),
            Err(shared) => shared.id().to_owned(),
        }
    }

    pub(crate) fn exchange(&self) -> &str {
        &self.message.exchange
    }

    pub(crate) fn routing_key(&self) -> &str {
        &self.message.routing_key
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.message.body
    }

    /// For another copy.
    pub(crate) fn wire(&self) -> Wire {
        let wire = self.message.wire();
        wire.expect("bug: AMQP could carry it before")
    }

    pub(crate) fn unpack(self) -> Message {
        self.message
    }

    /// What is wrong if its properties do not fit into a frame of this many bytes, 8 of which are the
    /// frame's own: the broker closes the connection over it (AMQP 0-9-1, section 2.3.5).
    pub(crate) fn overflow(&self, frame: u32) -> Option<InvalidMessage> {
        let size = self.size;
        let fits = frame == 0 || size + 8 <= frame as usize;
        let reason = || format!("about {size} bytes of properties do not fit into one frame");
        (!fits).then(|| InvalidMessage::new("headers", reason()))
    }
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Field::ContentType => "content_type",
            Field::ContentEncoding => "content_encoding",
            Field::CorrelationId => "correlation_id",
            Field::ReplyTo => "reply_to",
            Field::Type => "kind",
            Field::AppId => "app_id",
        }
    }

    fn set(self, properties: BasicProperties, text: ShortString) -> BasicProperties {
        match self {
            Field::ContentType => properties.with_content_type(text),
            Field::ContentEncoding => properties.with_content_encoding(text),
            Field::CorrelationId => properties.with_correlation_id(text),
            Field::ReplyTo => properties.with_reply_to(text),
            Field::Type => properties.with_type(text),
            Field::AppId => properties.with_app_id(text),
        }
    }
}

/// What a header can be.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "durable", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum HeaderValue {
    /// Nothing.
    Void,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number of no sign; one beyond `i64::MAX` is an error when the message is published,
    /// because RabbitMQ reads no such thing.
    UInt(u64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A moment, in whole seconds since 1970; an earlier one is an error.
    Timestamp(SystemTime),
    /// Several values.
    List(Vec<HeaderValue>),
    /// Several values with names of at most 255 bytes.
    Table(Vec<(String, HeaderValue)>),
}

macro_rules! from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for HeaderValue {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! {
    bool => Bool, i8 => Int, i16 => Int, i32 => Int, i64 => Int,
    u8 => UInt, u16 => UInt, u32 => UInt, u64 => UInt, f32 => Float, f64 => Float,
    &str => Text, String => Text, Vec<u8> => Bytes, SystemTime => Timestamp,
    Vec<HeaderValue> => List, Vec<(String, HeaderValue)> => Table,
}

/// A message that AMQP cannot carry. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message's {field} cannot be sent: {reason}")]
#[non_exhaustive]
pub struct InvalidMessage {
    /// Which of its parts is at fault.
    pub field: String,
    /// Why.
    pub reason: String,
}

impl InvalidMessage {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

fn short(field: &str, text: String) -> Result<ShortString, InvalidMessage> {
    ShortString::try_new(text).map_err(|error| InvalidMessage::new(field, error.to_string()))
}

fn milliseconds(ttl: Duration) -> Result<String, InvalidMessage> {
    let milliseconds = ttl.as_nanos().div_ceil(1_000_000);
    if milliseconds > LONGEST_TTL {
        return Err(InvalidMessage::new("ttl", "it is over 2^32 - 1 ms"));
    }
    Ok(milliseconds.to_string())
}

fn seconds(field: &str, moment: SystemTime) -> Result<u64, InvalidMessage> {
    let since = moment.duration_since(UNIX_EPOCH);
    let since = since.map_err(|_| InvalidMessage::new(field, "it is before 1970"))?;
    Ok(since.as_secs())
}

fn table(
    field: &str,
    entries: &[(String, HeaderValue)],
    depth: usize,
) -> Result<FieldTable, InvalidMessage> {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        let start: String = name.chars().take(40).collect();
        let path = format!("{field}.{start}");
        table.insert(short(&path, name.clone())?, amqp(&path, value, depth)?);
    }
    Ok(table)
}

fn amqp(field: &str, value: &HeaderValue, depth: usize) -> Result<AMQPValue, InvalidMessage> {
    if depth > DEEPEST {
        let reason = format!("it is nested more than {DEEPEST} deep");
        return Err(InvalidMessage::new(field, reason));
    }
    Ok(match value {
        HeaderValue::Void => AMQPValue::Void,
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::UInt(value) => AMQPValue::LongLongInt(
            i64::try_from(*value).map_err(|_| InvalidMessage::new(field, "it is over 2^63 - 1"))?,
        ),
        HeaderValue::Float(value) => AMQPValue::Double(*value),
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.clone())),
        HeaderValue::Timestamp(moment) => AMQPValue::Timestamp(seconds(field, *moment)?),
        HeaderValue::List(values) => {
            let values = values.iter().map(|value| amqp(field, value, depth + 1));
            AMQPValue::FieldArray(FieldArray::from(values.collect::<Result<Vec<_>, _>>()?))
        }
        HeaderValue::Table(entries) => AMQPValue::FieldTable(table(field, entries, depth + 1)?),
    })
}

fn table_size(entries: &[(String, HeaderValue)]) -> usize {
    let sizes = entries
        .iter()
        .map(|(name, value)| 1 + name.len() + size(value));
    sizes.sum()
}

/// At most so many bytes on the wire.
fn size(value: &HeaderValue) -> usize {
    9 + match value {
        HeaderValue::Text(text) => text.len(),
        HeaderValue::Bytes(bytes) => bytes.len(),
        HeaderValue::List(values) => values.iter().map(size).sum(),
        HeaderValue::Table(entries) => table_size(entries),
        _ => 0,
    }
}

/// No two are the same, in whatever process: a random beginning and a count.
fn fresh_id() -> String {
    static BEGINNING: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let beginning = BEGINNING.get_or_init(|| fastrand::Rng::new().u64(..));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{beginning:016x}-{count:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = 4096;

    fn field_of(message: Message) -> String {
        message.pack(true, FRAME).unwrap_err().field
    }

    #[test]
    fn names_over_255_bytes_are_errors_that_name_the_field() {
        let long = "x".repeat(256);
        let most = "x".repeat(255);
        let message = || Message::new("");
        assert!(
            message()
                .to(&most, &most)
                .id(&most)
                .pack(true, FRAME)
                .is_ok()
        );
        assert_eq!(field_of(message().to(&long, "")), "exchange");
        assert_eq!(field_of(message().to("", &long)), "routing_key");
        assert_eq!(field_of(message().id(&long)), "id");
        assert_eq!(field_of(message().content_type(&long)), "content_type");
        assert_eq!(field_of(message().correlation_id(&long)), "correlation_id");
        assert_eq!(field_of(message().reply_to(&long)), "reply_to");
        assert_eq!(field_of(message().kind(&long)), "kind");
        assert_eq!(field_of(message().app_id(&long)), "app_id");
        assert!(field_of(message().header(&long, 1)).starts_with("headers.xxx"));
    }

    #[test]
    fn what_amqp_cannot_carry_is_an_error_and_never_a_panic() {
        let message = || Message::new("");
        assert_eq!(field_of(message().ttl(Duration::MAX)), "ttl");
        assert_eq!(field_of(message().header("n", u64::MAX)), "headers.n");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(field_of(message().timestamp(before)), "timestamp");
        assert_eq!(field_of(message().header("t", before)), "headers.t");
        assert_eq!(field_of(message().header("h", "x".repeat(5000))), "headers");
        let mut deep = HeaderValue::Void;
        for _ in 0..100 {
            deep = HeaderValue::List(vec![deep]);
        }
        assert_eq!(field_of(message().header("deep", deep)), "headers.deep");
    }

    #[test]
    fn a_time_to_live_is_a_decimal_number_of_milliseconds() {
        let expiration = |ttl| {
            let (_, wire) = Message::new("").ttl(ttl).pack(true, FRAME).unwrap();
            wire.properties.expiration().clone().unwrap().to_string()
        };
        assert_eq!(expiration(Duration::from_secs(60)), "60000");
        assert_eq!(expiration(Duration::from_nanos(1)), "1");
        assert_eq!(expiration(Duration::ZERO), "0");
    }

    #[test]
    fn every_message_without_an_id_gets_its_own_and_every_copy_the_same() {
        let (packed, wire) = Message::new("").pack(true, FRAME).unwrap();
        let (other, _) = Message::new("").pack(true, FRAME).unwrap();
        assert_ne!(packed.id(), other.id());
        for wire in [wire, packed.wire()] {
            let sent = wire.properties.message_id().clone().unwrap();
            assert_eq!(sent.as_str(), packed.id());
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_says_what_it_is() {
        let json = Message::json(&[1, 2]).unwrap();
        let (packed, wire) = json.pack(true, FRAME).unwrap();
        assert_eq!(packed.body(), b"[1,2]");
        let content_type = wire.properties.content_type().clone().unwrap();
        assert_eq!(content_type.as_str(), "application/json");
    }
}
