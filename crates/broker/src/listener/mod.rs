//! Sockets around the engine: one task accepts, one keeps time, and each connection has one of its
//! own that reads, decodes, encodes and writes. They meet in the [`Hub`].

mod accept;
mod buffers;
mod connection;
mod hub;
mod input;
mod lobby;
#[cfg(feature = "rustls")]
mod secured;
mod socket;
mod timer;

pub(crate) use accept::{Acceptor, Bounds};
pub(crate) use hub::{Hub, Kick};
pub(crate) use socket::Transport;
pub(crate) use timer::keep_time;
