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
