//! The handle.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    core::{self, Refusal, Stage},
    deliver::Deliver,
    envelope::Envelope,
    error::{Ended, EnqueueError, Undelivered},
    id::MessageId,
    journal::record,
    shared::{Fate, Parcel, Parcels, Shared},
    status::Status,
    ticket::Ticket,
    waiting::{Flusher, Pending, Place, wait_for, wait_for_drain},
};

/// After its time is up, an outbox has so long to let go of what it has in hand.
const FAREWELL: Duration = Duration::from_secs(1);

/// Accepts messages and delivers them in order, at once or when their destination is back. Clones
/// are handles to the same.
///
/// # When the last handle is dropped
///
/// Then it ends at once: deliveries under way are dropped, and what is not delivered goes back to
/// its ticket, as [`Undelivered::Closed`]. What nobody has a ticket for is lost, unless there is a
/// journal, which keeps it for the next time. Who wants everything delivered calls
/// [`close`](Self::close) or [`close_within`](Self::close_within) before.
///
/// # When the destination is closed for good
///
/// Then it ends at once too ([`Readiness::Closed`](crate::Readiness::Closed)): tickets say
/// [`Undelivered::Closed`], with the message if there is no journal, and nothing is accepted any more.
/// [`close_within`](Self::close_within) gives what had no ticket.
pub struct Outbox<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    handle: Arc<Handle<T, D>>,
}

/// Ends the outbox with its last handle.
struct Handle<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: Arc<Shared<T, D>>,
}

impl<T, D> Outbox<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) fn new(shared: Arc<Shared<T, D>>) -> Self {
        shared.ensure_drain();
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Puts a message in, and gives a ticket for it, which says what becomes of it. If there is no
    /// room, the [`Policy`](crate::Policy) decides. With a journal, the message is stored when this
    /// returns.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`]: it was not accepted. Here it is.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the message is not accepted, and is dropped with it.
    /// Dropped at the moment at which there is room, or while the journal stores it, the message may
    /// be delivered all the same. Either way it costs nobody else room or a place in line.
    pub async fn enqueue(
        &self,
        message: impl Into<Envelope<T>>,
    ) -> Result<Ticket<T, D::Receipt, D::Rejection>, EnqueueError<T>> {
        self.put_with_ticket(message.into(), true).await
    }

    /// Like [`enqueue`](Self::enqueue), but does not wait for room: where that would be needed, the
    /// outbox is [`Full`](EnqueueError::Full). Without a journal it is ready when it is first polled.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`]: it was not accepted. Here it is.
    ///
    /// # Cancel safety
    ///
    /// Dropped while the journal stores it, the message may be delivered all the same.
    pub async fn try_enqueue(
        &self,
        message: impl Into<Envelope<T>>,
    ) -> Result<Ticket<T, D::Receipt, D::Rejection>, EnqueueError<T>> {
        self.put_with_ticket(message.into(), false).await
    }

    /// Like [`enqueue`](Self::enqueue), without a ticket, which saves an allocation: nobody is told
    /// what becomes of the message, but it is counted.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`]: it was not accepted. Here it is.
    ///
    /// # Cancel safety
    ///
    /// That of [`enqueue`](Self::enqueue).
    pub async fn post(
        &self,
        message: impl Into<Envelope<T>>,
    ) -> Result<MessageId, EnqueueError<T>> {
        let envelope = message.into();
        let id = envelope.id.unwrap_or_else(|| self.shared().ids.fresh());
        if let Some(pending) = self.put(envelope, id, None, true)? {
            pending.answer().await?;
        }
        Ok(id)
    }

    async fn put_with_ticket(
        &self,
        envelope: Envelope<T>,
        patient: bool,
    ) -> Result<Ticket<T, D::Receipt, D::Rejection>, EnqueueError<T>> {
        let id = envelope.id.unwrap_or_else(|| self.shared().ids.fresh());
        let (answer, ticket) = Ticket::new(id);
        if let Some(pending) = self.put(envelope, id, Some(answer), patient)? {
            pending.answer().await?;
        }
        Ok(ticket)
    }

