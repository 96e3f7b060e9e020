//! Putting a message on a channel, and again on another when the first was lost.

use std::sync::{Arc, atomic::Ordering};

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use tokio::time::timeout_at;
use wharf::GetError;

use super::{
    entry::{Cause, Entry, Fate},
    seat::Refusal,
    window::Home,
};
use crate::{error::ChannelError, io, link::Health, message::Packed};

/// Under how many channels' ends a message is sent again: one of those that were open on them is
/// what the broker closes them for.
const EXCEPTIONS: u32 = 3;

/// Sends messages of unknown fate again, those of each publisher in the order they came in, so that
/// deadlines are met: they ascend only among those.
pub(super) fn publish(mut lost: Vec<Box<Entry>>) {
    lost.sort_by_key(|entry| entry.number);
    for same in by_publisher(lost) {
        io::spawn(publish_of_one(same));
    }
}

fn by_publisher(mut entries: Vec<Box<Entry>>) -> Vec<Vec<Box<Entry>>> {
    let mut groups = Vec::new();
    while let Some(first) = entries.first() {
        let home = Arc::clone(&first.home);
        let (same, others) = entries
            .into_iter()
            .partition(|entry| Arc::ptr_eq(&entry.home, &home));
        groups.push(same);
        entries = others;
    }
    groups
}

async fn publish_of_one(lost: Vec<Box<Entry>>) {
    if let Some(first) = lost.first() {
        first.home.told.publishing_again(lost.len());
    }
    for mut entry in lost {
        if entry.exceptions >= EXCEPTIONS {
            entry.settle(Fate::Unknown);
            continue;
        }
        entry.republished += 1;
        let counts = &entry.home.counts;
        counts.republished.fetch_add(1, Ordering::Relaxed);
        entry.home.told.republished();
        let home = Arc::clone(&entry.home);
        place(&home, entry).await;
    }
}

/// Places messages that were not sent, for their channel is closed.
pub(super) fn place_elsewhere(entries: Vec<Box<Entry>>) {
    for same in by_publisher(entries) {
        io::spawn(async move {
            for entry in same {
                let home = Arc::clone(&entry.home);
                place(&home, entry).await;
            }
        });
    }
}

/// Hands a message of this publisher to a channel, within its deadline, or settles it.
///
/// # Cancel safety
///
/// Dropped before the message was handed over, it is not sent.
pub(super) async fn place(home: &Home, mut entry: Box<Entry>) {
    loop {
        let deadline = entry.deadline;
        let refusal = home.seat.submit(entry);
        entry = match refusal {
            Ok(()) => return,
            Err(Refusal::Vacant(entry)) => match home.seat.take(deadline).await {
                Ok(()) => entry,
                Err(error) => return refuse(entry, cause(error)),
            },
            Err(Refusal::Blocked(entry, mut health)) => {
                // What is handed to a blocked connection cannot be taken back.
                let free = health.wait_for(|health| !matches!(health, Health::Blocked(_)));
                if timeout_at(deadline, free).await.is_err() {
                    return refuse(entry, Cause::TimedOut(None));
                }
                entry
            }
            Err(Refusal::Invalid(entry, invalid)) => {
                return refuse(entry, Cause::Invalid(invalid));
            }
        };
    }
}

fn refuse(mut entry: Box<Entry>, cause: Cause) {
    entry.settle(Fate::NotSent(cause));
}

fn cause(error: GetError<ChannelError>) -> Cause {
    match error {
        GetError::Closed => Cause::Closed,
        GetError::Timeout { .. } => Cause::TimedOut(Some(error)),
        _ => Cause::NoChannel(error),
    }
}

/// What a lost message had to do with the end of its channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    None,
    /// It may be what the broker closed it for.
    Perhaps,
    /// It is what the broker closed it for.
    Cause,
}

/// The broker names the exchange that is missing or forbidden ([RabbitMQ: channels][1]), or the size
/// that is too large (`rabbit_channel` of RabbitMQ 3.10.8).
///
/// [1]: https://www.rabbitmq.com/docs/channels#error-handling
pub(super) fn part(error: &lapin::Error, packed: &Packed) -> Part {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return Part::None;
    };
    let (sign, own) = match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::ACCESSREFUSED) => {
            let name = match packed.exchange() {
                "" => "amq.default",
                name => name,
            };
            let exchange = format!("exchange '{name}' in vhost");
            if error.get_message().as_str().contains("access to topic '") {
                (
                    "topic '",
                    format!("topic '{}' in {exchange}", packed.routing_key()),
                )
            } else {
                ("exchange '", exchange)
            }
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            let size = packed.body().len();
            ("message size ", format!("message size {size} is larger"))
        }
        // Somebody closed the connection by hand.
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => return Part::None,
        _ => return Part::Perhaps,
    };
    let told = error.get_message().as_str();
    if told.contains(&own) || is_beginning(told, sign, &own) {
        Part::Cause
    } else if told.contains(sign) {
        Part::None
    } else {
        Part::Perhaps
    }
}

/// RabbitMQ cuts what it says at 255 bytes (`rabbit_binary_generator`), with three dots at the end.
fn is_beginning(told: &str, sign: &str, own: &str) -> bool {
    told.strip_suffix("...")
        .and_then(|told| Some(&told[told.find(sign)?..]))
        .is_some_and(|told| own.starts_with(told))
}
