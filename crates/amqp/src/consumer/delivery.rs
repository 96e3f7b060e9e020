//! A message on its way to whoever processes it.

use std::{fmt, ops::Deref};

use lapin::{BasicProperties, types::ShortString};

use super::{Outcome, Stale, inbox::Place, registration::Ticket};

/// A message as it was delivered.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// The exchange that it was published to; empty for the default one.
    pub exchange: ShortString,
    /// The routing key that it was published with.
    pub routing_key: ShortString,
    /// Whether it was delivered before, to this consumer or another, and came back. Nobody need
    /// have seen it then: what is handed back unprocessed counts too.
    pub redelivered: bool,
    /// Headers and the like.
    pub properties: BasicProperties,
    /// The body.
    pub data: Vec<u8>,
}

/// For tests of handlers, too: lapin's `Delivery::mock` makes one out of nothing.
impl From<lapin::message::Delivery> for Delivery {
    fn from(message: lapin::message::Delivery) -> Self {
        Self {
            exchange: message.exchange,
            routing_key: message.routing_key,
            redelivered: message.redelivered,
            properties: message.properties,
            data: message.data,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies and headers may be secret, and long.
        f.debug_struct("Delivery")
            .field("exchange", &self.exchange.as_str())
            .field("routing_key", &self.routing_key.as_str())
            .field("redelivered", &self.redelivered)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A delivery whose holder settles it; an item of [`Deliveries`](super::Deliveries). Dropped
/// unsettled, it is requeued.
///
/// Settling takes no time: the verdict is noted, and sent in the background on the channel that
/// the delivery came by, and on no other.
#[must_use = "a delivery that is dropped is requeued"]
pub struct OpenDelivery {
    delivery: Delivery,
    // Ahead of the place: when that is free, the verdict is noted.
    ticket: Ticket,
    place: Place,
}

impl OpenDelivery {
    pub(super) fn new(delivery: Delivery, ticket: Ticket, place: Place) -> Self {
        Self {
            delivery,
            ticket,
            place,
        }
    }

    pub(super) fn into_parts(self) -> (Delivery, Ticket, Place) {
        (self.delivery, self.ticket, self.place)
    }

    /// It was processed.
    ///
    /// # Errors
    ///
    /// [`Stale`] if its channel is gone.
    pub fn ack(self) -> Result<(), Stale> {
        self.settle(Outcome::Ack)
    }

    /// See [`Outcome::Requeue`].
    ///
    /// # Errors
    ///
    /// [`Stale`] if its channel is gone.
    pub fn requeue(self) -> Result<(), Stale> {
        self.settle(Outcome::Requeue)
    }

    /// See [`Outcome::Reject`].
    ///
    /// # Errors
    ///
    /// [`Stale`] if its channel is gone.
    pub fn reject(self) -> Result<(), Stale> {
        self.settle(Outcome::Reject)
    }

    /// Any of these.
    ///
    /// # Errors
    ///
    /// [`Stale`] if its channel is gone.
    pub fn settle(self, outcome: Outcome) -> Result<(), Stale> {
        self.ticket.settle(outcome)
    }

    /// Whether its channel is gone: the broker delivers the message again, whatever becomes of
    /// this one.
    pub fn is_stale(&self) -> bool {
        self.ticket.is_stale()
    }
}

impl Deref for OpenDelivery {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl fmt::Debug for OpenDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDelivery")
            .field("delivery", &self.delivery)
            .field("is_stale", &self.is_stale())
            .finish_non_exhaustive()
    }
}
