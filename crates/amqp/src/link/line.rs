//! A connection as lapin has it, and a hold on its socket.
//!
//! lapin 4.12 waits without a bound for a peer that is silent while it is dialled or as it is
//! closed, with a thread of its own, and a dropped future leaves that thread behind for good. A
//! socket that is ended ends them both.

use std::{
    io,
    mem::replace,
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_rs::Runtime;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{kit::Kit, stream::Stream, thread::Thread};
use crate::error::ConnectError;

/// Dropped, it ends the connection without a word.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) thread: Arc<Thread>,
    plug: Plug,
}

impl Line {
    /// Leaves nothing behind, whatever the peer does. With an error, that takes at most `limit`.
    pub(super) async fn dial(
        uri: AMQPUri,
        tls: OwnedTLSConfig,
        properties: ConnectionProperties,
        limit: Duration,
        busy_poll: Duration,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + limit;
        let plug = Plug::default();
        let thread = Arc::<Thread>::default();
        let runtime = Runtime::new(Kit::new(Arc::clone(&thread), busy_poll));
        // Before lapin hears of it: of each connection that it does not get, it leaves a task behind for
        // good (4.12).
        let connected = timeout_at(deadline, connect(&uri, &tls, &runtime, &plug.socket)).await;
        let stream = match connected {
            Ok(Ok(stream)) => Mutex::new(Some(stream)),
            Ok(Err(error)) if Instant::now() < deadline => {
                return Err(lapin::Error::from(error).into());
            }
            Ok(Err(_)) | Err(_) => return Err(ConnectError::Timeout(limit)),
        };
        let connect = async move |_: AMQPUri, _: Runtime<Kit>| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            // It is asked for again by a lapin that recovers connections, which ours does not.
            Ok(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?)
        };
        let dialling = Connection::connector(uri, runtime, connect, properties);
        tokio::select! {
            dialled = timeout_at(deadline, dialling) => match dialled {
                Ok(Ok(connection)) => Ok(Self { connection, thread, plug }),
                Ok(Err(error)) if Instant::now() < deadline => Err(error.into()),
                Ok(Err(_)) | Err(_) => Err(ConnectError::Timeout(limit)),
            },
            () = plug.left_by_peer() => {
                let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                Err(ConnectError::Failed(end.into()))
            }
        }
    }

    /// Closes the connection, waiting for the broker at most this long. One that does not answer
    /// is left without a word.
    pub(super) async fn close(&self, limit: Duration) {
        let farewell = self.connection.close(200, "OK".into());
        let _ = timeout(limit, farewell).await;
        self.plug.pull();
    }

    /// Lets go of a connection that is lost, so that the broker learns of it, too: it may be
    /// keeping an exclusive queue for us. A farewell under way is said first.
    pub(super) fn let_go(&self) {
        if !self.connection.status().closing() {
            self.plug.pull();
        }
    }
}

/// A second handle on what lapin reads and writes. Dropped, it is pulled.
#[derive(Default)]
struct Plug {
    socket: Arc<Mutex<Socket>>,
}

#[derive(Default)]
enum Socket {
    #[default]
    None,
    Open(TcpStream),
    Ended,
}

impl Plug {
    fn pull(&self) {
        if let Socket::Open(socket) = replace(&mut *lock(&self.socket), Socket::Ended) {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Plug {
    /// Until the peer has ended the connection, and lapin has had a second to notice: it does not
    /// if that is between its own Tune-Ok and the answer to Open (4.12).
    async fn left_by_peer(&self) {
        let mut looks = 0;
        while looks < 10 {
            sleep(Duration::from_millis(100)).await;
            looks = if self.is_at_end() { looks + 1 } else { 0 };
        }
    }

    fn is_at_end(&self) -> bool {
        let Socket::Open(socket) = &*lock(&self.socket) else {
            return false;
        };
        match socket.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.pull();
    }
}

fn insert(place: &Mutex<Socket>, socket: TcpStream) -> io::Result<()> {
    let mut place = lock(place);
    if let Socket::Ended = *place {
        return Err(io::ErrorKind::TimedOut.into());
    }
    *place = Socket::Open(socket);
    Ok(())
}

fn lock(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
    runtime: &Runtime<Kit>,
    place: &Mutex<Socket>,
) -> io::Result<AsyncTcpStream<Stream>> {
    let host = &uri.authority.host;
    let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
    let stream = AsyncTcpStream::connect(runtime, addresses).await?;
    if let AsyncTcpStream::Plain(plain) = &stream {
        insert(place, plain.second_handle()?)?;
    }
    match uri.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => stream.into_tls(host, tls.as_ref()).await,
    }
}
