//! Dead letters: messages that expired, were rejected or found no room, on their way to where
//! their queue sends them (RabbitMQ's page on dead letter exchanges; `rabbit_dead_letter`).

use std::{collections::HashSet, sync::Arc, time::Instant};

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString},
};

use super::{
    super::message::Message, Outlet, SLICE, VHost, arguments::DeadLetterRoute,
    routing::routing_keys, store::MessageKey,
};

/// How often a message may die without ever having come to rest. Its headers show a cycle long
/// before, unless its publisher has forged them.
const MAX_HOPS: u32 = 100;

/// How many dead letters may come of one message without any of them having come to rest. Queues that
/// keep nothing and send it all to each other make as many as there are orders of them.
const MAX_DESCENDANTS: u32 = 10_000;

/// Deaths that are read of a message's headers, the last ones. Its publisher may have forged thousands.
const MAX_DEATHS: usize = 256;

/// Why a message died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    Rejected,
    MaxLength,
}

/// A message that died, on its way. It has a place in the store until it is sent on.
#[derive(Debug)]
pub(super) struct DeadLetter {
    message: MessageKey,
    reason: Reason,
    queue: Arc<str>,
    route: Arc<DeadLetterRoute>,
    hops: u32,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::MaxLength => "maxlen",
        }
    }
}

impl VHost {
    /// A message has died in this queue, which gives up a place of it. It goes on its way with the
    /// next [`bury`](Self::bury), if the queue sends its dead letters anywhere.
    pub(super) fn dead_letter(&mut self, slot: usize, message: MessageKey, reason: Reason) {
        let queue = &self.queues[slot];
        let endless = self.hops >= MAX_HOPS || self.hops > 0 && self.descendants >= MAX_DESCENDANTS;
        let route = queue.arguments.dead_letters.as_ref();
        let Some(route) = route.filter(|_| !endless) else {
            self.store.leave(message);
            return;
        };
        self.fresh_dead.push(DeadLetter {
            message,
            reason,
            queue: queue.name.clone(),
            route: route.clone(),
            hops: self.hops,
        });
    }

    /// Sends dead letters on that came up just now. If others are on their way, they follow those, and
    /// whoever caused them does not do the others' work.
    pub(super) fn bury(&mut self, now: Instant, outlet: &mut dyn Outlet) {
        if self.dead.is_empty() {
            return self.send_some_on(now, outlet);
        }
        self.dead.extend(self.fresh_dead.drain(..));
    }

    /// Sends some dead letters on, those that die again on the way before the others, so that few are
    /// ever on their way together.
    pub(super) fn send_some_on(&mut self, now: Instant, outlet: &mut dyn Outlet) {
        self.dead.extend(self.fresh_dead.drain(..));
        let end = self.work + SLICE;
        while self.work < end {
            let Some(letter) = self.dead.pop_front() else {
                break;
            };
            self.work += 1;
            self.descendants = match letter.hops {
                0 => 0,
                _ => self.descendants + 1,
            };
            self.hops = letter.hops + 1;
            self.send_on(&letter, now, outlet);
            for fresh in self.fresh_dead.drain(..).rev() {
                self.dead.push_front(fresh);
            }
        }
        self.hops = 0;
    }

    fn send_on(&mut self, letter: &DeadLetter, now: Instant, outlet: &mut dyn Outlet) {
        let dead = self.store.leave(letter.message);
        let to = &letter.route.exchange;
        if !to.is_empty() && !self.exchange_names.contains_key(to.as_str()) {
            return;
        }
        let message = letter.sent_on(&dead, self.time_of_day(now));
        let mut queues = self.route(&message);
        let deaths = deaths(message.properties.headers().as_ref());
        // What it takes to sort them.
        self.work += (deaths.len() * deaths.len() / 64) as u64;
        if letter.reason != Reason::Rejected {
            let passed = passed_since_rejected(&deaths);
            queues.retain(|slot| !passed.contains(self.queues[*slot].name.as_bytes()));
        }
        self.offer(&queues, Arc::new(message), now, outlet);
    }

    /// Seconds since 1970.
    fn time_of_day(&self, now: Instant) -> u64 {
        self.epoch.unix + now.saturating_duration_since(self.epoch.instant).as_secs()
    }
}

impl DeadLetter {
    /// The message as it goes on: new address, its death in its headers, no expiration.
    fn sent_on(&self, old: &Message, time: u64) -> Message {
        let mut headers = old.properties.headers().clone().unwrap_or_default();
        headers = self.with_death(old, &headers, time);
        let mut routing_key = old.routing_key.clone();
        if let Some(key) = &self.route.routing_key {
            routing_key = short(key);
            headers = without(&headers, "CC");
        }
        Message {
            exchange: short(&self.route.exchange),
            routing_key,
            properties: with_headers_only(&old.properties, headers),
            body: old.body.clone(),
        }
    }

