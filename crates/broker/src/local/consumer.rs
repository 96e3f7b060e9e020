//! Deliveries of one queue.

use std::{collections::VecDeque, sync::Arc};

use amq_protocol::types::ShortString;
use tokio::{sync::Notify, task::consume_budget};

use super::{
    CommandError, ConsumeOptions, ConsumerEnd, LocalDelivery,
    line::{Line, Seat},
};

/// Takes messages from a queue, for a [`Local`](crate::Local).
///
/// The consumers of one client share its outbox ([`Builder::outbox`](crate::Builder::outbox)): one that
/// is not received from holds the others up when what waits for it fills the outbox. Its prefetch is
/// what keeps it from that.
///
/// Dropping it ends it: what it has not settled goes back to the queue, received or not.
#[derive(Debug)]
pub struct LocalConsumer {
    line: Arc<Line>,
    seat: Seat,
    bell: Arc<Notify>,
    queue: String,
    /// Fetched from the inbox and not received.
    fetched: VecDeque<LocalDelivery>,
}

impl LocalConsumer {
    pub(super) fn open(
        line: &Arc<Line>,
        queue: ShortString,
        options: ConsumeOptions,
    ) -> Result<Self, CommandError> {
        let name = queue.as_str().to_owned();
        let (seat, bell) = line.consume(queue, options)?;
        Ok(Self {
            line: Arc::clone(line),
            seat,
            bell,
            queue: name,
            fetched: VecDeque::new(),
        })
    }

    /// The queue it takes from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next delivery, in the order in which the queue gave them out. Nothing when the consumer has
    /// [ended](Self::end) and everything that had reached it before is received; what was to be
    /// acknowledged of that is back in its queue by then, unless it was
    /// [cancelled](ConsumerEnd::Cancelled).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is done has received nothing.
    pub async fn recv(&mut self) -> Option<LocalDelivery> {
        consume_budget().await;
        loop {
            // Asked first: what has come before the end is there then.
            let ended = self.end().is_some();
            if self.fetched.is_empty() {
                self.line.fetch(self.seat, &mut self.fetched);
            }
            if let Some(delivery) = self.pop() {
                return Some(delivery);
            }
            if ended {
                return None;
            }
            self.line.attended(self.seat, &self.bell).await;
        }
    }

    /// The next delivery if it is there. Many can be taken so without a wait in between; in a task that
    /// shares its thread, let others have a turn now and then.
    pub fn try_recv(&mut self) -> Option<LocalDelivery> {
        if self.fetched.is_empty() {
            self.line.fetch(self.seat, &mut self.fetched);
        }
        if self.fetched.is_empty() {
            self.line.attend(Some(self.seat));
            self.line.fetch(self.seat, &mut self.fetched);
        }
        self.pop()
    }

    /// Takes no more messages from the queue. What was delivered is still received, and can be settled
    /// as long as the consumer is not dropped.
    ///
    /// # Errors
    ///
    /// [`CommandError::Disconnected`] if the connection is over.
    pub fn cancel(&mut self) -> Result<(), CommandError> {
        self.line.cancel(self.seat)
    }

    /// Why it gets no more, or nothing as long as it does.
    #[must_use]
    pub fn end(&self) -> Option<ConsumerEnd> {
        self.line.end_of(self.seat)
    }

    fn pop(&mut self) -> Option<LocalDelivery> {
        let delivery = self.fetched.pop_front()?;
        self.line.taken(delivery.cost, self.seat);
        Some(delivery)
    }
}

impl Drop for LocalConsumer {
    fn drop(&mut self) {
        let unreceived = self.fetched.drain(..).map(|delivery| delivery.cost);
        self.line.close(self.seat, unreceived.sum());
    }
}
