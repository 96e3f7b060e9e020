//! Those who batch by key. All have ten items or the linger, handlers that do nothing, and keys and
//! items of eight bytes.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

pub mod aint_one;
pub mod lanes;
pub mod task_each;

/// Items of a batch.
pub const ITEMS: usize = 10;

/// Counts what was handled.
#[derive(Debug, Clone, Default)]
pub struct Handled(Arc<AtomicU64>);

impl Handled {
    /// So many more.
    pub fn add(&self, items: usize) {
        self.0.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of them.
pub trait Contender: Sized {
    /// Its name in tables.
    const NAME: &'static str;

    /// Within a runtime.
    fn open(linger: Duration, handled: &Handled) -> Self;

    /// Hands an item over, and waits for room if need be.
    fn push(&mut self, key: u64, item: u64) -> impl Future<Output = ()>;

    /// Lets time pass, and does what has to be done meanwhile.
    fn rest(&mut self, time: Duration) -> impl Future<Output = ()> {
        sleep(time)
    }

    /// Returns when everything has been handled.
    fn finish(self) -> impl Future<Output = ()>;
}