    /// The headers with this death in front of the `x-death` list, or counted there if the message
    /// has died here in this way before. The other entries change their order as they do in
    /// RabbitMQ 3.10.
    fn with_death(&self, old: &Message, headers: &FieldTable, time: u64) -> FieldTable {
        let mut headers = headers.clone();
        let known = match headers.inner().get("x-death") {
            Some(AMQPValue::FieldArray(known)) => grouped(known),
            Some(_) => Vec::new(),
            None => {
                for (name, value) in [
                    ("x-first-death-reason", self.reason.name()),
                    ("x-first-death-queue", &self.queue),
                    ("x-first-death-exchange", old.exchange.as_str()),
                ] {
                    headers.insert(name.into(), text(value));
                }
                Vec::new()
            }
        };
        let here = (Some(text(&self.queue)), Some(text(self.reason.name())));
        let (mine, others): (Vec<_>, Vec<_>) =
            (known.into_iter()).partition(|death| death_key(death) == borrowed(&here));
        let death = match mine.into_iter().next() {
            Some(mut death) => {
                let count = death
                    .inner()
                    .get("count")
                    .and_then(AMQPValue::as_long_long_int);
                let count = count.unwrap_or(0).saturating_add(1);
                death.insert("count".into(), AMQPValue::LongLongInt(count));
                death
            }
            None => self.first_death_here(old, time),
        };
        let deaths: Vec<AMQPValue> = std::iter::once(death)
            .chain(others)
            .map(AMQPValue::FieldTable)
            .collect();
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
        headers
    }

    fn first_death_here(&self, old: &Message, time: u64) -> FieldTable {
        let keys: Vec<AMQPValue> = routing_keys(old).iter().map(|key| text(key)).collect();
        let mut death = FieldTable::default();
        death.insert("count".into(), AMQPValue::LongLongInt(1));
        death.insert("reason".into(), text(self.reason.name()));
        death.insert("queue".into(), text(&self.queue));
        death.insert("time".into(), AMQPValue::Timestamp(time));
        death.insert("exchange".into(), text(old.exchange.as_str()));
        death.insert("routing-keys".into(), AMQPValue::FieldArray(keys.into()));
        if let Some(expiration) = old.properties.expiration() {
            death.insert("original-expiration".into(), text(expiration.as_str()));
        }
        death
    }
}

type DeathKey<'a> = (Option<&'a AMQPValue>, Option<&'a AMQPValue>);

fn borrowed(key: &(Option<AMQPValue>, Option<AMQPValue>)) -> DeathKey<'_> {
    (key.0.as_ref(), key.1.as_ref())
}

fn death_key(death: &FieldTable) -> DeathKey<'_> {
    (death.inner().get("queue"), death.inner().get("reason"))
}

/// The entries of an `x-death` list, one for each queue and reason, the last first. What is no
/// table was not written by a broker, and is left out.
fn grouped(known: &FieldArray) -> Vec<FieldTable> {
    let mut groups: Vec<FieldTable> = Vec::new();
    for value in known.as_slice().iter().take(MAX_DEATHS) {
        let Some(death) = value.as_field_table() else {
            continue;
        };
        if !groups
            .iter()
            .any(|seen| death_key(seen) == death_key(death))
        {
            groups.push(death.clone());
        }
    }
    groups.reverse();
    groups
}

fn deaths(headers: Option<&FieldTable>) -> Vec<&FieldTable> {
    headers
        .and_then(|headers| headers.inner().get("x-death")?.as_array())
        .map(FieldArray::as_slice)
        .unwrap_or_default()
        .iter()
        .filter_map(AMQPValue::as_field_table)
        .collect()
}

/// The queues in which the message has been and nobody has rejected it since: if it came to one of them
/// again, no client would be part of its cycle, and it would go on for ever.
fn passed_since_rejected<'a>(deaths: &[&'a FieldTable]) -> HashSet<&'a [u8]> {
    let rejected = text(Reason::Rejected.name());
    let since = (deaths.iter()).take_while(|death| death_key(death).1 != Some(&rejected));
    since
        .filter_map(|death| match death_key(death).0 {
            Some(AMQPValue::LongString(queue)) => Some(queue.as_bytes()),
            _ => None,
        })
        .collect()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// A name of an argument's value, which may be longer than names are: no exchange and no binding
/// has such a name, so that its beginning does as well.
fn short(name: &str) -> ShortString {
    let mut end = name.len().min(255);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].into()
}

fn without(headers: &FieldTable, name: &str) -> FieldTable {
    let mut headers = headers.inner().clone();
    headers.remove(name);
    headers.into()
}

/// The properties with other headers and without expiration, which cannot be taken from them.
fn with_headers_only(old: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut new = BasicProperties::default().with_headers(headers);
    macro_rules! keep {
        ($($get:ident $with:ident),+) => {$(
            if let Some(value) = old.$get() {
                new = new.$with(value.clone());
            }
        )+};
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        delivery_mode with_delivery_mode,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        user_id with_user_id,
        app_id with_app_id,
        cluster_id with_cluster_id
    );
    new
}
