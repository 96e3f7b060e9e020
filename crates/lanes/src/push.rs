//! The future of a push.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    sync::oneshot,
    task::{coop::poll_proceed, yield_now},
};

use crate::{
    core::{Place, WhenFull},
    error::PushError,
    handler::Key,
    lateness::Courtesy,
    shared::{Newcomer, Refusal, Shared},
};

/// Waits until an item is accepted. Made by [`Lanes::push`](crate::Lanes::push).
///
/// It may be pending once or twice although there is room: while batches are handled late, and when
/// the task has used up its budget, it lets others have a turn first.
///
/// # Cancel safety
///
/// Dropped before it has completed, it takes the item with it, unless it was waiting for room and
/// there was some at that very moment: then the item is in its lane. Who wants to know calls
/// [`cancel`](Push::cancel) instead. A push that only lets others have a turn has not given its item
/// away yet. Either way nobody else loses a place in line.
#[must_use = "a push does nothing unless polled"]
pub struct Push<'a, K: Key, T: Send + 'static> {
    shared: &'a Arc<Shared<K, T>>,
    state: State<K, T>,
}

enum State<K, T> {
    /// Nobody else knows of the item.
    New(Newcomer<K, T>, Courtesy),
    Waiting(Place, oneshot::Receiver<()>),
    Done,
}

// Nothing in it is ever pinned.
impl<K: Key, T: Send + 'static> Unpin for Push<'_, K, T> {}

impl<'a, K: Key, T: Send + 'static> Push<'a, K, T> {
    pub(crate) fn new(shared: &'a Arc<Shared<K, T>>, key: K, item: T) -> Self {
        Self {
            shared,
            state: State::New(shared.newcomer(key, item), Courtesy::default()),
        }
    }

    /// Gives up, and gives the item back; none if it has been accepted.
    pub fn cancel(mut self) -> Option<T> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::New(newcomer, _) => Some(newcomer.item),
            State::Waiting(place, _) => self.shared.cancel(place),
            State::Done => None,
        }
    }

    fn start(&mut self, newcomer: Newcomer<K, T>) -> Result<(), PushError<T>> {
        let newcomer = match self.shared.push(newcomer) {
            Ok(()) => return Ok(()),
            Err(Refusal::Full(newcomer)) => newcomer,
            Err(refusal) => return Err(refusal.into()),
        };
        if self.shared.config.when_full == WhenFull::Reject {
            self.shared.reject();
            return Err(PushError::Full(newcomer.item));
        }
        let place = self.shared.enqueue(newcomer).map_err(PushError::Closed)?;
        if let Some((place, rung)) = place {
            self.state = State::Waiting(place, rung);
        }
        Ok(())
    }
}

impl<K: Key, T: Send + 'static> Future for Push<'_, K, T> {
    type Output = Result<(), PushError<T>>;

    /// # Panics
    ///
    /// If it is polled after it has completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(
            !matches!(self.state, State::Done),
            "polled after completion"
        );
        let shared = self.shared;
        if let State::New(_, courtesy) = &mut self.state {
            // There may be room for ever. Without this, a loop of pushes would keep its thread from
            // the workers.
            let progress = ready!(poll_proceed(cx));
            if courtesy.gives_way(&shared.lateness) {
                // Polled once, it has the task woken after all others.
                let _ = pin!(yield_now()).poll(cx);
                return Poll::Pending;
            }
            progress.made_progress();
            if let State::New(newcomer, _) = std::mem::replace(&mut self.state, State::Done) {
                self.start(newcomer)?;
            }
        }
        let State::Waiting(place, rung) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let place = *place;
        // An error is a bell that was dropped, and means the same.
        let _ = ready!(Pin::new(rung).poll(cx));
        self.state = State::Done;
        match self.shared.cancel(place) {
            None => Poll::Ready(Ok(())),
            // Rung, and still in line: the lanes were closed.
            Some(item) => Poll::Ready(Err(PushError::Closed(item))),
        }
    }
}

impl<K: Key, T: Send + 'static> Drop for Push<'_, K, T> {
    fn drop(&mut self) {
        if let State::Waiting(place, _) = self.state {
            self.shared.cancel(place);
        }
    }
}

impl<K: Key, T: Send + 'static> fmt::Debug for Push<'_, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("is_waiting", &matches!(self.state, State::Waiting(..)))
            .finish_non_exhaustive()
    }
}

impl<K, T> From<Refusal<K, T>> for PushError<T> {
    fn from(refusal: Refusal<K, T>) -> Self {
        match refusal {
            Refusal::Full(newcomer) => Self::Full(newcomer.item),
            Refusal::Closed(item) => Self::Closed(item),
            Refusal::TooLarge { item, weight, most } => Self::TooLarge { item, weight, most },
        }
    }
}
