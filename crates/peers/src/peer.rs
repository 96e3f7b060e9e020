//! A peer, as users see it.

use std::{collections::BTreeMap, fmt, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    builder::Builder,
    config::{Config, SettingError, split},
    drive::drive,
    error::{HandlerError, ListenerState, PeerState, SendError, StartError, StopError},
    io as own,
    listener::{Listener, Order},
    remote::Remote,
    route::{Routes, routes},
    ticket::Receipt,
    wire::Epoch,
};

/// A named process among others: it sends packets to them by name, and handles what they send. Clones
/// are handles to the same; with the last one goes the peer, without taking leave.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use wharf_peers::{ListenerState, Peer};
///
/// let billing = Peer::builder("billing")
///     .listen("127.0.0.1:0")
///     .caller("orders")
///     .token("secret")
///     .start(|from, packet| async move {
///         println!("{from} says {packet:?}");
///         Ok(())
///     })
///     .await?;
/// let address = billing.listening().await.expect("a free port is free");
///
/// let orders = Peer::builder("orders")
///     .peer("billing", address.to_string())
///     .token("secret")
///     .start(|_, _| async { Ok(()) })
///     .await?;
/// orders.send("billing", "a packet").await?;
///
/// orders.stop_within(Duration::from_secs(5)).await?;
/// billing.stop_within(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Peer {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<Config>,
    remotes: BTreeMap<String, Arc<Remote>>,
    routes: Routes,
    listener: watch::Receiver<ListenerState>,
    /// Gone with the last handle: whoever listens then stops at once.
    orders: watch::Sender<Order>,
    /// Ends the tasks that send.
    stopped: watch::Sender<()>,
    receiving: Mutex<Option<JoinHandle<usize>>>,
}

