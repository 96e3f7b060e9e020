//! Building a keyed pool.

use std::{fmt, hash::Hash, sync::Arc};

use tokio::runtime::Handle;

use super::{
    KeyedPool,
    realm::{KeyedObserver, Realm, Settings},
};
use crate::{
    config::{self, Config},
    error::BuildError,
    manager::Manager,
    observer::Event,
};

/// Builds a [`KeyedPool`]. Every setting has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct KeyedBuilder<K, M: Manager> {
    manager_of: Box<dyn Fn(&K) -> M + Send + Sync>,
    per_key: Config,
    max_total: Option<usize>,
    max_keys: Option<usize>,
    name: Option<String>,
    runtime: Option<Handle>,
    observers: Vec<Arc<KeyedObserver<K>>>,
}

impl<K, M> KeyedBuilder<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    pub(super) fn new(manager_of: impl Fn(&K) -> M + Send + Sync + 'static) -> Self {
        Self {
            manager_of: Box::new(manager_of),
            per_key: Config::default(),
            max_total: None,
            max_keys: None,
            name: None,
            runtime: None,
            observers: Vec::new(),
        }
    }

    /// The settings of each key's pool, `max_active` among them: the most resources a key may
    /// have. `min_idle` must be 0, for a key that nobody uses must be able to vanish.
    pub fn per_key(mut self, per_key: Config) -> Self {
        self.per_key = per_key;
        self
    }

    /// The most resources that may exist over all keys, at least 1. Those being created and
    /// destroyed count. Default none.
    pub fn max_total(mut self, max_total: impl Into<Option<usize>>) -> Self {
        self.max_total = max_total.into();
        self
    }

    /// The most keys that may be in use at once, at least 1. One more gets
    /// [`TooManyKeys`](crate::GetError::TooManyKeys) at once. It bounds memory where keys come
    /// from outside; a key with idle resources is in use until `idle_timeout` has cleared them
    /// away. Default none.
    pub fn max_keys(mut self, max_keys: impl Into<Option<usize>>) -> Self {
        self.max_keys = max_keys.into();
        self
    }

    /// Adds an observer, which hears of what happens in the pool of any key. The rules of
    /// [`Observer`](crate::Observer) apply.
    pub fn observer(mut self, observer: impl Fn(&K, &Event<'_>) + Send + Sync + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// The runtime on which the pools create, destroy and keep time; see
    /// [`Builder::runtime`](crate::Builder::runtime). By default the one on which the keyed pool
    /// is built, or else on which a key is first used.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The name of all keys' pools in traces and metrics. By default `"pool"`. With the feature
    /// `metrics`, what is counted and timed adds up under it; gauges are not published, for every
    /// key would overwrite them: [`KeyedPool::status`] has those figures.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Builds the keyed pool. It has no keys yet.
    ///
    /// # Errors
    ///
    /// Names the first setting that is out of bounds.
    pub fn build(self) -> Result<KeyedPool<K, M>, BuildError> {
        self.per_key.validate()?;
        config::within("min_idle", self.per_key.min_idle, 0, 0)?;
        let max_total = bound("max_total", self.max_total)?;
        let max_keys = bound("max_keys", self.max_keys)?;
        let runtime = self.runtime.or_else(|| Handle::try_current().ok());
        Ok(KeyedPool::new(Realm::new(Settings {
            manager_of: self.manager_of,
            per_key: self.per_key,
            max_total,
            max_keys,
            name: self.name.unwrap_or_else(|| "pool".to_owned()),
            runtime,
            observers: self.observers,
        })))
    }
}

/// A bound that may be absent, which is `usize::MAX`.
pub(super) fn bound(field: &'static str, most: Option<usize>) -> Result<usize, BuildError> {
    let most = most.unwrap_or(usize::MAX);
    config::within(field, most, 1, usize::MAX)?;
    Ok(most)
}

impl<K, M: Manager> fmt::Debug for KeyedBuilder<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBuilder")
            .field("per_key", &self.per_key)
            .field("max_total", &self.max_total)
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}
