//! Building lanes.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::sleep};

use crate::{
    caught::caught,
    config::{Config, Retry},
    core::WhenFull,
    error::BuildError,
    handler::{Cause, Failed, Handler, Key, Sink},
    home::Strand,
    lanes::Lanes,
    shared::{Parts, Shared, Weigher},
    telemetry, timer,
    worker::{self, Crew},
};

/// Builds [`Lanes`]. Every setting has a default; see [`Config`] for what they are and why.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<K, T, H, S> {
    handler: H,
    sink: S,
    config: Config,
    weigher: Option<Box<Weigher<K, T>>>,
    runtime: Option<Handle>,
    name: Option<Arc<str>>,
    items: PhantomData<fn(K, T)>,
}

impl<K: Key, T: Send + 'static> Lanes<K, T> {
    /// A builder with the default [`Config`]. The handler gets the batches; the sink gets back what
    /// it could not handle, so that nothing is ever silently gone.
    ///
    /// They live as long as the lanes, so one that holds a handle on these lanes keeps them open:
    /// there is no last handle then, and only a close ends them.
    pub fn builder<H, S>(handler: H, sink: S) -> Builder<K, T, H, S>
    where
        H: Handler<K, T>,
        S: Sink<K, T, H::Error>,
    {
        Builder {
            handler,
            sink,
            config: Config::default(),
            weigher: None,
            runtime: None,
            name: None,
            items: PhantomData,
        }
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

impl<K, T, H, S> Builder<K, T, H, S>
where
    K: Key,
    T: Send + 'static,
    H: Handler<K, T>,
    S: Sink<K, T, H::Error>,
{
    settings! {
        items: usize,
        bytes: impl Into<Option<usize>>,
        linger: Duration,
        concurrency: usize,
        max_items: usize,
        max_bytes: impl Into<Option<u64>>,
        max_lanes: impl Into<Option<usize>>,
        when_full: WhenFull,
        retry: Retry,
        handler_timeout: impl Into<Option<Duration>>,
    }

    /// Sets all numbers at once.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Says what an item weighs, in bytes. It is asked once for each item before it is accepted, in
    /// the task of whoever pushes it, and again for what is left of a batch that failed half-way.
    pub fn weigher(mut self, weigher: impl Fn(&K, &T) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Some(Box::new(weigher));
        self
    }

    /// The runtime on which batches are handled, with its timers enabled. Default: the one in which
    /// [`build`](Builder::build) is called.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// A name for traces and metrics. Default `lanes`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Makes the lanes, and their one background task.
    ///
    /// # Errors
    ///
    /// [`BuildError`].
    ///
    /// # Panics
    ///
    /// If the runtime has no timers: see [`enable_time`](tokio::runtime::Builder::enable_time).
    pub fn build(self) -> Result<Lanes<K, T>, BuildError> {
        let limits = self.config.limits()?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| BuildError::NoRuntime)?,
        };
        // Better here than later, in a task that nobody looks at.
        let within = runtime.enter();
        drop(sleep(Duration::ZERO));
        drop(within);
        let crew = Arc::new(Crew {
            handler: self.handler,
            sink: self.sink,
        });
        let shared = Arc::new(Shared::new(Parts {
            limits,
            config: self.config,
            name: self.name.unwrap_or_else(|| Arc::from("lanes")),
            runtime: runtime.clone(),
            weigher: self.weigher,
            strand: strand(&crew),
            publish: telemetry::publish,
            start: Box::new(move |shared, job| worker::start(&crew, shared, job)),
        }));
        runtime.spawn(timer::run(&shared));
        Ok(Lanes::new(shared))
    }
}

/// The way to the sink for what has lost its task.
fn strand<K, T, H, S>(crew: &Arc<Crew<H, S>>) -> Arc<Strand<K, T>>
where
    K: Key,
    T: Send + 'static,
    H: Handler<K, T>,
    S: Sink<K, T, H::Error>,
{
    let crew = Arc::clone(crew);
    Arc::new(move |key, items, attempts| {
        let _ = caught(|| {
            crew.sink.failed(Failed {
                key,
                items,
                cause: Cause::Abandoned,
                attempts,
            });
        });
    })
}

impl<K, T, H, S> fmt::Debug for Builder<K, T, H, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
