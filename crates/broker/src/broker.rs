//! The broker as a program holds it.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Builder, Local, TooLong,
    engine::{ConnectionStatus, Engine, NAME_MAX, QueueStatus, Settings, User},
    faults::Faults,
    listener::{Acceptor, Bounds, Hub, Transport, keep_time},
};

/// What RabbitMQ says when it is shut down.
const FORCED: (u16, &str) = (
    320,
    "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
);

/// A running broker. It lives on the tokio runtime it was started on.
///
/// Dropping it is the sudden end: the port is free at once, every connection is cut, and whatever
/// was in the queues is gone. [`stop_within`](Self::stop_within) takes leave first.
#[derive(Debug)]
pub struct Broker {
    // Dropped first, so that nobody connects to a broker that is going away.
    listening: Listening,
    hub: Arc<Hub>,
    addr: SocketAddr,
    scheme: &'static str,
    vhost: String,
    cut: Cut,
    /// Ends when the tasks of all connections have.
    alive: mpsc::Receiver<Infallible>,
}

/// The listening socket. Nobody else owns it, so dropping it frees the port.
#[derive(Debug)]
struct Listening {
    _socket: Arc<TcpListener>,
    _gone: watch::Sender<()>,
    acceptor: JoinHandle<()>,
}

/// Dropping it cuts every connection and ends the timekeeper.
#[derive(Debug)]
struct Cut {
    hub: Arc<Hub>,
    _sockets: watch::Sender<()>,
}

/// Some connections were not closed by their clients in time, and were cut.
#[derive(Debug, Error)]
#[error("{cut} connections were cut: they did not answer connection.close in time")]
#[non_exhaustive]
pub struct StopError {
    /// How many.
    pub cut: usize,
}

