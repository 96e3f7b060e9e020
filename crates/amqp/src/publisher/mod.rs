//! Publishing with a verdict for each message.

#![allow(
    clippy::vec_box,
    reason = "an entry is large, and goes through several hands"
)]

mod again;
mod collector;
mod entry;
mod ledger;
#[cfg(feature = "outbox")]
mod outbox;
mod outcome;
mod seat;
mod window;

#[cfg(feature = "outbox")]
pub use outbox::{Destination, OutboxBuilder, PublisherOutbox, Rejection, Ticket};
pub use outcome::{PublishError, Receipt, Unresolved};

#[cfg(feature = "outbox")]
use std::sync::OnceLock;
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    cluster::Cluster,
    config::LONGEST,
    message::Message,
    telemetry,
    topology::{Declaration, Topology, TopologyError},
};
#[cfg(feature = "outbox")]
use wharf_outbox::{EnqueueError, Envelope};

use entry::Entry;
use window::Home;

/// Publishes messages and says what became of each. Clones are handles to the same.
///
/// Messages of many tasks share a few channels, and wait for the broker's word together. When a
/// channel or connection is lost, messages without a verdict are sent again under the same id, so
/// that a consumer can tell the copies: delivery is at least once.
///
/// At most `window` messages and `window_bytes` of bodies are under way at a time. A message that
/// was reported [`Unknown`](Receipt::Unknown) at its deadline keeps its share until its verdict
/// comes after all or its channel ends, so memory is bounded whatever the broker does.
///
/// Publishing through [`Cluster::confirm_channels`] besides is fine for messages that are not
/// mandatory: lapin hands a returned message to any confirm of the channel.
#[derive(Clone)]
pub struct Publisher {
    home: Arc<Home>,
    mandatory: bool,
    /// The largest frame, as configured; the broker may agree to less.
    frame: u32,
    /// The connections live as long as the publisher, and what is declared on each new one.
    #[cfg_attr(
        not(feature = "outbox"),
        expect(dead_code, reason = "it is there to be kept")
    )]
    cluster: Cluster,
    topology: Option<Declaration>,
    #[cfg(feature = "outbox")]
    outbox: Arc<OnceLock<PublisherOutbox>>,
}

impl Publisher {
    /// Begins to build one.
    pub fn builder(cluster: &Cluster) -> PublisherBuilder {
        PublisherBuilder {
            cluster: cluster.clone(),
            window: 1024,
            window_bytes: 64 << 20,
            deadline: Duration::from_secs(30),
            mandatory: true,
            topology: None,
        }
    }

