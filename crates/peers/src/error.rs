//! What can go wrong, and how a peer is.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;

use crate::config::SettingError;

/// Why a packet was not accepted by the other side's handler, as far as is known.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no peer of this name.
    #[error("there is no peer {name:?}")]
    UnknownPeer {
        /// The name.
        name: String,
    },
    /// The packet is larger than this peer sends, or than the other one takes.
    #[error("a packet of {size} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest, in bytes.
        limit: usize,
    },
    /// The peer is not connected, and [`Offline::Fail`](crate::Offline::Fail) is set.
    #[error("the peer is not connected: {0}")]
    NotConnected(#[source] Cause),
    /// The peer does not know this token, or this name.
    #[error("the peer refused this one's name or token")]
    Unauthorised,
    /// There was no answer in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
        /// Whether it was sent, so that it may yet be handled, or may have been.
        sent: bool,
    },
    /// The handler did not accept it.
    #[error("the peer's handler rejected it: {reason}")]
    Rejected {
        /// What the handler said, up to 256 bytes.
        reason: String,
    },
    /// It was sent to a process that is gone, and another has its place.
    #[error("the peer has restarted, and may have handled it before")]
    Restarted,
    /// This peer is stopped.
    #[error("this peer is stopped")]
    Closed {
        /// Whether it was sent, so that it may yet be handled, or may have been.
        sent: bool,
    },
}

impl SendError {
    /// Whether the other side's handler may have seen the packet, or may yet.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::TimedOut { sent, .. } | Self::Closed { sent } => *sent,
            Self::Rejected { .. } | Self::Restarted => true,
            Self::UnknownPeer { .. }
            | Self::TooLarge { .. }
            | Self::NotConnected(_)
            | Self::Unauthorised => false,
        }
    }
}

/// Why a peer is not connected.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Cause {
    /// No attempt has ended yet.
    #[error("there was no attempt yet")]
    NotYet,
    /// It refused this one's name or token.
    #[error("it refused this one's name or token")]
    Unauthorised,
    /// It could not be reached, or did not answer as a peer does.
    #[error("{0}")]
    Unreachable(#[source] Arc<dyn Error + Send + Sync>),
    /// It was connected, and the connection is gone.
    #[error("the connection was lost")]
    Lost,
    /// What it said makes no sense.
    #[error("{0}")]
    Protocol(String),
    /// Another process of this one's name talks to it now. The next attempt, which takes its place in
    /// turn, is made after at least half of [`reconnect.max`](crate::Config::reconnect).
    #[error("another process of the same name has taken the connection over")]
    Replaced,
    /// Its address was changed.
    #[error("its address was changed")]
    Moved,
}

/// How the connection to a peer is.
///
/// ```text
///   Connecting ──▶ Connected
///       ▲  │           │
///       │  ▼           ▼
///     Disconnected ◀───┘      any of them ──▶ Closed
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerState {
    /// An attempt is under way.
    Connecting,
    /// It takes packets.
    Connected,
    /// The next attempt comes by itself.
    Disconnected {
        /// Why.
        cause: Cause,
    },
    /// This peer was stopped.
    Closed,
}

impl PeerState {
    /// Whether it takes packets.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

/// Whether this peer can be reached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ListenerState {
    /// It is not to be.
    None,
    /// Not yet.
    Starting,
    /// At this address.
    Listening(SocketAddr),
    /// The address could not be had; the next attempt comes by itself.
    Waiting {
        /// Why not.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// This peer was stopped.
    Closed,
}

/// Why there is no peer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// There are no threads to be had, or no tokio runtime for the handler.
    #[error("nothing can be run: {0}")]
    Runtime(#[source] io::Error),
    /// The pool of connections cannot be made as it is set.
    #[error(transparent)]
    Pool(#[from] wharf::BuildError),
}

/// Not everything was answered in time. The peer is stopped nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{unanswered} packets were without an answer, and {unhandled} were not handled")]
#[non_exhaustive]
pub struct StopError {
    /// Packets that this peer was still to send, or to hear of. Each `send` was told.
    pub unanswered: usize,
    /// Packets that its handler had not been given, or was not done with. Their senders hear nothing
    /// of them.
    pub unhandled: usize,
}

/// Wrapped in the error of a handler, says that the sender of this packet is not to be trusted: see
/// [`Config::disconnect_untrusted`](crate::Config::disconnect_untrusted).
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct Untrusted(pub String);

/// Whatever a handler says against a packet.
pub type HandlerError = Box<dyn Error + Send + Sync>;
