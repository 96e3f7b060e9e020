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
    return mutex.try_lock().unwrap_or_else(|| lock_patiently(mutex));
    #[cfg(wharf_loom)]
    return mutex.lock().unwrap();
}

/// A command is so short that the lock is likely to be free before a thread could be put to sleep.
/// Looking costs the thread that has it less than trying would.
#[cold]
#[cfg(not(wharf_loom))]
fn lock_patiently<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..64 {
        std::hint::spin_loop();
        if !mutex.is_locked()
            && let Some(guard) = mutex.try_lock()
        {
            return guard;
        }
    }
    mutex.lock()
}
