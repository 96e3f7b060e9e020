//! Exchanges, and the way of a message through them.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};
use slab::Slab;
use smallvec::SmallVec;

use super::{
    super::message::Message,
    VHost,
    bindings::{Ends, Routes},
    destinations::{Destination, Destinations},
    headers::Headers,
    queue::Queue,
    topic::Topic,
};

/// Slots of queues or exchanges: few as a rule.
pub(super) type Slots = SmallVec<[usize; 4]>;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    pub(super) declared: FieldTable,
    pub(super) alternate: Option<String>,
    pub(super) ends: Ends,
    pub(super) routes: Routes,
    /// The last routing that came through here.
    pub(super) chosen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
            _ => return None,
        })
    }

    pub(super) fn routes(self) -> Routes {
        match self {
            Self::Direct => Routes::Direct(HashMap::new()),
            Self::Fanout => Routes::Fanout(Destinations::default()),
            Self::Topic => Routes::Topic(Topic::default()),
            Self::Headers => Routes::Headers(Headers::default()),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        })
    }
}

/// Headers with further routing keys (RabbitMQ: sender-selected distribution).
pub(super) const CARBON_COPY: [&str; 2] = ["CC", "BCC"];

impl VHost {
    /// The slots of the queues that a message reaches from its exchange, each once. The default
    /// exchange, whose name is empty, hands a message to the queue its key names.
    pub(super) fn route(&mut self, message: &Message) -> Slots {
        let exchange = message.exchange.as_str();
        let headers = message.properties.headers().as_ref();
        let keys = routing_keys(message);
        let keys: SmallVec<[&str; 1]> = keys.iter().map(AsRef::as_ref).collect();
        self.routings += 1;
        let mut walk = Walk {
            queues: &mut self.queues,
            routing: self.routings,
            steps: 0,
            found: Slots::new(),
            ahead: Slots::new(),
        };
        if exchange.is_empty() {
            walk.by_name(&self.queue_names, &keys);
            self.work += walk.steps;
            return walk.found;
        }
        walk.ahead
            .extend(self.exchange_names.get(exchange).copied());
        while let Some(slot) = walk.ahead.pop() {
            let exchange = &mut self.exchanges[slot];
            if std::mem::replace(&mut exchange.chosen, walk.routing) == walk.routing {
                continue;
            }
            let mut matched = false;
            exchange.routes.find(&keys, headers, |destinations| {
                matched |= !destinations.is_empty();
                destinations.iter().for_each(|it| walk.reach(it));
            });
            let Some(alternate) = exchange.alternate.as_deref().filter(|_| !matched) else {
                continue;
            };
            walk.ahead
                .extend(self.exchange_names.get(alternate).copied());
        }
        self.work += walk.steps;
        walk.found
    }
}

/// One message's way through the exchanges.
struct Walk<'a> {
    queues: &'a mut Slab<Queue>,
    routing: u64,
    /// Ends of bindings come to, the same one more than once if need be.
    steps: u64,
    found: Slots,
    /// Exchanges yet to come through.
    ahead: Slots,
}

impl Walk<'_> {
    fn reach(&mut self, destination: Destination) {
        self.steps += 1;
        match destination {
            Destination::Exchange(slot) => self.ahead.push(slot),
            Destination::Queue(slot) => {
                let queue = &mut self.queues[slot];
                if std::mem::replace(&mut queue.chosen, self.routing) != self.routing {
                    self.found.push(slot);
                }
            }
        }
    }

    fn by_name(&mut self, names: &HashMap<Arc<str>, usize>, keys: &[&str]) {
        for slot in keys.iter().filter_map(|key| names.get(*key)) {
            self.reach(Destination::Queue(*slot));
        }
    }
}

/// The message's routing key and those of its copies.
pub(super) fn routing_keys(message: &Message) -> SmallVec<[Cow<'_, str>; 1]> {
    let headers = message.properties.headers().as_ref();
    let copies = headers
        .into_iter()
        .flat_map(|headers| CARBON_COPY.map(|name| headers.inner().get(name)))
        .filter_map(|value| value?.as_array())
        .flat_map(FieldArray::as_slice)
        .filter_map(|key| match key {
            AMQPValue::LongString(key) => Some(String::from_utf8_lossy(key.as_bytes())),
            _ => None,
        });
    std::iter::once(message.routing_key.as_str().into())
        .chain(copies)
        .collect()
}
