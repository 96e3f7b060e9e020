//! Consumers that come back: see [`Consumer`].

// Each file imports only files below it in this list, and the errors and verdicts above.
mod workers;

mod keeper;

mod inbox;

mod delivery;

mod registration;

mod handler;
mod ledger;
mod source;
mod state;

mod error;

pub use delivery::{Delivery, OpenDelivery};
pub use error::{ConsumeError, Stale, StopError};
pub use handler::{Handler, Outcome};
pub use state::{ConsumerState, Stats};

use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use lapin::types::{FieldTable, ShortString};
use tokio::{
    sync::{oneshot, watch},
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    cluster::Cluster,
    config::LONGEST,
    io, telemetry,
    topology::{Declaration, Topology},
};
use keeper::{Core, Order};
use registration::Plan;
use source::Source;

/// A subscription to a queue that lasts: whatever is lost, it subscribes again, with the same
/// prefetch, and says so ([`watch`](Self::watch)).
///
/// - Delivery is *at least once*. A message is acknowledged after its handler said so, on the
///   channel that it came by; if that is gone, the verdict is counted ([`Stats::stale`]) and not
///   sent, and the broker delivers the message again.
/// - Order is that of delivery with a [`concurrency`](Builder::concurrency) of 1, and none in
///   particular above that.
/// - Acknowledgements are sent in company where order allows, so that one frame covers many; one
///   that comes alone is sent at once, and others wait a few milliseconds, or for as long as those
///   before them keep being settled.
/// - It has a channel of its own, on a connection that nobody publishes on: a broker that blocks
///   publishers goes on delivering, and taking acknowledgements.
/// - When the queue is absent, or in use, as the consumer *starts*, that is an error. Afterwards it
///   tries again until the queue is back, or declares it if it has a
///   [topology](Builder::topology). Refused access, and arguments or a topology that the broker
///   does not take, end it at any time ([`ConsumerState::Failed`]).
/// - It is a handle to the cluster: that lives for as long as this.
///
/// Dropped, it ends the subscription without waiting: what is being processed goes on, and is
/// acknowledged when it is done; what nobody has begun to process is handed back.
///
/// ```no_run
/// # use wharf_amqp::{Cluster, consumer::{Consumer, Delivery, Outcome}};
/// # use std::time::Duration;
/// # async fn consume(cluster: &Cluster) -> Result<(), Box<dyn std::error::Error>> {
/// let consumer = Consumer::builder(cluster, "orders.eu")
///     .prefetch(200)
///     .concurrency(8)
///     .start(async |delivery: Delivery| {
///         println!("{} bytes", delivery.data.len());
///         Outcome::Ack
///     })
///     .await?;
/// consumer.pause();
/// consumer.resume();
/// consumer.stop_within(Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    core: Arc<Core>,
    keeper: JoinHandle<bool>,
    workers: Vec<AbortHandle>,
}

impl Consumer {
    /// A consumer of this queue, which exists or is in the consumer's
    /// [topology](Builder::topology).
    pub fn builder(cluster: &Cluster, queue: impl Into<String>) -> Builder {
        Builder {
            cluster: cluster.clone(),
            queue: queue.into(),
            topology: None,
            prefetch: 100,
            concurrency: 1,
            exclusive: false,
            arguments: FieldTable::default(),
            tag: String::new(),
            handler_timeout: None,
        }
    }

    /// No more handlers start until [`resume`](Self::resume); those that run go on.
    ///
    /// The subscription stays, so that an exclusive consumer keeps its place: the broker goes on
    /// delivering up to the prefetch, and those messages wait here. For a long pause stop the
    /// consumer instead: RabbitMQ closes the channel of one that holds a message for longer than
    /// its delivery acknowledgement timeout (half an hour as it comes).
    pub fn pause(&self) {
        self.core.pause();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.core.resume();
    }

