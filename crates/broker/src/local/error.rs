//! What can go wrong between a client in the process and its broker.

use thiserror::Error;

use crate::engine::Disconnected;

/// A name is longer than AMQP can say: a short string has at most 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} is longer than 255 bytes")]
#[non_exhaustive]
pub struct TooLong {
    /// Which name.
    pub what: &'static str,
}

/// A command was not carried out. Nothing else has changed: other consumers, queues and deliveries
/// are as they were.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The broker refuses it, with the code and text for which it closes the channel of a client
    /// with a socket.
    #[error("{text} ({code})")]
    Refused {
        /// The reply code, such as 404.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// A name in it is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The connection is over.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

/// A message was not published, unless the variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// There is no queue that the message is for. It is dropped.
    #[error("no queue takes the message")]
    Unroutable,
    /// A queue is full and rejects it. Other queues that the message is for have it.
    #[error("a full queue rejects the message")]
    Rejected,
    /// The broker takes no message, for want of memory or on request, and this client has already
    /// published one since. Only [`Local::try_publish`](crate::Local::try_publish) says so.
    #[error("the broker takes no messages at the moment")]
    Blocked,
    /// The broker refuses it: there is no such exchange, the message is too large, or a property is
    /// wrong.
    #[error("{text} ({code})")]
    Refused {
        /// The reply code, such as 404.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// The exchange or the routing key is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The connection is over. If it ended at this moment, the message may have been published.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

/// A delivery was not settled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AckError {
    /// It is settled already. The consumer has ended with that, as any channel does that settles
    /// twice, and all it had not settled is back in the queue.
    #[error("{text} ({code})")]
    Refused {
        /// The reply code: 406.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// Its consumer was dropped or has ended, and the delivery went back to its queue.
    #[error("the consumer of the delivery is gone")]
    ConsumerGone,
    /// The connection is over, and the delivery went back to its queue.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

/// Why a consumer gets no more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumerEnd {
    /// [`LocalConsumer::cancel`](crate::LocalConsumer::cancel) was called, or the queue is gone. What
    /// was delivered can still be settled.
    #[error("the consumer is cancelled")]
    Cancelled,
    /// The broker has closed its channel: a delivery was settled twice, or a script did it. What was
    /// not settled is back in the queue.
    #[error("the broker has closed the consumer: {text} ({code})")]
    Closed {
        /// The reply code.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// The connection is over. What was not settled is back in the queue.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}
