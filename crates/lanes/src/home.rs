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
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        task::Wake,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    const ROUNDS: usize = 20_000;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Two threads that begin each round together; one of them a little later, each time a little
    /// more.
    #[derive(Default)]
    struct Meeting([AtomicUsize; 2]);

    impl Meeting {
        fn meet(&self, me: usize, round: usize, late: usize) {
            self.0[me].store(round + 1, Ordering::Release);
            let since = Instant::now();
            for looks in 1_usize.. {
                if self.0[1 - me].load(Ordering::Acquire) > round {
                    break;
                }
                if looks.is_multiple_of(1000) {
                    assert!(since.elapsed() < PATIENCE, "the other does not come");
                    thread::yield_now();
                }
                std::hint::spin_loop();
            }
            for _ in 0..late {
                std::hint::spin_loop();
            }
        }
    }

    #[derive(Default)]
    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    impl Bell {
        fn wait(&self) {
            let since = Instant::now();
            while !self.0.swap(false, Ordering::Acquire) {
                assert!(since.elapsed() < PATIENCE, "nobody rings");
                thread::yield_now();
            }
        }
    }

    fn parcel_to(slot: &Arc<Slot<usize, usize>>, number: usize) -> Parcel<usize, usize> {
        Parcel::new(Some(number), Items::One(number)).return_to(slot)
    }

    /// The runtime ends, and drops the worker in one thread and whoever has the batch in another.
    #[test]
    fn a_batch_that_is_dropped_together_with_its_worker_is_not_lost() {
        let stranded = Arc::new(AtomicUsize::new(0));
        let sink = Arc::clone(&stranded);
        let strand: Arc<Strand<usize, usize>> = Arc::new(move |_, items: Vec<usize>, _| {
            sink.fetch_add(items.len(), Ordering::Relaxed);
        });
        let slots: Vec<_> = (0..ROUNDS).map(|_| Slot::new(&strand)).collect();
        let parcels = slots.iter().zip(0..);
        let parcels: Vec<_> = parcels.map(|(slot, n)| parcel_to(slot, n)).collect();
        let meeting = Meeting::default();
        let reclaimed = thread::scope(|scope| {
            scope.spawn(|| {
                for (round, parcel) in parcels.into_iter().enumerate() {
                    meeting.meet(0, round, round % 64);
                    parcel.give_back();
                }
            });
            let mut reclaimed = 0;
            for (round, slot) in slots.iter().enumerate() {
                meeting.meet(1, round, 16);
                reclaimed += slot.leave().map_or(0, |parcel| parcel.items.len());
            }
            reclaimed
        });
        assert_eq!(reclaimed + stranded.load(Ordering::Relaxed), ROUNDS);
    }

    /// The handler has given the batch to another thread, which drops it just as the worker begins
    /// to wait for it. One slot and one parcel go through all rounds, as they do in a worker.
    #[test]
    fn a_worker_that_begins_to_wait_as_its_batch_comes_back_has_it() {
        let strand: Arc<Strand<usize, usize>> = Arc::new(|_, _, _| panic!("the worker is there"));
        let slot = Slot::new(&strand);
        let away = std::sync::Mutex::new(None);
        let meeting = Meeting::default();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    meeting.meet(0, round, round % 64);
                    let parcel: Option<Parcel<usize, usize>> = away.lock().unwrap().take();
                    parcel.expect("it is out").give_back();
                }
            });
            let mut parcel = Parcel::new(Some(0), Items::None);
            for round in 0..ROUNDS {
                parcel.items = Items::One(round);
                *away.lock().unwrap() = Some(parcel.return_to(&slot));
                meeting.meet(1, round, 16);
                let take = || slot.poll_take(&mut Context::from_waker(&waker));
                parcel = match take() {
                    Poll::Ready(parcel) => parcel,
                    Poll::Pending => {
                        bell.wait();
                        let Poll::Ready(parcel) = take() else {
                            panic!("rung, and it is not there");
                        };
                        parcel
                    }
                };
                assert_eq!(parcel.items.as_slice(), [round]);
            }
        });
    }
}
