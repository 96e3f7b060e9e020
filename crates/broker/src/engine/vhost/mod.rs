//! A virtual host: exchanges, bindings, queues, the messages in them and their consumers' turns.
//!
//! A pure data structure. Time is an argument; what has to reach a client leaves through an
//! [`Outlet`]. It knows channels and connections by their keys only.

// In this order: a file imports only from modules that stand below its own.
mod release;

mod consume;
mod operator;
mod publish;
mod upkeep;

mod declare_queue;

mod declare_exchange;

mod remains;

mod dead_letters;

mod routing;

mod queue;

mod bindings;
mod headers;
mod topic;

mod destinations;

mod ready;
mod store;
mod turns;

mod arguments;
mod refusal;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use amq_protocol::types::FieldTable;
use slab::Slab;

use super::{
    keys::{ConnectionId, ConsumerKey},
    message::{Message, table_weight},
};

use bindings::Bindings;
use dead_letters::DeadLetter;
use queue::Queue;
use remains::Remains;
use routing::Exchange;
use store::Store;

pub(crate) use refusal::Refusal;

/// Exchanges, queues and what is in them.
#[derive(Debug)]
pub(crate) struct VHost {
    name: Arc<str>,
    limits: Limits,
    epoch: Epoch,
    random: fastrand::Rng,
    exchanges: Slab<Exchange>,
    exchange_names: HashMap<Arc<str>, usize>,
    bindings: Bindings,
    queues: Slab<Queue>,
    queue_names: HashMap<Arc<str>, usize>,
    /// Queues made so far.
    generation: u32,
    /// The exclusive queues of each connection.
    owned: HashMap<ConnectionId, BTreeSet<usize>>,
    /// The queue of each consumer.
    consumers: HashMap<ConsumerKey, usize>,
    store: Store,
    /// When to look at which queue again.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Dead letters on their way, the next one first.
    dead: VecDeque<DeadLetter>,
    /// Dead letters that came up while one was on its way.
    fresh_dead: Vec<DeadLetter>,
    /// How many times the dead letter on its way has died without rest.
    hops: u32,
    /// How many dead letters the last one that had rest has become since.
    descendants: u32,
    /// What was in queues that are purged or gone.
    remains: VecDeque<Remains>,
    /// Bytes of the arguments of exchanges, queues and bindings.
    argument_bytes: usize,
    /// Messages touched so far, however little was done to each.
    work: u64,
    /// Routings so far, so that a queue or exchange knows whether this one has reached it.
    routings: u64,
    /// The latest time this host was told.
    now: Instant,
}

/// Messages touched in one go by what has no end of its own: expiry, dead letters, purged queues. More
/// is done in the next calls of [`VHost::advance`], so that everybody else has a turn in between.
const SLICE: u64 = 1_000;

/// What a virtual host tells and asks while it works. An outlet never calls back into the host.
pub(crate) trait Outlet {
    /// Whether this consumer can take one more message. A refusal parks the consumer: it is not
    /// asked again until [`VHost::resume`].
    fn accepts(&mut self, consumer: ConsumerKey) -> bool;

    /// A message for a consumer that has just accepted.
    fn deliver(&mut self, consumer: ConsumerKey, lent: Lent);

    /// The consumer's queue is gone, and the consumer with it.
    fn cancelled(&mut self, consumer: ConsumerKey);
}

/// A message that left its queue for a client. If the client acknowledges by hand, the session
/// owes the queue exactly one [`VHost::settle`] with this `queue` and `number`; with `no_ack` it
/// owes nothing.
#[derive(Clone, Debug)]
pub(crate) struct Lent {
    pub(crate) queue: QueueKey,
    pub(crate) number: u64,
    pub(crate) message: Arc<Message>,
    pub(crate) redelivered: bool,
}

/// A queue, for as long as it exists. A key of a deleted queue finds nothing, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueKey {
    slot: u32,
    generation: u32,
}

/// How a lent message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// It is done with.
    Ack,
    /// It goes back to its old place, marked as redelivered. When several messages of a queue go
    /// back at once, settle them in the order in which they were delivered.
    Requeue,
    /// It is dead-lettered as `rejected` if the queue says where to, else dropped.
    Discard,
}

/// Where a published message went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routed {
    /// The queues it was routed to, those that rejected it among them.
    pub(crate) queues: usize,
    /// A queue was full and rejects what it has no room for: the publisher gets a nack.
    pub(crate) rejected: bool,
}

/// The answer of `basic.get`.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) lent: Lent,
    /// Messages that are ready in the queue after this one.
    pub(crate) remaining: usize,
}

/// The answer of `queue.declare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueInfo {
    pub(crate) name: Arc<str>,
    /// Messages ready for delivery.
    pub(crate) messages: usize,
    pub(crate) consumers: usize,
}

/// An exchange as `exchange.declare` describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangeSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: &'a FieldTable,
}

/// A queue as `queue.declare` describes it. An empty name asks for one of the host's making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: &'a FieldTable,
}

/// A binding as `queue.bind` and `exchange.bind` describe it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingSpec<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: DestinationName<'a>,
    pub(crate) routing_key: &'a str,
    pub(crate) arguments: &'a FieldTable,
}

/// Where a binding leads, by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DestinationName<'a> {
    Queue(&'a str),
    Exchange(&'a str),
}

/// A consumer as `basic.consume` describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerSpec<'a> {
    pub(crate) key: ConsumerKey,
    pub(crate) queue: &'a str,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) arguments: &'a FieldTable,
}

/// How much a virtual host may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Exchanges, the predeclared ones included.
    pub(crate) max_exchanges: usize,
    pub(crate) max_queues: usize,
    pub(crate) max_bindings: usize,
    /// Bytes of the arguments that exchanges, queues and bindings were declared with.
    pub(crate) max_argument_bytes: usize,
    /// Messages ready in one queue. What does not fit is rejected.
    pub(crate) max_queue_length: Option<usize>,
    /// Bytes of the bodies ready in one queue. What does not fit is rejected.
    pub(crate) max_queue_bytes: Option<usize>,
}

/// The time of day that goes with an instant, for the `time` of dead letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub(crate) instant: Instant,
    /// Seconds since 1970 at that instant.
    pub(crate) unix: u64,
}

impl VHost {
    /// Messages touched so far: put into a queue, delivered, expired, dropped. Whoever holds a lock
    /// meanwhile can tell by it when to let go.
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// Takes note of arguments that are kept, so many times, in what is made of them.
    fn keep_arguments(
        &mut self,
        arguments: &FieldTable,
        copies: usize,
        refused: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        let limit = self.limits.max_argument_bytes;
        let kept = self.argument_bytes + table_weight(arguments) * copies;
        if kept > limit {
            let text = format!(
                "{}: argument bytes limit in vhost '{}' ({limit}) is reached",
                refused(),
                self.name
            );
            return Err(Refusal::precondition_failed(text));
        }
        self.argument_bytes = kept;
        Ok(())
    }

    fn forget_arguments(&mut self, arguments: &FieldTable, copies: usize) {
        self.argument_bytes -= table_weight(arguments) * copies;
    }
}
