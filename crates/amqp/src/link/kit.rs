//! What lapin is given to run on: tokio, with streams of our own.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::{
    Stream as Values,
    io::{AsyncRead, AsyncWrite},
};

use super::{stream::Stream, thread::Thread};
use crate::io as connections;

/// For one connection.
#[derive(Clone)]
pub(super) struct Kit {
    tokio: Tokio,
    thread: Arc<Thread>,
    busy_poll: Duration,
}

impl Kit {
    pub(super) fn new(thread: Arc<Thread>, busy_poll: Duration) -> Self {
        Self {
            tokio: Tokio::default().with_handle(connections::handle().clone()),
            thread,
            busy_poll,
        }
    }
}

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit").finish_non_exhaustive()
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T, F>(&self, future: F) -> Task<Self::Task<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T, F>(&self, work: F) -> Task<Self::Task<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Stream;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin has no use for it.
    fn register<H>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Stream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Values<Item = Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Stream>> + Send + 'static {
        let connecting = self.tokio.tcp_connect_addr(address);
        let thread = Arc::clone(&self.thread);
        let busy_poll = self.busy_poll;
        async move {
            let socket = connecting.await?.into_inner();
            Ok(Stream::new(socket, thread, busy_poll))
        }
    }
}
