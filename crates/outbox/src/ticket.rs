//! Word of a message.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{error::Undelivered, id::MessageId};

/// What becomes of a message.
pub(crate) type Fate<T, R, J> = Result<R, Undelivered<T, J>>;

/// Resolves when its message `T` is delivered, to the receipt `R`, or when it is certain that it will
/// not be, which may be the destination's rejection `J`. Dropping it changes nothing for the message.
///
/// With a journal it resolves before what it says is on disk: after a crash, a message that was
/// delivered, rejected, dropped or expired a moment before may be delivered all the same.
///
/// # Cancel safety
///
/// It can be polled by anybody at any time until it is ready.
#[must_use = "a ticket tells what becomes of the message"]
pub struct Ticket<T, R, J> {
    id: MessageId,
    fate: oneshot::Receiver<Fate<T, R, J>>,
}

impl<T, R, J> Ticket<T, R, J> {
    pub(crate) fn new(id: MessageId) -> (oneshot::Sender<Fate<T, R, J>>, Self) {
        let (answer, fate) = oneshot::channel();
        (answer, Self { id, fate })
    }

    /// The message's id.
    pub fn id(&self) -> MessageId {
        self.id
    }
}

impl<T, R, J> Future for Ticket<T, R, J> {
    type Output = Fate<T, R, J>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let fate = ready!(Pin::new(&mut self.fate).poll(context));
        Poll::Ready(fate.unwrap_or(Err(Undelivered::Closed { message: None })))
    }
}

impl<T, R, J> fmt::Debug for Ticket<T, R, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
