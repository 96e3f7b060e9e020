//! A client that does nothing by itself: it sends the frames it is told to and gives those it got.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::{io::ErrorKind, time::Duration};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use wharf_broker::{Broker, Builder};
use wharf_testkit::wait::within;

/// What no answer takes on a machine that is busy with everything else.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
pub(crate) const HEADER: &[u8] = b"AMQP\0\0\x09\x01";

pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
    /// What it agrees to.
    pub(crate) frame_max: u32,
}

pub(crate) fn builder() -> Builder {
    Broker::builder().user("app", "secret")
}

pub(crate) async fn broker() -> Broker {
    builder().start().await.unwrap()
}

/// Lets so much time pass at once. Before and after it, the clock is real and waits for nobody's turn.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

impl Wire {
    pub(crate) async fn connect(broker: &Broker) -> Self {
        let socket = TcpStream::connect(broker.addr()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            read: Vec::new(),
            frame_max: 131_072,
        }
    }

    /// Up to `connection.open-ok`.
    pub(crate) async fn open(broker: &Broker) -> Self {
        Self::open_as(broker, "wire").await
    }

    pub(crate) async fn open_as(broker: &Broker, name: &str) -> Self {
        let mut wire = Self::connect(broker).await;
        wire.greet(name).await;
        let open_ok = wire.method().await;
        assert!(
            matches!(
                open_ok,
                AMQPClass::Connection(connection::AMQPMethod::OpenOk(_))
            ),
            "{open_ok:?}"
        );
        wire
    }

    /// Up to `connection.open`, whatever comes of it.
    pub(crate) async fn greet(&mut self, name: &str) {
        self.send_bytes(HEADER).await;
        self.method().await;
        self.send_bytes(&login_bytes(name, self.frame_max)).await;
        self.method().await;
    }

    pub(crate) async fn channel(&mut self, number: u16) {
        let open = channel::AMQPMethod::Open(channel::Open {});
        self.send(number, AMQPClass::Channel(open)).await;
        self.method().await;
    }

    /// A channel in confirm mode.
    pub(crate) async fn confirming(&mut self, number: u16) {
        self.channel(number).await;
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        self.send(number, AMQPClass::Confirm(select)).await;
        self.method().await;
    }

    pub(crate) async fn declare(&mut self, number: u16, name: &str) {
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: name.into(),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        });
        self.send(number, AMQPClass::Queue(declare)).await;
        self.method().await;
    }

    pub(crate) async fn consume(&mut self, number: u16, name: &str) {
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: name.into(),
            consumer_tag: "wire".into(),
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        });
        self.send(number, AMQPClass::Basic(consume)).await;
        self.method().await;
    }

    pub(crate) async fn bind(&mut self, number: u16, exchange: &str, queue: &str) {
        let bind = queue::AMQPMethod::Bind(queue::Bind {
            queue: queue.into(),
            exchange: exchange.into(),
            ..queue::Bind::default()
        });
        self.send(number, AMQPClass::Queue(bind)).await;
        self.method().await;
    }

    /// To a queue, through the default exchange: three frames, or two for an empty body.
    pub(crate) async fn publish(&mut self, number: u16, queue: &str, body: &[u8]) {
        self.send_bytes(&publish_bytes(number, queue, body)).await;
    }

    pub(crate) async fn send(&mut self, number: u16, class: AMQPClass) {
        self.send_bytes(&written(&AMQPFrame::Method(number, class)))
            .await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have cut the connection; what is read tells.
        let _ = self.socket.write_all(bytes).await;
    }

    /// The next frame, or nothing at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<AMQPFrame> {
        within("a frame or the end", BOUND, self.frame_or_end()).await
    }

    async fn frame_or_end(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.read[..]) {
                let taken = self.read.len() - rest.len();
                self.read.drain(..taken);
                return Some(frame);
            }
            match self.socket.read_buf(&mut self.read).await {
                Ok(0) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                other => drop(other.unwrap()),
            }
        }
    }

    /// The next frame, which is a method.
    pub(crate) async fn method(&mut self) -> AMQPClass {
        match self.next().await {
            Some(AMQPFrame::Method(_, class)) => class,
            other => panic!("not a method: {other:?}"),
        }
    }

    /// The tags of the next confirms, so many of them, each alone.
    pub(crate) async fn acks(&mut self, count: usize) -> Vec<u64> {
        let mut tags = Vec::new();
        while tags.len() < count {
            match self.method().await {
                AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) if !ack.multiple => {
                    tags.push(ack.delivery_tag);
                }
                other => panic!("not an ack of one: {other:?}"),
            }
        }
        tags
    }

    /// What the broker says in `connection.close` or `channel.close`.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.method().await {
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                (close.reply_code, close.reply_text.to_string())
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                (close.reply_code, close.reply_text.to_string())
            }
            other => panic!("not a close: {other:?}"),
        }
    }

    pub(crate) async fn close_ok(&mut self) {
        let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        self.send(0, AMQPClass::Connection(close_ok)).await;
    }

    /// Its socket, to be read without a runtime.
    pub(crate) fn into_blocking(self) -> std::net::TcpStream {
        assert!(self.read.is_empty());
        let socket = self.socket.into_std().unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }

    /// Bytes that were read and are no whole frame.
    pub(crate) fn fragment(&self) -> usize {
        self.read.len()
    }
}

pub(crate) fn publish_bytes(number: u16, queue: &str, body: &[u8]) -> Vec<u8> {
    publish_bytes_with(number, "", queue, BasicProperties::default(), body)
}

pub(crate) fn publish_bytes_with(
    number: u16,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Vec<u8> {
    let publish = basic::AMQPMethod::Publish(basic::Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory: false,
        immediate: false,
    });
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        properties,
    };
    let mut bytes = written(&AMQPFrame::Method(number, AMQPClass::Basic(publish)));
    bytes.extend(written(&AMQPFrame::Header(number, header)));
    for part in body.chunks(131_064) {
        bytes.extend(written(&AMQPFrame::Body(number, part.to_vec())));
    }
    bytes
}

/// `start-ok`, `tune-ok` and `open` at once.
pub(crate) fn login_bytes(name: &str, frame_max: u32) -> Vec<u8> {
    login_methods(name, frame_max, 0).concat()
}

/// `start-ok`, `tune-ok` and `open`, with the heartbeat in seconds.
pub(crate) fn login_methods(name: &str, frame_max: u32, heartbeat: u16) -> [Vec<u8>; 3] {
    let mut capabilities = FieldTable::default();
    for capability in ["connection.blocked", "basic.nack", "publisher_confirms"] {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    let name = AMQPValue::LongString(name.into());
    client_properties.insert("connection_name".into(), name);
    let start_ok = connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: "\0app\0secret".into(),
        locale: "en_US".into(),
    });
    let tune_ok = connection::AMQPMethod::TuneOk(connection::TuneOk {
        channel_max: 2_047,
        frame_max,
        heartbeat,
    });
    let open = connection::AMQPMethod::Open(connection::Open {
        virtual_host: "/".into(),
    });
    [start_ok, tune_ok, open]
        .map(|method| written(&AMQPFrame::Method(0, AMQPClass::Connection(method))))
}

fn written(frame: &AMQPFrame) -> Vec<u8> {
    let context = WriteContext::from(Vec::new());
    gen_frame(frame)(context).unwrap().into_inner().0
}
