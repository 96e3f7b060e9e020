//! Faults of the byte stream: what has passed on a connection, and where it is struck.

use std::{ops::AddAssign, sync::Arc};

use super::faulty::Faulty;
use crate::engine::{ConnectionId, Peer};

/// So many frames of one direction of a connection, counted as the client sends them unless
/// [`sent`](Self::sent) says otherwise. The protocol header is none. Methods, content headers, body
/// frames and heartbeats count one each.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Frames(pub u64);

/// So many bytes of one direction of a connection, as the client sends them unless
/// [`sent`](Self::sent) says otherwise. The protocol header is eight of them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// An amount of traffic in one direction.
///
/// Received by the broker: the first `n` frames are taken and answered, and nothing behind them is
/// looked at. Sent by the broker: exactly `n` frames (or bytes, in the middle of a frame if it comes
/// to that) reach the client, while the broker has acted on what these and later ones answer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Amount {
    pub(super) direction: Direction,
    pub(super) limit: Limit,
}

/// Seen from the broker.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Received,
    Sent,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Frames(u64),
    Bytes(u64),
}

impl Frames {
    /// Counted as the client sends them. This is what the number alone means.
    #[must_use]
    pub fn received(self) -> Amount {
        Amount {
            direction: Direction::Received,
            limit: Limit::Frames(self.0),
        }
    }

    /// Counted as the broker sends them.
    #[must_use]
    pub fn sent(self) -> Amount {
        Amount {
            direction: Direction::Sent,
            limit: Limit::Frames(self.0),
        }
    }
}

impl Bytes {
    /// Counted as the client sends them. This is what the number alone means.
    #[must_use]
    pub fn received(self) -> Amount {
        Amount {
            direction: Direction::Received,
            limit: Limit::Bytes(self.0),
        }
    }

    /// Counted as the broker sends them.
    #[must_use]
    pub fn sent(self) -> Amount {
        Amount {
            direction: Direction::Sent,
            limit: Limit::Bytes(self.0),
        }
    }
}

impl From<Frames> for Amount {
    fn from(frames: Frames) -> Self {
        frames.received()
    }
}

impl From<Bytes> for Amount {
    fn from(bytes: Bytes) -> Self {
        bytes.received()
    }
}

/// What becomes of a connection that is struck.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    Cut,
    Silence,
}

/// A blow, and how many bytes of the next frame still pass.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) blow: Blow,
    pub(crate) part: usize,
}

/// What has passed in one direction while somebody was counting.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    frames: u64,
    bytes: u64,
}

/// What has passed in both directions.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Traffic {
    received: Count,
    sent: Count,
}

/// A connection's own side of the faults. It counts only while a script asks for it.
#[derive(Debug)]
pub(crate) struct Tap {
    faults: Arc<Faulty>,
    peer: Peer,
    traffic: Traffic,
}

impl Tap {
    pub(super) fn new(faults: Arc<Faulty>, connection: ConnectionId) -> Self {
        let peer = Peer {
            connection,
            user: None,
            name: None,
        };
        Self {
            faults,
            peer,
            traffic: Traffic::default(),
        }
    }

    /// Whether any script has to do with frames or bytes.
    pub(crate) fn is_armed(&self) -> bool {
        self.faults.watches_traffic()
    }

    /// What the engine knows by now of who is at the other end.
    pub(crate) fn meet(&mut self, peer: Option<Peer>) {
        if let Some(peer) = peer {
            self.peer = peer;
        }
    }

    /// A frame passes, or bytes that are none.
    pub(crate) fn pass(&mut self, direction: Direction, is_frame: bool, bytes: usize) {
        *self.traffic.of_mut(direction) += Count {
            frames: u64::from(is_frame),
            bytes: bytes as u64,
        };
    }

    /// Whether the connection is struck before its next frame passes, which takes `next` bytes if
    /// it is there. Without one, `behind` bytes of it are.
    pub(crate) fn struck(
        &self,
        direction: Direction,
        next: Option<usize>,
        behind: usize,
    ) -> Option<Struck> {
        self.faults.struck(
            &self.peer,
            direction,
            |limit, before| {
                let passed = self.traffic.of(direction).since(before.of(direction));
                limit.reached(passed, next, behind)
            },
            self.traffic,
        )
    }
}

impl Limit {
    /// How many bytes of the next frame may pass if it is the one struck.
    fn reached(self, passed: Count, next: Option<usize>, behind: usize) -> Option<usize> {
        match (self, next) {
            (Self::Frames(limit), _) => (passed.frames >= limit).then_some(0),
            (Self::Bytes(limit), Some(next)) => {
                let left = limit.saturating_sub(passed.bytes);
                (left < next as u64).then(|| usize::try_from(left).unwrap_or(usize::MAX))
            }
            (Self::Bytes(limit), None) => {
                let left = limit.saturating_sub(passed.bytes);
                (left <= behind as u64).then_some(0)
            }
        }
    }
}

impl Traffic {
    fn of(&self, direction: Direction) -> Count {
        match direction {
            Direction::Received => self.received,
            Direction::Sent => self.sent,
        }
    }

    fn of_mut(&mut self, direction: Direction) -> &mut Count {
        match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        }
    }
}

impl Count {
    fn since(self, before: Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.frames += more.frames;
        self.bytes += more.bytes;
    }
}
