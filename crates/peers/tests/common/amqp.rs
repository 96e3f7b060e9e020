//! AMQP by hand: frames as bytes, for those who keep to nothing.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::LONG;

pub(crate) const GREETING: &[u8] = b"AMQP\0\0\x09\x01";
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;

/// Class and method, as they open a method's payload.
pub(crate) const TUNE: [u8; 4] = [0, 10, 0, 30];
pub(crate) const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
pub(crate) const CONNECTION_CLOSE: [u8; 4] = [0, 10, 0, 50];
pub(crate) const CONSUME: [u8; 4] = [0, 60, 0, 20];
pub(crate) const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn is(&self, method: [u8; 4]) -> bool {
        self.kind == METHOD && self.payload.starts_with(&method)
    }

    /// The code in a close of a connection or a channel.
    pub(crate) fn code(&self) -> u16 {
        assert!(self.is(CONNECTION_CLOSE) || self.is(CHANNEL_CLOSE));
        u16::from_be_bytes([self.payload[4], self.payload[5]])
    }
}

/// A client that sends what it is told to.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let socket = TcpStream::connect(to).await.expect("somebody listens");
        socket.set_nodelay(true).expect("it is a socket");
        Self {
            socket,
            read: Vec::new(),
        }
    }

    /// Logged in, with a channel of number 1.
    pub(crate) async fn open(to: SocketAddr, name: &str, token: &str) -> Self {
        let mut wire = Self::connect(to).await;
        wire.send(GREETING).await;
        wire.send(&login(name, token)).await;
        wire.expect(OPEN_OK).await;
        wire.ask(&[0, 20, 0, 10, 0]).await;
        wire
    }

    /// The broker may have cut the connection: what is read tells.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends a method on channel 1, and gives what comes next.
    pub(crate) async fn ask(&mut self, payload: &[u8]) -> Frame {
        self.send(&frame(METHOD, 1, payload)).await;
        self.next().await.expect("an answer")
    }

    /// Publishes to a queue on channel 1.
    pub(crate) async fn publish(&mut self, queue: &str, properties: &Properties<'_>, body: &[u8]) {
        self.send(&publish(queue, properties, body)).await;
    }

    /// The next frame, or none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let next = timeout(LONG, self.frame_or_end()).await;
        next.expect("a frame or the end, in time")
    }

    /// Reads on until there is this method.
    pub(crate) async fn expect(&mut self, method: [u8; 4]) -> Frame {
        loop {
            let frame = self.next().await.expect("it goes on");
            if frame.is(method) {
                return frame;
            }
        }
    }

    /// Reads on until there is this method, or the connection ends before it comes.
    pub(crate) async fn reaches(&mut self, method: [u8; 4]) -> bool {
        while let Some(frame) = self.next().await {
            if frame.is(method) {
                return true;
            }
        }
        false
    }

    /// Reads on until the connection is closed, in words or without. Gives the code, if there was one.
    pub(crate) async fn end(&mut self) -> Option<u16> {
        loop {
            let frame = self.next().await?;
            if frame.is(CONNECTION_CLOSE) {
                return Some(frame.code());
            }
        }
    }

    async fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, size)) = split(&self.read) {
                self.read.drain(..size);
                return Some(frame);
            }
            match self.socket.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// The first frame of what was read, and its size.
fn split(read: &[u8]) -> Option<(Frame, usize)> {
    let size = u32::from_be_bytes(read.get(3..7)?.try_into().ok()?) as usize;
    let payload = read.get(7..7 + size)?.to_vec();
    read.get(7 + size)?;
    let kind = read[0];
    Some((Frame { kind, payload }, size + 8))
}

/// Where the frames of what was said end, the greeting counted as one.
pub(crate) fn ends(said: &[u8]) -> Vec<usize> {
    let mut at = if said.starts_with(b"AMQP") {
        GREETING.len()
    } else {
        0
    };
    let mut ends = vec![at];
    while let Some((_, size)) = split(&said[at..]) {
        at += size;
        ends.push(at);
    }
    ends
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("it is small");
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(payload);
    bytes.push(206);
    bytes
}

pub(crate) fn short(text: &str) -> Vec<u8> {
    let size = u8::try_from(text.len()).expect("it is short");
    [&[size], text.as_bytes()].concat()
}

/// `start-ok`, `tune-ok` and `open` at once.
pub(crate) fn login(name: &str, token: &str) -> Vec<u8> {
    let response = format!("\0{name}\0{token}");
    let size = u32::try_from(response.len()).expect("it is short");
    let start_ok = [
        &[0, 10, 0, 11, 0, 0, 0, 0][..],
        &short("PLAIN"),
        &size.to_be_bytes(),
        response.as_bytes(),
        &short("en_US"),
    ];
    // Channels, frames, and no heartbeats.
    let tune_ok = [0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 0];
    let open = [&[0, 10, 0, 40][..], &short("/"), &[0, 0]].concat();
    [&start_ok.concat()[..], &tune_ok, &open]
        .map(|payload| frame(METHOD, 0, payload))
        .concat()
}

#[derive(Default)]
pub(crate) struct Properties<'a> {
    pub(crate) user_id: Option<&'a str>,
    pub(crate) reply_to: Option<&'a str>,
}

impl Properties<'_> {
    fn write(&self) -> Vec<u8> {
        let reply_to = self.reply_to.map(|to| (1_u16 << 9, short(to)));
        let user_id = self.user_id.map(|id| (1 << 4, short(id)));
        let present = reply_to.into_iter().chain(user_id);
        let (flags, values) = present.fold((0, Vec::new()), |(flags, values), (flag, value)| {
            (flags | flag, [values, value].concat())
        });
        [flags.to_be_bytes().to_vec(), values].concat()
    }
}

/// A message on channel 1, through the default exchange.
pub(crate) fn publish(queue: &str, properties: &Properties<'_>, body: &[u8]) -> Vec<u8> {
    let begun = announce(queue, properties, body.len() as u64);
    let parts = body.chunks(131_064).map(|part| frame(BODY, 1, part));
    std::iter::once(begun)
        .chain(parts)
        .collect::<Vec<_>>()
        .concat()
}

/// The same up to its header, which claims so many bytes.
pub(crate) fn announce(queue: &str, properties: &Properties<'_>, size: u64) -> Vec<u8> {
    let method = [&[0, 60, 0, 40, 0, 0, 0][..], &short(queue), &[0]].concat();
    let header = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &properties.write()].concat();
    [frame(METHOD, 1, &method), frame(HEADER, 1, &header)].concat()
}
