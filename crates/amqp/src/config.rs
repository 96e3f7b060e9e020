//! How a cluster is reached and used.

use std::{fmt, path::PathBuf, time::Duration};

use wharf::Backoff;

use crate::endpoint::Endpoint;

/// A longer time would be no bound, and more than clocks can count to.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of a [`Cluster`](crate::Cluster).
///
/// With the feature `serde` it can be read, as one of a
/// [`ClientsConfig`](crate::ClientsConfig). An error names the field and no value, but a parser may
/// add the line that it is on; a `ClientsConfig` keeps clear of that. It cannot be written, for it
/// has a password.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Nodes of one broker, tried in random order.
    pub hosts: Vec<Endpoint>,
    /// Default `guest`.
    pub user: String,
    /// Default `guest`. Never shown.
    pub password: Password,
    /// Default `/`.
    pub vhost: String,
    /// Certificates (PEM) that the broker's may rest on, besides those that the system trusts. Like
    /// the other two files, read at every attempt to connect, so that a renewed one is used. For
    /// `amqps://` only. Default none.
    pub ca_file: Option<PathBuf>,
    /// The certificate (PEM, with its chain) to show to the broker. Default none.
    pub cert_file: Option<PathBuf>,
    /// The private key (PEM) of `cert_file`. Default none.
    pub key_file: Option<PathBuf>,
    /// How the broker calls the connections in its lists. Default the name of the program.
    pub name: String,
    /// Connections of each role (publishing, consuming, anything else), made when they are needed.
    /// Default 1: more gain nothing on one node.
    pub connections: usize,
    /// Channels that a pool opens on a connection, at most. Default 32: each channel that is open
    /// makes every publish on its connection a little dearer, used or not.
    pub channels_per_connection: usize,
    /// Seconds between signs of life, 0 for none. Default 10. A peer that vanished without a word
    /// is noticed within twice that.
    pub heartbeat: u16,
    /// The largest frame in bytes, 0 for the broker's choice. Default 131,072. A connection holds
    /// buffers of 64 times that.
    pub frame_max: u32,
    /// Channels on a connection as agreed with the broker, 0 for the broker's choice. Default 0.
    pub channel_max: u16,
    /// How long one attempt to connect may take, from name to tuned connection. Default 10 s.
    pub connect_timeout: Duration,
    /// How long any other call waits for the broker, or for the connection to come back, unless it
    /// has a deadline of its own. Default 30 s.
    pub operation_timeout: Duration,
    /// The pauses between rounds of attempts in an outage. Default 100 ms to 5 s.
    pub backoff: Backoff,
    /// For how long the thread of a connection that publishes or consumes looks again and again for
    /// what comes, at most, before it sleeps: a millisecond at most. It does while what it waits for has
    /// come sooner, and nobody else has use for the processor: then a confirm or a delivery is there
    /// earlier, and costs less than to sleep and be woken would; otherwise processor time is wasted. What
    /// others want of that connection meanwhile, such as a channel, may wait as much longer. Default
    /// zero: never. Without effect but on Unix.
    pub busy_poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let program = std::env::args().next().unwrap_or_default();
        let name = program.rsplit(['/', '\\']).next().unwrap_or_default();
        Self {
            hosts: Vec::new(),
            user: "guest".into(),
            password: "guest".to_owned().into(),
            vhost: "/".into(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            name: name.into(),
            connections: 1,
            channels_per_connection: 32,
            heartbeat: 10,
            frame_max: 131_072,
            channel_max: 0,
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            backoff: Backoff {
                min: Duration::from_millis(100),
                max: Duration::from_secs(5),
            },
            busy_poll: Duration::ZERO,
        }
    }
}

/// A secret that neither `Debug` nor an error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A setting that was read and not understood. Its value is not repeated here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct SettingError {
    /// The field. Empty if it is all of them.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl SettingError {
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "nothing is read"))]
    pub(crate) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.into(),
        }
    }
}
