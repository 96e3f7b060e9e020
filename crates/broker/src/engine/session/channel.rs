//! The state of one channel.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use smallvec::{SmallVec, smallvec};

use super::{
    super::{
        Message, Output,
        output::ContentMethod,
        vhost::{Lent, QueueKey, Settlement},
    },
    confirms::Confirms,
    content::Assembly,
};

/// A channel, open until it says `closing`.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The broker has sent `channel.close`; everything but an answer to it is ignored.
    pub(super) closing: bool,
    /// How many channels the connection had opened with this one.
    pub(super) opened: u64,
    pub(super) assembly: Option<Assembly>,
    pub(super) consumers: HashMap<u64, Consumer>,
    /// The consumer of each tag.
    pub(super) tags: HashMap<Arc<str>, u64>,
    /// Deliveries that are not acknowledged, in ascending order of their tags.
    pub(super) unacked: VecDeque<Unacked>,
    last_delivery: u64,
    /// What `basic.qos` said for consumers to come; zero is no limit.
    pub(super) prefetch: u16,
    /// What `basic.qos` with `global` said for the whole channel; zero is no limit.
    pub(super) global_prefetch: u16,
    /// Deliveries that are not acknowledged, got ones among them, those acknowledged in a
    /// transaction included until it is committed.
    in_flight: usize,
    /// Consumers refused for the channel's own limit, which wait until it has room.
    pub(super) starved: Vec<u64>,
    /// The queue that an empty name stands for.
    pub(super) last_queue: String,
    pub(super) confirms: Option<Confirms>,
    /// Whether the connection has noted that confirms wait here.
    pub(super) confirms_noted: bool,
    pub(super) transaction: Option<Transaction>,
}

/// A consumer as its channel knows it.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) tag: Arc<str>,
    pub(super) no_ack: bool,
    pub(super) prefetch: u16,
    in_flight: usize,
    /// Refused for its own limit: it waits until one of its deliveries is settled.
    starved: bool,
}

/// A delivery that waits for its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacked {
    pub(super) tag: u64,
    pub(super) queue: QueueKey,
    pub(super) number: u64,
    /// None if it was got.
    pub(super) consumer: Option<u64>,
}

impl Unacked {
    /// Whether queues hear of both at once: they were delivered to the same consumer.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        self.queue == other.queue && self.consumer == other.consumer && self.consumer.is_some()
    }
}

/// What happens at the next commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) messages: Vec<Uncommitted>,
    pub(super) settlements: Vec<(Unacked, Settlement)>,
}

/// A message that has found its queues and waits for the commit.
#[derive(Debug)]
pub(super) struct Uncommitted {
    pub(super) message: Arc<Message>,
    pub(super) mandatory: bool,
    pub(super) queues: Vec<Arc<str>>,
}

impl Channel {
    pub(super) fn new(opened: u64) -> Self {
        Self {
            opened,
            ..Self::default()
        }
    }

    /// A channel that the broker has closed: it has nothing left but the wait for the answer.
    pub(super) fn closing() -> Self {
        Self {
            closing: true,
            ..Self::default()
        }
    }

    /// Whether a consumer may have one more delivery. If not, it is noted for what it waits.
    pub(super) fn accepts(&mut self, number: u64) -> bool {
        if self.closing {
            return false;
        }
        let Some(consumer) = self.consumers.get_mut(&number) else {
            return false;
        };
        if consumer.no_ack {
            return true;
        }
        if consumer.prefetch > 0 && consumer.in_flight >= usize::from(consumer.prefetch) {
            consumer.starved = true;
            return false;
        }
        if self.global_prefetch > 0 && self.in_flight >= usize::from(self.global_prefetch) {
            self.starve(number);
            return false;
        }
        true
    }

    /// Notes a consumer that waits for room in the channel. Those that are gone make place when
    /// the list would grow, so that it stays as long as there are consumers, about.
    fn starve(&mut self, number: u64) {
        if self.starved.len() == self.starved.capacity() {
            let consumers = &self.consumers;
            self.starved.retain(|it| consumers.contains_key(it));
        }
        self.starved.push(number);
    }

