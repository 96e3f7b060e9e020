//! The way back of a batch that is dropped.

use std::{
    mem::replace,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::core::Items;

/// Takes items that nobody waits for any more.
pub(crate) type Strand<K, T> = dyn Fn(K, Vec<T>, u32) + Send + Sync;

/// Where the batches of a worker come back to. One of them is out at a time, so this is made once for
/// all of them.
pub(crate) struct Slot<K, T> {
    /// Nothing of the user's is dropped while it is held.
    state: Mutex<State<K, T>>,
    strand: Arc<Strand<K, T>>,
}

enum State<K, T> {
    /// Nothing has come back; with whoever waits for that.
    Out(Option<Waker>),
    Back(K, Items<T>),
    /// The worker is gone.
    Left,
}

/// Where a batch goes when it is dropped.
pub(crate) struct Home<K, T> {
    slot: Arc<Slot<K, T>>,
    attempt: u32,
}

impl<K, T> Slot<K, T> {
    pub(crate) fn new(strand: &Arc<Strand<K, T>>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Out(None)),
            strand: Arc::clone(strand),
        })
    }

    /// The way back for the next batch, once the one before it has come back.
    pub(crate) fn home(self: &Arc<Self>, attempt: u32) -> Home<K, T> {
        Home {
            slot: Arc::clone(self),
            attempt,
        }
    }

    /// Takes the batch that was out, when it has come back.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<(K, Items<T>)> {
        let mut state = self.state.lock();
        match replace(&mut *state, State::Out(None)) {
            State::Back(key, items) => Poll::Ready((key, items)),
            State::Out(_) => {
                *state = State::Out(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::Left => panic!("bug: it was left"),
        }
    }

    /// Takes the batch, if it has come back; what comes later goes to the sink.
    pub(crate) fn leave(&self) -> Option<(K, Items<T>)> {
        match replace(&mut *self.state.lock(), State::Left) {
            State::Back(key, items) => Some((key, items)),
            State::Out(_) | State::Left => None,
        }
    }
}

impl<K, T> Home<K, T> {
    /// To whoever handles it, or to the sink if that task is gone.
    pub(crate) fn give_back(self, key: K, items: Items<T>) {
        let mut state = self.slot.state.lock();
        if let State::Out(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Back(key, items);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            return;
        }
        drop(state);
        if !items.is_empty() {
            (self.slot.strand)(key, items.into_vec(), self.attempt);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    /// The runtime ends, and drops the worker in one thread and whoever has the batch in another.
    #[test]
    fn a_batch_that_is_dropped_together_with_its_worker_is_not_lost() {
        const ROUNDS: usize = 40_000;
        let stranded = Arc::new(AtomicUsize::new(0));
        let sink = Arc::clone(&stranded);
        let strand: Arc<Strand<usize, usize>> = Arc::new(move |_, items: Vec<usize>, _| {
            sink.fetch_add(items.len(), Ordering::Relaxed);
        });
        let slots: Vec<_> = (0..ROUNDS).map(|_| Slot::new(&strand)).collect();
        let homes: Vec<_> = slots.iter().map(|slot| slot.home(1)).collect();
        let reached = [AtomicUsize::new(0), AtomicUsize::new(0)];
        // Both begin each round together; one of them a little later, each time a little more.
        let meet = |me: usize, round: usize, late: usize| {
            reached[me].store(round + 1, Ordering::Release);
            for looks in 1_usize.. {
                if reached[1 - me].load(Ordering::Acquire) > round {
                    break;
                }
                if looks.is_multiple_of(1000) {
                    thread::yield_now();
                }
                std::hint::spin_loop();
            }
            for _ in 0..late {
                std::hint::spin_loop();
            }
        };
        let reclaimed = thread::scope(|scope| {
            scope.spawn(|| {
                for (round, home) in homes.into_iter().enumerate() {
                    meet(0, round, round % 64);
                    home.give_back(round, Items::Many(vec![round]));
                }
            });
            let mut reclaimed = 0;
            for (round, slot) in slots.iter().enumerate() {
                meet(1, round, 16);
                reclaimed += slot.leave().map_or(0, |(_, items)| items.len());
            }
            reclaimed
        });
        assert_eq!(reclaimed + stranded.load(Ordering::Relaxed), ROUNDS);
    }
}
