//! Where messages go.

use std::{error::Error, future::Future, time::Duration};

use crate::id::MessageId;

/// Any error, as long as it can be carried about.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A destination of messages.
///
/// ```
/// use std::io;
///
/// use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Mutex};
/// use wharf_outbox::{Deliver, Delivery, Outcome};
///
/// /// Writes lines to a peer, which does not answer.
/// struct Lines(Mutex<TcpStream>);
///
/// impl Deliver<String> for Lines {
///     type Receipt = ();
///     type Rejection = &'static str;
///
///     async fn deliver(&self, delivery: Delivery<'_, String>) -> Outcome<(), &'static str> {
///         if delivery.message.contains('\n') {
///             return Outcome::Rejected("it is more than a line");
///         }
///         let line = format!("{} {}\n", delivery.id, delivery.message);
///         match self.0.lock().await.write_all(line.as_bytes()).await {
///             Ok(()) => Outcome::Delivered(()),
///             Err(error) => Outcome::unknown(error),
///         }
///     }
/// }
/// ```
///
/// # Cancel safety
///
/// `deliver` and `ready` are dropped half-way when the outbox is closed and its time is up, when its
/// last handle is dropped, and with the runtime. A message whose `deliver` was dropped counts as
/// undelivered: it is handed back, or delivered again under the same id.
pub trait Deliver<T>: Send + Sync + 'static {
    /// What the destination says of a message that it has taken.
    type Receipt: Send + 'static;
    /// Why it did not take one, for good.
    type Rejection: Send + 'static;

    /// Delivers a message. A panic counts as [`Outcome::Unknown`].
    ///
    /// The outbox sets it no time limit: one that never returns keeps its place in flight for good, and
    /// with [`strict`](crate::Builder::strict) order everybody else waits for it. A message in flight
    /// does not expire either; what is left of its time is in
    /// [`Delivery::expires_in`].
    fn deliver(
        &self,
        delivery: Delivery<'_, T>,
    ) -> impl Future<Output = Outcome<Self::Receipt, Self::Rejection>> + Send;

    /// After an [`Outcome::Unknown`], nothing is delivered until this returns. `pause` is what the
    /// outbox's backoff says, and by default it is waited.
    ///
    /// A destination that knows when it is back (a cluster of connections, say) waits for that
    /// instead, so that the outbox does not keep time on its own: it goes on as soon as there is
    /// somebody to take messages, and does not try before. The first delivery after it goes alone;
    /// when that is answered, as many as may be in flight follow.
    ///
    /// [`Readiness::Closed`] ends the outbox. A panic counts as ready, after the pause.
    fn ready(&self, pause: Duration) -> impl Future<Output = Readiness> + Send {
        async move {
            tokio::time::sleep(pause).await;
            Readiness::Ready
        }
    }
}

/// Whether a destination is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Readiness {
    /// It is, as far as anybody knows.
    Ready,
    /// It is closed for good, and so is the outbox: it ends at once, as if its last handle were dropped.
    /// What is in memory only goes back to its ticket, as
    /// [`Undelivered::Closed`](crate::Undelivered::Closed); what nobody has a ticket for can be had by
    /// [`close_within`](crate::Outbox::close_within). What is in a journal stays there.
    Closed,
}

/// A message on its way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery<'a, T> {
    /// What is to be delivered.
    pub message: &'a T,
    /// The same each time it is tried.
    pub id: MessageId,
    /// From 1. If it is more, there may be a copy at the destination. Not counted across restarts.
    pub attempt: u32,
    /// How long ago it was accepted.
    pub age: Duration,
    /// How long it will be until it has waited for as long as it may; none if that is for ever.
    pub expires_in: Option<Duration>,
}

impl<'a, T> Delivery<'a, T> {
    /// A first attempt, for tests of a destination.
    pub fn new(message: &'a T, id: MessageId) -> Self {
        Self {
            message,
            id,
            attempt: 1,
            age: Duration::ZERO,
            expires_in: None,
        }
    }
}

impl<T> Clone for Delivery<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Delivery<'_, T> {}

/// What became of a delivery.
#[derive(Debug)]
pub enum Outcome<R, J> {
    /// The destination has the message.
    Delivered(R),
    /// It will not have it, however often it is tried. This is also for a message that one of several
    /// places behind the destination refuses for now: as [`Unknown`](Self::Unknown) it would be an outage
    /// of all of them.
    Rejected(J),
    /// Nobody knows whether it has it. It is tried again under the same id, after a pause.
    Unknown(BoxError),
}

impl<R, J> Outcome<R, J> {
    /// Nobody knows, for this reason.
    pub fn unknown(cause: impl Into<BoxError>) -> Self {
        Self::Unknown(cause.into())
    }
}
