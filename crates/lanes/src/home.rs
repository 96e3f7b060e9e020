//! The way back of a batch that is dropped.

use std::sync::Arc;

use tokio::sync::oneshot;

/// Takes items that nobody waits for any more.
pub(crate) type Strand<K, T> = dyn Fn(K, Vec<T>, u32) + Send + Sync;

/// Where a batch goes when it is dropped.
pub(crate) struct Home<K, T> {
    worker: oneshot::Sender<(K, Vec<T>)>,
    strand: Arc<Strand<K, T>>,
    attempt: u32,
}

impl<K, T> Home<K, T> {
    pub(crate) fn new(
        strand: &Arc<Strand<K, T>>,
        attempt: u32,
    ) -> (Self, oneshot::Receiver<(K, Vec<T>)>) {
        let (worker, back) = oneshot::channel();
        let home = Self {
            worker,
            strand: Arc::clone(strand),
            attempt,
        };
        (home, back)
    }

    /// To whoever handles it, or to the sink if that task is gone.
    pub(crate) fn give_back(self, key: K, items: Vec<T>) {
        if let Err((key, items)) = self.worker.send((key, items))
            && !items.is_empty()
        {
            (self.strand)(key, items, self.attempt);
        }
    }
}

/// The batch, if it has come back; what comes later goes to the sink.
///
/// A batch that is dropped at this very moment is either here or there: a channel that was only
/// looked into would let it in behind one's back, and be dropped with it.
pub(crate) fn reclaim<K, T>(mut back: oneshot::Receiver<(K, Vec<T>)>) -> Option<(K, Vec<T>)> {
    back.close();
    back.try_recv().ok()
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
        let (homes, backs): (Vec<_>, Vec<_>) = (0..ROUNDS).map(|_| Home::new(&strand, 1)).unzip();
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
                    home.give_back(round, vec![round]);
                }
            });
            let mut reclaimed = 0;
            for (round, back) in backs.into_iter().enumerate() {
                meet(1, round, 16);
                reclaimed += reclaim(back).map_or(0, |(_, items)| items.len());
            }
            reclaimed
        });
        assert_eq!(reclaimed + stranded.load(Ordering::Relaxed), ROUNDS);
    }
}
