//! What the user writes: the handler of batches, and the sink of those that failed.

use std::{
    fmt,
    hash::Hash,
    ops::{Deref, DerefMut, RangeBounds},
    sync::Arc,
    time::Duration,
    vec::Drain,
};

use crate::{
    core::{Items, Reason},
    home::Parcel,
};

/// What a key must be. `Eq` and `Clone` of it run under the lock of the lanes, so they should be
/// cheap (numbers, `Arc<str>`, short strings), and they must not panic.
pub trait Key: Hash + Eq + Clone + Send + 'static {}

impl<K: Hash + Eq + Clone + Send + 'static> Key for K {}

/// Handles batches. Implemented for closures and functions `Fn(Batch<K, T>) -> impl Future`:
///
/// ```
/// use wharf_lanes::{Batch, Handler};
///
/// fn is_handler<H: Handler<String, u64>>(handler: H) -> H {
///     handler
/// }
/// is_handler(async |batch: Batch<String, u64>| {
///     println!("{}: {:?}", batch.key(), &batch[..]);
///     Ok::<_, std::io::Error>(())
/// });
/// ```
pub trait Handler<K, T>: Send + Sync + 'static {
    /// What goes wrong. The sink gets the last one of a batch.
    type Error: Send + 'static;

    /// Handles a batch. No other batch of the same key is handled until it has ended *and* the
    /// batch has been dropped.
    ///
    /// After `Ok`, what is in the batch counts as handled. After an error or a panic, whatever the
    /// handler has not taken out is tried again after a pause, before anything else of this key,
    /// and goes to the [`Sink`] after the last attempt. So a handler that takes out what it is done
    /// with ([`Batch::drain`]) gets only the rest again.
    ///
    /// # Cancel safety
    ///
    /// It is dropped, at any await point, when [`handler_timeout`](crate::Config::handler_timeout)
    /// passes, when the time of [`close_within`](crate::Lanes::close_within) is over, or when the
    /// runtime shuts down. What is in the batch then is retried, handed back, or goes to the sink,
    /// in this order of cases; whether it had an effect, only the handler can know.
    fn handle(&self, batch: Batch<K, T>) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl<K, T, F, Fut, E> Handler<K, T> for F
where
    K: Send,
    T: Send,
    F: Fn(Batch<K, T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Send + 'static,
{
    type Error = E;

    async fn handle(&self, batch: Batch<K, T>) -> Result<(), E> {
        self(batch).await
    }
}

/// Takes back what could not be handled. Implemented for closures `Fn(Failed<K, T, E>)`.
pub trait Sink<K, T, E>: Send + Sync + 'static {
    /// The items are the sink's. It is called from the task of the batch, or, where the runtime has
    /// ended, from whatever thread drops the last of the lanes; so it must not block. A panic in it
    /// goes no further.
    fn failed(&self, failed: Failed<K, T, E>);
}

impl<K, T, E, F> Sink<K, T, E> for F
where
    F: Fn(Failed<K, T, E>) + Send + Sync + 'static,
{
    fn failed(&self, failed: Failed<K, T, E>) {
        self(failed);
    }
}

/// Items of one key, in the order in which they were pushed. A slice of them, too.
///
/// Dropping it gives back what is in it: to be handled again, unless the handler succeeds.
pub struct Batch<K, T> {
    /// There until the drop.
    parcel: Option<Parcel<K, T>>,
}

impl<K, T> Batch<K, T> {
    /// A batch of your own, to test a handler with. It is the first attempt, flushed for
    /// [`Reason::Items`].
    pub fn new(key: K, items: Vec<T>) -> Self {
        Parcel::new(Some(key), Items::Many(items)).into()
    }

    /// The key.
    #[expect(clippy::missing_panics_doc, reason = "it is there until the drop")]
    pub fn key(&self) -> &K {
        self.parcel().key.as_ref().expect("bug: a batch has a key")
    }

    /// Why it was flushed.
    pub fn reason(&self) -> Reason {
        self.parcel().reason
    }

    /// This is the n-th attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.parcel().attempt
    }

    /// Takes items out. They are yours: if the handler fails later, they do not come back.
    ///
    /// # Panics
    ///
    /// Like [`Vec::drain`].
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Drain<'_, T> {
        self.parcel_mut().items.as_vec().drain(range)
    }

    /// Takes all items out. They are yours: if the handler fails later, they do not come back.
    pub fn take(&mut self) -> Vec<T> {
        self.parcel_mut().items.take().into_vec()
    }

    fn parcel(&self) -> &Parcel<K, T> {
        self.parcel.as_ref().expect("bug: there until the drop")
    }

    fn parcel_mut(&mut self) -> &mut Parcel<K, T> {
        self.parcel.as_mut().expect("bug: there until the drop")
    }
}

impl<K, T> From<Parcel<K, T>> for Batch<K, T> {
    fn from(parcel: Parcel<K, T>) -> Self {
        Self {
            parcel: Some(parcel),
        }
    }
}

impl<K, T> Deref for Batch<K, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.parcel().items.as_slice()
    }
}

impl<K, T> DerefMut for Batch<K, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.parcel_mut().items.as_mut_slice()
    }
}

impl<K, T> Drop for Batch<K, T> {
    fn drop(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            parcel.give_back();
        }
    }
}

impl<K: fmt::Debug, T> fmt::Debug for Batch<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("key", self.key())
            .field("items", &self.len())
            .field("reason", &self.reason())
            .field("attempt", &self.attempt())
            .finish()
    }
}

/// What is left of a batch after its last attempt.
pub struct Failed<K, T, E> {
    /// Its key.
    pub key: K,
    /// What the handler had not taken out, in order.
    pub items: Vec<T>,
    /// Why the last attempt failed.
    pub cause: Cause<E>,
    /// How many there were. After the end of the runtime a key's batches come together, and this is
    /// 0, however often the first of them was tried.
    pub attempts: u32,
}

impl<K: fmt::Debug, T, E: fmt::Debug> fmt::Debug for Failed<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("key", &self.key)
            .field("items", &self.items.len())
            .field("cause", &self.cause)
            .field("attempts", &self.attempts)
            .finish()
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause<E> {
    /// The handler says so.
    Error(E),
    /// It panicked, with this message.
    Panicked(Arc<str>),
    /// It was dropped after [`handler_timeout`](crate::Config::handler_timeout).
    TimedOut(Duration),
    /// Nobody is there to handle it any more: the runtime has ended, or the time of a
    /// [`close_within`](crate::Lanes::close_within) was over before the batch came back.
    Abandoned,
}
