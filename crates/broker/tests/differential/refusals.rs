//! What each thing that a client may not do is answered with, to the frame: reply codes, texts,
//! class and method ids.

use amq_protocol::types::AMQPValue::{Boolean, LongInt};
use amq_protocol::types::FieldTable;

use crate::frames::Sent;
use crate::methods::*;
use crate::{declaring, disorder, messaging};

/// What is there in every vhost before the first case.
pub(crate) fn ground() -> Vec<Sent> {
    vec![
        declare("plain", |_| {}),
        declare("short", |declare| {
            declare.arguments = with("x-message-ttl", LongInt(60_000));
        }),
        declare("single", |declare| {
            declare.arguments = with("x-single-active-consumer", Boolean(true));
        }),
        declare("full", |declare| {
            declare.arguments = with("x-max-length", LongInt(5));
        }),
        declare_exchange("direct", "direct", |_| {}),
        declare_exchange("inner", "fanout", |declare| declare.internal = true),
        bind("plain", "direct", "key", FieldTable::default()),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let parts = [declaring::cases(), messaging::cases(), disorder::cases()];
    parts.into_iter().flatten().collect()
}