    /// How the consumer is, to look at or to wait for.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn watch(&self) -> watch::Receiver<ConsumerState> {
        self.core.state.subscribe()
    }

    /// How the consumer is now.
    pub fn state(&self) -> ConsumerState {
        self.core.state.borrow().clone()
    }

    /// What it has done so far. The figures are read one after another.
    pub fn stats(&self) -> Stats {
        self.core.counters.read()
    }

    /// Ends the subscription, hands back what nobody has begun to process, waits for what is being
    /// processed, and for the broker to have read the acknowledgements: no longer than `limit` in
    /// all. A tenth of that, at most a second, is kept for the last; handlers that need longer are
    /// cut off at their next await, and their messages handed back.
    ///
    /// Everything that was processed is acknowledged, and nothing else.
    ///
    /// # Errors
    ///
    /// [`StopError`] says what was cut off, and whether the broker had the last acknowledgements.
    /// The consumer is stopped in either case.
    ///
    /// # Cancel safety
    ///
    /// The consumer stops from the first poll on; dropped later, nothing is cut off.
    pub async fn stop_within(self, limit: Duration) -> Result<(), StopError> {
        let limit = limit.min(LONGEST);
        let deadline = Instant::now() + limit;
        let reserve = (limit / 10).min(Duration::from_secs(1));
        self.core.leave();
        let settled = timeout_at(deadline - reserve, self.core.inbox.settled()).await;
        let cut_off = match settled {
            Ok(()) => 0,
            Err(_) => self.core.inbox.taken(),
        };
        self.core.order(Order::Close);
        self.workers.iter().for_each(AbortHandle::abort);
        let mut this = self;
        match timeout_at(deadline, &mut this.keeper).await {
            Ok(Ok(true)) if cut_off == 0 => Ok(()),
            Ok(Ok(true)) => Err(StopError::CutOff { cut_off }),
            _ => Err(StopError::NoAnswer { cut_off }),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.core.leave();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("state", &self.state())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Builds a [`Consumer`].
#[must_use = "a builder does nothing until it starts"]
pub struct Builder {
    cluster: Cluster,
    queue: String,
    topology: Option<Topology>,
    prefetch: u16,
    concurrency: usize,
    exclusive: bool,
    arguments: FieldTable,
    tag: String,
    handler_timeout: Option<Duration>,
}

impl Builder {
    /// Has this declared before the consumer subscribes, again on every new connection, and again
    /// when the queue was deleted: then the consumer brings it back itself.
    ///
    /// The queue may be one that belongs to a connection, temporary or exclusive. It is consumed on
    /// that connection, and when that is lost, its successor is, under its new name, with its
    /// bindings.
    ///
    /// What the broker does not accept ends this consumer, then or later, and no other
    /// ([`ConsumeError::Topology`]).
    ///
    /// ```no_run
    /// # use wharf_amqp::{Cluster, Consumer, Topology, consumer::{Delivery, Outcome}, topology::Queue};
    /// # async fn consume(cluster: &Cluster) -> Result<(), Box<dyn std::error::Error>> {
    /// let topology = Topology::new()
    ///     .queue(Queue::temporary("audit"))
    ///     .bind("audit", "amq.topic", "orders.#");
    /// let consumer = Consumer::builder(cluster, "audit")
    ///     .topology(topology)
    ///     .start(async |delivery: Delivery| Outcome::Ack)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// How many messages the broker delivers ahead of their acknowledgement: as many are held in
    /// memory at most. From 1; default 100. It is the same after a recovery.
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages;
        self
    }

    /// How many handlers run at once. From 1 to 65,535, default 1; more than the prefetch never
    /// run.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Whether this is to be the queue's only consumer. Default no.
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Arguments of the subscription, such as `x-priority`
    /// ([RabbitMQ: consumer priorities](https://www.rabbitmq.com/docs/consumer-priority)).
    pub fn arguments(mut self, arguments: FieldTable) -> Self {
        self.arguments = arguments;
        self
    }

    /// What the broker calls the consumer, at most 255 bytes. Default a name of its making.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = tag.into();
        self
    }

    /// How long a handler may take for one delivery. One that takes longer is dropped at an await;
    /// that costs the delivery what a panic does. Default without limit: a handler that hangs
    /// keeps its message, and its share of the concurrency, until the consumer stops.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.handler_timeout = Some(limit);
        self
    }

    /// Subscribes, and has each delivery processed by the handler, on the tokio runtime that this
    /// is called on. Returns when there is a subscription, within the cluster's operation timeout.
    ///
    /// # Errors
    ///
    /// [`ConsumeError`], at once if trying again could not help or there is no such queue, and
    /// otherwise the last cause when the time is up. The consumer is gone then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, there is no consumer: what was delivered meanwhile is handed back.
    pub async fn start(self, handler: impl Handler) -> Result<Consumer, ConsumeError> {
        let (concurrency, limit) = (self.concurrency, self.handler_timeout);
        let mut consumer = self.subscribe().await?;
        let handler: Arc<dyn Handler> = Arc::new(handler);
        consumer.workers = workers::start(&consumer.core, &handler, concurrency, limit);
        Ok(consumer)
    }

    /// Subscribes, for deliveries that are asked for and settled one by one. Concurrency and a
    /// handler's timeout have no meaning here.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn stream(self) -> Result<Deliveries, ConsumeError> {
        let consumer = self.subscribe().await?;
        let inbox = Arc::clone(&consumer.core.inbox);
        let stream = stream::unfold(inbox, async |inbox| {
            let delivery = inbox.take().await?;
            Some((delivery, inbox))
        });
        Ok(Deliveries {
            consumer,
            stream: Box::pin(stream),
        })
    }

    async fn subscribe(self) -> Result<Consumer, ConsumeError> {
        let told = telemetry::Consuming::new(&self.cluster.shared().config.name, &self.queue);
        let (cluster, source, plan) = self.plan()?;
        let limit = plan.limit;
        let core = Core::new(limit, told);
        let (begun, first) = oneshot::channel();
        let cluster = Arc::clone(cluster.shared());
        let keeper = keeper::run(cluster, Arc::clone(&core), source, plan, begun);
        let consumer = Consumer {
            core,
            keeper: io::spawn(keeper),
            workers: Vec::new(),
        };
        match timeout(limit, first).await {
            Ok(answer) => answer.unwrap_or(Err(ConsumeError::Lost))?,
            Err(_) => return Err(consumer.cause(limit)),
        }
        Ok(consumer)
    }

    fn plan(self) -> Result<(Cluster, Source, Plan), ConsumeError> {
        let wrong = |field, bound| Err(ConsumeError::Setting { field, bound });
        let name = |name: &str| ShortString::try_new(name).ok();
        let Some(queue) = name(&self.queue).filter(|_| !self.queue.is_empty()) else {
            return wrong("queue", "from 1 to 255 bytes");
        };
        let Some(tag) = name(&self.tag) else {
            return wrong("tag", "at most 255 bytes");
        };
        if self.prefetch == 0 {
            return wrong("prefetch", "from 1 to 65,535");
        }
        if !(1..=65_535).contains(&self.concurrency) {
            return wrong("concurrency", "from 1 to 65,535");
        }
        let topology = self.topology.as_ref();
        let topology = topology.map(|topology| Declaration::register(&self.cluster, topology));
        let plan = Plan {
            tag,
            prefetch: self.prefetch,
            exclusive: self.exclusive,
            arguments: self.arguments,
            limit: self.cluster.shared().config.operation_timeout,
        };
        Ok((
            self.cluster,
            Source::new(queue, topology.transpose()?),
            plan,
        ))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("queue", &self.queue)
            .field("topology", &self.topology)
            .field("prefetch", &self.prefetch)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// Why there has been no subscription.
    fn cause(&self, limit: Duration) -> ConsumeError {
        match &*self.core.state.borrow() {
            ConsumerState::Recovering { cause, .. } | ConsumerState::Failed(cause) => {
                ConsumeError::clone(cause)
            }
            _ => ConsumeError::Timeout(limit),
        }
    }
}

