//! What a proxy has been told to do, as the accept loop and every link see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// One of the two ways through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client says.
    ToServer,
    /// What the server says.
    ToClient,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: what was passed on arrives, then the end of the stream (FIN).
    Cut,
    /// With a TCP reset (RST), which also throws away what the peer has not read yet.
    Reset,
}

#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) server: SocketAddr,
    pub(super) traffic: Traffic,
    pub(super) door: Door,
    pub(super) budget: Option<Budget>,
    /// How often all connections were ended; a link that sees it grow ends.
    pub(super) ended: u64,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Pass,
    Stall { to_server: bool, to_client: bool },
    DropReplies,
    Delay(Duration),
    Throttle(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Shut,
    AcceptAndEnd(End),
}

impl Orders {
    pub(super) fn passing(server: SocketAddr) -> Self {
        Self {
            server,
            traffic: Traffic::Pass,
            door: Door::Open,
            budget: None,
            ended: 0,
            end: End::Reset,
        }
    }

    pub(super) fn end_all(&mut self, end: End) {
        self.ended += 1;
        self.end = end;
    }
}

impl Traffic {
    pub(super) fn stalls(self, direction: Direction) -> bool {
        match self {
            Self::Stall {
                to_server,
                to_client,
            } => match direction {
                Direction::ToServer => to_server,
                Direction::ToClient => to_client,
            },
            Self::Pass | Self::DropReplies | Self::Delay(_) | Self::Throttle(_) => false,
        }
    }

    /// How many of the bytes at hand go at once, and how long the next ones must wait then.
    pub(super) fn portion(self, at_hand: usize) -> (usize, Duration) {
        let Self::Throttle(bytes_per_second) = self else {
            return (at_hand, Duration::ZERO);
        };
        // A hundredth of a second's worth at a time.
        let portion = (bytes_per_second as usize).div_ceil(100).min(at_hand);
        let takes = portion as f64 / f64::from(bytes_per_second);
        (portion, Duration::from_secs_f64(takes))
    }
}

/// The bytes that may still pass before every connection ends.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    direction: Direction,
    end: End,
    left: Arc<Mutex<u64>>,
}

impl Budget {
    pub(super) fn new(bytes: u64, direction: Direction, end: End) -> Self {
        Self {
            direction,
            end,
            left: Arc::new(Mutex::new(bytes)),
        }
    }

    /// Takes up to `wanted` bytes and gives how many there were.
    ///
    /// `Some` end says that these were the last ones.
    pub(super) fn take(&self, direction: Direction, wanted: usize) -> (usize, Option<End>) {
        if direction != self.direction {
            return (wanted, None);
        }
        let mut left = self.left.lock();
        let taken = usize::try_from(*left).map_or(wanted, |left| left.min(wanted));
        *left -= taken as u64;
        (taken, (*left == 0).then_some(self.end))
    }
}
