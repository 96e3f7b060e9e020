//! Putting a message on a channel, and again on another when the first was lost.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
};
use tokio::time::timeout_at;
use wharf::GetError;

use super::{
    collector::Collector,
    entry::{Entry, Fate},
    outcome::PublishError,
};
use crate::{error::ChannelError, io, link::Health, message::Packed};

/// Under how many channels' ends a message is sent again: one of those that were open on them is
/// what the broker closes them for.
const EXCEPTIONS: u32 = 3;

/// Sends messages of unknown fate again, in the order they were first sent in.
pub(super) fn publish(lost: Vec<Entry>) {
    io::spawn(async move {
        for mut entry in lost {
            if entry.exceptions >= EXCEPTIONS {
                entry.settle(Fate::Unknown);
                continue;
            }
            entry.republished += 1;
            entry
                .home
                .counts
                .republished
                .fetch_add(1, Ordering::Relaxed);
            place(entry).await;
        }
    });
}

/// Hands the message to a channel, within its deadline, or settles it.
///
/// # Cancel safety
///
/// Dropped before the message was handed over, it is not sent.
pub(super) async fn place(mut entry: Entry) {
    let home = Arc::clone(&entry.home);
    let pool = &home.pool;
    loop {
        let lease = match pool.get_deadline(entry.deadline).await {
            Ok(lease) => lease,
            Err(error) => return fail(&mut entry, &error),
        };
        if lease.link().is_blocked() {
            let mut health = lease.link().health();
            drop(lease);
            // What is handed to a blocked connection cannot be taken back.
            let free = health.wait_for(|health| !matches!(health, Health::Blocked(_)));
            if timeout_at(entry.deadline, free).await.is_err() {
                return give_up(&mut entry, "the broker has blocked the connection".into());
            }
            continue;
        }
        let collector = Collector::of(&lease);
        if collector.is_retired() {
            // What is open on it is seen through.
            Collector::retire(lease.detach());
            continue;
        }
        match collector.launch(&lease, entry) {
            Ok(()) => return,
            Err(back) => {
                entry = back;
                lease.discard();
            }
        }
    }
}

fn fail(entry: &mut Entry, error: &GetError<ChannelError>) {
    match error {
        GetError::Timeout { .. } => give_up(entry, error.to_string()),
        _ => {
            let id = entry.id.clone();
            let cause = error.to_string();
            entry.settle(Fate::NotSent(PublishError::NoChannel { id, cause }));
        }
    }
}

fn give_up(entry: &mut Entry, cause: String) {
    let limit: Duration = entry.home.deadline;
    let id = entry.id.clone();
    entry.settle(Fate::NotSent(PublishError::TimedOut { id, limit, cause }));
}

/// Whether the broker closed the channel because of this message: it names the exchange that is
/// missing or forbidden, in single quotes ([RabbitMQ: channels][1]).
///
/// [1]: https://www.rabbitmq.com/docs/channels#error-handling
pub(super) fn blames(error: &lapin::Error, message: &Packed) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    let told = matches!(
        error.kind(),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::ACCESSREFUSED)
    );
    let name = format!("exchange '{}' in vhost", message.exchange);
    told && error.get_message().as_str().contains(&name)
}
