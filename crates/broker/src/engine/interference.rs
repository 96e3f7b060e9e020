//! Where scripted faults reach into the engine. Without any it costs one call that answers at once.

use std::{sync::Arc, time::Instant};

use super::{ConnectionId, message::Message};

/// Who is at the other end of a connection, as far as is known.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) connection: ConnectionId,
    /// After authentication.
    pub(crate) user: Option<Arc<str>>,
    /// `connection_name` of the client's properties, if it gave one.
    pub(crate) name: Option<Arc<str>>,
}

/// What becomes of a message that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As always.
    Routed,
    /// Routed, and routed once more: its consumers see it twice.
    RoutedTwice,
    /// Routed, and its confirm stays open until [`Interference::due`] releases it, if ever. No
    /// `multiple` confirm covers it before.
    Withheld,
    /// Not routed; `basic.nack` (in confirm mode).
    Nacked,
    /// Not routed; `basic.return` with 312 `NO_ROUTE` whether mandatory or not, then its ack.
    Returned,
    /// Not routed; the channel is closed by the broker.
    ChannelClosed { code: u16, text: String },
    /// Not routed; the connection is closed by the broker.
    ConnectionClosed { code: u16, text: String },
}

/// A confirm withheld until now that goes out as `basic.ack` of this tag alone. Releases are sent in
/// the order in which they come; of a channel that is gone they are ignored.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    /// How many channels the connection had opened with this one: another may get the same number.
    pub(crate) opened: u64,
    pub(crate) tag: u64,
}

/// Consulted by the engine at each step where a fault may be.
pub(crate) trait Interference: Send {
    /// `connection.open` of an authenticated client: a refusal (code and text) or nothing.
    fn open(&mut self, peer: &Peer, now: Instant) -> Option<(u16, String)>;

    /// A whole message was published and is about to be routed. `release` is what would confirm it;
    /// its tag is zero outside confirm mode.
    fn publish(&mut self, peer: &Peer, release: Release, message: &Message, now: Instant) -> Fate;

    /// When [`due`](Self::due) has something next; the engine's `next_deadline` includes it.
    fn next_deadline(&self) -> Option<Instant>;

    /// Called by the engine's `advance` and after each publish that was withheld.
    fn due(&mut self, now: Instant, into: &mut Vec<Release>);
}

/// Interferes with nothing.
#[derive(Debug)]
pub(crate) struct Undisturbed;

impl Interference for Undisturbed {
    fn open(&mut self, _: &Peer, _: Instant) -> Option<(u16, String)> {
        None
    }

    fn publish(&mut self, _: &Peer, _: Release, _: &Message, _: Instant) -> Fate {
        Fate::Routed
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn due(&mut self, _: Instant, _: &mut Vec<Release>) {}
}
