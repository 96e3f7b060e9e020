//! The broker without sockets, for bytes from anywhere: the fuzz target and a test feed it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    Broker,
    codec::{Decoder, Encoder, PROTOCOL_HEADER},
    engine::{ConnectionId, Engine},
};

/// What a socket brings at once, so that frames come in pieces.
const PIECE: usize = 61;
/// From one piece to the next.
const PACE: Duration = Duration::from_millis(7);

/// Serves clients that send these bytes, and gives what the broker sends them, of each in turn. A
/// client's bytes begin with the protocol header, so that another header is another client. The
/// broker knows the user `app` with password `secret`.
#[must_use]
pub fn serve(bytes: &[u8]) -> Vec<Vec<u8>> {
    let builder = Broker::builder().user("app", "secret").seed(1);
    let settings = builder.settings(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut now = Instant::now();
    let mut engine = Engine::new(settings, now);
    let mut clients: Vec<_> = sent_by_each(bytes)
        .into_iter()
        .map(|sent| Client::new(sent, engine.connect(now)))
        .collect();
    while clients.iter().any(|client| !client.unsent.is_empty()) {
        for client in &mut clients {
            client.send(&mut engine, now);
        }
        for client in &mut clients {
            client.receive(&mut engine, now);
        }
        now += PACE;
        engine.advance(now);
    }
    for client in &clients {
        engine.disconnect(client.id, now);
    }
    clients.into_iter().map(|client| client.received).collect()
}

/// The bytes cut before each protocol header.
fn sent_by_each(bytes: &[u8]) -> Vec<&[u8]> {
    let headers = bytes
        .windows(PROTOCOL_HEADER.len())
        .enumerate()
        .filter(|(at, window)| *at > 0 && *window == PROTOCOL_HEADER);
    let mut cuts = vec![0];
    cuts.extend(headers.map(|(at, _)| at));
    cuts.push(bytes.len());
    cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
}

struct Client<'a> {
    id: ConnectionId,
    unsent: &'a [u8],
    unread: BytesMut,
    decoder: Decoder,
    received: Vec<u8>,
}

impl<'a> Client<'a> {
    fn new(unsent: &'a [u8], id: ConnectionId) -> Self {
        Self {
            id,
            unsent,
            unread: BytesMut::new(),
            decoder: Decoder::new(),
            received: Vec::new(),
        }
    }

    fn send(&mut self, engine: &mut Engine, now: Instant) {
        let (piece, rest) = self.unsent.split_at(self.unsent.len().min(PIECE));
        self.unsent = rest;
        self.unread.extend_from_slice(piece);
        while engine.wants_more(self.id) {
            match self.decoder.next(&mut self.unread) {
                Ok(None) => break,
                Ok(Some(frame)) => engine.receive(self.id, frame, now),
                Err(what) => engine.malformed(self.id, what, now),
            }
            self.decoder.agree(engine.frame_max(self.id));
        }
    }

    fn receive(&mut self, engine: &mut Engine, now: Instant) {
        let mut outputs = Vec::new();
        let cost = engine.drain(self.id, &mut outputs);
        let mut encoder = Encoder::default();
        encoder.load(outputs);
        let frame_max = engine.frame_max(self.id);
        encoder.fill(&mut self.received, usize::MAX, frame_max);
        engine.written(self.id, cost, now);
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::{
        frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame},
        protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue},
        types::FieldTable,
    };
    use proptest::prelude::*;

    use super::serve;

    /// What a client sends that logs in, declares, publishes, consumes and acknowledges.
    fn session() -> Vec<Vec<u8>> {
        let start_ok = connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: "\0app\0secret".into(),
            locale: "en_US".into(),
        });
        let tune_ok = connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: 100,
            frame_max: 8_192,
            heartbeat: 1,
        });
        let open = connection::AMQPMethod::Open(connection::Open {
            virtual_host: "/".into(),
        });
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        let declare = queue::Declare {
            queue: "q".into(),
            ..queue::Declare::default()
        };
        let consume = basic::Consume {
            queue: "q".into(),
            ..basic::Consume::default()
        };
        let publish = basic::Publish {
            routing_key: "q".into(),
            ..basic::Publish::default()
        };
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: 4,
            properties: BasicProperties::default(),
        };
        let ack = basic::Ack {
            delivery_tag: 1,
            multiple: false,
        };
        let basic = |method| AMQPFrame::Method(1, AMQPClass::Basic(method));
        let frames = [
            AMQPFrame::Method(0, AMQPClass::Connection(start_ok)),
            AMQPFrame::Method(0, AMQPClass::Connection(tune_ok)),
            AMQPFrame::Method(0, AMQPClass::Connection(open)),
            AMQPFrame::Method(
                1,
                AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
            ),
            AMQPFrame::Method(1, AMQPClass::Confirm(select)),
            AMQPFrame::Method(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))),
            basic(basic::AMQPMethod::Consume(consume)),
            basic(basic::AMQPMethod::Publish(publish)),
            AMQPFrame::Header(1, header),
            AMQPFrame::Body(1, b"body".to_vec()),
            basic(basic::AMQPMethod::Ack(ack)),
        ];
        let mut parts = vec![crate::codec::PROTOCOL_HEADER.to_vec()];
        parts.extend(frames.iter().map(|frame| {
            let context = WriteContext::from(Vec::new());
            gen_frame(frame)(context).unwrap().into_inner().0
        }));
        parts
    }

    #[test]
    fn a_whole_session_is_answered_to_its_delivery() {
        let answers = serve(&session().concat());
        assert!(delivered(&answers[0]));
    }

    #[test]
    fn each_protocol_header_is_a_client_of_its_own() {
        let mut parts = session();
        let consume = 7;
        let consumer = parts[..=consume].concat();
        parts.remove(consume);
        let answers = serve(&[consumer, parts.concat()].concat());
        assert_eq!(answers.len(), 2);
        assert!(delivered(&answers[0]));
        assert!(!delivered(&answers[1]));
    }

    fn delivered(answers: &[u8]) -> bool {
        answers.windows(4).any(|bytes| bytes == b"body")
    }

    proptest! {
        #[test]
        fn no_session_that_is_damaged_makes_the_broker_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            upright in 0usize..12,
        ) {
            let parts = session();
            let mut bytes: Vec<u8> = parts[..upright].concat();
            bytes.extend(order.iter().flat_map(|at| parts[at.index(parts.len())].clone()));
            for (at, octet) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = octet;
                }
            }
            let _ = serve(&bytes);
        }
    }
}
