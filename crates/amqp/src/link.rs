//! One connection: dialling it, noticing that it is lost or blocked, opening channels on it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use lapin::{
    Connection, ConnectionProperties, Event,
    options::ConfirmSelectOptions,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout},
};

use crate::{
    config::Config,
    endpoint::Endpoint,
    error::{ChannelError, ConnectError},
    io,
};

/// How a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// The broker reads nothing from it for now, for this reason.
    Blocked(Arc<str>),
    Lost,
}

/// What a connection is used for. Roles never share one: a broker that blocks publishers goes on
/// delivering to consumers, and taking their acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Publish,
    Consume,
    /// Channels lent to the user.
    General,
}

impl Role {
    pub(crate) const ALL: [Role; 3] = [Role::Publish, Role::Consume, Role::General];

    fn label(self) -> &'static str {
        match self {
            Role::Publish => "publish",
            Role::Consume => "consume",
            Role::General => "channels",
        }
    }
}

/// After so many channels that the broker closed, a connection is replaced, or after half of those
/// it may have: lapin 4.12 stumbles once over the number of each, and never uses it again.
const SPOILED: u32 = 256;

/// How often the state of a connection is looked at besides its events.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct Link {
    connection: Connection,
    pub(crate) role: Role,
    pub(crate) host: Endpoint,
    health: watch::Sender<Health>,
    since: Instant,
    /// Channels open or being opened.
    channels: AtomicUsize,
    /// Channels that the broker closed.
    spoiled: AtomicU32,
    /// There were no channels to be had, and none has been given back since.
    is_full: AtomicBool,
}

impl Link {
    /// Dials a host. An attempt that has no end is left behind, and its connection closed if it
    /// comes about after all: one that is dropped half-way would leave its thread behind for good.
    pub(crate) async fn dial(
        host: Endpoint,
        role: Role,
        config: &Config,
        attempts: &Arc<tokio::sync::Semaphore>,
    ) -> Result<Arc<Self>, ConnectError> {
        let limit = config.connect_timeout;
        let deadline = Instant::now() + limit;
        let attempt = Arc::clone(attempts).acquire_owned();
        let Ok(Ok(attempt)) = timeout(limit, attempt).await else {
            return Err(ConnectError::Timeout(limit));
        };
        let (uri, properties) = request(&host, role, config);
        let dialling = io::spawn(async move {
            let runtime = async_rs::Runtime::tokio_with_handle(io::handle().clone());
            let connection = Connection::connect_uri_with_runtime(uri, properties, runtime).await;
            drop(attempt);
            connection
        });
        let mut dialling = Abandoned(Some(dialling));
        let running = dialling.0.as_mut().expect("it was put there above");
        let connection = match tokio::time::timeout_at(deadline, running).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(died)) => {
                let died = std::io::Error::other(died);
                return Err(ConnectError::Failed(died.into()));
            }
            Err(_) => return Err(ConnectError::Timeout(limit)),
        };
        let link = Arc::new(Self {
            connection,
            role,
            host,
            health: watch::Sender::new(Health::Well),
            since: Instant::now(),
            channels: AtomicUsize::new(0),
            spoiled: AtomicU32::new(0),
            is_full: AtomicBool::new(false),
        });
        let events = link.connection.events_listener();
        io::spawn(attend(Arc::downgrade(&link), events));
        Ok(link)
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Whether channels can be opened and used on it, though perhaps not at once.
    pub(crate) fn is_live(&self) -> bool {
        *self.health.borrow() != Health::Lost && self.connection.status().connected()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        matches!(*self.health.borrow(), Health::Blocked(_))
    }

    /// Whether it is time for another: see [`SPOILED`].
    pub(crate) fn is_worn(&self) -> bool {
        let most = u32::from(self.connection.configuration().channel_max());
        self.spoiled.load(Ordering::Relaxed) >= SPOILED.min(most / 2).max(1)
    }

    /// For how long it has existed.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it can take another channel, if it may have this many.
    pub(crate) fn has_room(&self, most: usize) -> bool {
        self.load() < most && !self.is_full.load(Ordering::Relaxed)
    }

    /// How many channels are open.
    pub(crate) fn load(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Opens a channel.
    pub(crate) async fn open(
        self: &Arc<Self>,
        confirm: bool,
        limit: Duration,
    ) -> Result<(lapin::Channel, Berth), ChannelError> {
        let berth = Berth::new(Arc::clone(self));
        let opening = async {
            let channel = self.connection.create_channel().await?;
            if confirm {
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
            }
            Ok::<_, lapin::Error>(channel)
        };
        match timeout(limit, opening).await {
            Ok(Ok(channel)) => Ok((channel, berth)),
            Ok(Err(error)) => Err(match error.kind() {
                lapin::ErrorKind::ChannelsLimitReached => {
                    self.is_full.store(true, Ordering::Relaxed);
                    ChannelError::Exhausted
                }
                _ => ChannelError::Failed(error),
            }),
            Err(_) => Err(ChannelError::Timeout(limit)),
        }
    }

    /// Closes the connection, waiting for the broker at most this long.
    pub(crate) async fn close(&self, limit: Duration) {
        let farewell = self.connection.close(200, "OK".into());
        // A broker that does not answer is left without a word.
        let _ = timeout(limit, farewell).await;
        self.lose();
    }

    fn lose(&self) {
        self.health.send_replace(Health::Lost);
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("host", &self.host)
            .field("role", &self.role)
            .field("health", &*self.health.borrow())
            .finish_non_exhaustive()
    }
}