impl Broker {
    /// A broker to be set up.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn run(
        socket: TcpListener,
        addr: SocketAddr,
        settings: Settings,
        bounds: Bounds,
        transport: Transport,
    ) -> Self {
        let scheme = transport.scheme();
        let vhost = settings.vhosts[0].clone();
        let hub = Arc::new(Hub::new(settings));
        let socket = Arc::new(socket);
        let (gone, is_gone) = watch::channel(());
        let (cut, mut is_cut) = watch::channel(());
        let (alive, ended) = mpsc::channel(1);
        let acceptor = Acceptor {
            socket: Arc::downgrade(&socket),
            hub: Arc::clone(&hub),
            transport,
            bounds,
            gone: is_gone,
            cut: is_cut.clone(),
            alive,
        };
        let timekeeper = keep_time(Arc::clone(&hub));
        tokio::spawn(async move {
            tokio::select! {
                _ = is_cut.changed() => {}
                () = timekeeper => {}
            }
        });
        Self {
            listening: Listening {
                _socket: socket,
                _gone: gone,
                acceptor: tokio::spawn(acceptor.run()),
            },
            cut: Cut {
                hub: Arc::clone(&hub),
                _sockets: cut,
            },
            hub,
            addr,
            scheme,
            vhost,
            alive: ended,
        }
    }

    /// The address it listens on, with the port that was chosen if none was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// An AMQP URL of the first virtual host, for this user. A broker that listens on every address
    /// is reached through the loopback one. With TLS it is `amqps://`, and its host is an address, so that
    /// the certificate has to be for that.
    #[must_use]
    pub fn url(&self, user: &str, password: &str) -> String {
        self.url_of(user, password, &self.vhost)
    }

    /// An AMQP URL of this virtual host, for this user.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str, vhost: &str) -> String {
        format!(
            "{}://{}:{}@{}/{}",
            self.scheme,
            Escaped(user),
            Escaped(password),
            reachable(self.addr),
            Escaped(vhost),
        )
    }

    /// A client in this process, without a socket and without a word on the wire: it opens the first
    /// virtual host as this user, who need not be one that may log in, under this name
    /// ([`ConnectionStatus::name`]). It counts among the [connections](Self::connections) and not
    /// among those that [`Builder::max_connections`] allows, and can be closed as any other.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the user's name is more than 255 bytes.
    pub fn attach(&self, user: &str, name: &str) -> Result<Local, TooLong> {
        Local::attach(&self.hub, user, name)
    }

    /// Faults to come.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(self.hub.faults()))
    }

    /// Messages in a queue, [ready](QueueStatus::ready) and [unacknowledged](QueueStatus::unacked).
    /// Nothing if there is no such queue.
    #[must_use]
    pub fn queue_depth(&self, vhost: &str, queue: &str) -> Option<(usize, usize)> {
        self.hub.with(|engine, _| engine.queue_depth(vhost, queue))
    }

    /// How many connections there are, those in handshake among them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.hub.with(|engine, _| engine.connections().len())
    }

    /// The connections that are open, oldest first. Those in handshake, and those that are being
    /// closed, are not among them.
    #[must_use]
    pub fn open_connections(&self) -> Vec<ConnectionStatus> {
        self.hub.with(|engine, _| engine.open_connections())
    }

    /// Closes one of the [open connections](Self::open_connections) as an operator does: its client
    /// is told this code and text. False if there is none of this number.
    pub fn close_connection(&self, nth: u64, code: u16, text: &str) -> bool {
        self.hub
            .with(|engine, now| engine.close_nth(nth, code, text, now))
    }

    /// Closes all connections of a user as [`close_connection`](Self::close_connection) does, those of
    /// clients [in this process](Self::attach) among them, and ends those that have logged in and are
    /// not open yet. How many there were. With [`remove_user`](Self::remove_user) or
    /// [`set_passwords`](Self::set_passwords) before it, nobody is left who came in by what is not
    /// accepted any more.
    pub fn close_connections_of(&self, user: &str, code: u16, text: &str) -> usize {
        self.hub
            .with(|engine, now| engine.close_connections_of(user, code, text, now))
    }

    /// The queues of a virtual host, by name: those of everybody, exclusive ones included. What their
    /// numbers count is said at [`QueueStatus`]. Empty if there is no such virtual host.
    #[must_use]
    pub fn queues(&self, vhost: &str) -> Vec<QueueStatus> {
        self.hub.with(|engine, _| engine.queues(vhost))
    }

    /// Deletes a queue with what is in it, whoever's it is and whatever is in it. Its consumers are
    /// told (`basic.cancel`). False if there is none.
    pub fn delete_queue(&self, vhost: &str, queue: &str) -> bool {
        self.hub
            .with(|engine, now| engine.delete_queue(vhost, queue, now))
    }

    /// From now on this user may log in with this password, and open every virtual host, in place of
    /// whoever has the name. Connections that are open stay as they are. An empty password is one like
    /// any other.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the name is more than 255 bytes.
    pub fn add_user(
        &self,
        name: impl Into<String>,
        password: impl Into<String>,
    ) -> Result<(), TooLong> {
        let user = User {
            name: checked(name.into())?,
            passwords: vec![password.into()],
            vhosts: None,
        };
        self.hub.with(|engine, _| engine.add_user(user));
        Ok(())
    }

    /// From now on this user may log in with this password as well as with those that it has. All are
    /// compared at each login, whichever fits. False if there is no such user.
    pub fn accept_password(&self, name: &str, password: impl Into<String>) -> bool {
        let password = password.into();
        self.hub
            .with(|engine, _| engine.accept_password(name, password))
    }

    /// From now on this user may log in with any of these passwords and with no other, and with none
    /// not at all. Connections that are open stay as they are. False if there is no such user.
    pub fn set_passwords<P>(&self, name: &str, passwords: impl IntoIterator<Item = P>) -> bool
    where
        P: Into<String>,
    {
        let passwords = passwords.into_iter().map(Into::into).collect();
        self.hub
            .with(|engine, _| engine.set_passwords(name, passwords))
    }

    /// From now on nobody of this name may log in. Connections that are open stay. False if there is
    /// no such user.
    pub fn remove_user(&self, name: &str) -> bool {
        self.hub.with(|engine, _| engine.remove_user(name))
    }

    /// Stops listening, closes every connection with 320 `CONNECTION_FORCED` as RabbitMQ does when
    /// it is shut down, and waits until the clients have answered. Those that have not when `limit` is
    /// over are cut.
    ///
    /// # Errors
    ///
    /// [`StopError`] if some were cut. The broker is gone nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the broker: every connection is cut at once.
    pub async fn stop_within(self, limit: Duration) -> Result<(), StopError> {
        let Self {
            listening,
            hub,
            cut,
            mut alive,
            ..
        } = self;
        listening.end().await;
        hub.with(|engine, now| {
            let (code, text) = FORCED;
            for connection in engine.connections() {
                engine.close_connection(connection, code, text, now);
            }
        });
        if timeout(limit, alive.recv()).await.is_ok() {
            return Ok(());
        }
        let left = hub.with(|engine, _| engine.connections().len());
        drop(cut);
        alive.recv().await;
        if left == 0 {
            // All have answered; some sockets only waited for their peers to close them.
            return Ok(());
        }
        Err(StopError { cut: left })
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.hub.with(Engine::detach_all);
    }
}

impl Listening {
    /// Returns when no further connection can come.
    async fn end(self) {
        let Self {
            _socket: socket,
            _gone: gone,
            acceptor,
        } = self;
        drop((socket, gone));
        // It ends by itself; if it panicked it has ended as well.
        let _ = acceptor.await;
    }
}

fn checked(user: String) -> Result<String, TooLong> {
    if user.len() > NAME_MAX {
        return Err(TooLong { what: "the user" });
    }
    Ok(user)
}

/// Where a client on this machine finds a broker that listens here.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Text as a part of a URL: all but the unreserved characters of RFC 3986, section 2.3, as octets.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for octet in self.0.bytes() {
            match octet {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(octet))?;
                }
                _ => write!(f, "%{octet:02X}")?,
            }
        }
        Ok(())
    }
}
