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
    /// The broker does not want these credentials, or not on this virtual host, or knows no such
    /// host. Trying again would not help, and is not done.
    #[error("the broker refused the credentials or the virtual host: {0}")]
    Refused(#[source] lapin::Error),
    /// One of the files for TLS cannot be read, or not understood.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        cause: Arc<std::io::Error>,
    },
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
            ErrorKind::ProtocolError(told) => match told.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => true,
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    !passes(told.get_message().as_str())
                }
                _ => false,
            },
            _ => false,
        };
        if refused {
            Self::Refused(error)
        } else {
            Self::Failed(error)
        }
    }
}

/// RabbitMQ has the same code, 530, for what passes: as many connections as a limit allows, which
/// those may be that it has not missed yet, and a virtual host that is being started
/// (`rabbit_reader` of 3.10 to 4.1).
fn passes(told: &str) -> bool {
    let is_limit = told.contains("limit (") && told.ends_with(") is reached");
    is_limit || (told.contains(": vhost '") && told.ends_with("' is down"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_passes_and_a_refusal_does_not() {
        for told in [
            "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (3) is reached",
            "NOT_ALLOWED - connection refused for user 'u': user connection limit (3) is reached",
            "NOT_ALLOWED - access to vhost 'v' refused for user 'u': vhost 'v' is down",
        ] {
            assert!(passes(told), "{told}");
        }
        for told in [
            "NOT_ALLOWED - vhost connection limit (3) is reached not found",
            "NOT_ALLOWED - vhost v not found",
            "NOT_ALLOWED - vhost server is down not found",
            "NOT_ALLOWED - access to vhost 'v' refused for user 'u'",
        ] {
            assert!(!passes(told), "{told}");
        }
    }
}
