//! A client of bare frames: what lapin would not send, and replies with nothing left out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// RabbitMQ keeps some offenders waiting for 3 s, others for 10 s, before it hangs up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a case sends.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    Method(u16, AMQPClass),
    Header(u16, u64, BasicProperties),
    Body(u16, Vec<u8>),
    Bytes(Vec<u8>),
    /// Nothing: what came before is answered first.
    Pause,
    /// Nothing: the commit that came before is answered first. RabbitMQ ends the connection of a
    /// channel on which something comes during a commit.
    Committed,
    /// Nothing, and nothing comes after: what came before ends the connection.
    End,
}

/// A connection of bare frames.
pub(crate) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    ended: bool,
}

impl Wire {
    /// Connects and says what it speaks, no more.
    pub(crate) async fn connect(addr: SocketAddr, header: &[u8]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(header).await?;
        Ok(Self {
            stream,
            received: Vec::new(),
            ended: false,
        })
    }

    /// Connects to a vhost and opens channel 1.
    pub(crate) async fn open(addr: SocketAddr, vhost: &str) -> Self {
        let mut wire = Self::connect(addr, b"AMQP\0\0\x09\x01")
            .await
            .expect("a connection");
        wire.next().await.expect("connection.start");
        wire.send(&start_ok("guest", "guest")).await;
        let tune = match wire.next().await {
            Some(AMQPFrame::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::Tune(tune)),
            )) => tune,
            other => panic!("not tuned: {other:?}"),
        };
        wire.send(&tune_ok(tune.channel_max, tune.frame_max, tune.heartbeat))
            .await;
        wire.send(&open(vhost)).await;
        wire.next().await.expect("connection.open-ok");
        wire.send(&Sent::Method(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        ))
        .await;
        wire.next().await.expect("channel.open-ok");
        wire
    }

    /// A peer that has hung up does not read, which shows in what it sent before.
    pub(crate) async fn send(&mut self, sent: &Sent) {
        let frame = match sent.clone() {
            Sent::Method(channel, method) => AMQPFrame::Method(channel, method),
            Sent::Header(channel, body_size, properties) => AMQPFrame::Header(
                channel,
                AMQPContentHeader {
                    class_id: 60,
                    body_size,
                    properties,
                },
            ),
            Sent::Body(channel, body) => AMQPFrame::Body(channel, body),
            Sent::Bytes(bytes) => {
                let _ = self.stream.write_all(&bytes).await;
                return;
            }
            Sent::Pause | Sent::Committed | Sent::End => return,
        };
        let context = WriteContext::from(Vec::new());
        let bytes = gen_frame(&frame)(context)
            .expect("a frame can be written")
            .write;
        let _ = self.stream.write_all(&bytes).await;
    }

    /// The next frame but heartbeats; `None` when the peer has hung up or stays silent.
    pub(crate) async fn next(&mut self) -> Option<AMQPFrame> {
        timeout(PATIENCE, self.read()).await.ok().flatten()
    }

    async fn read(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(self.received.as_slice()) {
                let taken = self.received.len() - rest.len();
                self.received.drain(..taken);
                if frame != AMQPFrame::Heartbeat {
                    return Some(frame);
                }
            } else if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Everything up to a close, or to the answer of a `channel.flow` on channel 1.
    ///
    /// It asks twice: what a queue tells a client in RabbitMQ (`basic.consume-ok`) may come after
    /// the first answer, but not after one that was asked for later still.
    pub(crate) async fn answers(&mut self) -> Vec<String> {
        let mut answers = Vec::new();
        let questions = if self.ended { 0 } else { 2 };
        for _ in 0..questions {
            let flow = channel::AMQPMethod::Flow(channel::Flow { active: true });
            self.send(&Sent::Method(1, AMQPClass::Channel(flow))).await;
            let (frames, goes_on) = self
                .until(|frame| {
                    let AMQPFrame::Method(_, AMQPClass::Channel(method)) = frame else {
                        return closes(frame).then_some(true);
                    };
                    match method {
                        channel::AMQPMethod::FlowOk(_) => Some(false),
                        channel::AMQPMethod::Close(_) => Some(true),
                        _ => None,
                    }
                })
                .await;
            answers.extend(frames);
            if !goes_on {
                break;
            }
        }
        answers
    }

    /// Everything up to `tx.commit-ok`, or to a close.
    pub(crate) async fn committed(&mut self) -> Vec<String> {
        let commit_ok = AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {}));
        let commit_ok = AMQPFrame::Method(1, commit_ok);
        self.until(|frame| (closes(frame) || *frame == commit_ok).then_some(true))
            .await
            .0
    }

    /// Everything until the peer closes the connection or hangs up.
    pub(crate) async fn last_words(&mut self) -> Vec<String> {
        self.until(|frame| closes(frame).then_some(true)).await.0
    }

    /// Ends the connection. What belonged to it is gone when this returns.
    pub(crate) async fn close(mut self) {
        if self.ended {
            return;
        }
        let reply_text = "bye".into();
        let close = connection::Close {
            reply_code: 200,
            reply_text,
            class_id: 0,
            method_id: 0,
        };
        let method = connection::AMQPMethod::Close(close);
        self.send(&Sent::Method(0, AMQPClass::Connection(method)))
            .await;
        let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        let close_ok = AMQPFrame::Method(0, AMQPClass::Connection(close_ok));
        self.until(|frame| (closes(frame) || *frame == close_ok).then_some(true))
            .await;
    }

    /// Frames up to the one of which `ends` gives a value: whether it belongs to them. With them,
    /// whether it came and did not.
    async fn until(&mut self, ends: impl Fn(&AMQPFrame) -> Option<bool>) -> (Vec<String>, bool) {
        let mut frames = Vec::new();
        loop {
            let Ok(next) = timeout(PATIENCE, self.read()).await else {
                frames.push("silent".to_owned());
                return (frames, false);
            };
            let Some(frame) = next else {
                frames.push("hung up".to_owned());
                return (frames, false);
            };
            self.ended |= closes(&frame);
            let end = ends(&frame);
            if end != Some(false) {
                frames.push(format!("{frame:?}"));
            }
            if let Some(belongs) = end {
                return (frames, !belongs);
            }
        }
    }
}

fn closes(frame: &AMQPFrame) -> bool {
    let AMQPFrame::Method(_, AMQPClass::Connection(method)) = frame else {
        return false;
    };
    matches!(method, connection::AMQPMethod::Close(_))
}

pub(crate) fn start_ok(user: &str, password: &str) -> Sent {
    let mut capabilities = FieldTable::default();
    capabilities.insert(
        "authentication_failure_close".into(),
        AMQPValue::Boolean(true),
    );
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    let start_ok = connection::StartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: format!("\0{user}\0{password}").into(),
        locale: "en_US".into(),
    };
    Sent::Method(
        0,
        AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)),
    )
}

pub(crate) fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> Sent {
    let tune_ok = connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    };
    Sent::Method(
        0,
        AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)),
    )
}

pub(crate) fn open(vhost: &str) -> Sent {
    let open = connection::Open {
        virtual_host: vhost.into(),
    };
    Sent::Method(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)))
}

/// The frames of a message on channel 1.
pub(crate) fn content(
    publish: basic::Publish,
    properties: BasicProperties,
    body: &[u8],
) -> Vec<Sent> {
    let size = u64::try_from(body.len()).expect("a length fits 64 bits");
    vec![
        Sent::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))),
        Sent::Header(1, size, properties),
        Sent::Body(1, body.to_vec()),
    ]
}
