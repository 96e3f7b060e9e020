//! Channels to borrow.

use std::{
    any::Any,
    fmt,
    future::Future,
    ops::Deref,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;
use wharf::{Backoff, Failure, Manager, Pool};

use crate::{
    connections::Shared,
    error::ChannelError,
    link::{Berth, Link, Role},
};

/// A pool of channels: see [`Cluster::channels`](crate::Cluster::channels).
///
/// A channel has one holder at a time; one that the broker closed, or whose connection is lost, is
/// never lent. Leave a channel as you found it, or [`discard`](wharf::Lease::discard) it: one with
/// a consumer, a prefetch of its own or an open transaction is not fit for the next.
///
/// To get one takes at most the [operation timeout](crate::Config::operation_timeout); while every
/// connection has as many as the broker allows, it waits for one that comes back. What is done with
/// a channel is between its holder and lapin, which waits for the broker for as long as the
/// connection lasts: without end if the broker blocks it.
pub type ChannelPool = Pool<ChannelManager>;

/// A channel, and the connection it is on.
pub struct Channel {
    /// Shared, because a clone of it counts a dozen references.
    channel: Arc<lapin::Channel>,
    berth: Berth,
    /// What somebody keeps for as long as the channel lives.
    extension: OnceLock<Box<dyn Any + Send + Sync>>,
    /// We have closed it, or tried to.
    has_left: AtomicBool,
}

impl Channel {
    pub(crate) fn new(channel: lapin::Channel, berth: Berth) -> Self {
        Self {
            channel: Arc::new(channel),
            berth,
            extension: OnceLock::new(),
            has_left: AtomicBool::new(false),
        }
    }

    pub(crate) fn extension(&self) -> &OnceLock<Box<dyn Any + Send + Sync>> {
        &self.extension
    }

    /// Whether the channel and its connection are open, as far as is known.
    pub fn is_open(&self) -> bool {
        self.channel.status().connected() && self.berth.link.is_live()
    }

    /// Runs a task on the thread on which the channel's connection is read and written: what it waits
    /// for on this connection it hears of, and what it publishes goes out, without a change of threads.
    /// Nothing is read or written while it computes, so that it should not for long, and it must not
    /// block. It is within the context of a tokio runtime, which is not the caller's. When the connection
    /// is lost it goes on elsewhere.
    ///
    /// Resolves to what the task comes to, or to nothing if it panics.
    ///
    /// # Cancel safety
    ///
    /// Dropping the result cancels the task, soon.
    pub fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (mut end, ended) = oneshot::channel();
        drop(self.link().spawn(async move {
            let done = tokio::select! {
                biased;
                () = end.closed() => return,
                done = task => done,
            };
            // Nobody may be waiting for it any more.
            let _ = end.send(done);
        }));
        async move { ended.await.ok() }
    }

    /// lapin's channel, to be used while this is held.
    pub(crate) fn raw(&self) -> &Arc<lapin::Channel> {
        &self.channel
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.berth.link
    }

    /// Closes the channel in order. The caller sets the bound.
    pub(crate) async fn leave(&self) -> lapin::Result<()> {
        self.has_left.store(true, Ordering::Relaxed);
        self.channel.close(200, "OK".into()).await
    }

    /// The broker closed this channel and not its connection.
    fn was_closed_alone(&self) -> bool {
        !self.has_left.load(Ordering::Relaxed)
            && !self.channel.status().connected()
            && self.berth.link.is_live()
    }
}

impl Deref for Channel {
    type Target = lapin::Channel;

    fn deref(&self) -> &lapin::Channel {
        &self.channel
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("id", &self.channel.id())
            .field("host", &self.berth.link.host)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.was_closed_alone() {
            self.berth.spoil();
        }
    }
}

/// Opens and closes the channels of a [`ChannelPool`].
pub struct ChannelManager {
    cluster: Weak<Shared>,
    role: Role,
    confirm: bool,
    per_link: usize,
    limit: Duration,
}

impl fmt::Debug for ChannelManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelManager")
            .field("role", &self.role)
            .field("confirm", &self.confirm)
            .finish_non_exhaustive()
    }
}

impl Manager for ChannelManager {
    type Resource = Channel;
    type Error = ChannelError;

    /// Waits for a connection rather than dial one: that is the cluster's business, and one
    /// attempt at a time.
    async fn create(&self) -> Result<Channel, ChannelError> {
        let cluster = self.cluster.upgrade().ok_or(ChannelError::Closed(None))?;
        loop {
            let berth = cluster.berth(self.role, self.per_link).await?;
            match berth.open(self.confirm, self.limit).await {
                // Another connection may have one, or this one may be about to be replaced.
                Err(ChannelError::Exhausted) => {}
                opened => return opened.map(|(channel, berth)| Channel::new(channel, berth)),
            }
        }
    }

    fn is_alive(&self, channel: &Channel) -> bool {
        channel.is_open()
    }

    fn reset(&self, channel: &mut Channel) -> bool {
        channel.is_open() && channel.status().confirm() == self.confirm
    }

    async fn destroy(&self, channel: Channel) {
        if channel.is_open() && !channel.link().is_blocked() {
            // One that does not answer goes with its connection.
            let _ = channel.leave().await;
        }
    }

    fn classify(&self, error: &ChannelError) -> Failure {
        match error {
            ChannelError::Closed(_) => Failure::Refuse,
            // Whoever waits may have the next channel that comes back.
            ChannelError::Exhausted => Failure::Outage,
            ChannelError::Timeout(_) | ChannelError::Failed(_) => Failure::Outage,
        }
    }
}

pub(crate) fn pool(
    cluster: &Arc<Shared>,
    role: Role,
    confirm: bool,
) -> Result<ChannelPool, wharf::BuildError> {
    let config = &cluster.config;
    let kind = ["channels", "confirm channels"][usize::from(confirm)];
    let manager = ChannelManager {
        cluster: Arc::downgrade(cluster),
        role,
        confirm,
        per_link: config.channels_per_connection,
        limit: config.operation_timeout,
    };
    Pool::builder(manager)
        .max_active(config.connections * config.channels_per_connection)
        // Each open channel slows its connection down a little (lapin 4.12).
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(None)
        .check_interval(None)
        .wait_timeout(config.operation_timeout)
        .create_timeout(config.operation_timeout)
        // Messages that wait for a channel are bounded by their publisher's window.
        .max_waiters(if confirm { 1 << 20 } else { 10_000 })
        // Nothing is dialled by a probe: it waits for the cluster.
        .backoff(Backoff {
            min: Duration::from_millis(10),
            max: Duration::from_secs(1),
        })
        .name(format!("{} ({kind})", config.name))
        .build()
}
