//! How queues are declared and consumed.

use amq_protocol::types::FieldTable;

/// How a queue is declared. Without anything said it is neither durable nor exclusive, stays when its
/// last consumer goes, and has no arguments.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct QueueOptions {
    pub(super) durable: bool,
    pub(super) exclusive: bool,
    pub(super) auto_delete: bool,
    pub(super) arguments: FieldTable,
}

/// How a queue is consumed. Without anything said there is no prefetch, deliveries are to be
/// acknowledged, and others may consume it too.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct ConsumeOptions {
    pub(super) prefetch: u16,
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
}

/// A queue as it was when it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeclaredQueue {
    /// Its name, which the broker has made up if it was asked to.
    pub name: String,
    /// Messages that are ready for a consumer.
    pub messages: usize,
    /// Consumers.
    pub consumers: usize,
}

impl QueueOptions {
    /// Nothing said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Durable. It lasts as long as the broker, durable or not; a later declaration has to say the
    /// same.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Of this connection alone, and gone with it.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Gone with its last consumer.
    pub fn auto_delete(mut self) -> Self {
        self.auto_delete = true;
        self
    }

    /// Arguments, such as `x-max-length`.
    pub fn arguments(mut self, arguments: FieldTable) -> Self {
        self.arguments = arguments;
        self
    }
}

impl ConsumeOptions {
    /// Nothing said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Deliveries that are not settled, at most; zero is no limit. Without one, what is delivered and
    /// not received is bounded by the outbox, and what is received and not settled by nothing.
    pub fn prefetch(mut self, deliveries: u16) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// What is delivered is done with, and there is nothing to acknowledge. It is lost if it is not
    /// received before the consumer or the connection ends.
    pub fn no_ack(mut self) -> Self {
        self.no_ack = true;
        self
    }

    /// Nobody else may consume the queue.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }
}
