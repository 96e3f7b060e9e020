//! What becomes of a message.

use std::time::Duration;

use wharf::GetError;

use crate::{
    error::ChannelError,
    message::{InvalidMessage, Message},
};

/// What became of a message that was handed to a connection. Exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Receipt {
    /// The broker has taken responsibility for it.
    Confirmed {
        /// The message's id.
        id: String,
        /// How often it was sent again: so many copies there may be besides.
        republished: u32,
    },
    /// It was mandatory, and could be routed to no queue.
    Returned {
        /// The message's id.
        id: String,
        /// The broker's code: 312 for no route.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker refused it, and it is in no queue that refused it: a full one that rejects, for
    /// example. If it was routed to several queues, others may have it.
    Rejected {
        /// The message's id.
        id: String,
    },
    /// Nobody can say whether it arrived: there was no verdict within the deadline.
    Unknown {
        /// The message's id.
        id: String,
        /// How often it was sent again.
        republished: u32,
    },
}

impl Receipt {
    /// The message's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Confirmed { id, .. }
            | Self::Returned { id, .. }
            | Self::Rejected { id }
            | Self::Unknown { id, .. } => id,
        }
    }

    /// Whether the broker has taken responsibility.
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }
}

/// Why a message was certainly not published. No queue has it, and none will.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// AMQP cannot carry it.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// The publisher or the cluster is closed. Here is the message.
    #[error("the publisher is closed")]
    Closed(Box<Message>),
    /// Its turn did not come within the deadline: the window was full of messages without a
    /// verdict. Here is the message.
    #[error("not sent within {limit:?}: the window is full")]
    WindowFull {
        /// The deadline.
        limit: Duration,
        /// What was not sent.
        message: Box<Message>,
    },
    /// There was no channel within the deadline, or only one on a connection that the broker blocks.
    /// Here is the message.
    #[error("not sent within {limit:?}: {}", why_no_channel(cause.as_deref()))]
    TimedOut {
        /// The deadline.
        limit: Duration,
        /// Why there was no channel; none if the broker blocked the connection.
        #[source]
        cause: Option<Box<GetError<ChannelError>>>,
        /// What was not sent.
        message: Box<Message>,
    },
    /// No channel could be opened. Here is the message.
    #[error("there is no channel to publish on")]
    NoChannel {
        /// Why.
        #[source]
        cause: Box<GetError<ChannelError>>,
        /// What was not sent.
        message: Box<Message>,
    },
    /// The broker closed the channel because of this message: there is no such exchange, or it may
    /// not be used, or the body is larger than the broker takes. Here is the message.
    ///
    /// If the exchange was deleted while several messages to it were under way, a queue may have one
    /// that came before.
    #[error("the broker refused the message: {cause}")]
    Refused {
        /// What the broker said.
        #[source]
        cause: lapin::Error,
        /// What was not published.
        message: Box<Message>,
    },
}

impl PublishError {
    /// The message, with its id; none if AMQP cannot carry it.
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::Invalid(_) => None,
            Self::Closed(message)
            | Self::WindowFull { message, .. }
            | Self::TimedOut { message, .. }
            | Self::NoChannel { message, .. }
            | Self::Refused { message, .. } => Some(*message),
        }
    }
}

pub(super) fn why_no_channel(cause: Option<&GetError<ChannelError>>) -> &'static str {
    match cause {
        Some(_) => "there was no channel",
        None => "the broker has blocked the connection",
    }
}

/// Messages that had no verdict when the time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} messages have no verdict")]
pub struct Unresolved {
    /// How many.
    pub count: u64,
}
