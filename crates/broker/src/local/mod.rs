//! A client in the process of its broker: an ordinary connection of the engine, whose frames are
//! neither written nor read.

// In this order: a file imports only from modules that stand below its own.
mod consumer;

mod line;

mod delivery;
mod error;
mod options;

use std::sync::Arc;

use amq_protocol::{
    frame::AMQPContentHeader,
    protocol::{AMQPClass, BasicProperties, basic, queue},
    types::{FieldTable, ShortString},
};
use bytes::Bytes;
use tokio::task::consume_budget;

use crate::listener::Hub;

pub use consumer::LocalConsumer;
pub use delivery::{DeliveryTag, LocalDelivery};
pub use error::{AckError, CommandError, ConsumerEnd, PublishError, TooLong};
pub use options::{ConsumeOptions, DeclaredQueue, QueueOptions};

use line::{Content, Line};

/// A client in the process of its [`Broker`](crate::Broker), which
/// [`Broker::attach`](crate::Broker::attach) makes. Nothing is encoded or copied on the way; all else is
/// as for a client with a socket: prefetch and redelivery, exclusive queues, the bounds of outbox and
/// memory, what the broker tells of its connections.
///
/// Commands are answered before they return. One that the broker refuses changes nothing, and each
/// consumer has a channel of its own, so that whatever ends one leaves the others alone. All of it can
/// be used by several tasks at once; commands of one client take turns.
///
/// Dropping it ends the connection, and with it every consumer: what was not acknowledged goes back,
/// and its exclusive queues go. It needs no runtime but for what it waits on.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use wharf_broker::{BasicProperties, Broker, ConsumeOptions, QueueOptions};
///
/// let broker = Broker::builder().start().await?;
/// let local = broker.attach("gate", "gate of this process")?;
/// local.declare_queue("work", QueueOptions::new())?;
/// let mut work = local.consume("work", ConsumeOptions::new().prefetch(100))?;
///
/// local.publish("", "work", &BasicProperties::default(), "a body".into()).await?;
/// let delivery = work.recv().await.expect("the broker is there");
/// assert_eq!(delivery.body(), "a body");
/// local.ack(delivery.tag(), false)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Local {
    line: Arc<Line>,
}

impl Local {
    pub(crate) fn attach(hub: &Arc<Hub>, user: &str, name: &str) -> Result<Self, TooLong> {
        short(user, "the user")?;
        let line = Arc::new(Line::open(hub, user, name));
        Ok(Self { line })
    }

    /// Declares a queue, or checks that it is as the options say if it exists. An empty name asks for
    /// one of the broker's making.
    ///
    /// # Errors
    ///
    /// [`CommandError::Refused`] with 406 if the queue is otherwise, 405 if it is another connection's
    /// exclusive queue, and what else RabbitMQ says.
    pub fn declare_queue(
        &self,
        name: &str,
        options: QueueOptions,
    ) -> Result<DeclaredQueue, CommandError> {
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: short(name, "the queue")?,
            passive: false,
            durable: options.durable,
            exclusive: options.exclusive,
            auto_delete: options.auto_delete,
            nowait: false,
            arguments: options.arguments,
        });
        match self.line.ask(AMQPClass::Queue(declare))? {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => Ok(DeclaredQueue {
                name: ok.queue.into(),
                messages: ok.message_count as usize,
                consumers: ok.consumer_count as usize,
            }),
            other => unreachable!("bug: queue.declare is answered by {other:?}"),
        }
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    ///
    /// [`CommandError::Refused`] with 404 if either does not exist, and what else RabbitMQ says.
    pub fn bind_queue(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
    ) -> Result<(), CommandError> {
        let bind = queue::AMQPMethod::Bind(queue::Bind {
            queue: short(queue, "the queue")?,
            exchange: short(exchange, "the exchange")?,
            routing_key: short(routing_key, "the routing key")?,
            nowait: false,
            arguments: FieldTable::default(),
        });
        self.line.ask(AMQPClass::Queue(bind)).map(drop)
    }

    /// Publishes a message and says what became of it: when this returns, every queue that it is for
    /// has it. The empty exchange leads to the queue that the routing key names.
    ///
    /// While the broker takes no messages (see [`Builder::memory`](crate::Builder::memory)) this waits,
    /// as a connection that publishes is not read from; commands, acknowledgements and deliveries go
    /// on. As there, the first message of a client is taken nevertheless.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is done has published nothing.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: &BasicProperties,
        body: Bytes,
    ) -> Result<(), PublishError> {
        consume_budget().await;
        loop {
            let resumed = self.line.resumed();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            match self.try_publish(exchange, routing_key, properties, body.clone()) {
                Err(PublishError::Blocked) => self.line.attended_or(resumed).await,
                decided => return decided,
            }
        }
    }

    /// As [`publish`](Self::publish), without waiting.
    ///
    /// # Errors
    ///
    /// [`PublishError::Blocked`] where `publish` would wait; otherwise see [`PublishError`].
    pub fn try_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: &BasicProperties,
        body: Bytes,
    ) -> Result<(), PublishError> {
        let publish = basic::Publish {
            exchange: short(exchange, "the exchange")?,
            routing_key: short(routing_key, "the routing key")?,
            mandatory: true,
            immediate: false,
        };
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            properties: properties.clone(),
        };
        self.line.publish(Content {
            publish,
            header,
            body,
        })
    }

    /// Begins to take messages from a queue.
    ///
    /// # Errors
    ///
    /// [`CommandError::Refused`] with 404 if there is no such queue, 405 if it is another connection's
    /// exclusive queue, 403 if somebody consumes it exclusively.
    pub fn consume(
        &self,
        queue: &str,
        options: ConsumeOptions,
    ) -> Result<LocalConsumer, CommandError> {
        let queue = short(queue, "the queue")?;
        LocalConsumer::open(&self.line, queue, options)
    }

    /// Acknowledges a delivery: its queue forgets the message. With `multiple` also all deliveries of
    /// the same consumer before this one that are not settled.
    ///
    /// # Errors
    ///
    /// See [`AckError`].
    pub fn ack(&self, delivery: DeliveryTag, multiple: bool) -> Result<(), AckError> {
        let delivery_tag = delivery.number;
        let ack = basic::AMQPMethod::Ack(basic::Ack {
            delivery_tag,
            multiple,
        });
        self.line.settle(delivery, ack)
    }

    /// Gives a delivery back: to its place in the queue, marked as redelivered, or, without `requeue`,
    /// to where the queue's dead letters go, if anywhere.
    ///
    /// # Errors
    ///
    /// See [`AckError`].
    pub fn reject(&self, delivery: DeliveryTag, requeue: bool) -> Result<(), AckError> {
        let delivery_tag = delivery.number;
        let reject = basic::AMQPMethod::Reject(basic::Reject {
            delivery_tag,
            requeue,
        });
        self.line.settle(delivery, reject)
    }

    /// Why the connection is over, or nothing as long as it is not.
    #[must_use]
    pub fn disconnected(&self) -> Option<crate::Disconnected> {
        self.line.disconnected()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.line.leave();
    }
}

fn short(name: &str, what: &'static str) -> Result<ShortString, TooLong> {
    ShortString::try_new(name).map_err(|_| TooLong { what })
}
