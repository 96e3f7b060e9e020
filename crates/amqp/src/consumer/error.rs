//! Why there is no subscription, and why one did not end well.

use std::time::Duration;

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use thiserror::Error;

use crate::{
    error::ChannelError,
    topology::{TopologyError, TopologyErrorKind},
};

/// Why a consumer has no subscription. No message is lost by any of these: what was delivered and
/// not acknowledged is delivered again.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A setting makes no sense. Nothing was sent.
    #[error("{field} must be {bound}")]
    Setting {
        /// The method of the builder.
        field: &'static str,
        /// What it must be.
        bound: &'static str,
    },
    /// The broker knows no such queue, or its node is down (reply code 404).
    #[error("no such queue: {0}")]
    NoQueue(#[source] lapin::Error),
    /// The queue is another's alone: an exclusive consumer's (403), or another connection's (405).
    #[error("the queue is in exclusive use: {0}")]
    InUse(#[source] lapin::Error),
    /// The user may not read the queue (403).
    #[error("the broker refused access to the queue: {0}")]
    Refused(#[source] lapin::Error),
    /// The broker takes no such subscription: its arguments are wrong, or the queue is of a kind
    /// that has no such thing (406, 530, 540).
    #[error("the broker does not accept the subscription: {0}")]
    Invalid(#[source] lapin::Error),
    /// There was no subscription within this time.
    #[error("no subscription within {0:?}")]
    Timeout(Duration),
    /// There is no channel for it.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The consumer's topology could not be declared; the error names the entity.
    #[error("the topology could not be declared: {0}")]
    Topology(#[from] TopologyError),
    /// The broker ended the subscription: the queue was deleted, or moved
    /// ([RabbitMQ: consumer cancel notify][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/consumer-cancel
    #[error("the broker ended the subscription")]
    Cancelled,
    /// The connection was lost, and nobody said why.
    #[error("the connection was lost")]
    Lost,
    /// Anything else that became of the channel or its connection.
    #[error("the channel failed: {0}")]
    Failed(#[source] lapin::Error),
}

impl ConsumeError {
    /// What the broker answered to a subscription.
    pub(super) fn refusal(error: lapin::Error) -> Self {
        let ErrorKind::ProtocolError(answer) = error.kind() else {
            return Self::Failed(error);
        };
        match answer.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Self::NoQueue(error),
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Self::InUse(error),
            // RabbitMQ has one code for both.
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                if answer.get_message().as_str().contains("exclusive") =>
            {
                Self::InUse(error)
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Refused(error),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED) => {
                Self::Invalid(error)
            }
            _ => Self::Failed(error),
        }
    }

    /// Whether trying again cannot help: the settings, the rights or the arguments are wrong, the
    /// topology is not as the broker has it, or the cluster is closed.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Setting { .. }
            | Self::Refused(_)
            | Self::Invalid(_)
            | Self::Channel(ChannelError::Closed(_)) => true,
            // Somebody else's exchange, which may be on its way back.
            Self::Topology(error) if matches!(error.kind, TopologyErrorKind::Missing(_)) => false,
            Self::Topology(error) => error.is_final(),
            _ => false,
        }
    }

    /// Whether it is final for a consumer that begins. What is absent is, and a queue in use, for
    /// that is how a mistyped name looks. One that recovers tries again: the queue may be on its
    /// way back, or held by its own former connection.
    pub(super) fn is_final_at_start(&self) -> bool {
        match self {
            Self::NoQueue(_) | Self::InUse(_) => true,
            Self::Topology(error) => error.is_final(),
            _ => self.is_final(),
        }
    }
}

/// How a consumer ended that could not end well. In each case what was not acknowledged is
/// delivered again by the broker, to this queue's other consumers or to the next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StopError {
    /// So many deliveries were still being processed when the time was up. Their handlers were cut
    /// off at their next await; their messages are handed back.
    #[error("{cut_off} deliveries were still being processed when the time was up")]
    CutOff {
        /// How many.
        cut_off: usize,
    },
    /// The broker did not answer in time: the last acknowledgements may not have reached it, and
    /// messages that were processed may be delivered again.
    #[error("the broker did not answer in time; {cut_off} deliveries were cut off")]
    NoAnswer {
        /// How many deliveries were still being processed.
        cut_off: usize,
    },
}

/// The delivery's channel is gone, and with it the right to settle it: the broker delivers the
/// message again, and nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the delivery's channel is gone; the broker delivers the message again")]
pub struct Stale;
