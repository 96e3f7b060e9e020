//! How a client in the process learns that its connection is over.

use std::sync::OnceLock;

use thiserror::Error;

/// Why the connection of a [`Local`](crate::Local) is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Disconnected {
    /// The broker has closed it: it was stopped, somebody closed the connection, or a script did.
    #[error("the broker has closed the connection: {text} ({code})")]
    Closed {
        /// The reply code.
        code: u16,
        /// The reply text.
        text: String,
    },
    /// The broker was dropped.
    #[error("the broker is gone")]
    BrokerGone,
    /// The [`Local`](crate::Local) was dropped.
    #[error("the client of this consumer is gone")]
    ClientGone,
}

/// The last word on a connection, said once. It needs no answer: nobody waits for a client that is in
/// the same process.
pub(crate) type Farewell = OnceLock<Disconnected>;
