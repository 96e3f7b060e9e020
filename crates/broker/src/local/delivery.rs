//! A message that has come.

use std::{fmt, sync::Arc};

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;

use crate::engine::Message;

/// A message that was delivered to a [`LocalConsumer`](crate::LocalConsumer).
#[derive(Clone)]
pub struct LocalDelivery {
    pub(super) message: Arc<Message>,
    pub(super) tag: DeliveryTag,
    pub(super) redelivered: bool,
    /// What the engine is told when it is received.
    pub(super) cost: usize,
}

/// What a delivery is acknowledged or rejected by. It means nothing to another
/// [`Local`](crate::Local).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag {
    /// Of all consumers that the client ever had.
    pub(super) consumer: u64,
    /// Where the consumer is.
    pub(super) place: usize,
    /// Counts up in the order of deliveries.
    pub(super) number: u64,
}

impl LocalDelivery {
    /// The exchange it was published to; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.message.exchange.as_str()
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.message.routing_key.as_str()
    }

    /// Its properties.
    #[must_use]
    pub fn properties(&self) -> &BasicProperties {
        &self.message.properties
    }

    /// Its body. A clone shares the bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.message.body
    }

    /// What it is settled by.
    #[must_use]
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// Whether it may have been delivered before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }
}

/// Without the body, which may be long.
impl fmt::Debug for LocalDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalDelivery")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("bytes", &self.body().len())
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}
