//! The primitives that loom has to see. Everything that more than one thread reaches without the
//! core's lock, and that lock, is built from these names only.

#[cfg(not(wharf_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(wharf_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Stands between a sequentially consistent store and a sequentially consistent load of another
/// word that must not be reordered. The orderings alone see to that; but loom treats them as
/// release and acquire, and honours sequential consistency in fences only, so it gets a fence.
#[inline]
pub(crate) fn store_load_barrier() {
    #[cfg(wharf_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
