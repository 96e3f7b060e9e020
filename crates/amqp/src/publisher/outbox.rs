//! Messages that are accepted while the broker is away: an outbox before the publisher.

use std::{fmt, time::Duration};

use tokio::select;
use wharf_outbox::{Deliver, Delivery, Outbox, Outcome, Readiness};

use super::{PublishError, Publisher, outcome::Receipt};
use crate::{
    connections::State,
    message::{InvalidMessage, Message},
};

/// A publisher's outbox: see [`Publisher::outbox`].
pub type PublisherOutbox = Outbox<Message, Destination>;

/// Builds one: see [`Publisher::with_outbox`].
pub type OutboxBuilder = wharf_outbox::Builder<Message, Destination>;

/// Resolves to the broker's confirm, or says why there will be none.
pub type Ticket = wharf_outbox::Ticket<Message, Receipt, Rejection>;

/// Why the broker has not taken a message of an outbox, and never will.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It was mandatory, and could be routed to no queue.
    #[error("returned: {code} {text}")]
    Returned {
        /// The broker's code: 312 for no route.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// See [`Receipt::Rejected`].
    #[error("the broker rejected it")]
    Rejected,
    /// See [`PublishError::Refused`].
    #[error("the broker refused it: {0}")]
    Refused(#[source] lapin::Error),
    /// AMQP cannot carry it.
    #[error(transparent)]
    Invalid(InvalidMessage),
}

/// Where a publisher's outbox brings its messages: to the publisher.
///
/// What the publisher cannot say within its deadline is tried again when the cluster is up, under the
/// same id. When the publisher or the cluster is closed, so is the outbox.
pub struct Destination {
    /// One without an outbox, or it would keep itself alive.
    publisher: Publisher,
}

impl Destination {
    pub(super) fn builder(publisher: Publisher) -> OutboxBuilder {
        let name = publisher.cluster.shared().config.name.clone();
        Outbox::builder(Self { publisher })
            .name(name)
            .weigh(Message::footprint)
    }

    /// Waits until it is worth while to try again.
    async fn recovered(&self, pause: Duration) -> Readiness {
        let mut states = self.publisher.cluster.watch();
        let is_away = |state: &State| matches!(state, State::Down { .. } | State::Blocked { .. });
        if is_away(&states.borrow_and_update()) {
            // The sender is the cluster's, so that it is there.
            let _ = states.wait_for(|state| !is_away(state)).await;
        } else {
            tokio::time::sleep(pause).await;
        }
        if self.publisher.cluster.state().is_closed() {
            Readiness::Closed
        } else {
            Readiness::Ready
        }
    }
}

impl Deliver<Message> for Destination {
    type Receipt = Receipt;
    type Rejection = Rejection;

    async fn deliver(&self, delivery: Delivery<'_, Message>) -> Outcome<Receipt, Rejection> {
        let message = delivery.message.copy(delivery.id, delivery.expires_in);
        match self.publisher.publish(message).await {
            Ok(receipt @ Receipt::Confirmed { .. }) => Outcome::Delivered(receipt),
            Ok(Receipt::Returned { code, text, .. }) => {
                Outcome::Rejected(Rejection::Returned { code, text })
            }
            Ok(Receipt::Rejected { .. }) => Outcome::Rejected(Rejection::Rejected),
            Ok(Receipt::Unknown { .. }) => Outcome::unknown("no verdict within the deadline"),
            Err(PublishError::Refused { cause, .. }) => {
                Outcome::Rejected(Rejection::Refused(cause))
            }
            Err(PublishError::Invalid(invalid)) => Outcome::Rejected(Rejection::Invalid(invalid)),
            Err(error) => Outcome::unknown(error),
        }
    }

    async fn ready(&self, pause: Duration) -> Readiness {
        select! {
            () = self.publisher.home.closed() => Readiness::Closed,
            readiness = self.recovered(pause) => readiness,
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Destination").field(&self.publisher).finish()
    }
}
