//! Messages as bytes, for a journal.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use wharf_outbox::{BoxError, Codec};

use super::{Field, HeaderValue, Message};

/// The first byte of a record, which says what follows. One that says something else is read by no
/// version of this crate so far.
const VERSION: u8 = 1;

/// Writes messages for a journal and reads them again, in whatever later version of this crate.
///
/// A record is a byte that says how the rest is written: 1 for the message's parts, in
/// [postcard's wire format][1].
///
/// [1]: https://postcard.jamesmunns.com/wire-format
///
/// ```no_run
/// # fn example(publisher: wharf_amqp::Publisher) -> Result<(), Box<dyn std::error::Error>> {
/// use wharf_amqp::{MessageCodec, outbox::journal::Disk};
///
/// let journal = Disk::open("orders.outbox")?;
/// let publisher = publisher.with_outbox(|outbox| outbox.journal(journal, MessageCodec))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageCodec;

impl Codec<Message> for MessageCodec {
    fn encode(&self, message: &Message, into: &mut Vec<u8>) -> Result<(), BoxError> {
        into.push(VERSION);
        *into = postcard::to_extend(&Written(message), std::mem::take(into))?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Message, BoxError> {
        let Some((&VERSION, bytes)) = bytes.split_first() else {
            return Err("it was written by another version".into());
        };
        match postcard::take_from_bytes(bytes)? {
            (Read(message), []) => Ok(message),
            _ => Err("something follows the message".into()),
        }
    }
}

struct Written<'a>(&'a Message);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts::serialize(self.0, serializer)
    }
}

#[derive(Deserialize)]
struct Read(#[serde(with = "Parts")] Message);

/// The order of these is the format: another order needs another version.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Message")]
struct Parts {
    body: Bytes,
    exchange: String,
    routing_key: String,
    persistent: bool,
    mandatory: Option<bool>,
    ttl: Option<Duration>,
    priority: Option<u8>,
    timestamp: Option<SystemTime>,
    id: Option<String>,
    texts: Vec<(Field, String)>,
    headers: Vec<(String, HeaderValue)>,
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn full() -> Message {
        Message::new("body")
            .to("orders", "eu.paid")
            .persistent()
            .mandatory(false)
            .ttl(Duration::from_millis(1500))
            .priority(7)
            .timestamp(UNIX_EPOCH + Duration::from_secs(3))
            .id("one")
            .content_type("a")
            .content_encoding("b")
            .correlation_id("c")
            .reply_to("d")
            .kind("e")
            .app_id("f")
            .header("void", HeaderValue::Void)
            .header("bool", true)
            .header("int", -1)
            .header("uint", u64::MAX)
            .header("float", 0.5)
            .header("text", "x")
            .header("bytes", vec![1_u8, 2])
            .header("moment", UNIX_EPOCH)
            .header("list", vec![HeaderValue::Int(1)])
            .header("table", vec![("k".to_owned(), HeaderValue::Void)])
    }

    /// What `full` was written as by the first version that wrote it.
    const FULL: &str = concat!(
        "0104626f6479066f72646572730765752e70616964010100010180cab5ee01010701030001036f6e6506",
        "0001610101620201630301640401650501660a04766f69640004626f6f6c010103696e7402010475696e",
        "7403ffffffffffffffffff0105666c6f617404000000000000e03f047465787405017805627974657306",
        "020102066d6f6d656e74070000046c69737408010202057461626c650901016b00",
    );

    fn written(message: &Message) -> Vec<u8> {
        let mut bytes = b"before".to_vec();
        MessageCodec.encode(message, &mut bytes).unwrap();
        bytes.split_off(6)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        for message in [Message::new(""), full()] {
            assert!(MessageCodec.decode(&written(&message)).unwrap() == message);
        }
    }

    #[test]
    fn a_record_is_written_as_it_always_was() {
        assert_eq!(hex(&written(&full())), FULL);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let whole = written(&full());
        for length in 0..whole.len() {
            assert!(MessageCodec.decode(&whole[..length]).is_err(), "{length}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(MessageCodec.decode(&longer).is_err());
        let newer = [&[VERSION + 1], &whole[1..]].concat();
        assert!(MessageCodec.decode(&newer).is_err());
    }
}
