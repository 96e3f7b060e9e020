//! Why something could not be declared.

use std::time::Duration;

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use thiserror::Error;

use super::entity::Entity;
use crate::error::ChannelError;

/// Why a topology could not be declared. What comes before the entity was declared; of what comes
/// after it, what could be was.
#[derive(Debug, Clone, Error)]
#[error("{entity}: {kind}")]
#[non_exhaustive]
pub struct TopologyError {
    /// What could not be declared, the first if there are several.
    pub entity: Box<Entity>,
    /// Why.
    #[source]
    pub kind: TopologyErrorKind,
}

impl TopologyError {
    /// Whether trying the same again cannot help, unless somebody changes the broker.
    pub fn is_final(&self) -> bool {
        match &self.kind {
            TopologyErrorKind::Invalid(_)
            | TopologyErrorKind::Mismatch(_)
            | TopologyErrorKind::Missing(_)
            | TopologyErrorKind::Refused(_)
            | TopologyErrorKind::NotSupported(_) => true,
            TopologyErrorKind::Channel(error) => matches!(error, ChannelError::Closed(_)),
            TopologyErrorKind::Locked(_)
            | TopologyErrorKind::Unavailable(_)
            | TopologyErrorKind::Timeout(_) => false,
        }
    }
}

/// Why something could not be declared.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TopologyErrorKind {
    /// It makes no sense, or AMQP cannot say it. Nothing of the topology was sent.
    #[error("{0}")]
    Invalid(String),
    /// It exists with other properties, or the broker does not take these (406, precondition
    /// failed).
    #[error("it is not like that on the broker, or cannot be: {0}")]
    Mismatch(#[source] lapin::Error),
    /// What a binding ties does not exist (404, not found).
    #[error("something that it needs does not exist: {0}")]
    Missing(#[source] lapin::Error),
    /// The user may not (403, access refused).
    #[error("access refused: {0}")]
    Refused(#[source] lapin::Error),
    /// Another connection has it to itself (405, resource locked), perhaps one of our own that the
    /// broker has not missed yet. Worth another attempt.
    #[error("another connection has it to itself: {0}")]
    Locked(#[source] lapin::Error),
    /// The broker does not know such a thing, such as a kind of exchange, and closed the
    /// connection over it.
    #[error("the broker does not support it: {0}")]
    NotSupported(#[source] lapin::Error),
    /// The connection or the broker is in trouble. Worth another attempt.
    #[error("not now: {0}")]
    Unavailable(#[source] lapin::Error),
    /// There was no channel to declare on.
    #[error("no channel: {0}")]
    Channel(#[source] ChannelError),
    /// There was no end to it within this time. It may be declared all the same.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl From<lapin::Error> for TopologyErrorKind {
    fn from(error: lapin::Error) -> Self {
        let ErrorKind::ProtocolError(told) = error.kind() else {
            return Self::Unavailable(error);
        };
        match told.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Self::Mismatch(error),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Refused(error),
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Self::Locked(error),
            // RabbitMQ says 404 of a queue whose node is down as well (`rabbit_amqqueue:
            // not_found_or_absent`), which passes.
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
                if told.get_message().as_str().starts_with("NOT_FOUND - no ") =>
            {
                Self::Missing(error)
            }
            AMQPErrorKind::Hard(
                AMQPHardError::COMMANDINVALID
                | AMQPHardError::NOTALLOWED
                | AMQPHardError::NOTIMPLEMENTED
                | AMQPHardError::SYNTAXERROR,
            ) => Self::NotSupported(error),
            _ => Self::Unavailable(error),
        }
    }
}
