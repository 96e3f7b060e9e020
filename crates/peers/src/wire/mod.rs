//! What peers say to each other: the bodies of the AMQP messages between them.
//!
//! A body is a byte for the version, a byte for the kind, and the rest. Hello, welcome and receipts
//! are written with [postcard](https://postcard.jamesmunns.com/wire-format); packets follow each
//! other behind a header of the same format, each with its length, so that they are sliced out of the
//! body and not copied.
//!
//! Everything here comes from a stranger until it is decoded. Nothing it claims sizes an allocation.

mod packets;

pub(crate) use packets::{Packed, Packer, Packets, largest_body};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The version of everything here. Another one is refused.
const VERSION: u8 = 1;

/// The longest reason of a rejection that is sent, in bytes.
pub(crate) const LONGEST_REASON: usize = 256;

/// One life of a process as a peer: what it has sent, and what it remembers of others, ends with it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Epoch(pub(crate) u64);

/// A sender's first word on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) epoch: Epoch,
    /// Connections have ascending numbers, so that a hello that comes late is known as such.
    pub(crate) connection: u64,
    /// Everything below this number is settled, as the sender knows.
    pub(crate) base: u64,
}

/// The receiver's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Whose word this is: another epoch than the last time means that the receiver has restarted.
    pub(crate) receiver: Epoch,
    /// The number it is to be sent next: it has everything below.
    pub(crate) next: u64,
    pub(crate) receipt: Receipt,
    pub(crate) limits: Limits,
}

/// What a receiver takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The largest packet, in bytes.
    pub(crate) packet: u32,
    /// Packets that are sent and not handled, at most.
    pub(crate) window: u32,
    /// Their bytes, at most; each counts as [`weight`] says.
    pub(crate) window_bytes: u64,
}

/// What has become of packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The sender's epoch.
    pub(crate) epoch: Epoch,
    /// Everything below this number is handled.
    pub(crate) handled: u64,
    /// Those of them that were rejected, in ascending order, and were not told on this connection. If
    /// there are many, `handled` ends before the first that has no room.
    pub(crate) rejected: Vec<Rejected>,
}

/// A packet that its handler did not accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) number: u64,
    pub(crate) reason: String,
}

/// What a sender says.
#[derive(Debug)]
pub(crate) enum ToReceiver {
    Hello(Hello),
    Packets(Packets),
}

/// What a receiver says.
#[derive(Debug, PartialEq)]
pub(crate) enum ToSender {
    Welcome(Welcome),
    Receipt(Receipt),
    /// Another process of the same name as this life of the sender has said hello, and is listened to
    /// from now on.
    Replaced(Epoch),
}

/// Bytes that are none of these.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    #[error("it speaks version {0} of the protocol, and not {VERSION}")]
    Version(u8),
    #[error("it sent what is not understood")]
    Unintelligible,
}

const HELLO: u8 = b'H';
const PACKETS: u8 = b'P';
const WELCOME: u8 = b'W';
const RECEIPT: u8 = b'R';
const REPLACED: u8 = b'X';

/// What a packet of this many bytes weighs in a window.
pub(crate) fn weight(packet: usize) -> usize {
    // What it costs to remember it.
    const OVERHEAD: usize = 64;
    packet + OVERHEAD
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(HELLO, self)
    }
}

impl ToReceiver {
    pub(crate) fn decode(body: &Bytes) -> Result<Self, Malformed> {
        match open(body)? {
            (HELLO, rest) => closed(rest).map(Self::Hello),
            (PACKETS, _) => Packets::read(&body.slice(2..)).map(Self::Packets),
            _ => Err(Malformed::Unintelligible),
        }
    }
}

impl ToSender {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome(welcome) => encode(WELCOME, welcome),
            Self::Receipt(receipt) => encode(RECEIPT, receipt),
            Self::Replaced(epoch) => encode(REPLACED, epoch),
        }
    }

    /// The life of the sender that it is for.
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Welcome(welcome) => welcome.receipt.epoch,
            Self::Receipt(receipt) => receipt.epoch,
            Self::Replaced(epoch) => *epoch,
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        match open(body)? {
            (WELCOME, rest) => closed(rest).map(Self::Welcome),
            (RECEIPT, rest) => closed(rest).map(Self::Receipt),
            (REPLACED, rest) => closed(rest).map(Self::Replaced),
            _ => Err(Malformed::Unintelligible),
        }
    }
}

fn encode(kind: u8, what: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(what, vec![VERSION, kind]).expect("bug: numbers and text can be written")
}

/// The kind and the rest.
fn open(body: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    match body {
        [VERSION, kind, rest @ ..] => Ok((*kind, rest)),
        [version, _, ..] => Err(Malformed::Version(*version)),
        _ => Err(Malformed::Unintelligible),
    }
}

/// All of the rest as one thing.
fn closed<T: DeserializeOwned>(rest: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(rest) {
        Ok((read, [])) => Ok(read),
        _ => Err(Malformed::Unintelligible),
    }
}

/// A reason as it is sent: no longer than [`LONGEST_REASON`].
pub(crate) fn reason(text: String) -> String {
    if text.len() <= LONGEST_REASON {
        return text;
    }
    let mut end = LONGEST_REASON;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
