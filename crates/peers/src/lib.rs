//! Queues between named processes, without a broker to run.
//!
//! Each process is a [`Peer`]: it has a name, listens at an address, and knows the names and addresses
//! of the others. What it sends is handled by the other side once, in order, and acknowledged by the
//! handler itself; connections that break come back by themselves, and what was under way is sent again
//! and recognised. Inside are an AMQP broker in each process
//! ([`wharf_broker`]), in which a queue for each sender is the inbox, a connection to each of the others
//! ([`wharf_amqp`]), and a pool that keeps these ([`wharf::KeyedPool`]). What goes over the wire is AMQP 0-9-1, which its tools
//! can read along; the inboxes are exclusive, so that nobody takes anything out of them.
//!
//! # What is promised
//!
//! - **Once and in order**, per sender and receiver, over any number of connections, for as long as
//!   both processes live. Packets have numbers without gaps; the receiver takes the next and no other.
//! - **An answer to each `send`**: accepted by the handler, or a [`SendError`] that says why not, and
//!   whether the packet may have arrived.
//! - **Bounds**: a window of packets and bytes without an answer per peer, enforced on both sides. A slow
//!   handler slows its senders, and no memory grows.
//! - **A name is one process's.** Two that have it at the same time take turns: each says hello, is
//!   listened to, and is told when the other has taken its place ([`Cause::Replaced`]); it comes back
//!   after a pause of at most [`reconnect.max`](Config::reconnect). What each has sent is handled once
//!   and in order all the same, for up to four of them. A fifth process, or one that restarts a fourth
//!   time while packets of all its earlier lives still wait for the handler, is let in when those are
//!   handled.
//! - **Restarts** are noticed: [`Config::restarted`] decides whether packets whose fate is unknown are
//!   given up (at most once) or sent to the new process (at least once). A sender that restarts begins
//!   anew: what had reached the receiver before is handled, the rest is gone with the process.
//!
//! # Who may send
//!
//! Those in [`Config::peers`] and [`Config::callers`], with the token. Nothing is encrypted unless you say
//! how (`Config::tls`, with the feature `rustls`): between machines do, or use a network that is.
//!
//! Whoever has no token gets nowhere, and holds nobody up: handshakes have their time and their number,
//! and nothing that is claimed reserves memory. The token is what peers trust each other by. Who has it
//! can log in under any of these names; it can neither read nor delete what is another's, nor answer in
//! the name of the peer it talks to; what breaks the rules costs its connection. But it could fill the
//! memory that a peer has for messages with queues of its own, and then all who send to that peer wait.
//!
//! # Features
//!
//! - `serde`: [`Config`] can be read.
//! - `rustls`: TLS, with certificates of your own authority or one that the system trusts.

// Each file imports only files below it in this list, except that a peer and its builder know each
// other.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod hostile;

mod peer;

mod builder;

mod drive;

mod route;

mod ticket;

mod remote;

mod listener;

mod inbox;

mod core;

mod error;

mod config;

#[cfg(feature = "rustls")]
mod tls;

mod token;

mod wire;

mod names;

mod io;

pub use builder::Builder;
pub use bytes::Bytes;
pub use config::{Config, Offline, Restarted, SettingError};
pub use error::{
    Cause, HandlerError, ListenerState, PeerState, SendError, StartError, StopError, Untrusted,
};
pub use peer::Peer;
pub use ticket::Receipt;
#[cfg(feature = "rustls")]
pub use tls::Tls;
pub use token::Token;
