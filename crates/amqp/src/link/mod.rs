//! One connection: dialling it, noticing that it is lost or blocked, opening channels on it.

#[cfg(unix)]
mod busy_poll;
mod kit;
mod line;
#[cfg(unix)]
mod nap;
mod socket;
mod stream;
mod thread;
mod tls;

use std::{
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use lapin::{
    ConnectionProperties, Event,
    options::ConfirmSelectOptions,
    tcp::OwnedTLSConfig,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, interval, timeout},
};

use crate::{
    config::Config,
    endpoint::Endpoint,
    error::{ChannelError, ConnectError},
    io, telemetry,
};
use line::Line;

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

    pub(crate) fn label(self) -> &'static str {
        match self {
            Role::Publish => "publish",
            Role::Consume => "consume",
            Role::General => "channels",
        }
    }
}

/// Ahead of the word in [`Health`].
#[derive(Default)]
struct Pulse {
    is_blocked: AtomicBool,
    is_lost: AtomicBool,
}

/// After so many channels that the broker closed, a connection is replaced, or after half of those
/// it may have: lapin 4.12 stumbles once over the number of each, and never uses it again.
const SPOILED: u32 = 256;

/// How often the state of a connection is looked at besides its events.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct Link {
    line: Arc<Line>,
    pub(crate) role: Role,
    pub(crate) host: Endpoint,
    health: watch::Sender<Health>,
    /// The same for a quick look.
    pulse: Pulse,
    declaring: tokio::sync::Mutex<()>,
    since: Instant,
    /// Channels open or being opened.
    channels: AtomicUsize,
    /// Channels that the broker closed.
    spoiled: AtomicU32,
    /// There were no channels to be had, and none has been given back since.
    is_full: AtomicBool,
    /// How long its farewell may take.
    limit: Duration,
    told: telemetry::Connection,
}

impl Link {
    /// Dials a host, within the connect timeout.
    pub(crate) async fn dial(
        host: Endpoint,
        role: Role,
        config: &Config,
    ) -> Result<Arc<Self>, ConnectError> {
        let (uri, properties) = request(&host, role, config);
        let limit = config.connect_timeout;
        let files = if host.tls {
            let files = timeout(limit, tls::read(config)).await;
            files.map_err(|_| ConnectError::Timeout(limit))??
        } else {
            OwnedTLSConfig::default()
        };
        let line = Line::dial(uri, files, properties, limit, config.busy_poll).await?;
        let link = Arc::new(Self {
            line: Arc::new(line),
            role,
            told: telemetry::Connection::up(&config.name, role.label(), &host),
            host,
            health: watch::Sender::new(Health::Well),
            pulse: Pulse::default(),
            declaring: tokio::sync::Mutex::default(),
            since: Instant::now(),
            channels: AtomicUsize::new(0),
            spoiled: AtomicU32::new(0),
            is_full: AtomicBool::new(false),
            limit: config.operation_timeout,
        });
        let events = link.line.connection.events_listener();
        io::spawn(attend(Arc::downgrade(&link), events));
        Ok(link)
    }

    /// To be held while things are declared, so that an error the broker closes the connection for
    /// is laid to whoever made it.
    pub(crate) fn declaring(&self) -> &tokio::sync::Mutex<()> {
        &self.declaring
    }

    /// Runs a task on the thread of this connection, where what it waits for comes from. It goes on
    /// whether or not anybody waits for its end.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (end, ended) = oneshot::channel();
        self.line.thread.spawn(async move {
            // Nobody may be waiting for it.
            let _ = end.send(task.await);
        });
        ended
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Until it is lost.
    pub(crate) async fn lost(&self) {
        // The sender is here.
        let mut health = self.health();
        let _ = health.wait_for(|health| *health == Health::Lost).await;
    }

