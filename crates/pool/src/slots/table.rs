//! The slots themselves: a resource in place and the stamps that decide its fate. All of the
//! crate's `unsafe` is in this file.

#![allow(
    unsafe_code,
    reason = "the one module that shares resources between threads in place"
)]

use std::{cell::UnsafeCell, panic::Location, ptr, sync::atomic::AtomicPtr};

use crossbeam_utils::CachePadded;

use super::{Held, segments::Segments};
use crate::sync::{AtomicU64, Ordering};

/// A moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

pub(crate) struct Table<R> {
    slots: Segments<Box<[CachePadded<Slot<R>>]>>,
}

struct Slot<R> {
    resource: UnsafeCell<Option<R>>,
    stamps: Stamps,
    #[cfg(wharf_loom)]
    watch: loom::cell::UnsafeCell<()>,
}

// SAFETY: the cell is reached only through `Table`'s methods, each of which asks for the slot's
// token, and there is one token a slot (see the module's text). So the resource moves between
// threads (`R: Send`) and is never reached by two at once, except through shared borrows of one
// token; whoever lends such borrows to several threads (`Lease`) demands `R: Sync` by its type.
unsafe impl<R: Send> Sync for Slot<R> {}

/// When things happened to a slot, in nanoseconds since the pool's birth. Written by the slot's
/// holder, read by anyone: each is a number of its own, so relaxed order is enough, and a plain
/// load and store make an exact counter because there is one holder at a time.
#[derive(Debug)]
pub(crate) struct Stamps {
    /// When the resource was created; `NEVER` while there is none.
    pub(crate) born: AtomicU64,
    /// When its lifetime ends.
    pub(crate) expires: AtomicU64,
    /// When a check is due, or its lifetime ends, whichever is first: what `get` compares.
    pub(crate) look: AtomicU64,
    /// When it was last known to be good.
    pub(crate) checked: AtomicU64,
    /// The latest moment at which it can have come back.
    pub(crate) returned: AtomicU64,
    /// The latest moment at which it can have been lent; `NEVER` while it is certainly not.
    pub(crate) leased: AtomicU64,
    /// When a sampled lease began, 0 for a lease that is not sampled.
    pub(crate) sampled: AtomicU64,
    /// The pool's generation when its creation began.
    pub(crate) generation: AtomicU64,
    /// Leases given, over all the resources this slot has held.
    pub(crate) leases: AtomicU64,
    leased_from: AtomicPtr<Location<'static>>,
}

impl<R> Table<R> {
    pub(crate) fn new(len: u32) -> Self {
        Self {
            slots: Segments::new(len, slots),
        }
    }

    /// Makes room for slots `from..len` and mints their tokens. The caller passes every index
    /// once: `from` is the `len` of the call before.
    pub(crate) fn grow(&self, from: u32, len: u32) -> impl Iterator<Item = Held> + use<R> {
        self.slots.grow(len, slots);
        (from..len).map(Held::of)
    }

    #[inline]
    pub(crate) fn stamps(&self, slot: u32) -> &Stamps {
        &self.slot(slot).stamps
    }

    /// The resource in a slot. Panics if it holds none.
    #[inline]
    pub(crate) fn get<'a>(&'a self, held: &'a Held) -> &'a R {
        let slot = self.slot(held.slot());
        #[cfg(wharf_loom)]
        slot.watch.with(|_| ());
        // SAFETY: `held` is the slot's only token and stays borrowed for as long as the
        // reference lives, so nobody can call `get_mut`, `fill` or `take` for this slot.
        let resource = unsafe { &*slot.resource.get() };
        resource.as_ref().expect("bug: a lent slot is empty")
    }

    /// The resource in a slot, to change. Panics if it holds none.
    #[inline]
    pub(crate) fn get_mut<'a>(&'a self, held: &'a mut Held) -> &'a mut R {
        let slot = self.slot(held.slot());
        #[cfg(wharf_loom)]
        slot.watch.with_mut(|_| ());
        // SAFETY: `held` is the slot's only token and stays exclusively borrowed for as long as
        // the reference lives, so nobody else can reach this slot's resource.
        let resource = unsafe { &mut *slot.resource.get() };
        resource.as_mut().expect("bug: a lent slot is empty")
    }

    /// Puts a new resource into a vacant slot.
    pub(crate) fn fill(&self, held: &mut Held, resource: R) {
        let slot = self.slot(held.slot());
        #[cfg(wharf_loom)]
        slot.watch.with_mut(|_| ());
        // SAFETY: as for `get_mut`; the borrow ends with this call.
        let place = unsafe { &mut *slot.resource.get() };
        assert!(place.is_none(), "bug: slot {} was not vacant", held.slot());
        *place = Some(resource);
    }

    /// Takes the resource out of a slot, which is vacant from then on. Panics if it holds none.
    pub(crate) fn take(&self, held: &mut Held) -> R {
        let slot = self.slot(held.slot());
        #[cfg(wharf_loom)]
        slot.watch.with_mut(|_| ());
        slot.stamps.born.store(NEVER, Ordering::Relaxed);
        // SAFETY: as for `get_mut`; the borrow ends with this call.
        let place = unsafe { &mut *slot.resource.get() };
        place.take().expect("bug: a slot to clear is empty")
    }

    #[inline]
    fn slot(&self, slot: u32) -> &Slot<R> {
        let (part, offset) = self.slots.part_of(slot);
        &part[offset as usize]
    }
}

fn slots<R>(len: u32) -> Box<[CachePadded<Slot<R>>]> {
    (0..len).map(|_| CachePadded::new(Slot::new())).collect()
}

impl<R> Slot<R> {
    fn new() -> Self {
        Self {
            resource: UnsafeCell::new(None),
            stamps: Stamps::new(),
            #[cfg(wharf_loom)]
            watch: loom::cell::UnsafeCell::new(()),
        }
    }
}

impl Stamps {
    fn new() -> Self {
        Self {
            born: AtomicU64::new(NEVER),
            expires: AtomicU64::new(NEVER),
            look: AtomicU64::new(NEVER),
            checked: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            leased: AtomicU64::new(0),
            sampled: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            leases: AtomicU64::new(0),
            leased_from: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Notes where the code stands that holds the lease.
    #[inline]
    pub(crate) fn set_leased_from(&self, at: &'static Location<'static>) {
        self.leased_from
            .store(ptr::from_ref(at).cast_mut(), Ordering::Relaxed);
    }

    pub(crate) fn leased_from(&self) -> Option<&'static Location<'static>> {
        let at = self.leased_from.load(Ordering::Relaxed);
        // SAFETY: the pointer is null or was made by `set_leased_from` from a `&'static`, and a
        // `Location` is immutable and never freed.
        unsafe { at.as_ref() }
    }
}
