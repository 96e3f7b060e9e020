//! What users write.

use std::future::Future;

use async_trait::async_trait;

use super::Delivery;

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was processed: the broker forgets it.
    Ack,
    /// It is to be delivered again, to this consumer or another, at once. For a message that
    /// nobody can process this is a loop without end: see the queue's delivery limit
    /// ([RabbitMQ: quorum queues][1]).
    ///
    /// [1]: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    Requeue,
    /// It will never be processed: the broker dead-letters it if the queue says where to, and
    /// drops it if not.
    Reject,
}

/// Processes deliveries. Implemented for functions and closures `Fn(Delivery) -> impl Future`.
///
/// ```
/// # use wharf_amqp::consumer::{Delivery, Handler, Outcome};
/// struct Billing;
///
/// #[async_trait::async_trait]
/// impl Handler for Billing {
///     async fn handle(&self, delivery: Delivery) -> Outcome {
///         match std::str::from_utf8(&delivery.data) {
///             Ok(_order) => Outcome::Ack,
///             Err(_) => Outcome::Reject,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Processes one delivery. Delivery is at least once: the same message may come again, with
    /// [`redelivered`](Delivery::redelivered) set or not.
    ///
    /// # Panics
    ///
    /// A panic costs the delivery a [`Requeue`](Outcome::Requeue) the first time, and a
    /// [`Reject`](Outcome::Reject) if it was a redelivery. It harms no other.
    ///
    /// # Cancel safety
    ///
    /// It is dropped at an await, and its message handed back, when the time given to
    /// [`stop_within`](super::Consumer::stop_within) or to
    /// [`handler_timeout`](super::Builder::handler_timeout) is up.
    async fn handle(&self, delivery: Delivery) -> Outcome;
}

#[async_trait]
impl<F, Fut> Handler for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    async fn handle(&self, delivery: Delivery) -> Outcome {
        self(delivery).await
    }
}
