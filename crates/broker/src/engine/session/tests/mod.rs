//! Frames in, frames out: each test is a script of what clients say and what they hear.

mod channels;
mod consume;
mod handshake;
mod pressure;
mod publish;

use std::time::{Duration, Instant};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion},
    protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};
use bytes::Bytes;

use super::super::{
    ConnectionId, ContentMethod, Engine, Frame, Malformed, Output, Settings, User, VHostLimits,
};

/// A broker and the time it is there.
struct Scene {
    engine: Engine,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            engine: Engine::new(settings, now),
            now,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.advance(self.now);
    }

    /// A frame that is not answered yet.
    fn give(&mut self, id: ConnectionId, frame: Frame) {
        self.engine.receive(id, frame, self.now);
    }

    fn method(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) {
        self.give(id, Frame::Method(channel, method));
    }

    /// What a client hears until now. Its socket takes everything at once.
    fn hear(&mut self, id: ConnectionId) -> Vec<String> {
        let mut outputs = Vec::new();
        let cost = self.engine.drain(id, &mut outputs);
        self.engine.written(id, cost, self.now);
        outputs.iter().map(told).collect()
    }

    /// Says a method and hears the answer.
    fn say(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) -> Vec<String> {
        self.method(id, channel, method);
        self.hear(id)
    }

    fn publish(&mut self, id: ConnectionId, publish: basic::Publish, body: &'static [u8]) {
        self.publish_with(id, publish, BasicProperties::default(), body);
    }

    fn publish_with(
        &mut self,
        id: ConnectionId,
        publish: basic::Publish,
        properties: BasicProperties,
        body: &'static [u8],
    ) {
        self.method(id, 1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        self.give(id, header(60, body.len() as u64, properties));
        if !body.is_empty() {
            self.give(id, Frame::Body(1, Bytes::from_static(body)));
        }
    }

    /// A client that has said nothing.
    fn connect(&mut self) -> ConnectionId {
        self.engine.connect(self.now)
    }

    /// A client that has sent the protocol header and heard `connection.start`.
    fn started(&mut self) -> ConnectionId {
        let id = self.connect();
        let header = Frame::ProtocolHeader(ProtocolVersion::amqp_0_9_1());
        self.give(id, header);
        assert_eq!(self.hear(id), ["0 start PLAIN AMQPLAIN"]);
        id
    }

    /// A client that has logged in and heard `connection.tune`.
    fn logged_in(&mut self) -> ConnectionId {
        let id = self.started();
        let heard = self.say(id, 0, start_ok("PLAIN", b"\0guest\0guest"));
        assert_eq!(heard, ["0 tune 2047 131072 60"]);
        id
    }

    /// A client with an open connection.
    fn client(&mut self) -> ConnectionId {
        let id = self.logged_in();
        assert!(self.say(id, 0, tune_ok(2_047, 131_072, 60)).is_empty());
        assert_eq!(self.say(id, 0, open("/")), ["0 open-ok"]);
        id
    }

    /// A client with channel 1 open.
    fn on_channel(&mut self) -> ConnectionId {
        let id = self.client();
        assert_eq!(self.say(id, 1, channel_open()), ["1 open-ok"]);
        id
    }

    /// A client with channel 1 in confirm mode.
    fn publisher(&mut self) -> ConnectionId {
        let id = self.on_channel();
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        assert_eq!(self.say(id, 1, AMQPClass::Confirm(select)).len(), 1);
        id
    }

    fn declare(&mut self, id: ConnectionId, name: &str) {
        let heard = self.say(id, 1, declare(name));
        assert_eq!(heard, [format!("1 declare-ok {name} 0 0")]);
    }
}

fn settings() -> Settings {
    Settings {
        users: vec![
            User {
                name: "guest".to_owned(),
                passwords: vec!["guest".to_owned()],
                vhosts: None,
            },
            User {
                name: "app".to_owned(),
                passwords: vec!["secret".to_owned()],
                vhosts: Some(vec!["other".to_owned()]),
            },
        ],
        vhosts: vec!["/".to_owned(), "other".to_owned()],
        frame_max: 131_072,
        channel_max: 2_047,
        heartbeat: 60,
        handshake_timeout: Duration::from_secs(10),
        max_message_size: 1_000,
        memory_limit: 1 << 20,
        outbox_limit: 1_000,
        max_consumers_per_channel: 4,
        vhost_limits: VHostLimits {
            max_exchanges: 100,
            max_queues: 100,
            max_bindings: 100,
            max_argument_bytes: 1 << 20,
            max_queue_length: None,
            max_queue_bytes: None,
        },
        unix: 0,
        seed: 1,
    }
}