    /// Publishes a message and waits for its verdict, until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`PublishError`]: it is certain that no queue has the message.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for a share of the window or for a channel, nothing is sent. Dropped
    /// later, the message is seen through without the caller, and counted.
    #[allow(clippy::missing_panics_doc, reason = "every message is answered")]
    pub async fn publish(&self, message: Message) -> Result<Receipt, PublishError> {
        let limit = self.home.deadline;
        let deadline = Instant::now() + limit;
        let bytes = match self.home.try_enter(message.weight()) {
            Some(bytes) => bytes,
            None => match timeout_at(deadline, self.home.enter(message.weight())).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Err(PublishError::Closed(Box::new(message))),
                Err(_) => {
                    let message = Box::new(message);
                    return Err(PublishError::WindowFull { limit, message });
                }
            },
        };
        let (packed, wire) = match message.pack(self.mandatory, self.frame) {
            Ok((packed, wire)) => (Arc::new(packed), wire),
            Err(invalid) => {
                self.home.release(bytes);
                return Err(invalid.into());
            }
        };
        self.home.told.published();
        let published = &self.home.counts.published;
        let (answer, verdict) = oneshot::channel();
        let entry = Box::new(Entry {
            home: Arc::clone(&self.home),
            mandatory: packed.mandatory,
            number: published.fetch_add(1, Ordering::Relaxed),
            message: Some(Arc::clone(&packed)),
            wire: Some(wire),
            bytes,
            deadline,
            timer: telemetry::Timer::start(),
            republished: 0,
            doubtful: false,
            exceptions: 0,
            handed: false,
            answer: Some(answer),
        });
        again::place(&self.home, entry).await;
        let outcome = verdict.await.expect("bug: every message is answered");
        outcome.explain(packed, limit)
    }

    /// Puts a message into the publisher's [outbox](Self::outbox), and gives a ticket for it as soon as
    /// it is accepted, whether there is a broker or not. If there is no room, the outbox's policy
    /// decides; by default this waits for some.
    ///
    /// The ticket resolves to [`Receipt::Confirmed`] when the broker has the message, however many
    /// outages later. The message has the ticket's id in each copy, unless it has one of its own. Its
    /// [`ttl`](Message::ttl) counts from now: it may wait here for so long, and what is left is for the
    /// queue.
    ///
    /// ```
    /// # async fn example(publisher: wharf_amqp::Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// use wharf_amqp::Message;
    ///
    /// let message = Message::new("paid").to("orders", "eu.paid").persistent();
    /// let ticket = publisher.enqueue(message).await?; // Accepted.
    /// let receipt = ticket.await?; // Confirmed.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`EnqueueError`]: it was not accepted. Here it is.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if this is what [makes the outbox](Self::outbox).
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the message is not accepted. Dropped at the moment at which
    /// there is room, or while a journal stores it, the message may be published all the same.
    #[cfg(feature = "outbox")]
    pub async fn enqueue(&self, message: Message) -> Result<Ticket, EnqueueError<Message>> {
        let ttl = message.lifetime();
        let envelope = Envelope::new(message);
        let envelope = match ttl {
            Some(ttl) => envelope.ttl(ttl),
            None => envelope,
        };
        self.outbox().enqueue(envelope).await
    }

    /// The outbox that [`enqueue`](Self::enqueue) puts messages into: to look at it, to flush it, and to
    /// close it before the publisher is. Made here in memory, if [`with_outbox`](Self::with_outbox) has
    /// not made another: at most 65,536 messages and 64 MiB. Clones of the publisher share it; with the
    /// last of them it ends.
    ///
    /// Messages are published one after the other, in the order of acceptance, whatever happens to
    /// connections. Pace needs many under way: [`per_key`](OutboxBuilder::per_key) keeps the order of
    /// messages that belong together, [`pipelined`](OutboxBuilder::pipelined) only begins in order.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if there is none yet.
    #[cfg(feature = "outbox")]
    pub fn outbox(&self) -> &PublisherOutbox {
        self.outbox.get_or_init(|| {
            let made = Destination::builder(self.without_outbox()).build();
            made.expect("bug: an outbox in memory can be built")
        })
    }

    /// The same publisher, with an outbox of its own that is as `configure` makes it: its bounds, its
    /// order, what happens beyond the bounds, a journal on disk.
    ///
    /// ```
    /// # fn example(publisher: wharf_amqp::Publisher) -> Result<(), wharf_amqp::outbox::BuildError> {
    /// use std::time::Duration;
    /// use wharf_amqp::outbox::Policy;
    ///
    /// let publisher = publisher.with_outbox(|outbox| {
    ///     outbox
    ///         .max_messages(1_000_000)
    ///         .policy(Policy::DropOldest)
    ///         .ttl(Duration::from_secs(3600))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError`](wharf_outbox::BuildError): its settings make no sense, or its journal cannot be
    /// opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[cfg(feature = "outbox")]
    pub fn with_outbox(
        &self,
        configure: impl FnOnce(OutboxBuilder) -> OutboxBuilder,
    ) -> Result<Self, wharf_outbox::BuildError> {
        let outbox = configure(Destination::builder(self.without_outbox())).build()?;
        Ok(Self {
            outbox: Arc::new(OnceLock::from(outbox)),
            ..self.clone()
        })
    }

    #[cfg(feature = "outbox")]
    fn without_outbox(&self) -> Self {
        Self {
            outbox: Arc::default(),
            ..self.clone()
        }
    }

    /// Waits until every message published before has its verdict. Those published meanwhile wait.
    ///
    /// # Errors
    ///
    /// [`Unresolved`] after `limit`.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn flush(&self, limit: Duration) -> Result<(), Unresolved> {
        let drained = timeout(limit, self.home.drained()).await;
        drained.map_err(|_| Unresolved {
            count: self.stats().in_flight,
        })
    }

    /// Takes no more messages, and waits for the verdicts of those it has. Affects all clones. What is
    /// in an outbox before it ends there: who wants it published closes the outbox first.
    ///
    /// # Errors
    ///
    /// [`Unresolved`] after `limit`: these have no verdict. Their callers get theirs in time.
    ///
    /// # Cancel safety
    ///
    /// Closed by the first poll.
    pub async fn close_within(&self, limit: Duration) -> Result<(), Unresolved> {
        self.home.close();
        let flushed = self.flush(limit).await;
        self.home.shut();
        flushed
    }

    /// Its topology, to watch or to declare once more; none if it was built without one.
    pub fn topology(&self) -> Option<&Declaration> {
        self.topology.as_ref()
    }

    /// What became of its messages so far.
    pub fn stats(&self) -> PublisherStats {
        let counts = &self.home.counts;
        PublisherStats {
            published: counts.published.load(Ordering::Relaxed),
            confirmed: counts.confirmed.load(Ordering::Relaxed),
            returned: counts.returned.load(Ordering::Relaxed),
            rejected: counts.rejected.load(Ordering::Relaxed),
            unknown: counts.unknown.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            republished: counts.republished.load(Ordering::Relaxed),
            in_flight: counts.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What became of a publisher's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PublisherStats {
    /// Messages that got a place in the window.
    pub published: u64,
    /// See [`Receipt::Confirmed`].
    pub confirmed: u64,
    /// See [`Receipt::Returned`].
    pub returned: u64,
    /// See [`Receipt::Rejected`].
    pub rejected: u64,
    /// See [`Receipt::Unknown`].
    pub unknown: u64,
    /// Certainly not sent: see [`PublishError`].
    pub failed: u64,
    /// Copies sent because the fate of an earlier one was unknown.
    pub republished: u64,
    /// Messages that hold a share of the window.
    pub in_flight: u64,
}

/// Builds a [`Publisher`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct PublisherBuilder {
    cluster: Cluster,
    window: u32,
    window_bytes: u32,
    deadline: Duration,
    mandatory: bool,
    topology: Option<Topology>,
}

