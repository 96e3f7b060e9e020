//! Exchanges, queues and bindings that have to be there: declared before anything else uses a new
//! connection.

mod check;
mod declaration;
mod entity;
mod error;
mod pass;

pub use declaration::{Declaration, TopologyState};
pub use entity::{Argument, Binding, Entity, Exchange, Queue};
pub use error::{TopologyError, TopologyErrorKind};

use std::sync::Arc;

use crate::cluster::Cluster;

/// Exchanges, queues and bindings, in the order in which they are declared.
///
/// ```
/// use std::time::Duration;
/// use wharf_amqp::topology::{Binding, Exchange, Queue, Topology};
///
/// let topology = Topology::new()
///     .exchange(Exchange::topic("orders").durable())
///     .exchange(Exchange::fanout("orders.dead").durable())
///     .queue(
///         Queue::durable("orders.eu")
///             .quorum()
///             .dead_letter_to("orders.dead", None)
///             .message_ttl(Duration::from_secs(3600))
///             .max_length(100_000)
///             .reject_publish(),
///     )
///     .bind("orders.eu", "orders", "eu.#")
///     .queue(Queue::temporary("audit"))
///     .binding(Binding::new("audit", "orders").key("#"));
/// ```
///
/// It is a value, and nothing is declared until [`declare`](Self::declare), or until a publisher
/// or a consumer is built with it. What belongs to everybody is declared again on *every* new
/// connection: declaring is how AMQP looks whether something is as it should be, and costs a round
/// trip each. What belongs to a connection, exclusive and temporary queues and their bindings, is
/// declared on one connection for consumers, the *home*, and again on another when that is lost.
///
/// Clones are the same topology, and share their temporary queues within a cluster; two that are
/// built apart do not.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    items: Arc<Vec<Item>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Exchange(Exchange),
    Queue(Queue),
    Binding(Binding),
}

impl Topology {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An exchange.
    pub fn exchange(self, exchange: Exchange) -> Self {
        self.and(Item::Exchange(exchange))
    }

    /// A queue.
    pub fn queue(self, queue: Queue) -> Self {
        self.and(Item::Queue(queue))
    }

    /// From an exchange to a queue, by routing key or pattern.
    pub fn bind(
        self,
        queue: impl Into<String>,
        exchange: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        self.binding(Binding::new(queue, exchange).key(key))
    }

    /// From an exchange to another, by routing key or pattern.
    pub fn bind_exchange(
        self,
        destination: impl Into<String>,
        source: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        self.binding(Binding::between(destination, source).key(key))
    }

    /// A binding, with arguments perhaps. What it ties is declared before it, or elsewhere.
    pub fn binding(self, binding: Binding) -> Self {
        self.and(Item::Binding(binding))
    }

    /// Looks whether it makes sense, without a broker. [`declare`](Self::declare) does that, too.
    ///
    /// # Errors
    ///
    /// [`TopologyErrorKind::Invalid`], with the entity: reserved names, names over 255 bytes,
    /// arguments that AMQP cannot carry, the same thing twice.
    pub fn check(&self) -> Result<(), TopologyError> {
        check::check(self)
    }

    /// Declares everything, and again on every new connection while what it returns is alive.
    ///
    /// All of it is on throw-away channels, so that a refusal costs no other channel. It takes at
    /// most the operation timeout.
    ///
    /// # Errors
    ///
    /// [`TopologyError`] with the first entity that could not be declared. What could be declared
    /// was, and stays.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, a declaration under way goes on to its end by itself, but is not repeated
    /// on later connections.
    pub async fn declare(&self, cluster: &Cluster) -> Result<Declaration, TopologyError> {
        let declaration = Declaration::register(cluster, self)?;
        declaration.declare().await?;
        Ok(declaration)
    }

    fn and(mut self, item: Item) -> Self {
        Arc::make_mut(&mut self.items).push(item);
        self
    }

    fn items(&self) -> &[Item] {
        &self.items
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.items, &other.items)
    }

    fn has_own(&self) -> bool {
        self.items.iter().any(|item| self.is_own(item))
    }

    /// Whether it belongs to the connection that declares it, and not to everybody.
    fn is_own(&self, item: &Item) -> bool {
        match item {
            Item::Exchange(_) => false,
            Item::Queue(queue) => queue.is_own(),
            Item::Binding(binding) if binding.to_exchange => false,
            Item::Binding(binding) => self.items.iter().any(|item| {
                matches!(item, Item::Queue(queue)
                    if queue.is_own() && queue.name == binding.destination)
            }),
        }
    }
}

impl Item {
    fn entity(&self) -> Box<Entity> {
        Box::new(match self {
            Self::Exchange(exchange) => Entity::Exchange(exchange.name.clone()),
            Self::Queue(queue) if queue.named_by_broker => {
                Entity::TemporaryQueue(queue.name.clone())
            }
            Self::Queue(queue) => Entity::Queue(queue.name.clone()),
            Self::Binding(binding) => Entity::Binding {
                destination: binding.destination.clone(),
                source: binding.source.clone(),
                key: binding.key.clone(),
            },
        })
    }
}

impl Cluster {
    /// Declares a topology: see [`Topology::declare`].
    ///
    /// # Errors
    ///
    /// Those of [`Topology::declare`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Topology::declare`].
    pub async fn declare(&self, topology: &Topology) -> Result<Declaration, TopologyError> {
        topology.declare(self).await
    }
}
