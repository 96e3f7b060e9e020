//! How an outbox is set up.

use std::{
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use crate::{
    codec::Codec,
    core::{Backoff, Limits, Rate},
    deliver::Deliver,
    error::BuildError,
    journal::Journal,
    outbox::Outbox,
    settings::{Order, Policy},
    shared::{Rules, Shared},
    writer,
};

impl<T, D> Outbox<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    /// Begins to build one for this destination.
    pub fn builder(destination: D) -> Builder<T, D> {
        Builder::new(destination)
    }
}

/// Builds an [`Outbox`].
#[must_use = "a builder does nothing until it builds"]
pub struct Builder<T, D> {
    destination: D,
    name: String,
    max_messages: usize,
    max_bytes: usize,
    policy: Policy,
    order: Order,
    backoff: Backoff,
    rate: Option<Rate>,
    max_attempts: Option<NonZeroU32>,
    rules: Rules<T>,
    journal: Option<Box<dyn Journal>>,
    grouping: writer::Grouping,
    window: usize,
}

impl<T, D> Builder<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn new(destination: D) -> Self {
        Self {
            destination,
            name: "outbox".to_owned(),
            max_messages: 65_536,
            max_bytes: 64 << 20,
            policy: Policy::default(),
            order: Order::default(),
            backoff: Backoff::default(),
            rate: None,
            max_attempts: None,
            rules: Rules {
                weigh: Box::new(|_| size_of::<T>()),
                key: None,
                codec: None,
                ttl: None,
            },
            journal: None,
            grouping: writer::Grouping::default(),
            window: 1024,
        }
    }

    /// What it is called in traces and metrics. Default `outbox`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many messages it holds at most, those in flight included. At least 1; default 65,536.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// How many bytes its messages have at most, together. At least 1; default 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How many bytes a message counts for: called once for each, in its sender's task. By default
    /// the size of `T` itself, without what it points to. With a journal it is not asked: the bytes
    /// are those of the record, which is 37 more than what the codec writes.
    pub fn weigh(mut self, weigh: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.rules.weigh = Box::new(weigh);
        self
    }

    /// What happens when there is no room. Default [`Policy::Wait`]. Callers that wait have their
    /// messages with them, beyond the bounds: how many there are is theirs to bound.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long a message may wait, unless it says so itself. What has waited for so long is not
    /// delivered. Default: for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.rules.ttl = Some(ttl);
        self
    }

    /// One delivery after the other, in the order of acceptance. This is the default.
    pub fn strict(mut self) -> Self {
        self.order = Order::Strict;
        self.rules.key = None;
        self
    }

    /// Deliveries begin in the order of acceptance, and so many are in flight at a time. One that is
    /// tried again goes before those that have not begun, but after those that have.
    pub fn pipelined(mut self, in_flight: usize) -> Self {
        self.order = Order::Pipelined(in_flight);
        self.rules.key = None;
        self
    }

    /// So many deliveries in flight at a time, but those of a key one after the other, in the order
    /// of acceptance. Keys are told apart by a hash of 64 bits: two that have the same hash wait for
    /// each other.
    pub fn per_key<K: Hash>(
        mut self,
        in_flight: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Self {
        self.order = Order::PerKey(in_flight);
        // Seeded, so that nobody can choose keys that wait for each other.
        let hashes = RandomState::new();
        self.rules.key = Some(Box::new(move |message| hashes.hash_one(key(message))));
        self
    }

    /// The pauses after deliveries that come to no answer. Default 100 ms to 15 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How many deliveries may begin in a second, and at once after a pause. Default: any number.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How often a message may be tried. One that can never be delivered would keep all others
    /// waiting for good. Every attempt counts, those during an outage too: in a long one the first
    /// messages are given up at the pace of the backoff. Default: until it expires.
    pub fn max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Stores messages in a journal before they count as accepted, and removes them after they are
    /// resolved. What the journal holds already is delivered first.
    pub fn journal(mut self, journal: impl Journal, codec: impl Codec<T>) -> Self {
        self.journal = Some(Box::new(journal));
        self.rules.codec = Some(Box::new(codec));
        self
    }

    /// How many messages are written to the journal together at most, and how long the first of them
    /// waits for others. Default 256 and 2 ms. It waits for as many as came together the last time,
    /// so that one sender alone waits for nobody, and more come together while a commit is under way.
    pub fn group_commit(mut self, messages: usize, wait: Duration) -> Self {
        self.grouping = writer::Grouping { messages, wait };
        self
    }

    /// With a journal, how many messages are kept in memory: from the oldest on. The rest is read
    /// when its turn comes; until then it does not expire, is not dropped for others, and its keys
    /// are not looked at. Default 1,024.
    pub fn window(mut self, messages: usize) -> Self {
        self.window = messages;
        self
    }

    /// Builds it. It lives on the runtime on which it is built, or else on that of the first who
    /// uses it; with a journal, it has a thread besides. The runtime needs tokio's timer
    /// (`enable_time`): without it nothing is ever delivered.
    ///
    /// If that runtime ends, the outbox goes on, with all its messages, on that of the next who puts
    /// something in, or of who waits for room, flushes or closes. A ticket alone does not bring it
    /// there.
    ///
    /// A journal is read in the caller's thread, for as long as its first look takes.
    ///
    /// # Errors
    ///
    /// [`BuildError`]
    pub fn build(self) -> Result<Outbox<T, D>, BuildError> {
        self.check()?;
        let limits = Limits {
            messages: self.max_messages,
            bytes: self.max_bytes,
            policy: self.policy,
            flights: self.order.flights(),
            keyed: matches!(self.order, Order::PerKey(_)),
            backoff: self.backoff,
            rate: self.rate,
            attempts: self.max_attempts.map_or(u32::MAX, NonZeroU32::get),
            window: self.journal.is_some().then_some(self.window),
        };
        let shared = Arc::new(Shared::new(
            &self.name,
            limits,
            self.rules,
            self.destination,
        ));
        if let Some(journal) = self.journal {
            writer::start(&shared, journal, self.grouping)?;
        }
        Ok(Outbox::new(shared))
    }

    fn check(&self) -> Result<(), BuildError> {
        let at_least_1 = [
            ("max_messages", self.max_messages),
            ("max_bytes", self.max_bytes),
            ("in_flight", self.order.flights()),
            ("group_commit", self.grouping.messages),
            ("window", self.window),
        ];
        for (field, value) in at_least_1 {
            if value == 0 {
                return Err(setting(field, &value, "at least 1"));
            }
        }
        if self.journal.is_some() && self.window < self.order.flights() {
            return Err(setting("window", &self.window, "at least in_flight"));
        }
        let Backoff { min, max } = self.backoff;
        if min.is_zero() {
            return Err(setting(
                "backoff.min",
                &format!("{min:?}"),
                "more than zero",
            ));
        }
        if max < min {
            return Err(setting("backoff.max", &format!("{max:?}"), "at least min"));
        }
        Ok(())
    }
}

fn setting(field: &'static str, value: &dyn fmt::Display, bound: &'static str) -> BuildError {
    BuildError::Setting {
        field,
        value: value.to_string(),
        bound,
    }
}

impl<T, D> fmt::Debug for Builder<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
