//! The task that accepts connections.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep,
};

use super::{Hub, Transport, connection::Connection, lobby::Lobby};
use crate::faults::Admission;

/// Without descriptors there is nothing to do but to wait until somebody closes one.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// How many connections there may be, and for how long.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Bounds {
    /// Open at a time, those in handshake among them. One more is accepted and closed at once.
    pub(crate) connections: usize,
    /// In handshake at a time. One more puts out the oldest.
    pub(crate) pending: usize,
    /// A connection whose socket takes no byte for so long, though some wait, is cut.
    pub(crate) send_timeout: Duration,
}

/// Accepts until the listening socket is gone, which its owner drops.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) socket: Weak<TcpListener>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) transport: Transport,
    pub(crate) bounds: Bounds,
    /// Closes when the socket is gone: what waits for a connection does not learn it otherwise.
    pub(crate) gone: watch::Receiver<()>,
    /// Closes when every connection is to be cut.
    pub(crate) cut: watch::Receiver<()>,
    /// Closes when this task and those of all connections have ended.
    pub(crate) alive: mpsc::Sender<Infallible>,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        let mut gone = self.gone.clone();
        tokio::select! {
            _ = gone.changed() => {}
            () = self.accept_all() => {}
        }
    }

    async fn accept_all(&self) {
        let lobby = Lobby::new(self.bounds.pending);
        let open = Arc::new(Semaphore::new(self.bounds.connections));
        loop {
            match accept(&self.socket).await {
                None => return,
                Some(Err(_)) => sleep(AFTER_ERROR).await,
                Some(Ok((socket, _))) => {
                    if let Ok(place) = Arc::clone(&open).try_acquire_owned() {
                        self.serve(socket, place, &lobby);
                    }
                }
            }
        }
    }

    fn serve(&self, socket: TcpStream, place: OwnedSemaphorePermit, lobby: &Arc<Lobby>) {
        // Frames are written as they are due; waiting for more of them only adds to the round trip.
        // A socket that can not be told is slower, not wrong.
        let _ = socket.set_nodelay(true);
        let Ok(socket) = self.transport.socket(socket) else {
            return;
        };
        let hub = Arc::clone(&self.hub);
        let (id, kick) = hub.connect();
        let admission = hub.faults.admit(id);
        let (guest, out) = lobby.enter(id);
        let connection = Connection::new(socket, hub, id, kick, guest, self.bounds.send_timeout);
        let mut cut = self.cut.clone();
        let alive = self.alive.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = cut.changed() => {}
                () = out.notified() => {}
                () = admitted(connection, admission) => {}
            }
            drop(place);
            drop(alive);
        });
    }
}

async fn admitted(connection: Connection, admission: Admission) {
    match admission {
        Admission::Served => connection.run().await,
        Admission::Refused => connection.reset(),
        Admission::Stalled(time) => {
            sleep(time).await;
            connection.run().await;
        }
    }
}

/// The next connection, or nothing if the socket is gone. It is held no longer than a poll takes,
/// so that dropping it closes it.
async fn accept(socket: &Weak<TcpListener>) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    poll_fn(|context| match socket.upgrade() {
        None => Poll::Ready(None),
        Some(socket) => socket.poll_accept(context).map(Some),
    })
    .await
}
