//! A message with what is said about it.

use std::time::Duration;

use crate::id::MessageId;

/// A message to be enqueued, and what holds for it alone. A bare message makes one by `into`.
#[derive(Debug, Clone)]
pub struct Envelope<T> {
    pub(crate) message: T,
    pub(crate) id: Option<MessageId>,
    pub(crate) ttl: Option<Duration>,
}

impl<T> Envelope<T> {
    /// Begins with the message alone.
    pub fn new(message: T) -> Self {
        Self {
            message,
            id: None,
            ttl: None,
        }
    }

    /// Its id. Without one it gets one of its own. Two messages of one id are one message to a
    /// consumer that looks for copies; the outbox does not look.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// How long it may wait from its acceptance to the begin of a delivery; what the outbox says of
    /// it in general no longer holds.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl<T> From<T> for Envelope<T> {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}
