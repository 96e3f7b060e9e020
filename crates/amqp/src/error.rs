//! Why there is no connection or channel.

use std::{sync::Arc, time::Duration};

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use thiserror::Error;

/// Why a broker could not be connected to.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There was no end to it within this time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The broker does not want these credentials, or not on this virtual host. Trying again
    /// would not help, and is not done.
    #[error("the broker refused the credentials or the virtual host: {0}")]
    Refused(#[source] lapin::Error),
    /// It was there, and was lost.
    #[error("the connection was lost")]
    Lost,
    /// Anything else.
    #[error("the connection failed: {0}")]
    Failed(#[source] lapin::Error),
}

impl ConnectError {
    /// Whether trying again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl From<lapin::Error> for ConnectError {
    fn from(error: lapin::Error) -> Self {
        let refused = match error.kind() {
            ErrorKind::ProtocolError(error) => matches!(
                error.kind(),
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                    | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
            ),
            _ => false,
        };
        if refused {
            Self::Refused(error)
        } else {
            Self::Failed(error)
        }
    }
}

/// Why a channel could not be opened.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The cluster is closed: by its user, or because the broker refused it for good.
    #[error("the cluster is closed")]
    Closed(#[source] Option<Arc<ConnectError>>),
    /// Every connection has as many channels as the broker allows.
    #[error("every connection has as many channels as the broker allows")]
    Exhausted,
    /// The broker did not answer within this time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The broker or the connection said no.
    #[error("the channel could not be opened: {0}")]
    Failed(#[source] lapin::Error),
}
