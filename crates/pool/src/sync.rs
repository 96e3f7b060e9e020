//! The primitives that loom has to see. Everything that more than one thread reaches without the
//! core's lock, and that lock, is built from these names only.

#[cfg(not(wharf_loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(wharf_loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(wharf_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Locks. A panic under the lock is a bug of the core's, which asserts before it changes anything,
/// so nobody has to be kept out afterwards.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(not(wharf_loom))]
    return mutex.lock();
    #[cfg(wharf_loom)]
    return mutex.lock().unwrap();
}
