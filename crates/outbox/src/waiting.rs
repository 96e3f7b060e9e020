//! Callers that wait: for room, for the journal, for others to be resolved.

use std::{pin::pin, sync::Arc};

use tokio::{
    select,
    sync::{Notify, oneshot},
};

use crate::{deliver::Deliver, error::EnqueueError, shared::Shared};

/// A message that waits for room, or for the journal.
pub(crate) struct Pending<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) place: Place<'a, T, D>,
    pub(crate) answer: oneshot::Receiver<Result<(), EnqueueError<T>>>,
}

type Answer<T> = Result<Result<(), EnqueueError<T>>, oneshot::error::RecvError>;

impl<T, D> Pending<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) async fn answer(mut self) -> Result<(), EnqueueError<T>> {
        let answer = match self.place.number {
            None => (&mut self.answer).await,
            Some(_) => self.room().await,
        };
        self.place.number = None;
        answer.expect("bug: who waits gets an answer")
    }

    /// There is room when messages are delivered. If the drain is lost, this task's runtime may have
    /// to go on with it.
    async fn room(&mut self) -> Answer<T> {
        let shared = self.place.shared;
        loop {
            let mut rung = pin!(shared.resolved.notified());
            rung.as_mut().enable();
            shared.ensure_drain();
            select! {
                biased;
                answer = &mut self.answer => return answer,
                () = rung => {}
            }
        }
    }
}

/// A place in the line for room, given up when it is dropped.
pub(crate) struct Place<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) shared: &'a Arc<Shared<T, D>>,
    pub(crate) number: Option<u64>,
}

impl<T, D> Drop for Place<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let now = self.shared.clock.now();
            // What comes back is dropped after the lock.
            let given_up = self
                .shared
                .command(|core, effects| core.cancel(now, number, effects));
            drop(given_up);
        }
    }
}

/// Somebody wants to know when messages are resolved.
pub(crate) struct Flusher<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) shared: &'a Shared<T, D>,
    pub(crate) until: u64,
}

impl<T, D> Drop for Flusher<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        self.shared.state.lock().core.flush_ended(self.until);
    }
}

/// Waits for what the drain's work brings about. If the drain is lost with its runtime, which rings as
/// well, another begins here.
pub(crate) async fn wait_for_drain<T, D>(
    shared: &Arc<Shared<T, D>>,
    mut is_done: impl FnMut() -> bool,
) where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    let is_done = || {
        let done = is_done();
        if !done {
            shared.ensure_drain();
        }
        done
    };
    wait_for(&shared.resolved, is_done).await;
}

/// Waits for a condition of which the bell tells that it may have come.
pub(crate) async fn wait_for(bell: &Notify, mut is_done: impl FnMut() -> bool) {
    loop {
        let mut rung = pin!(bell.notified());
        // From here on it counts: what happens after the look is not missed.
        rung.as_mut().enable();
        if is_done() {
            return;
        }
        rung.await;
    }
}
