//! Setting a peer up.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use wharf::Backoff;

#[cfg(feature = "rustls")]
use crate::tls::Tls;
use crate::{
    config::{Config, Offline, Restarted},
    error::{HandlerError, StartError},
    peer::Peer,
    token::Token,
};

/// Builds a [`Peer`]. Its methods set the fields of the [`Config`], whose documentation has the
/// meanings, bounds and defaults.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it starts"]
pub struct Builder {
    config: Config,
}

impl Builder {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// See [`Config::listen`].
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.set(|config| config.listen = Some(address.into()))
    }

    /// Adds a peer, or gives it another address. See [`Config::peers`].
    pub fn peer(self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.set(|config| {
            config.peers.insert(name.into(), address.into());
        })
    }

    /// Adds one that may send and listens nowhere. See [`Config::callers`].
    pub fn caller(self, name: impl Into<String>) -> Self {
        self.set(|config| {
            config.callers.insert(name.into());
        })
    }

    /// See [`Config::token`].
    pub fn token(self, token: impl Into<Token>) -> Self {
        self.set(|config| config.token = token.into())
    }

    /// See [`Config::other_token`].
    pub fn other_token(self, token: impl Into<Token>) -> Self {
        self.set(|config| config.other_token = Some(token.into()))
    }

    /// See [`Config::tls`].
    #[cfg(feature = "rustls")]
    pub fn tls(self, tls: Tls) -> Self {
        self.set(|config| config.tls = Some(tls))
    }

    /// See [`Config::allow_empty_token`].
    pub fn allow_empty_token(self, allow: bool) -> Self {
        self.set(|config| config.allow_empty_token = allow)
    }

    /// See [`Config::max_packet`].
    pub fn max_packet(self, bytes: usize) -> Self {
        self.set(|config| config.max_packet = bytes)
    }

    /// See [`Config::window`] and [`Config::window_bytes`].
    pub fn window(self, packets: usize, bytes: usize) -> Self {
        self.set(|config| (config.window, config.window_bytes) = (packets, bytes))
    }

    /// See [`Config::send_timeout`].
    pub fn send_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.send_timeout = timeout)
    }

    /// See [`Config::offline`].
    pub fn offline(self, offline: Offline) -> Self {
        self.set(|config| config.offline = offline)
    }

    /// See [`Config::restarted`].
    pub fn restarted(self, restarted: Restarted) -> Self {
        self.set(|config| config.restarted = restarted)
    }

    /// See [`Config::disconnect_untrusted`].
    pub fn disconnect_untrusted(self, disconnect: bool) -> Self {
        self.set(|config| config.disconnect_untrusted = disconnect)
    }

    /// See [`Config::connect_timeout`].
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.connect_timeout = timeout)
    }

    /// See [`Config::reconnect`].
    pub fn reconnect(self, backoff: Backoff) -> Self {
        self.set(|config| config.reconnect = backoff)
    }

    /// See [`Config::listen_retry`].
    pub fn listen_retry(self, pause: Duration) -> Self {
        self.set(|config| config.listen_retry = pause)
    }

    /// See [`Config::heartbeat`].
    pub fn heartbeat(self, seconds: u16) -> Self {
        self.set(|config| config.heartbeat = seconds)
    }

    /// See [`Config::busy_poll`].
    pub fn busy_poll(self, longest: Duration) -> Self {
        self.set(|config| config.busy_poll = longest)
    }

    /// Starts the peer. It begins to listen and to connect, and waits for neither: see
    /// [`Peer::listener`] and [`Peer::watch`].
    ///
    /// The handler is given each packet and the name of its sender, on the runtime that this is called
    /// on: one packet of a sender after the other, in order, and those of different senders at the same
    /// time. The sender's `send` returns when the handler has accepted the packet with `Ok`. An error,
    /// or a panic, rejects it, and the sender is told the reason. A handler that takes its time slows
    /// its senders down and no one else; one that blocks its thread stops no connection, for those have
    /// a thread of their own.
    ///
    /// # Errors
    ///
    /// [`StartError`]: a setting makes no sense, there is no tokio runtime, or no thread to be had.
    #[expect(
        clippy::unused_async,
        reason = "whoever starts a peer is in a runtime, and later versions may wait"
    )]
    pub async fn start<H, F>(self, handler: H) -> Result<Peer, StartError>
    where
        H: Fn(Arc<str>, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.config.validate()?;
        Peer::start(self.config, handler)
    }
}
