//! The connections to a broker, as users see them.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use wharf::Backoff;

use crate::{
    channels::{self, ChannelPool},
    config::{Config, LONGEST},
    connections::{Shared, State},
    endpoint::Endpoint,
    error::ConnectError,
    io,
    link::Role,
    uri::{self, UriError},
};

/// The connections to one broker, which may have several nodes. Clones are handles to the same.
///
/// A connection is made when something first needs it, and again whenever it is lost, by one
/// attempt at a time however many wait. Publishers, consumers and borrowed channels have
/// connections of their own. When the last handle is gone, the connections are closed.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    channels: ChannelPool,
    confirm_channels: ChannelPool,
}

impl Cluster {
    /// Takes the URIs of a broker's nodes: `amqp://user:password@host:port/vhost`. They must agree
    /// in everything but host and port. A URI without a virtual host means `/`.
    ///
    /// The parameters `heartbeat` (s), `frame_max` (bytes), `channel_max` and `connection_timeout`
    /// (ms) are understood ([RabbitMQ URI query parameters][1]); an unknown one is an error of
    /// [`connect`](Builder::connect).
    ///
    /// [1]: https://www.rabbitmq.com/docs/uri-query-parameters
    pub fn builder<U: Into<String>>(uris: impl IntoIterator<Item = U>) -> Builder {
        let uris: Vec<String> = uris.into_iter().map(Into::into).collect();
        Builder {
            config: uri::read(&uris),
        }
    }

    /// The same from a configuration.
    pub fn from_config(config: Config) -> Builder {
        Builder { config: Ok(config) }
    }

    /// How the cluster is, to look at or to wait for.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.shared.watch()
    }

    /// How the cluster is now.
    pub fn state(&self) -> State {
        self.watch().borrow().clone()
    }

    /// Channels for whatever lapin can do with one, each with one holder at a time.
    pub fn channels(&self) -> &ChannelPool {
        &self.channels
    }

    /// Channels in confirm mode: publisher confirms are right only while one task at a time
    /// publishes on a channel, which a lease makes sure of.
    pub fn confirm_channels(&self) -> &ChannelPool {
        &self.confirm_channels
    }

    /// Closes the pools and the connections: no longer than `limit` in all, whatever the broker
    /// does. A tenth of that, at most a second, is kept for the connections. What is lent out is
    /// lost to its holder after that.
    ///
    /// # Cancel safety
    ///
    /// The cluster is closed by the first poll; dropped later, the farewells go on without the
    /// caller.
    pub async fn close_within(&self, limit: Duration) {
        let began = Instant::now();
        let reserve = (limit / 10).min(Duration::from_secs(1));
        let plain = self.channels.close_within(limit.saturating_sub(reserve));
        let confirm = self
            .confirm_channels
            .close_within(limit.saturating_sub(reserve));
        // Nobody waits for a connection any more, and the pools for nobody who does.
        self.shared.end(State::Closed { cause: None });
        let shared = Arc::clone(&self.shared);
        // In a task, so that it goes on if the caller goes.
        let farewell = io::spawn(async move {
            // What is still out when the time is up goes with its connection.
            let _ = tokio::join!(plain, confirm);
            shared.close(limit.saturating_sub(began.elapsed())).await;
        });
        let _ = farewell.await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("hosts", &self.shared.config.hosts)
            .field("vhost", &self.shared.config.vhost)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Builds a [`Cluster`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    config: Result<Config, UriError>,
}

impl Builder {
    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// See [`Config::name`].
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|config| config.name = name.into())
    }

    /// See [`Config::ca_file`].
    pub fn ca_file(self, pem: impl Into<PathBuf>) -> Self {
        self.set(|config| config.ca_file = Some(pem.into()))
    }

    /// See [`Config::cert_file`] and [`Config::key_file`].
    pub fn identity(self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.set(|config| {
            config.cert_file = Some(cert_file.into());
            config.key_file = Some(key_file.into());
        })
    }

    /// See [`Config::connections`].
    pub fn connections(self, connections: usize) -> Self {
        self.set(|config| config.connections = connections)
    }

    /// See [`Config::channels_per_connection`].
    pub fn channels_per_connection(self, channels: usize) -> Self {
        self.set(|config| config.channels_per_connection = channels)
    }

    /// See [`Config::heartbeat`].
    pub fn heartbeat(self, seconds: u16) -> Self {
        self.set(|config| config.heartbeat = seconds)
    }

    /// See [`Config::frame_max`].
    pub fn frame_max(self, bytes: u32) -> Self {
        self.set(|config| config.frame_max = bytes)
    }

    /// See [`Config::connect_timeout`].
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.connect_timeout = timeout)
    }

    /// See [`Config::operation_timeout`].
    pub fn operation_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.operation_timeout = timeout)
    }

    /// See [`Config::backoff`].
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.set(|config| config.backoff = backoff)
    }

    /// See [`Config::busy_poll`].
    pub fn busy_poll(self, longest: Duration) -> Self {
        self.set(|config| config.busy_poll = longest)
    }

    /// Builds the cluster and waits for its first connection, trying every host once: for at most
    /// the connect timeout each.
    ///
    /// # Errors
    ///
    /// [`BuildError`]: the configuration makes no sense, or no host could be connected to. The
    /// cluster is gone then.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, an attempt under way ends by itself, within the connect timeout, and its
    /// connection is closed.
    pub async fn connect(self) -> Result<Cluster, BuildError> {
        let cluster = self.connect_lazily()?;
        let mut state = cluster.watch();
        cluster.shared.want(Role::Publish);
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match settled.await.as_deref() {
            Ok(State::Down { cause, .. } | State::Closed { cause: Some(cause) }) => {
                Err(BuildError::Connect(Arc::clone(cause)))
            }
            // The sender is the cluster's, so that it is there.
            _ => Ok(cluster.clone()),
        }
    }

    /// Builds the cluster without waiting for a connection, or for a broker to be there at all:
    /// it begins as in an outage.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the configuration makes no sense.
    pub fn connect_lazily(self) -> Result<Cluster, BuildError> {
        let config = self.config?;
        check(&config)?;
        let shared = Shared::new(config);
        let channels = channels::pool(&shared, Role::General, false)?;
        let confirm_channels = channels::pool(&shared, Role::Publish, true)?;
        Ok(Cluster {
            shared,
            channels,
            confirm_channels,
        })
    }
}