/// Deliveries to be settled by whoever takes them: a stream, and a [`Consumer`] in all else.
///
/// The stream goes on through every recovery, and ends when the consumer does.
///
/// ```no_run
/// # use wharf_amqp::{Cluster, consumer::Consumer};
/// # async fn consume(cluster: &Cluster) -> Result<(), Box<dyn std::error::Error>> {
/// let mut deliveries = Consumer::builder(cluster, "orders.eu").stream().await?;
/// while let Some(delivery) = deliveries.next().await {
///     println!("{} bytes", delivery.data.len());
///     delivery.ack()?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Deliveries {
    consumer: Consumer,
    stream: Pin<Box<dyn Stream<Item = OpenDelivery> + Send>>,
}

impl Deliveries {
    /// The next delivery, none when the consumer has ended. Waits for as long as there is none:
    /// [`watch`](Consumer::watch) tells of outages.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<OpenDelivery> {
        self.stream.next().await
    }

    /// As [`Consumer::stop_within`]: waits for the deliveries that were taken to be settled.
    ///
    /// # Errors
    ///
    /// See [`StopError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Consumer::stop_within`].
    pub async fn stop_within(self, limit: Duration) -> Result<(), StopError> {
        self.consumer.stop_within(limit).await
    }
}

impl Stream for Deliveries {
    type Item = OpenDelivery;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<OpenDelivery>> {
        self.stream.poll_next_unpin(context)
    }
}

impl Deref for Deliveries {
    type Target = Consumer;

    fn deref(&self) -> &Consumer {
        &self.consumer
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deliveries").field(&self.consumer).finish()
    }
}