    /// What lapin makes of a question to the broker, or an error soon after the connection is lost:
    /// lapin 4.12 never answers what is asked as it dies. The caller sets the bound.
    pub(crate) async fn answer<T>(
        &self,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> lapin::Result<T> {
        let mut question = pin!(question);
        tokio::select! {
            biased;
            answer = &mut question => return answer,
            () = self.lost() => {}
        }
        // What was asked before may be answered with why it died.
        let answer = timeout(LOOK, question).await;
        answer.unwrap_or_else(|_| {
            let state = lapin::ConnectionState::Closed;
            Err(lapin::ErrorKind::InvalidConnectionState(state).into())
        })
    }

    /// Whether channels can be opened and used on it, though perhaps not at once.
    pub(crate) fn is_live(&self) -> bool {
        *self.health.borrow() != Health::Lost && self.line.connection.status().connected()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.pulse.is_blocked.load(Ordering::Relaxed)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.pulse.is_lost.load(Ordering::Relaxed)
    }

    /// Whether it is time for another: see [`SPOILED`].
    pub(crate) fn is_worn(&self) -> bool {
        let most = u32::from(self.line.connection.configuration().channel_max());
        self.spoiled.load(Ordering::Relaxed) >= SPOILED.min(most / 2).max(1)
    }

    /// The largest frame as agreed with the broker, 0 if there is no bound.
    pub(crate) fn frame_max(&self) -> u32 {
        self.line.connection.configuration().frame_max()
    }

    /// For how long it has existed.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it can take another channel, if it may have this many.
    pub(crate) fn has_room(&self, most: usize) -> bool {
        self.load() < most && !self.is_full.load(Ordering::Relaxed)
    }

    /// Whoever asks next for a channel shall ask lapin: a number is free a little later than the
    /// berth, and nobody says when.
    pub(crate) fn may_have_room(&self) {
        self.is_full.store(false, Ordering::Relaxed);
    }

    /// How many channels are open.
    pub(crate) fn load(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// A place for a channel.
    pub(crate) fn berth(self: &Arc<Self>) -> Berth {
        self.channels.fetch_add(1, Ordering::Relaxed);
        Berth {
            link: Arc::clone(self),
        }
    }

    /// Opens a channel.
    pub(crate) async fn open(
        self: &Arc<Self>,
        confirm: bool,
        limit: Duration,
    ) -> Result<(lapin::Channel, Berth), ChannelError> {
        self.berth().open(confirm, limit).await
    }

    /// Closes the connection, waiting for the broker at most this long.
    pub(crate) async fn close(&self, limit: Duration) {
        self.told.closed();
        self.line.close(limit).await;
        self.lose();
    }

    fn turn(&self, health: Health) {
        let is_blocked = matches!(health, Health::Blocked(_));
        let is_lost = health == Health::Lost;
        self.pulse.is_blocked.store(is_blocked, Ordering::Relaxed);
        self.pulse.is_lost.store(is_lost, Ordering::Relaxed);
        self.health.send_replace(health);
    }

    fn lose(&self) {
        self.line.let_go();
        self.told.lost(&ConnectError::Lost);
        self.turn(Health::Lost);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.line.connection.status().connected() {
            let (line, limit) = (Arc::clone(&self.line), self.limit);
            io::spawn(async move { line.close(limit).await });
        }
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
    /// Opens the channel.
    pub(crate) async fn open(
        self,
        confirm: bool,
        limit: Duration,
    ) -> Result<(lapin::Channel, Self), ChannelError> {
        let link = Arc::clone(&self.link);
        let opening = async {
            let channel = link.line.connection.create_channel().await?;
            if confirm {
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
            }
            Ok::<_, lapin::Error>(channel)
        };
        match timeout(limit, link.answer(opening)).await {
            Ok(Ok(channel)) => Ok((channel, self)),
            Ok(Err(error)) => Err(match error.kind() {
                lapin::ErrorKind::ChannelsLimitReached => {
                    // Ahead of the word: that of a berth that is free contradicts it.
                    drop(self);
                    link.is_full.store(true, Ordering::Relaxed);
                    ChannelError::Exhausted
                }
                _ => ChannelError::Failed(error),
            }),
            Err(_) => Err(ChannelError::Timeout(limit)),
        }
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
            // First, for it may say why the connection is lost.
            biased;
            event = events.next() => event.map_or(Attention::Ended, Attention::Event),
            _ = look.tick() => Attention::Look,
        };
        let Some(link) = link.upgrade() else { return };
        if let Attention::Event(Event::Error(cause)) = &event {
            let is_up = link.line.connection.status().connected();
            link.told.error(cause, is_up);
        }
        match event {
            Attention::Event(Event::ConnectionBlocked(reason)) => {
                link.told.blocked(&reason);
                link.turn(Health::Blocked(reason.into()));
            }
            Attention::Event(Event::ConnectionUnblocked) => {
                link.told.unblocked();
                link.turn(Health::Well);
            }
            Attention::Event(_) | Attention::Look if link.line.connection.status().connected() => {}
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