fn is_time(time: Duration) -> bool {
    !time.is_zero() && time <= LONGEST
}

fn check(config: &Config) -> Result<(), BuildError> {
    let wrong = |field, bound| Err(BuildError::Setting { field, bound });
    if config.hosts.is_empty() {
        return Err(UriError::NoHost.into());
    }
    // A name has at most 253 characters (RFC 1035, section 2.3.4, in its textual form).
    let is_host = |host: &str| (1..=253).contains(&host.len()) && !host.contains(['[', ']']);
    if !config.hosts.iter().all(|host| is_host(&host.host)) {
        return wrong("hosts", "names or addresses, without brackets");
    }
    if config.hosts.iter().any(|host| host.port == 0) {
        return wrong("hosts", "given ports from 1 to 65,535");
    }
    if !cfg!(feature = "rustls") && config.hosts.iter().any(|host: &Endpoint| host.tls) {
        return Err(UriError::NoTls.into());
    }
    if config.cert_file.is_some() != config.key_file.is_some() {
        return wrong("cert_file", "there together with key_file");
    }
    if !(1..=64).contains(&config.connections) {
        return wrong("connections", "from 1 to 64");
    }
    if !(1..=2047).contains(&config.channels_per_connection) {
        return wrong("channels_per_connection", "from 1 to 2,047");
    }
    // AMQP 0-9-1, section 4.2.3: every peer must take frames of 4,096 bytes.
    if config.frame_max != 0 && config.frame_max < 4096 {
        return wrong("frame_max", "0, or at least 4,096");
    }
    if config.vhost.len() > 255 {
        return wrong("vhost", "at most 255 bytes");
    }
    if !is_time(config.connect_timeout) {
        return wrong("connect_timeout", "more than zero, and a year at most");
    }
    if !is_time(config.operation_timeout) {
        return wrong("operation_timeout", "more than zero, and a year at most");
    }
    let Backoff { min, max } = config.backoff;
    if !is_time(min) || !is_time(max) || max < min {
        return wrong("backoff", "min more than zero, max at least min");
    }
    if config.busy_poll > Duration::from_millis(1) {
        return wrong("busy_poll", "a millisecond at most");
    }
    Ok(())
}

/// Why there is no [`Cluster`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A URI makes no sense.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// A setting makes no sense.
    #[error("{field} must be {bound}")]
    Setting {
        /// The field of [`Config`].
        field: &'static str,
        /// What it must be.
        bound: &'static str,
    },
    /// A setting of a pool makes no sense.
    #[error(transparent)]
    Pool(#[from] wharf::BuildError),
    /// No host could be connected to; this is why the last one could not.
    #[error("no host could be connected to: {0}")]
    Connect(#[source] Arc<ConnectError>),
}
