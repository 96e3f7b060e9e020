//! Building a pool.

use std::{fmt, time::Duration};

use tokio::runtime::Handle;

use crate::{
    config::{Config, OutagePolicy},
    core::{Backoff, Shedding},
    error::BuildError,
    manager::Manager,
    observer::Observer,
    pool::Pool,
    shared::Shared,
};

/// Builds a [`Pool`]. Every setting has a default; see [`Config`] for what they are and why.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<M: Manager> {
    manager: M,
    config: Config,
    runtime: Option<Handle>,
    observers: Vec<Box<dyn Observer>>,
    name: Option<String>,
}

impl<M: Manager> Pool<M> {
    /// A builder with the default [`Config`].
    pub fn builder(manager: M) -> Builder<M> {
        Builder::new(manager)
    }
}

macro_rules! settings {
    ($($field:ident: $from:ty,)*) => {
        $(
            #[doc = concat!("Sets [`Config::", stringify!($field), "`].")]
            pub fn $field(mut self, $field: $from) -> Self {
                self.config.$field = $field.into();
                self
            }
        )*
    };
}

impl<M: Manager> Builder<M> {
    fn new(manager: M) -> Self {
        Self {
            manager,
            config: Config::default(),
            runtime: None,
            observers: Vec::new(),
            name: None,
        }
    }

    settings! {
        max_active: usize,
        min_idle: usize,
        max_idle: impl Into<Option<usize>>,
        idle_timeout: impl Into<Option<Duration>>,
        max_lifetime: impl Into<Option<Duration>>,
        lifetime_jitter: f64,
        check_interval: impl Into<Option<Duration>>,
        keep_alive: impl Into<Option<Duration>>,
        wait_timeout: impl Into<Option<Duration>>,
        create_timeout: impl Into<Option<Duration>>,
        check_timeout: impl Into<Option<Duration>>,
        destroy_timeout: impl Into<Option<Duration>>,
        max_waiters: usize,
        max_creating: usize,
        warn_after: impl Into<Option<Duration>>,
        backoff: Backoff,
        outage_policy: OutagePolicy,
        shedding: impl Into<Option<Shedding>>,
    }

    /// Replaces all the settings above at once, with ones read from a file for instance.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Adds an observer. They are called in the order in which they were added.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// The runtime on which the pool creates, destroys and keeps time. Its timers must be enabled,
    /// and it must run for as long as the pool is used. By default the one on which the pool is built, or else first waited on;
    /// should that shut down, the pool moves to the next one on which somebody waits.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The pool's name in traces and metrics. By default `"pool"`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Builds the pool. Nothing is created yet, unless `min_idle` asks for it.
    ///
    /// # Errors
    ///
    /// Names the first setting that is out of bounds.
    ///
    /// # Panics
    ///
    /// Panics if the pool's runtime (see [`runtime`](Builder::runtime)) has its timers disabled.
    pub fn build(self) -> Result<Pool<M>, BuildError> {
        self.config.validate()?;
        let name = self.name.unwrap_or_else(|| "pool".to_owned());
        let mut observers = self.observers;
        observers.extend(crate::telemetry::observers(&name));
        let shared = Shared::new(
            name,
            self.manager,
            self.config,
            self.runtime,
            observers,
            None,
        );
        Ok(Pool::new(shared))
    }
}

impl<M: Manager> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
