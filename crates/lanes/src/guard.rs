//! Keys that close by themselves.

use std::fmt;

use crate::{core::Reason, handler::Key, lanes::Lanes, push::Push};

/// Closes its key when it is dropped: for whoever owns the key, such as a connection whose lane
/// should not linger when it is gone.
///
/// To close a key is to flush what it has, with [`Reason::KeyClosed`]; the lane is gone when that
/// has been handled (or has gone to the sink). The drop itself waits for nothing, needs no runtime
/// and loses nothing: batches in flight end, failed ones are tried again, and what was accepted is
/// handled in order. It does not lock the key: an item pushed later opens another lane, which
/// lingers like any other. Of several guards of one key, each flushes when it goes. A `push` that
/// waits for room goes on to wait.
///
/// A guard is a handle on the lanes, which end when the last is dropped.
pub struct KeyGuard<K: Key, T: Send + 'static> {
    lanes: Lanes<K, T>,
    key: K,
}

impl<K: Key, T: Send + 'static> Lanes<K, T> {
    /// A guard that closes the key when it is dropped: see [`KeyGuard`].
    pub fn guard(&self, key: K) -> KeyGuard<K, T> {
        KeyGuard {
            lanes: self.clone(),
            key,
        }
    }
}

impl<K: Key, T: Send + 'static> KeyGuard<K, T> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// [`Lanes::push`] with this key.
    ///
    /// # Errors
    ///
    /// [`PushError`](crate::PushError), with the item.
    ///
    /// # Cancel safety
    ///
    /// See [`Push`].
    pub fn push(&self, item: T) -> Push<'_, K, T> {
        self.lanes.push(self.key.clone(), item)
    }
}

impl<K: Key, T: Send + 'static> Drop for KeyGuard<K, T> {
    fn drop(&mut self) {
        self.lanes
            .shared()
            .flush(&self.key, Reason::KeyClosed, None);
    }
}

impl<K: Key + fmt::Debug, T: Send + 'static> fmt::Debug for KeyGuard<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGuard")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