impl PublisherBuilder {
    /// How many messages may be under way. Default 1,024; 0 counts as 1.
    pub fn window(mut self, messages: u32) -> Self {
        self.window = messages.clamp(1, u32::MAX >> 3);
        self
    }

    /// How many bytes of bodies may be under way; a larger message takes the whole window. Default
    /// 64 MiB; 0 counts as 1.
    pub fn window_bytes(mut self, bytes: u32) -> Self {
        self.window_bytes = bytes.clamp(1, u32::MAX >> 3);
        self
    }

    /// How long a message may take from the call to its verdict. Default 30 s, a year at most.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(LONGEST);
        self
    }

    /// Whether messages that say nothing about it are mandatory. Default true.
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// What is declared before the first message, and again on every new connection before anything
    /// is published on it. Temporary and exclusive queues in it are not the publisher's business:
    /// consumers declare them. Default none.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Builds it, and declares its topology, if it has one, within the operation timeout. Without
    /// one, connections are made when the first message needs them.
    ///
    /// # Errors
    ///
    /// [`TopologyError`]: the topology makes no sense, or could not be declared.
    ///
    /// # Cancel safety
    ///
    /// That of [`Topology::declare`].
    pub async fn build(self) -> Result<Publisher, TopologyError> {
        let publisher = self.build_lazily()?;
        if let Some(topology) = publisher.topology() {
            topology.declare_shared().await?;
        }
        Ok(publisher)
    }

    /// The same without waiting for a broker to be there: the topology is declared on the first
    /// connection, and [`Publisher::topology`] tells what became of it. If there is a connection
    /// already, use [`build`](Self::build).
    ///
    /// # Errors
    ///
    /// [`TopologyError`]: the topology makes no sense.
    pub fn build_lazily(self) -> Result<Publisher, TopologyError> {
        let topology = self.topology.as_ref();
        let topology = topology.map(|topology| Declaration::register(&self.cluster, topology));
        Ok(Publisher {
            home: Arc::new(Home::new(
                self.cluster.confirm_channels().clone(),
                self.window,
                self.window_bytes,
                self.deadline,
                telemetry::Publishing::new(&self.cluster.shared().config.name),
            )),
            topology: topology.transpose()?,
            frame: self.cluster.shared().config.frame_max,
            mandatory: self.mandatory,
            #[cfg(feature = "outbox")]
            outbox: Arc::default(),
            cluster: self.cluster,
        })
    }
}
