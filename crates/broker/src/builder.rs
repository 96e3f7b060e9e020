//! A broker to be set up.

use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use socket2::SockRef;
use thiserror::Error;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    Broker,
    engine::{NAME_MAX, Settings, User, VHostLimits},
    listener::{Bounds, Transport},
};
#[cfg(feature = "rustls")]
use {
    crate::tls::{Tls, Unusable},
    std::path::PathBuf,
};

/// Frames may not be limited below this (AMQP 0-9-1, frame-min-size).
const FRAME_MIN_SIZE: u32 = 4_096;
/// Connections that wait to be accepted; the system may allow fewer (`net.core.somaxconn`). Beyond
/// its bound Linux drops what a client believes to be connected, which then waits for nothing. So
/// this is eight times tokio's own, and takes all of a service's connections at once when they
/// come back after an outage.
const BACKLOG: i32 = 1_024;
/// A time beyond this is for ever: clocks have an end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Sets up a broker. Every bound has a default that suits a machine of one's own, and can be changed.
#[derive(Clone, Debug)]
#[must_use = "a broker starts with `start`"]
pub struct Builder {
    listen: String,
    settings: Settings,
    bounds: Bounds,
    #[cfg(feature = "rustls")]
    tls: Option<Tls>,
    heartbeat: Duration,
}