    /// Takes a delivery for a consumer and says what to write.
    pub(super) fn deliver(&mut self, channel: u16, number: u64, lent: Lent) -> Option<Output> {
        let consumer = self.consumers.get_mut(&number)?;
        let consumer_tag = Arc::clone(&consumer.tag);
        self.last_delivery += 1;
        let delivery_tag = self.last_delivery;
        if !consumer.no_ack {
            consumer.in_flight += 1;
            self.in_flight += 1;
            self.unacked.push_back(Unacked {
                tag: delivery_tag,
                queue: lent.queue,
                number: lent.number,
                consumer: Some(number),
            });
        }
        Some(Output::Content {
            channel,
            method: ContentMethod::Deliver {
                consumer_tag,
                delivery_tag,
                redelivered: lent.redelivered,
            },
            message: lent.message,
        })
    }

    /// The delivery tag of a message that was got.
    pub(super) fn got(&mut self, lent: &Lent, no_ack: bool) -> u64 {
        self.last_delivery += 1;
        if !no_ack {
            self.in_flight += 1;
            self.unacked.push_back(Unacked {
                tag: self.last_delivery,
                queue: lent.queue,
                number: lent.number,
                consumer: None,
            });
        }
        self.last_delivery
    }

    pub(super) fn consume(&mut self, number: u64, tag: Arc<str>, no_ack: bool) {
        self.tags.insert(Arc::clone(&tag), number);
        self.consumers.insert(
            number,
            Consumer {
                tag,
                no_ack,
                prefetch: self.prefetch,
                in_flight: 0,
                starved: false,
            },
        );
    }

    pub(super) fn forget_consumer(&mut self, number: u64) -> Option<Consumer> {
        let consumer = self.consumers.remove(&number)?;
        self.tags.remove(&consumer.tag);
        Some(consumer)
    }

    /// Takes the deliveries that an acknowledgement names, in ascending order. `None` if it names
    /// none that waits: RabbitMQ asks for the very tag even if `multiple` is set.
    pub(super) fn take(&mut self, tag: u64, multiple: bool) -> Option<SmallVec<[Unacked; 1]>> {
        if multiple && tag == 0 {
            return Some(self.unacked.drain(..).collect());
        }
        let at = self
            .unacked
            .binary_search_by_key(&tag, |unacked| unacked.tag)
            .ok()?;
        if multiple {
            return Some(self.unacked.drain(..=at).collect());
        }
        self.unacked.remove(at).map(|unacked| smallvec![unacked])
    }

    /// Brings deliveries into the order of their consumers' tags, those that were got first.
    pub(super) fn sort_by_consumer(&self, settlements: &mut [(Unacked, Settlement)]) {
        let first = settlements.first().map(|(it, _)| (it.queue, it.consumer));
        if settlements
            .iter()
            .all(|(it, _)| Some((it.queue, it.consumer)) == first)
        {
            return;
        }
        settlements.sort_by_key(|(it, _)| {
            let consumer = it.consumer.and_then(|number| self.consumers.get(&number));
            (it.queue, it.consumer.is_some(), consumer.map(|it| &it.tag))
        });
    }

    /// A delivery is settled. The consumer that may have room again for it.
    pub(super) fn settled(&mut self, unacked: &Unacked) -> Option<u64> {
        let number = unacked.consumer?;
        let consumer = self.consumers.get_mut(&number)?;
        consumer.in_flight = consumer.in_flight.saturating_sub(1);
        std::mem::take(&mut consumer.starved).then_some(number)
    }

    /// So many deliveries are settled.
    pub(super) fn make_room(&mut self, settled: usize) {
        self.in_flight = self.in_flight.saturating_sub(settled);
    }

    /// Takes every delivery that is not settled, those a transaction would have settled included,
    /// in the order in which they were made.
    pub(super) fn all_unacked(&mut self) -> Vec<Unacked> {
        let mut all: Vec<Unacked> = self.unacked.drain(..).collect();
        if let Some(transaction) = self.transaction.take() {
            all.extend(transaction.settlements.iter().map(|(unacked, _)| *unacked));
            all.sort_unstable_by_key(|unacked| unacked.tag);
        }
        all
    }

    /// Bytes of the body in assembly and of the messages that wait for a commit.
    pub(super) fn pending(&self) -> usize {
        let assembled = match &self.assembly {
            Some(Assembly::Body(partial)) => partial.weight(),
            _ => 0,
        };
        let uncommitted = self.transaction.as_ref().map_or(0, Transaction::bytes);
        assembled + uncommitted
    }
}

impl Transaction {
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(Uncommitted::weight).sum()
    }
}

impl Uncommitted {
    /// What it costs in memory.
    pub(super) fn weight(&self) -> usize {
        self.message.weight() + size_of_val(&*self.queues)
    }
}
