//! Who is who: the names the engine gives to connections, channels and consumers.

/// A connection, from the moment its socket was accepted. Ids are never used again, so a late
/// call about a connection that is gone finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(super) u64);

impl ConnectionId {
    /// The connection of this place, whether or not there ever was one.
    pub(super) fn of_nth(nth: u64) -> Self {
        Self(nth)
    }

    /// Its place in the order in which connections were accepted, counted from one.
    pub(crate) fn nth(self) -> u64 {
        self.0
    }
}

/// A channel of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelKey {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
}

/// A consumer of a channel. The number is the session's own and never used again in its
/// connection: the consumer tag, which clients choose and reuse, stays with the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerKey {
    pub(crate) channel: ChannelKey,
    pub(crate) number: u64,
}

#[cfg(test)]
impl ConnectionId {
    /// A connection that no engine knows, for tests of what lies below the sessions.
    pub(crate) fn of_test(number: u64) -> Self {
        Self(number)
    }
}