    /// What needs no waiting, in one go: an async function would move the message from state to
    /// state. Nothing is pending if the message is accepted.
    fn put(
        &self,
        envelope: Envelope<T>,
        id: MessageId,
        ticket: Option<oneshot::Sender<Fate<T, D>>>,
        patient: bool,
    ) -> Result<Option<Pending<'_, T, D>>, EnqueueError<T>> {
        let shared = self.shared();
        shared.ensure_drain();
        let Envelope { message, ttl, .. } = envelope;
        let mut record = Vec::new();
        if let Some(codec) = &shared.rules.codec {
            record = record::begin();
            if let Err(cause) = codec.encode(&message, &mut record) {
                return Err(EnqueueError::Unencodable { message, cause });
            }
        }
        let parcel = Parcel {
            id,
            message,
            ticket,
            record,
        };
        let letter = shared.letter(parcel, ttl);
        let bytes = letter.weight;
        let mut answer = None;
        let token = || {
            let (token, later) = oneshot::channel();
            answer = Some(later);
            token
        };
        let now = shared.clock.now();
        let offered =
            shared.command(|core, effects| core.offer(now, letter, patient, token, effects));
        let number = match offered {
            core::Answer::Accepted => None,
            core::Answer::Waits(number) => Some(number),
            core::Answer::Refused(parcel, refusal) => {
                return self.refused(parcel, refusal, bytes).map(|()| None);
            }
        };
        Ok(answer.map(|answer| Pending {
            place: Place { shared, number },
            answer,
        }))
    }

    fn refused(
        &self,
        parcel: Parcel<T, D>,
        refusal: Refusal,
        bytes: usize,
    ) -> Result<(), EnqueueError<T>> {
        match refusal {
            Refusal::Closed => Err(EnqueueError::Closed(parcel.message)),
            Refusal::Full => Err(EnqueueError::Full(parcel.message)),
            Refusal::TooLarge => Err(EnqueueError::TooLarge {
                message: parcel.message,
                bytes,
                bound: self.shared().bytes,
            }),
            Refusal::Dropped => {
                self.shared().told.dropped_newest();
                parcel.end(|message| Err(Undelivered::Dropped { message }));
                Ok(())
            }
        }
    }

    /// Waits until every message that was accepted before is resolved: delivered, rejected, dropped,
    /// expired or given up. What is put in meanwhile does not keep it waiting.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the outbox ended first.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn flush(&self) -> Result<(), Ended> {
        let shared = self.shared();
        shared.ensure_drain();
        let until = shared.state.lock().core.flush();
        let _flusher = Flusher { shared, until };
        let mut result = Ok(());
        let is_done = || {
            let core = &shared.state.lock().core;
            let flushed = core.is_flushed(until);
            if !flushed && core.stage() == Stage::Stopped {
                result = Err(Ended);
            }
            flushed || core.stage() == Stage::Stopped
        };
        wait_for_drain(shared, is_done).await;
        result
    }

    /// Accepts nothing more, and returns when everything that was accepted is resolved, however long
    /// that takes. Who waits for room gets its message back. The outbox has ended when this returns:
    /// its task is gone, and its journal, if it has one, can be opened by another.
    ///
    /// # Cancel safety
    ///
    /// Closed by the first poll. Dropped then, messages go on being delivered while there are
    /// handles, and it can be called again.
    pub async fn close(&self) {
        self.begin_close();
        self.drained().await;
        // If another's time was up first, what is left is the other's.
        self.ended().await;
    }

    /// The same within a time, counted from the call: then deliveries under way are dropped, and what
    /// is left is handed back, in order, with its ids. What is in a journal stays there, and is only
    /// counted.
    ///
    /// It takes a second longer at most. A delivery that has not let go of its message by then, because
    /// it blocks its thread or its runtime stands still, has it still ([`Left::stuck`]), and a journal
    /// that hangs in a commit still has its file.
    ///
    /// # Cancel safety
    ///
    /// That of [`close`](Self::close): nothing has been taken out if it is dropped.
    pub async fn close_within(&self, limit: Duration) -> Left<T> {
        let deadline = Instant::now().checked_add(limit);
        self.begin_close();
        let Some(deadline) = deadline else {
            self.drained().await;
            self.ended().await;
            return self.take_left();
        };
        let _ = timeout_at(deadline, self.drained()).await;
        let latest = deadline.max(Instant::now() + FAREWELL);
        let _ = timeout_at(latest, self.ended()).await;
        self.take_left()
    }

    fn begin_close(&self) {
        self.shared().ensure_drain();
        self.shared().command(Parcels::close);
    }

    async fn drained(&self) {
        let shared = self.shared();
        let until = shared.state.lock().core.flush();
        let _flusher = Flusher { shared, until };
        let is_done = || {
            let core = &shared.state.lock().core;
            core.is_empty() || core.stage() == Stage::Stopped
        };
        wait_for_drain(shared, is_done).await;
    }

    async fn ended(&self) {
        let shared = self.shared();
        shared.stop();
        wait_for(&shared.resolved, || shared.has_ended()).await;
    }

    fn take_left(&self) -> Left<T> {
        let shared = self.shared();
        let (left, stored) = shared.take_left(|_| true);
        if stored {
            for entry in left {
                let closed = |_| Err(Undelivered::Closed { message: None });
                shared.guard(|| entry.payload.end(closed));
            }
            return Left {
                messages: Vec::new(),
                stored: shared.state.lock().core.messages(),
                stuck: 0,
            };
        }
        let mut messages = Vec::with_capacity(left.len());
        for entry in left {
            // Its ticket says `Closed`.
            drop(entry.payload.ticket);
            messages.push(Leftover {
                id: entry.payload.id,
                message: entry.payload.message,
                attempts: entry.attempts,
            });
        }
        Left {
            messages,
            stored: 0,
            stuck: shared.state.lock().core.in_flight(),
        }
    }

    /// Its state and its totals.
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    /// The destination it was built for.
    pub fn destination(&self) -> &D {
        &self.shared().destination
    }

    fn shared(&self) -> &Arc<Shared<T, D>> {
        &self.handle.shared
    }
}

impl<T, D> Clone for Outbox<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
        }
    }
}

impl<T, D> fmt::Debug for Outbox<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl<T, D> Drop for Handle<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        self.shared.state.lock().is_forsaken = true;
        self.shared.stop();
        self.shared.one_ended();
    }
}

/// What was not delivered when an outbox was closed.
#[must_use = "these messages are nowhere else"]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Left<T> {
    /// The messages, in the order in which they were accepted. None with a journal.
    pub messages: Vec<Leftover<T>>,
    /// How many messages are in the journal.
    pub stored: usize,
    /// How many messages are with deliveries that do not end. When they do, the messages can be had by
    /// closing once more, and with the last handle they go to their tickets. None with a journal.
    pub stuck: usize,
}

impl<T> Left<T> {
    /// Whether everything was resolved.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.stored == 0 && self.stuck == 0
    }
}

/// A message that was not delivered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Leftover<T> {
    /// Its id.
    pub id: MessageId,
    /// The message.
    pub message: T,
    /// How often it was tried. If that is not 0, it may have arrived.
    pub attempts: u32,
}

impl<T> Leftover<T> {
    /// To be enqueued elsewhere, under the same id.
    pub fn into_envelope(self) -> Envelope<T> {
        Envelope::new(self.message).id(self.id)
    }
}
