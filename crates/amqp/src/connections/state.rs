//! How a cluster is.

use std::sync::Arc;

use crate::error::ConnectError;

/// How a [`Cluster`](crate::Cluster) is.
///
/// ```text
///   Connecting ──▶ Up ◀──▶ Blocked
///       │          ▲ │        │
///       ▼          │ ▼        │
///      Down ───────┘ Down ◀───┘      any of them ──▶ Closed
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// Nothing has been lost, but there is no connection yet.
    Connecting,
    /// All connections that are needed are there, or on their way for the first time.
    Up,
    /// The connections are there, but the broker reads nothing from one that publishes, because it
    /// is short of memory or disk ([RabbitMQ: blocked connections][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/connection-blocked
    Blocked {
        /// The broker's words.
        reason: Arc<str>,
    },
    /// A connection that is needed is missing, and could not be made.
    Down {
        /// Why the last attempt failed.
        cause: Arc<ConnectError>,
        /// How many rounds over the hosts have failed since the outage began, and before, if
        /// connections come and go.
        attempt: u32,
    },
    /// There will be no connections any more.
    Closed {
        /// What the broker said, if it refused the credentials or the virtual host; none if the
        /// user closed the cluster.
        cause: Option<Arc<ConnectError>>,
    },
}

impl State {
    /// Whether everything that is needed is there, and not blocked.
    pub fn is_up(&self) -> bool {
        matches!(self, State::Up)
    }

    /// Whether this is the end.
    pub fn is_closed(&self) -> bool {
        matches!(self, State::Closed { .. })
    }
}
