//! Several brokers by name, as a service configures them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use thiserror::Error;

use crate::{
    cluster::{BuildError, Cluster},
    config::{Config, SettingError},
    connections::State,
    error::ConnectError,
    link::Role,
};

/// The settings of several clusters, by name.
///
/// With the feature `serde` it is read from TOML, JSON or another format that tells types by
/// itself:
///
/// ```toml
/// [orders]
/// hosts = ["rabbit-1", "rabbit-2:5673", "[2001:db8::1]:5672"]
/// user = "app"
/// password = "secret"
/// vhost = "orders"
/// connections = 2
/// channels_per_connection = 64
/// heartbeat = 10
/// connect_timeout = "5s"
/// operation_timeout = "30s"
/// backoff = { min = "100ms", max = "5s" }
///
/// [audit]
/// hosts = ["amqp://app:secret@audit-1/audit"]
/// ```
///
/// The fields are those of [`Config`], and `tls` (default false). Hosts may be URIs, if all are;
/// a field must not say again what they say. Everything but `hosts` has a default.
///
/// What is wrong with a setting is not told by reading, but by [`Clients::connect`], or by
/// [`check`](Self::check): parsers quote the line that they do not like, password and all. It is
/// not to be written, for the same reason.
#[derive(Debug, Clone, Default)]
pub struct ClientsConfig {
    clusters: BTreeMap<String, Result<Config, SettingError>>,
}

impl ClientsConfig {
    /// No cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a cluster, or replaces that of the same name.
    pub fn cluster(mut self, name: impl Into<String>, config: Config) -> Self {
        self.clusters.insert(name.into(), Ok(config));
        self
    }

    /// The names of the clusters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// The settings of a cluster. None if there is none of this name, or if they make no sense.
    pub fn get(&self, name: &str) -> Option<&Config> {
        self.clusters.get(name)?.as_ref().ok()
    }

    /// Looks whether every setting was understood. Some bounds are only looked at by
    /// [`Clients::connect`].
    ///
    /// # Errors
    ///
    /// [`ClientsError::Setting`] with the first that was not.
    pub fn check(&self) -> Result<(), ClientsError> {
        for (cluster, config) in &self.clusters {
            if let Err(source) = config {
                return Err(ClientsError::Setting {
                    cluster: cluster.clone(),
                    source: source.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for ClientsConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::settings::{self, Value};

        let read = BTreeMap::<String, Value>::deserialize(deserializer)?.into_iter();
        let clusters = read.map(|(name, value)| (name, settings::read(value)));
        Ok(Self {
            clusters: clusters.collect(),
        })
    }
}

/// Why there are no [`Clients`]. No password is in it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// A setting was not understood.
    #[error("cluster {cluster:?}: {source}")]
    Setting {
        /// Its name.
        cluster: String,
        /// The field, and what is wrong with it.
        source: SettingError,
    },
    /// The settings of a cluster make no sense.
    #[error("cluster {cluster:?}: {source}")]
    Build {
        /// Its name.
        cluster: String,
        /// What is wrong with them.
        source: BuildError,
    },
    /// A broker refused the user or the virtual host.
    #[error("cluster {cluster:?}: {source}")]
    Refused {
        /// Its name.
        cluster: String,
        /// What the broker said.
        source: Arc<ConnectError>,
    },
}

/// [Clusters](Cluster) by name. Each has its own connections, pools and outages. Clones are handles
/// to the same.
#[derive(Debug, Clone)]
pub struct Clients {
    clusters: BTreeMap<String, Cluster>,
}

impl Clients {
    /// Connects to all of them, at the same time, and waits until each is connected or every host
    /// of it was tried once. One that is down is there all the same, in an outage which ends by
    /// itself.
    ///
    /// # Errors
    ///
    /// [`ClientsError`] if a setting makes no sense, or a broker refuses the user or the virtual
    /// host. All connections are closed then.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, everything is closed.
    pub async fn connect(config: ClientsConfig) -> Result<Self, ClientsError> {
        let clients = Self::connect_lazily(config)?;
        let first_words = clients.clusters.iter().map(async |(name, cluster)| {
            let mut state = cluster.watch();
            cluster.shared().want(Role::Publish);
            let word = state.wait_for(|state| !matches!(state, State::Connecting));
            match word.await.as_deref() {
                Ok(State::Closed {
                    cause: Some(source),
                }) => Err(ClientsError::Refused {
                    cluster: name.clone(),
                    source: Arc::clone(source),
                }),
                _ => Ok(()),
            }
        });
        let outcome: Result<(), _> = join_all(first_words).await.into_iter().collect();
        outcome.map(|()| clients)
    }

    /// The same without waiting, and without a connection until something needs one.
    ///
    /// # Errors
    ///
    /// [`ClientsError`] if a setting makes no sense.
    pub fn connect_lazily(config: ClientsConfig) -> Result<Self, ClientsError> {
        config.check()?;
        let clusters = config.clusters.into_iter().map(|(name, config)| {
            let config = config.map_err(|source| ClientsError::Setting {
                cluster: name.clone(),
                source,
            })?;
            match Cluster::from_config(config).connect_lazily() {
                Ok(cluster) => Ok((name, cluster)),
                Err(source) => Err(ClientsError::Build {
                    cluster: name,
                    source,
                }),
            }
        });
        Ok(Self {
            clusters: clusters.collect::<Result<_, _>>()?,
        })
    }

    /// The cluster of this name.
    pub fn get(&self, name: &str) -> Option<&Cluster> {
        self.clusters.get(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Cluster)> {
        let clusters = self.clusters.iter();
        clusters.map(|(name, cluster)| (name.as_str(), cluster))
    }

    /// Closes all of them at the same time: see [`Cluster::close_within`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Cluster::close_within`].
    pub async fn close_within(&self, limit: Duration) {
        join_all(self.clusters.values().map(|each| each.close_within(limit))).await;
    }
}
