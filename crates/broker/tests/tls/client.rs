//! A client over TLS that blocks, so that it reads when a test says so and not before.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, connection, queue},
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::wire::{BOUND, HEADER, login_bytes, publish_bytes};

pub(crate) struct Client {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    read: Vec<u8>,
}

/// What a client says first.
pub(crate) fn hello(config: Arc<ClientConfig>) -> Vec<u8> {
    let mut hello = Vec::new();
    session(config).write_tls(&mut hello).unwrap();
    hello
}

fn session(config: Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    ClientConnection::new(config, name).unwrap()
}

impl Client {
    /// Nothing is said until something is sent.
    pub(crate) fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket.set_write_timeout(Some(BOUND)).unwrap();
        Self {
            stream: StreamOwned::new(session(config), socket),
            read: Vec::new(),
        }
    }

    /// With a channel 1.
    pub(crate) fn open(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let mut client = Self::connect(addr, config);
        client.send(HEADER);
        client.method();
        client.send(&login_bytes("client", 131_072));
        client.method();
        let open_ok = client.method();
        assert!(
            matches!(
                open_ok,
                AMQPClass::Connection(connection::AMQPMethod::OpenOk(_))
            ),
            "{open_ok:?}"
        );
        let open = channel::AMQPMethod::Open(channel::Open {});
        client.send_method(1, AMQPClass::Channel(open));
        client.method();
        client
    }

    /// Why the broker does not let it in.
    pub(crate) fn refusal(mut self) -> String {
        // TLS 1.2 may tell before the end of the handshake, 1.3 does so behind it.
        let said = self.stream.write_all(HEADER);
        let heard = said.and_then(|()| self.stream.read_exact(&mut [0; 8]));
        format!("{:?}", heard.unwrap_err())
    }

    pub(crate) fn declare(&mut self, queue: &str) {
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: queue.into(),
            ..queue::Declare::default()
        });
        self.send_method(1, AMQPClass::Queue(declare));
        let declared = self.method();
        assert!(
            matches!(declared, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_))),
            "{declared:?}"
        );
    }

    pub(crate) fn publish(&mut self, queue: &str, body: &[u8]) {
        self.send(&publish_bytes(1, queue, body));
    }

    /// Nothing has to be acknowledged.
    pub(crate) fn consume(&mut self, queue: &str) {
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: queue.into(),
            no_ack: true,
            ..basic::Consume::default()
        });
        self.send_method(1, AMQPClass::Basic(consume));
        let consuming = self.method();
        assert!(
            matches!(consuming, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_))),
            "{consuming:?}"
        );
    }

    /// The body of the next message.
    pub(crate) fn delivery(&mut self) -> Vec<u8> {
        let deliver = self.method();
        assert!(
            matches!(deliver, AMQPClass::Basic(basic::AMQPMethod::Deliver(_))),
            "{deliver:?}"
        );
        let Some(AMQPFrame::Header(_, header)) = self.frame() else {
            panic!("no header");
        };
        let mut body = Vec::new();
        while (body.len() as u64) < header.body_size {
            let Some(AMQPFrame::Body(_, part)) = self.frame() else {
                panic!("no body");
            };
            body.extend(part);
        }
        body
    }

    pub(crate) fn close(&mut self) {
        let close = connection::AMQPMethod::Close(connection::Close::default());
        self.send_method(0, AMQPClass::Connection(close));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame, which is a method.
    pub(crate) fn method(&mut self) -> AMQPClass {
        match self.frame() {
            Some(AMQPFrame::Method(_, class)) => class,
            other => panic!("not a method: {other:?}"),
        }
    }

    fn send_method(&mut self, channel: u16, class: AMQPClass) {
        let context = WriteContext::from(Vec::new());
        let frame = AMQPFrame::Method(channel, class);
        self.send(&gen_frame(&frame)(context).unwrap().into_inner().0);
    }

    /// The next one, or nothing at the end.
    fn frame(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.read[..]) {
                let taken = self.read.len() - rest.len();
                self.read.drain(..taken);
                return Some(frame);
            }
            let mut part = [0; 16_384];
            match self.stream.read(&mut part).unwrap() {
                0 => return None,
                read => self.read.extend_from_slice(&part[..read]),
            }
        }
    }
}
