//! What an outbox can be told to do.

/// What happens to a message for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Its sender waits, first come, first served.
    #[default]
    Wait,
    /// Its sender gets it back at once.
    Reject,
    /// It gets the room of the oldest messages that wait. Those in flight, and those on their way
    /// into a journal or only there, are not dropped; if that is not enough, its sender gets it
    /// back.
    DropOldest,
    /// It is dropped. Its ticket says so.
    DropNewest,
}

/// The order in which messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Order {
    #[default]
    Strict,
    PerKey(usize),
    Pipelined(usize),
}

impl Order {
    pub(crate) fn flights(self) -> usize {
        match self {
            Self::Strict => 1,
            Self::PerKey(flights) | Self::Pipelined(flights) => flights,
        }
    }
}