/// One channel's place on its connection, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Berth {
    pub(crate) link: Arc<Link>,
}

impl Berth {
    fn new(link: Arc<Link>) -> Self {
        link.channels.fetch_add(1, Ordering::Relaxed);
        Self { link }
    }

    /// The broker has closed the channel.
    pub(crate) fn spoil(&self) {
        self.link.spoiled.fetch_add(1, Ordering::Relaxed);
        if self.link.is_worn() {
            // For the keeper to look.
            self.link.health.send_modify(|_| {});
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.link.channels.fetch_sub(1, Ordering::Relaxed);
        self.link.is_full.store(false, Ordering::Relaxed);
    }
}

/// An attempt to connect that nobody waits for any more.
struct Abandoned(Option<tokio::task::JoinHandle<lapin::Result<Connection>>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(dialling) = self.0.take()
            && !dialling.is_finished()
        {
            io::spawn(async move {
                if let Ok(Ok(connection)) = dialling.await {
                    let farewell = connection.close(200, "too late".into());
                    let _ = timeout(Duration::from_secs(5), farewell).await;
                }
            });
        }
    }
}

fn request(host: &Endpoint, role: Role, config: &Config) -> (AMQPUri, ConnectionProperties) {
    let uri = AMQPUri {
        scheme: if host.tls {
            AMQPScheme::AMQPS
        } else {
            AMQPScheme::AMQP
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.user.clone(),
                password: config.password.reveal().to_owned(),
            },
            host: host.host.clone(),
            port: host.port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            frame_max: (config.frame_max > 0).then_some(config.frame_max),
            channel_max: (config.channel_max > 0).then_some(config.channel_max),
            heartbeat: Some(config.heartbeat),
            ..AMQPQueryString::default()
        },
    };
    let name = format!("{} ({})", config.name, role.label());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    (uri, properties)
}

/// Watches over a connection until it is lost, or nobody has it any more. The one listener it has,
/// for listeners share out the events between them (lapin 4.12).
async fn attend(link: Weak<Link>, events: impl Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    let mut look = interval(LOOK);
    loop {
        let event = tokio::select! {
            event = events.next() => event.map_or(Attention::Ended, Attention::Event),
            _ = look.tick() => Attention::Look,
        };
        let Some(link) = link.upgrade() else { return };
        match event {
            Attention::Event(Event::ConnectionBlocked(reason)) => {
                link.health.send_replace(Health::Blocked(reason.into()));
            }
            Attention::Event(Event::ConnectionUnblocked) => {
                link.health.send_replace(Health::Well);
            }
            Attention::Event(_) | Attention::Look if link.connection.status().connected() => {}
            _ => return link.lose(),
        }
    }
}

enum Attention {
    Event(Event),
    Look,
    /// There will be no more events.
    Ended,
}
