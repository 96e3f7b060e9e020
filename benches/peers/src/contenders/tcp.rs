//! The floor: a tokio socket and an echo, with nothing behind them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wharf_race::lane::Trouble;

use super::Sending;
use crate::packet::{Ledger, SIZE, WINDOW, number, packet};
use crate::receiver::Addresses;

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// Counts packets and sends them back, as many at once as there are; and where.
pub async fn echo(ledger: Arc<Ledger>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let ledger = Arc::clone(&ledger);
            // Until the sender is gone.
            tokio::spawn(async move { answer(socket, &ledger).await });
        }
    });
    Ok(address)
}

async fn answer(mut socket: TcpStream, ledger: &Ledger) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        match socket.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        let whole = filled - filled % SIZE;
        buffer[..whole]
            .chunks(SIZE)
            .for_each(|each| ledger.take(each));
        socket.write_all(&buffer[..whole]).await?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// Sends as many as the window has room for, then takes as many answers as there are.
pub struct Echo<const WINDOW: usize> {
    socket: TcpStream,
    out: Vec<u8>,
    back: Vec<u8>,
}

pub type Many = Echo<WINDOW>;

pub type OneByOne = Echo<1>;

impl<const WINDOW: usize> Sending for Echo<WINDOW> {
    async fn open(to: Addresses) -> Result<Self, Trouble> {
        let socket = TcpStream::connect(to.tcp).await.map_err(Trouble::of)?;
        socket.set_nodelay(true).map_err(Trouble::of)?;
        Ok(Self {
            socket,
            out: Vec::with_capacity(WINDOW * SIZE),
            back: vec![0; BUFFER],
        })
    }

    async fn send(&mut self, first: u64, end: Instant) -> Result<u64, Trouble> {
        let (mut next, mut answered) = (first, first);
        let mut filled = 0;
        loop {
            let more = Instant::now() < end;
            if !more && answered == next {
                return Ok(next);
            }
            self.out.clear();
            while more && next < answered + WINDOW as u64 {
                self.out.extend(packet(next));
                next += 1;
            }
            let written = self.socket.write_all(&self.out).await;
            written.map_err(Trouble::of)?;
            match self.socket.read(&mut self.back[filled..]).await {
                Ok(0) => return Err(Trouble::Failed("the echo has ended".into())),
                read => filled += read.map_err(Trouble::of)?,
            }
            let whole = filled - filled % SIZE;
            for each in self.back[..whole].chunks(SIZE) {
                if number(each) != Some(answered) {
                    return Err(Trouble::Failed("another answer than was due".into()));
                }
                answered += 1;
            }
            self.back.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }
}
