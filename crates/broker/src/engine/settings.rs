//! What a broker is told when it starts.

use std::time::Duration;

/// What a short string holds, as names of users and virtual hosts are.
pub(crate) const NAME_MAX: usize = 255;

/// Users, virtual hosts and limits. Built by the crate's builder, which checks them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Who may log in.
    pub(crate) users: Vec<User>,
    /// Names of the virtual hosts there are.
    pub(crate) vhosts: Vec<String>,
    /// Largest frame offered to clients, in bytes with its eight bytes of overhead.
    pub(crate) frame_max: u32,
    /// Largest number of channels per connection offered to clients.
    pub(crate) channel_max: u16,
    /// Heartbeat offered to clients, in whole seconds; zero turns it off.
    pub(crate) heartbeat: u16,
    /// From `connect` to `connection.open`.
    pub(crate) handshake_timeout: Duration,
    /// Largest body of a message, in bytes.
    pub(crate) max_message_size: u64,
    /// Bytes of messages held by all queues above which publishers are blocked.
    pub(crate) memory_limit: usize,
    /// Bytes of output waiting for one connection above which nothing more is delivered to it; at
    /// twice as many it is no longer read from.
    pub(crate) outbox_limit: usize,
    /// Consumers per channel.
    pub(crate) max_consumers_per_channel: usize,
    /// Limits of each virtual host.
    pub(crate) vhost_limits: super::vhost::Limits,
    /// Seconds since 1970 at the start, for the `time` of dead letters.
    pub(crate) unix: u64,
    /// Seed of what the broker makes up: consumer tags and names of server-named queues.
    pub(crate) seed: u64,
}

/// Somebody who may log in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Any of them will do. Without any nobody logs in.
    pub(crate) passwords: Vec<String>,
    /// The virtual hosts this user may open; `None` is all of them.
    pub(crate) vhosts: Option<Vec<String>>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("vhosts", &self.vhosts)
            .finish_non_exhaustive()
    }
}
