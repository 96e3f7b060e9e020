//! Scenarios, told by what reaches the consumers.

mod any_order;
mod consumers;
mod dead_letters;
mod exchanges;
mod limits;
mod portions;
mod queues;
mod release;
mod routing;
mod time;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable},
};

use super::{
    super::keys::{ChannelKey, ConnectionId, ConsumerKey},
    super::message::Message,
    BindingSpec, ConsumerSpec, DestinationName, Epoch, ExchangeSpec, Lent, Limits, Outlet,
    QueueInfo, QueueSpec, Refusal, Routed, Settlement, VHost,
};

/// Ample.
const LIMITS: Limits = Limits {
    max_exchanges: 1_000,
    max_queues: 1_000,
    max_bindings: 1_000,
    max_argument_bytes: 1 << 20,
    max_queue_length: None,
    max_queue_bytes: None,
};

/// Records what reaches consumers, and lets them accept as many messages as a test says.
#[derive(Debug, Default)]
struct Recorder {
    /// `number<-body`, `number<-body again` if redelivered, `number cancelled`.
    trace: Vec<String>,
    lent: Vec<Lent>,
    /// Messages a consumer still accepts; all if absent.
    room: HashMap<u64, usize>,
    asked: usize,
}

impl Outlet for Recorder {
    fn accepts(&mut self, consumer: ConsumerKey) -> bool {
        self.asked += 1;
        self.room.get(&consumer.number) != Some(&0)
    }

    fn deliver(&mut self, consumer: ConsumerKey, lent: Lent) {
        if let Some(room) = self.room.get_mut(&consumer.number) {
            *room -= 1;
        }
        let (body, again) = (body_of(&lent), if lent.redelivered { " again" } else { "" });
        self.trace
            .push(format!("{}<-{body}{again}", consumer.number));
        self.lent.push(lent);
    }

    fn cancelled(&mut self, consumer: ConsumerKey) {
        self.trace.push(format!("{} cancelled", consumer.number));
    }
}

fn body_of(lent: &Lent) -> &str {
    std::str::from_utf8(&lent.message.body).expect("bodies of these tests are text")
}

/// A virtual host, its recorder and its clock.
#[derive(Debug)]
struct Scene {
    host: VHost,
    outlet: Recorder,
    now: Instant,
}

/// Connection 1, which does everything that does not say who does it.
fn me() -> ConnectionId {
    ConnectionId::of_test(1)
}

fn consumer(number: u64) -> ConsumerKey {
    let channel = ChannelKey {
        connection: me(),
        channel: 1,
    };
    ConsumerKey { channel, number }
}

fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl Scene {
    fn new() -> Self {
        Self::within(LIMITS)
    }

    fn within(limits: Limits) -> Self {
        let now = Instant::now();
        let epoch = Epoch {
            instant: now,
            unix: 1_000,
        };
        Self {
            host: VHost::new("/", limits, epoch, 7),
            outlet: Recorder::default(),
            now,
        }
    }

    fn declare(&mut self, name: &str, arguments: &FieldTable) -> Result<QueueInfo, Refusal> {
        let spec = QueueSpec {
            name,
            durable: false,
            exclusive: false,
            auto_delete: false,
            arguments,
        };
        self.host.declare_queue(me(), spec, self.now)
    }

    fn queue<const N: usize>(&mut self, name: &str, arguments: [(&str, AMQPValue); N]) {
        self.declare(name, &table(arguments))
            .expect("a queue like this can be declared");
    }

    fn exchange(&mut self, name: &str, kind: &str) {
        let arguments = FieldTable::default();
        let spec = exchange_spec(name, kind, &arguments);
        self.host
            .declare_exchange(spec)
            .expect("an exchange like this can be declared");
    }

    fn bind(&mut self, source: &str, queue: &str, routing_key: &str) {
        let arguments = FieldTable::default();
        let spec = binding_spec(source, queue, routing_key, &arguments);
        self.host.bind(me(), spec).expect("both ends exist");
    }

    fn bind_exchanges(&mut self, source: &str, destination: &str, routing_key: &str) {
        let arguments = FieldTable::default();
        let spec = exchange_binding_spec(source, destination, routing_key, &arguments);
        self.host.bind(me(), spec).expect("both ends exist");
    }

    fn publish(&mut self, exchange: &str, routing_key: &str, body: &str) -> Routed {
        self.publish_with(exchange, routing_key, body, BasicProperties::default())
    }

    fn publish_with(
        &mut self,
        exchange: &str,
        routing_key: &str,
        body: &str,
        properties: BasicProperties,
    ) -> Routed {
        self.try_publish(exchange, routing_key, body, properties)
            .expect("a message like this can be published")
    }

    fn try_publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        body: &str,
        properties: BasicProperties,
    ) -> Result<Routed, Refusal> {
        let message = Message {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            properties,
            body: body.to_owned().into(),
        };
        self.host
            .publish(Arc::new(message), self.now, &mut self.outlet)
    }

    fn subscribe(&mut self, number: u64, queue: &str) {
        let arguments = FieldTable::default();
        self.subscribe_with(number, queue, false, &arguments)
            .expect("a consumer like this can subscribe");
    }

    fn subscribe_with(
        &mut self,
        number: u64,
        queue: &str,
        exclusive: bool,
        arguments: &FieldTable,
    ) -> Result<(), Refusal> {
        self.host.subscribe(ConsumerSpec {
            key: consumer(number),
            queue,
            no_ack: false,
            exclusive,
            arguments,
        })?;
        self.resume(number);
        Ok(())
    }

    fn resume(&mut self, number: u64) {
        self.host
            .resume([consumer(number)], self.now, &mut self.outlet);
    }

    fn unsubscribe(&mut self, number: u64) {
        self.host
            .unsubscribe(consumer(number), self.now, &mut self.outlet);
    }

    /// The channel of these consumers ends, and gives back everything that was lent.
    fn release<const N: usize>(&mut self, consumers: [u64; N]) {
        let loans = std::mem::take(&mut self.outlet.lent).into_iter();
        let loans = loans.map(|lent| (lent.queue, lent.number));
        let consumers = consumers.map(consumer);
        let (now, outlet) = (self.now, &mut self.outlet);
        self.host.release(consumers, loans, now, outlet);
    }

    /// Settles the oldest message lent to a consumer or by `get` with this body.
    fn settle(&mut self, body: &str, settlement: Settlement) {
        let mut all = self.outlet.lent.iter();
        let at = all.position(|lent| body_of(lent) == body);
        let lent = self.outlet.lent.remove(at.expect("the message was lent"));
        let settled = (lent.queue, lent.number, settlement);
        self.host.settle([], [settled], self.now, &mut self.outlet);
    }

    /// The next message of a queue, for good.
    fn take(&mut self, queue: &str) -> Option<Lent> {
        let got = self
            .host
            .get(me(), queue, true, self.now, &mut self.outlet)
            .expect("the queue exists");
        got.map(|got| got.lent)
    }

    /// The bodies of all messages that wait in a queue, which is empty then.
    fn drain(&mut self, queue: &str) -> Vec<String> {
        std::iter::from_fn(|| self.take(queue))
            .map(|lent| body_of(&lent).to_owned())
            .collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.host.advance(self.now, &mut self.outlet);
    }

    fn trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.outlet.trace)
    }
}

fn exchange_spec<'a>(name: &'a str, kind: &'a str, arguments: &'a FieldTable) -> ExchangeSpec<'a> {
    ExchangeSpec {
        name,
        kind,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments,
    }
}

/// Of a queue.
fn binding_spec<'a>(
    source: &'a str,
    destination: &'a str,
    routing_key: &'a str,
    arguments: &'a FieldTable,
) -> BindingSpec<'a> {
    BindingSpec {
        source,
        destination: DestinationName::Queue(destination),
        routing_key,
        arguments,
    }
}

fn exchange_binding_spec<'a>(
    source: &'a str,
    destination: &'a str,
    routing_key: &'a str,
    arguments: &'a FieldTable,
) -> BindingSpec<'a> {
    BindingSpec {
        destination: DestinationName::Exchange(destination),
        ..binding_spec(source, destination, routing_key, arguments)
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>) -> (u16, String) {
    let refusal = result.expect_err("this must be refused");
    (refusal.code, refusal.text)
}
