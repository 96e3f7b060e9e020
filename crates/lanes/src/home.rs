//! The way of a batch to the handler and back.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crossbeam_utils::atomic::AtomicCell;

use crate::core::{Flight, Items, Job, Reason};

/// Takes items that nobody waits for any more.
pub(crate) type Strand<K, T> = dyn Fn(K, Vec<T>, u32) + Send + Sync;

/// A batch in a box, which goes to and fro between a worker and its handler: one allocation for all
/// the batches of a worker, and little to be moved.
pub(crate) struct Parcel<K, T>(Box<Mail<K, T>>);

pub(crate) struct Contents<K, T> {
    /// None between two batches.
    pub(crate) key: Option<K>,
    pub(crate) items: Items<T>,
    pub(crate) reason: Reason,
    pub(crate) attempt: u32,
    /// Where it goes back to. None while it is there.
    slot: Option<Arc<Slot<K, T>>>,
}

/// Where the parcel of a worker comes back to.
pub(crate) struct Slot<K, T> {
    /// Whatever is done to it is one swap: who comes second finds what the first has left, so that a
    /// batch is always either here or there.
    cell: AtomicCell<Option<Box<Mail<K, T>>>>,
    strand: Arc<Strand<K, T>>,
}

/// What may be in a slot.
enum Mail<K, T> {
    /// In a [`Parcel`] nothing else.
    Batch(Contents<K, T>),
    /// The worker waits.
    Bell(Waker),
    /// The worker has gone.
    Left,
}

impl<K, T> Slot<K, T> {
    pub(crate) fn new(strand: &Arc<Strand<K, T>>) -> Arc<Self> {
        Arc::new(Self {
            cell: AtomicCell::new(None),
            strand: Arc::clone(strand),
        })
    }

    /// Takes the parcel, when it has come back.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Parcel<K, T>> {
        if let Some(parcel) = self.swap(None) {
            return Poll::Ready(parcel);
        }
        let bell = Mail::Bell(cx.waker().clone());
        let Some(parcel) = self.swap(Some(Box::new(bell))) else {
            return Poll::Pending;
        };
        // It has come in between.
        self.cell.swap(None);
        Poll::Ready(parcel)
    }

    /// Takes the parcel, if it has come back; what comes later goes to the sink.
    pub(crate) fn leave(&self) -> Option<Parcel<K, T>> {
        self.swap(Some(Box::new(Mail::Left)))
    }

    /// Gives the parcel that was there, if it was one.
    fn swap(&self, mail: Option<Box<Mail<K, T>>>) -> Option<Parcel<K, T>> {
        let mail = self.cell.swap(mail)?;
        matches!(*mail, Mail::Batch(_)).then(|| Parcel(mail))
    }
}

impl<K, T> Parcel<K, T> {
    /// With no way back.
    pub(crate) fn new(key: Option<K>, items: Items<T>) -> Self {
        Self(Box::new(Mail::Batch(Contents {
            key,
            items,
            reason: Reason::Items,
            attempt: 1,
            slot: None,
        })))
    }

    /// Puts another batch into it; gives the flight.
    pub(crate) fn load(&mut self, job: Job<K, T>) -> Flight {
        let Job { flight, key, items } = job;
        self.key = Some(key);
        self.items = items;
        self.reason = flight.reason;
        self.attempt = flight.attempt;
        flight
    }

    /// Lets it come back.
    pub(crate) fn return_to(mut self, slot: &Arc<Slot<K, T>>) -> Self {
        self.slot = Some(Arc::clone(slot));
        self
    }

    /// To whoever handles it, or to the sink if that task is gone.
    pub(crate) fn give_back(mut self) {
        let Some(slot) = self.slot.take() else { return };
        match slot.cell.swap(Some(self.0)).map(|mail| *mail) {
            None | Some(Mail::Batch(_)) => {}
            Some(Mail::Bell(waker)) => waker.wake(),
            Some(Mail::Left) => {
                if let Some(mut parcel) = slot.swap(None)
                    && !parcel.items.is_empty()
                    && let Some(key) = parcel.key.take()
                {
                    (slot.strand)(key, parcel.items.take().into_vec(), parcel.attempt);
                }
            }
        }
    }
}

impl<K, T> Deref for Parcel<K, T> {
    type Target = Contents<K, T>;

    fn deref(&self) -> &Contents<K, T> {
        match &*self.0 {
            Mail::Batch(contents) => contents,
            Mail::Bell(_) | Mail::Left => unreachable!("bug: not a parcel"),
        }
    }
}

impl<K, T> DerefMut for Parcel<K, T> {
    fn deref_mut(&mut self) -> &mut Contents<K, T> {
        match &mut *self.0 {
            Mail::Batch(contents) => contents,
            Mail::Bell(_) | Mail::Left => unreachable!("bug: not a parcel"),
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
        let parcels = slots.iter().enumerate().map(|(round, slot)| {
            let parcel = Parcel::new(Some(round), Items::One(round));
            parcel.return_to(slot)
        });
        let parcels: Vec<_> = parcels.collect();
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
                for (round, parcel) in parcels.into_iter().enumerate() {
                    meet(0, round, round % 64);
                    parcel.give_back();
                }
            });
            let mut reclaimed = 0;
            for (round, slot) in slots.iter().enumerate() {
                meet(1, round, 16);
                reclaimed += slot.leave().map_or(0, |parcel| parcel.items.len());
            }
            reclaimed
        });
        assert_eq!(reclaimed + stranded.load(Ordering::Relaxed), ROUNDS);
    }
}
