//! What becomes of a message.

use std::time::Duration;

use crate::message::{InvalidMessage, Message};

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
    /// There was no connection within the deadline, or only one that the broker blocks. The message
    /// is gone.
    #[error("message {id} was not sent within {limit:?}: {cause}")]
    TimedOut {
        /// The message's id.
        id: String,
        /// The deadline.
        limit: Duration,
        /// What was missing.
        cause: String,
    },
    /// No channel could be opened. The message is gone.
    #[error("message {id} was not sent: {cause}")]
    NoChannel {
        /// The message's id.
        id: String,
        /// Why.
        cause: String,
    },
    /// The broker closed the channel because of the exchange that the message named: there is none,
    /// or it may not be used. The message is gone.
    #[error("the broker refused message {id}: {cause}")]
    Refused {
        /// The message's id.
        id: String,
        /// What the broker said.
        #[source]
        cause: lapin::Error,
    },
}

/// Messages that had no verdict when the time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} messages have no verdict")]
pub struct Unresolved {
    /// How many.
    pub count: u64,
}