fn told(output: &Output) -> String {
    match output {
        Output::Frame(frame) => match &**frame {
            AMQPFrame::Method(channel, method) => format!("{channel} {}", told_method(method)),
            AMQPFrame::ProtocolHeader(version) => format!("header {version}"),
            AMQPFrame::Heartbeat => "heartbeat".to_owned(),
            frame => format!("{frame:?}"),
        },
        Output::Content {
            channel,
            method,
            message,
        } => {
            let body = String::from_utf8_lossy(&message.body);
            let what = match method {
                ContentMethod::Deliver {
                    consumer_tag,
                    delivery_tag,
                    redelivered,
                } => {
                    let again = if *redelivered { " again" } else { "" };
                    format!("deliver {consumer_tag} {delivery_tag}{again}")
                }
                ContentMethod::GetOk {
                    delivery_tag,
                    message_count,
                    ..
                } => format!("get-ok {delivery_tag}, {message_count} left"),
                ContentMethod::Return { code, text } => format!("return {code} {text}"),
            };
            format!("{channel} {what}: {body}")
        }
        Output::Close => "shut".to_owned(),
    }
}

fn told_method(method: &AMQPClass) -> String {
    use AMQPClass as Class;
    match method {
        Class::Connection(connection::AMQPMethod::Start(it)) => format!("start {}", it.mechanisms),
        Class::Connection(connection::AMQPMethod::Tune(it)) => {
            format!("tune {} {} {}", it.channel_max, it.frame_max, it.heartbeat)
        }
        Class::Connection(connection::AMQPMethod::Close(it)) => {
            let (code, text) = (it.reply_code, &it.reply_text);
            format!("close {code} {text} ({}, {})", it.class_id, it.method_id)
        }
        Class::Connection(connection::AMQPMethod::Blocked(it)) => format!("blocked {}", it.reason),
        Class::Channel(channel::AMQPMethod::Close(it)) => {
            let (code, text) = (it.reply_code, &it.reply_text);
            format!("close {code} {text} ({}, {})", it.class_id, it.method_id)
        }
        Class::Queue(queue::AMQPMethod::DeclareOk(it)) => {
            let (messages, consumers) = (it.message_count, it.consumer_count);
            format!("declare-ok {} {messages} {consumers}", it.queue)
        }
        Class::Basic(basic::AMQPMethod::Ack(it)) => verdict("ack", it.delivery_tag, it.multiple),
        Class::Basic(basic::AMQPMethod::Nack(it)) => verdict("nack", it.delivery_tag, it.multiple),
        Class::Basic(basic::AMQPMethod::ConsumeOk(it)) => format!("consume-ok {}", it.consumer_tag),
        Class::Basic(basic::AMQPMethod::Cancel(it)) => format!("cancel {}", it.consumer_tag),
        other => kebab(&format!("{other:?}")),
    }
}

fn verdict(what: &str, tag: u64, multiple: bool) -> String {
    let multiple = if multiple { " multiple" } else { "" };
    format!("{what} {tag}{multiple}")
}

/// `Channel(OpenOk(OpenOk))` as `open-ok`.
fn kebab(debug: &str) -> String {
    let name = debug.split('(').nth(1).unwrap_or(debug);
    let mut kebab = String::new();
    for letter in name.trim_end_matches(')').chars() {
        if letter.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    kebab
}

fn header(class_id: u16, body_size: u64, properties: BasicProperties) -> Frame {
    Frame::Header(
        1,
        Box::new(AMQPContentHeader {
            class_id,
            body_size,
            properties,
        }),
    )
}

fn start_ok(mechanism: &str, response: &[u8]) -> AMQPClass {
    let mut can = FieldTable::default();
    for name in [
        "authentication_failure_close",
        "connection.blocked",
        "consumer_cancel_notify",
    ] {
        can.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(can));
    start_ok_of(client_properties, mechanism, response)
}

fn start_ok_of(client_properties: FieldTable, mechanism: &str, response: &[u8]) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: response.into(),
        locale: "en_US".into(),
    }))
}

fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    }))
}

fn open(vhost: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open {
        virtual_host: vhost.into(),
    }))
}

fn close_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

fn channel_open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

fn channel_close() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    }))
}

fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

fn declare(queue: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn to(queue: &str) -> basic::Publish {
    basic::Publish {
        exchange: "".into(),
        routing_key: queue.into(),
        mandatory: false,
        immediate: false,
    }
}

fn consume(queue: &str, tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn ack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple,
    }))
}

fn qos(prefetch_count: u16, global: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count,
        global,
    }))
}