impl Peer {
    /// A peer of this name, to be set up.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(Config {
            name: name.into(),
            ..Config::default()
        })
    }

    /// The same from a configuration.
    pub fn from_config(config: Config) -> Builder {
        Builder::new(config)
    }

    pub(crate) fn start<H, F>(config: Config, handler: H) -> Result<Self, StartError>
    where
        H: Fn(Arc<str>, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let runtime =
            Handle::try_current().map_err(|error| StartError::Runtime(io::Error::other(error)))?;
        let own = own::handle().map_err(StartError::Runtime)?;
        let config = Arc::new(config);
        // Another life of this peer must not be taken for this one.
        let epoch = Epoch(fastrand::u64(..));
        let remotes: BTreeMap<_, _> = config
            .peers
            .iter()
            .map(|(name, address)| (name.clone(), Remote::new(name, address, &config, epoch)))
            .collect();
        let routes = routes(&config, &remotes, own)?;
        let (stopped, is_stopped) = watch::channel(());
        for remote in remotes.values() {
            own.spawn(drive(
                Arc::clone(remote),
                routes.clone(),
                is_stopped.clone(),
            ));
        }
        let (orders, given) = watch::channel(Order::Listen);
        let (state, listener) = watch::channel(match config.listen {
            Some(_) => ListenerState::Starting,
            None => ListenerState::None,
        });
        let receiving = config.listen.clone().map(|at| {
            let listener = Listener {
                config: Arc::clone(&config),
                at,
                epoch,
                handler: Arc::new(handler),
                runtime,
                state,
            };
            own.spawn(listener.run(given))
        });
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                remotes,
                routes,
                listener,
                orders,
                stopped,
                receiving: Mutex::new(receiving),
            }),
        })
    }

    /// What the others call this peer.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Sends a packet, and waits until the other side's handler has accepted it.
    ///
    /// Packets to one peer arrive in the order in which they were sent, as far as that is defined: of two
    /// calls that run at the same time, in that in which they are first polled.
    ///
    /// # Errors
    ///
    /// [`SendError`], which says whether the packet may have arrived
    /// ([`may_have_arrived`](SendError::may_have_arrived)).
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped before the packet was sent takes it back; after that the packet may be
    /// handled or not.
    pub async fn send(&self, to: &str, packet: impl Into<Bytes>) -> Result<(), SendError> {
        self.submit(to, packet).await?.await
    }

    /// Puts a packet in line, and gives a [`Receipt`] to wait on: for those who send many. Waits for a
    /// place in the window, first come first served.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the packet was not sent.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped before it is done has sent nothing.
    pub async fn submit(&self, to: &str, packet: impl Into<Bytes>) -> Result<Receipt, SendError> {
        let remote = self.remote(to).ok_or_else(|| SendError::UnknownPeer {
            name: to.to_owned(),
        })?;
        remote.submit(packet.into()).await
    }

    /// How the connection to a peer is, to look at or to wait for. None if there is no peer of this
    /// name that this one sends to.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn watch(&self, name: &str) -> Option<watch::Receiver<PeerState>> {
        self.remote(name).map(|remote| remote.watch())
    }

    /// Whether this peer can be reached, to look at or to wait for.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn listener(&self) -> watch::Receiver<ListenerState> {
        self.shared.listener.clone()
    }

    /// Waits until this peer listens, and says where. None if it does not, or is stopped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn listening(&self) -> Option<std::net::SocketAddr> {
        let mut listener = self.listener();
        let decided = listener.wait_for(|state| {
            use ListenerState as S;
            matches!(state, S::None | S::Listening(_) | S::Closed)
        });
        match decided.await.as_deref() {
            Ok(ListenerState::Listening(address)) => Some(*address),
            _ => None,
        }
    }

    /// From now on this peer is at another address, as `host:port`. If it is connected, it is no longer;
    /// what is without an answer is sent again there, if it is the same process.
    ///
    /// # Errors
    ///
    /// [`SettingError`] if there is no such peer, or this is no address.
    pub fn move_peer(&self, name: &str, address: impl Into<String>) -> Result<(), SettingError> {
        let wrong = |bound| SettingError {
            field: "peers",
            bound,
        };
        let remote = self.remote(name).ok_or(wrong("peers that there are"))?;
        let address = address.into();
        split(&address).ok_or(wrong("addresses as host:port"))?;
        remote.move_to(address);
        Ok(())
    }

    /// Stops: nothing more is accepted for sending, nothing more that comes is handled. What was
    /// accepted is sent and answered, and what has come is handled, as far as the time allows; a tenth of
    /// it, at most a second, is kept for leave.
    ///
    /// # Errors
    ///
    /// [`StopError`] if the time was not enough. The peer is stopped nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, nothing is accepted any more; the rest ends with the last handle.
    pub async fn stop_within(&self, limit: Duration) -> Result<(), StopError> {
        let shared = &*self.shared;
        let began = Instant::now();
        let end = began + limit;
        let reserve = (limit / 10).min(Duration::from_secs(1));
        let deadline = end - reserve;
        for remote in shared.remotes.values() {
            remote.refuse();
        }
        let drained = shared.remotes.values().map(|remote| remote.drained());
        let _ = timeout_at(deadline, join_all(drained)).await;
        let unanswered = shared.remotes.values().map(|remote| remote.end()).sum();
        shared.stopped.send_replace(());
        shared.orders.send_replace(Order::Stop(end));
        let receiving = shared.receiving.lock().take();
        let unhandled = match receiving {
            // One that panicked handles nothing any more.
            Some(receiving) => receiving.await.unwrap_or(0),
            None => 0,
        };
        let left = end.saturating_duration_since(Instant::now());
        // Those that do not answer are cut when their time is up.
        let _ = shared.routes.close_within(left.max(reserve)).await;
        if unanswered + unhandled > 0 {
            return Err(StopError {
                unanswered,
                unhandled,
            });
        }
        Ok(())
    }

    fn remote(&self, name: &str) -> Option<&Arc<Remote>> {
        self.shared.remotes.get(name)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for remote in self.remotes.values() {
            remote.end();
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("name", &self.name())
            .field("listener", &*self.shared.listener.borrow())
            .field("peers", &self.shared.remotes)
            .finish_non_exhaustive()
    }
}
