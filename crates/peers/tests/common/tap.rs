//! A wire to a server that keeps what was said on it.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    task::JoinHandle,
};

pub(crate) struct Tap {
    pub(crate) addr: SocketAddr,
    said: Arc<Said>,
    work: JoinHandle<()>,
}

/// Of all connections together.
#[derive(Default)]
pub(crate) struct Said {
    to_server: Mutex<Vec<u8>>,
    to_client: Mutex<Vec<u8>>,
}

impl Tap {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it listens");
        let said = Arc::<Said>::default();
        let work = tokio::spawn(serve(listener, server, Arc::clone(&said)));
        Self { addr, said, work }
    }

    pub(crate) fn to_server(&self) -> Vec<u8> {
        self.said.to_server.lock().clone()
    }

    pub(crate) fn to_client(&self) -> Vec<u8> {
        self.said.to_client.lock().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, said: Arc<Said>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(server).await else {
            continue;
        };
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), server.into_split());
        let there = Arc::clone(&said);
        let back = Arc::clone(&said);
        tokio::spawn(async move { pump(from_client, to_server, &there.to_server).await });
        tokio::spawn(async move { pump(from_server, to_client, &back.to_client).await });
    }
}

async fn pump(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, said: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        said.lock().extend(&bytes[..read]);
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
