//! What users see.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::yield_now, time::timeout};

use crate::{
    core::{Core, Reason},
    error::{PushError, Unfinished},
    handler::Key,
    push::Push,
    shared::{Refusal, Shared},
    status::Status,
};

/// Lanes that are flushed all together let go of the lock after so many.
const PORTION: usize = 256;

/// How long handlers that are interrupted may take to let go.
const GRACE: Duration = Duration::from_secs(1);

/// Batches by key: see the [crate](crate).
///
/// A clone is another handle on the same lanes. When the last is dropped, nothing more is taken and
/// what is there is flushed and handled as long as the runtime lives, retries included; what cannot
/// be goes to the sink.
pub struct Lanes<K: Key, T: Send + 'static> {
    owner: Arc<Owner<K, T>>,
}

/// All handles together.
struct Owner<K: Key, T: Send + 'static> {
    shared: Arc<Shared<K, T>>,
}

impl<K: Key, T: Send + 'static> Lanes<K, T> {
    pub(crate) fn new(shared: Arc<Shared<K, T>>) -> Self {
        Self {
            owner: Arc::new(Owner { shared }),
        }
    }

    /// Puts an item behind the others of its key. If there is no room,
    /// [`when_full`](crate::Config::when_full) says what happens.
    ///
    /// Items of one key are handled in the order in which they were accepted. Those who wait for
    /// room are let in in the order in which they came, whatever their keys: an item that would fit
    /// does not overtake one that does not fit yet.
    ///
    /// # Errors
    ///
    /// [`PushError`], with the item.
    ///
    /// # Cancel safety
    ///
    /// See [`Push`]: it can be dropped at any time, and can give the item back.
    pub fn push(&self, key: K, item: T) -> Push<'_, K, T> {
        Push::new(self.shared(), key, item)
    }

    /// The same without waiting: if there is no room, or others wait for it, the item comes back at
    /// once. It needs no async context. With [`WhenFull::FlushOldest`](crate::WhenFull), it also
    /// sees to it that something is under way that will make room.
    ///
    /// # Errors
    ///
    /// [`PushError`], with the item.
    pub fn try_push(&self, key: K, item: T) -> Result<(), PushError<T>> {
        let shared = self.shared();
        let pushed = shared.push(shared.newcomer(key, item));
        if let Err(Refusal::Full(_)) = &pushed {
            shared.reject();
        }
        pushed.map_err(Into::into)
    }

    /// Flushes what the key has, and waits until all of it has been handled or has gone to the
    /// sink. What waits for room is not in the lane yet, and not waited for.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it has asked for the flush, which a drop does not take back.
    pub async fn flush(&self, key: &K) {
        self.flush_for(key, Reason::Flush).await;
    }

    /// Like [`flush`](Lanes::flush), for a key that has come to its end: the reason is another one.
    /// The lane is gone afterwards, as every lane is that has no items. An item that is pushed later
    /// opens another.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it has asked for the flush, which a drop does not take back.
    pub async fn close_key(&self, key: &K) {
        self.flush_for(key, Reason::KeyClosed).await;
    }

    /// Flushes all lanes, and waits until everything that was in them has been handled or has gone
    /// to the sink.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have asked for the flush of some lanes only. The others linger on.
    pub async fn flush_all(&self) {
        flush_everything(self.shared(), Reason::Flush).await;
    }

    /// Takes no more items, flushes everything, and waits until it has been handled or has gone to
    /// the sink. A `push` that waits for room fails with [`PushError::Closed`].
    ///
    /// # Errors
    ///
    /// [`Unfinished`], with what is left, if the runtime the lanes live on has ended; or if another
    /// call has ended the handling meanwhile, or before: of what is left, each item is given to one
    /// of them.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the lanes are closed; what is in them is flushed by whoever closes them next, by
    /// the drop of the last handle, or after its linger.
    pub async fn close(&self) -> Result<(), Unfinished<K, T>> {
        self.drain().await;
        self.hand_out().await
    }

    /// The same, but after `limit` handlers are interrupted and what is left is handed back. It takes
    /// up to a second longer if a handler does not let go.
    ///
    /// # Errors
    ///
    /// [`Unfinished`], with what is left.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the lanes are closed. Dropped after `limit`, handlers have been interrupted and
    /// nothing goes on; what is left is handed out by another call, or goes to the sink when the
    /// last handle is dropped.
    pub async fn close_within(&self, limit: Duration) -> Result<(), Unfinished<K, T>> {
        // An `Err` is a limit that has passed, and `hand_out` looks for itself.
        let _ = timeout(limit, self.drain()).await;
        self.hand_out().await
    }

    /// What there is, and what there has been.
    pub fn status(&self) -> Status {
        Status::of(self.shared())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<K, T>> {
        &self.owner.shared
    }

    async fn flush_for(&self, key: &K, reason: Reason) {
        let (bell, rung) = oneshot::channel();
        self.shared().flush(key, reason, Some(bell));
        let _ = rung.await;
    }

    async fn drain(&self) {
        self.shared().command(Core::close);
        flush_everything(self.shared(), Reason::Closed).await;
    }

    /// Ends what goes on, and hands out what is left.
    async fn hand_out(&self) -> Result<(), Unfinished<K, T>> {
        let shared = self.shared();
        if shared.query(Core::lanes) > 0 {
            shared.interrupt();
            let (bell, rung) = oneshot::channel();
            shared.command(|core, fx| core.watch_grounded(bell, fx));
            let _ = timeout(GRACE, rung).await;
            let (left, stuck) = shared.command(|core, _| (core.abandon(), core.counts().items));
            shared.publish();
            if !left.is_empty() || stuck > 0 {
                return Err(Unfinished { left, stuck });
            }
        }
        if shared.query(Core::was_unfinished) {
            // Another call has got it.
            let (left, stuck) = (Vec::new(), 0);
            return Err(Unfinished { left, stuck });
        }
        Ok(())
    }
}

async fn flush_everything<K: Key, T: Send + 'static>(shared: &Arc<Shared<K, T>>, reason: Reason) {
    let Some(epoch) = shared.command(|core, _| core.turn_epoch()) else {
        return;
    };
    while shared.command(|core, fx| core.flush_epoch(epoch, reason, PORTION, fx)) {
        yield_now().await;
    }
    let (bell, rung) = oneshot::channel();
    shared.command(|core, fx| core.watch_epoch(epoch, bell, fx));
    let _ = rung.await;
}

impl<K: Key, T: Send + 'static> Drop for Owner<K, T> {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.command(Core::close);
        if shared.query(Core::lanes) > 0 {
            // It holds the lanes until they are empty. If there is no runtime any more it is dropped
            // here, and the lanes with it, which gives everything to the sink.
            let runtime = shared.runtime.clone();
            runtime.spawn(async move { flush_everything(&shared, Reason::Closed).await });
        }
    }
}

impl<K: Key, T: Send + 'static> Clone for Lanes<K, T> {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<K: Key, T: Send + 'static> fmt::Debug for Lanes<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        f.debug_struct("Lanes")
            .field("name", &self.shared().name)
            .field("lanes", &status.lanes)
            .field("items", &status.items)
            .field("in_flight", &status.in_flight)
            .field("is_closed", &status.is_closed)
            .finish_non_exhaustive()
    }
}