/// Why a broker did not start. Nothing is left of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can not be listened on, or is none.
    #[error("can not listen on {addr}")]
    Bind {
        /// As it was given.
        addr: String,
        /// The system's word on it.
        source: io::Error,
    },
    /// There is no user, and without one only the machine itself could be trusted.
    #[error("no user for a broker that listens on {addr}, which is not the loopback address")]
    NoUser {
        /// Where it would have listened.
        addr: SocketAddr,
    },
    /// A file of [`Builder::tls`] that can not be read, or is not what it is to be.
    #[cfg(feature = "rustls")]
    #[error("can not use {} for TLS", path.display())]
    Tls {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, without a word of what is in it.
        source: io::Error,
    },
    /// A setting outside its bounds.
    #[error("{setting} must be {must}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it has to be.
        must: &'static str,
    },
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            settings: Settings {
                users: Vec::new(),
                vhosts: Vec::new(),
                frame_max: 131_072,
                channel_max: 2_047,
                heartbeat: 0,
                handshake_timeout: Duration::from_secs(10),
                max_message_size: 128 << 20,
                memory_limit: 256 << 20,
                outbox_limit: 1 << 20,
                max_consumers_per_channel: 10_000,
                vhost_limits: VHostLimits {
                    max_exchanges: 10_000,
                    max_queues: 10_000,
                    max_bindings: 100_000,
                    max_argument_bytes: 64 << 20,
                    max_queue_length: None,
                    max_queue_bytes: None,
                },
                seed: fastrand::u64(..),
                unix: 0,
            },
            bounds: Bounds {
                connections: 4_096,
                pending: 256,
                send_timeout: Duration::from_secs(15),
            },
            #[cfg(feature = "rustls")]
            tls: None,
            heartbeat: Duration::from_secs(60),
        }
    }

    /// Where to listen: an address and a port, such as `127.0.0.1:5673` or `[::1]:0`. Port zero is a
    /// free one. `127.0.0.1:0` if this is not called.
    pub fn listen(mut self, addr: impl Display) -> Self {
        self.listen = addr.to_string();
        self
    }

    /// Speaks TLS (1.2 and 1.3) to all who connect, and to nobody without. The files are read when the
    /// broker starts: a renewed certificate needs a new start. Clients [in this
    /// process](Broker::attach) have nothing to do with it.
    ///
    /// The handshake of TLS is a part of that which [`handshake_timeout`](Self::handshake_timeout) and
    /// [`max_pending_connections`](Self::max_pending_connections) bound. Until it is done a connection
    /// holds at most 64 KiB of what its client has sent. How often strangers may begin one is not bounded,
    /// and each costs a signature: one with an ECDSA key costs much less than one with RSA.
    #[cfg(feature = "rustls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Someone who may log in (SASL `PLAIN` or `AMQPLAIN`) and open every virtual host. The name has at
    /// most 255 bytes. An empty password is one like any other: only who was given it logs in with it.
    ///
    /// Called again for a name it adds a password, any of which will do, and what the user may open is
    /// what was said last. Without any user, a broker that listens on a loopback address has `guest`
    /// with password `guest`.
    pub fn user(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.add_user(name.into(), password.into(), None)
    }

    /// As [`user`](Self::user), of someone who may open these virtual hosts only.
    pub fn user_of<V>(
        self,
        name: impl Into<String>,
        password: impl Into<String>,
        vhosts: impl IntoIterator<Item = V>,
    ) -> Self
    where
        V: Into<String>,
    {
        let vhosts = vhosts.into_iter().map(Into::into).collect();
        self.add_user(name.into(), password.into(), Some(vhosts))
    }

    /// A virtual host. Without any there is `/`.
    pub fn vhost(mut self, name: impl Into<String>) -> Self {
        self.settings.vhosts.push(name.into());
        self
    }

    /// The largest frame in bytes, its eight bytes of framing among them, as offered to clients.
    /// 131,072 by default, at least 4,096.
    pub fn frame_max(mut self, bytes: u32) -> Self {
        self.settings.frame_max = bytes;
        self
    }

    /// The highest number a channel may have, as offered to clients. 2,047 by default.
    pub fn channel_max(mut self, channels: u16) -> Self {
        self.settings.channel_max = channels;
        self
    }

    /// How often either side lets hear from itself, as offered to clients, in whole seconds. 60
    /// seconds by default; zero is never.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// From the accepted socket to `connection.open-ok`, all of it. Ten seconds by default, a year at
    /// most.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout.min(LONGEST);
        self
    }

    /// Connections at a time, those in handshake among them. One more is closed at once. 4,096 by
    /// default.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.bounds.connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Connections in handshake at a time. One more puts out the oldest, so that those who never end
    /// theirs keep nobody out for long. 256 by default.
    pub fn max_pending_connections(mut self, connections: usize) -> Self {
        self.bounds.pending = connections;
        self
    }

    /// A connection is cut whose socket takes no byte for so long, though some wait. 15 seconds by
    /// default, as RabbitMQ's `send_timeout`; a year at most.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.bounds.send_timeout = timeout.min(LONGEST);
        self
    }

    /// Bytes that wait to be written to one connection; from here on deliveries to it pause. 1 MiB by
    /// default, at least one byte.
    pub fn outbox(mut self, bytes: usize) -> Self {
        self.settings.outbox_limit = bytes.min(usize::MAX / 2);
        self
    }

    /// Bytes of all messages together; from here on connections that publish are blocked, as
    /// RabbitMQ's are above its memory watermark. 256 MiB by default.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = bytes;
        self
    }

    /// Bytes of one message's body. 128 MiB by default, as RabbitMQ's `max_message_size`.
    pub fn max_message_size(mut self, bytes: u64) -> Self {
        self.settings.max_message_size = bytes;
        self
    }

    /// Consumers of one channel. 10,000 by default.
    pub fn max_consumers(mut self, consumers: usize) -> Self {
        self.settings.max_consumers_per_channel = consumers;
        self
    }

    /// Exchanges of one virtual host. 10,000 by default.
    pub fn max_exchanges(mut self, exchanges: usize) -> Self {
        self.settings.vhost_limits.max_exchanges = exchanges;
        self
    }

    /// Queues of one virtual host. 10,000 by default.
    pub fn max_queues(mut self, queues: usize) -> Self {
        self.settings.vhost_limits.max_queues = queues;
        self
    }

    /// Bindings of one virtual host. 100,000 by default.
    pub fn max_bindings(mut self, bindings: usize) -> Self {
        self.settings.vhost_limits.max_bindings = bindings;
        self
    }

    /// Bytes of the arguments that exchanges, queues and bindings of one virtual host were declared
    /// with, about, as they are held in memory. 64 MiB by default.
    pub fn max_argument_bytes(mut self, bytes: usize) -> Self {
        self.settings.vhost_limits.max_argument_bytes = bytes;
        self
    }

    /// Messages ready in one queue, whatever its arguments say; more are rejected. No limit by
    /// default.
    pub fn max_queue_length(mut self, messages: usize) -> Self {
        self.settings.vhost_limits.max_queue_length = Some(messages);
        self
    }

    /// Bytes of the bodies ready in one queue, whatever its arguments say; more are rejected. No
    /// limit by default.
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.settings.vhost_limits.max_queue_bytes = Some(bytes);
        self
    }

    /// Fixes the names that the broker makes up (consumer tags, server-named queues), so that they
    /// are the same in each run. At random by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Starts it on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn start(mut self) -> Result<Broker, StartError> {
        self.settings.heartbeat = self.check()?;
        let transport = self.transport()?;
        let bind = |source| StartError::Bind {
            addr: self.listen.clone(),
            source,
        };
        let socket = TcpListener::bind(&self.listen).await.map_err(bind)?;
        // A socket that listens may listen again, which only sets its backlog.
        SockRef::from(&socket).listen(BACKLOG).map_err(bind)?;
        let addr = socket.local_addr().map_err(bind)?;
        self.complete(addr)?;
        Ok(Broker::run(
            socket,
            addr,
            self.settings,
            self.bounds,
            transport,
        ))
    }

    /// What the engine would be told, for one without sockets.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn settings(mut self, addr: SocketAddr) -> Settings {
        self.settings.heartbeat = self.check().expect("settings within their bounds");
        self.complete(addr).expect("users who may log in");
        self.settings
    }

    fn add_user(mut self, name: String, password: String, vhosts: Option<Vec<String>>) -> Self {
        let users = &mut self.settings.users;
        match users.iter_mut().find(|user| user.name == name) {
            Some(user) => {
                user.passwords.push(password);
                user.vhosts = vhosts;
            }
            None => users.push(User {
                name,
                passwords: vec![password],
                vhosts,
            }),
        }
        self
    }

    /// Returns the heartbeat in the seconds that it has on the wire.
    fn check(&self) -> Result<u16, StartError> {
        let settings = &self.settings;
        let names = settings.vhosts.iter().all(|name| name.len() <= NAME_MAX);
        require(names, "vhost", "a name of at most 255 bytes")?;
        let names = settings
            .users
            .iter()
            .all(|user| user.name.len() <= NAME_MAX);
        require(names, "user", "a name of at most 255 bytes")?;
        let frame_max = settings.frame_max >= FRAME_MIN_SIZE;
        require(frame_max, "frame_max", "at least 4,096 bytes")?;
        let channels = settings.channel_max > 0;
        require(channels, "channel_max", "at least one")?;
        let pending = self.bounds.pending > 0;
        require(pending, "max_pending_connections", "at least one")?;
        require(settings.outbox_limit > 0, "outbox", "at least one byte")?;
        u16::try_from(self.heartbeat.as_secs()).map_err(|_| StartError::Setting {
            setting: "heartbeat",
            must: "at most 65,535 seconds",
        })
    }

    fn transport(&self) -> Result<Transport, StartError> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            let unusable = |Unusable { path, source }| StartError::Tls { path, source };
            return Ok(Transport::Tls(tls.load().map_err(unusable)?));
        }
        Ok(Transport::Plain)
    }

    /// What goes without saying.
    fn complete(&mut self, addr: SocketAddr) -> Result<(), StartError> {
        let settings = &mut self.settings;
        if settings.vhosts.is_empty() {
            settings.vhosts.push("/".to_owned());
        }
        if settings.users.is_empty() {
            if !addr.ip().is_loopback() {
                return Err(StartError::NoUser { addr });
            }
            settings.users.push(User {
                name: "guest".to_owned(),
                passwords: vec!["guest".to_owned()],
                vhosts: None,
            });
        }
        // A clock before 1970 dates dead letters to it.
        settings.unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Ok(())
    }
}

fn require(holds: bool, setting: &'static str, must: &'static str) -> Result<(), StartError> {
    if holds {
        Ok(())
    } else {
        Err(StartError::Setting { setting, must })
    }
}
