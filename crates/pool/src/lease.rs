//! A resource on loan.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    panic::Location,
    sync::Arc,
    time::Duration,
};

use crate::{
    core::Retirement,
    get::{Borrow, Get, GetResult, Limit},
    manager::Manager,
    shared::Shared,
    slots::Held,
    sync::Ordering,
};

/// A resource on loan from a pool, which it goes back to when the lease is dropped.
///
/// Dropping never blocks, needs no runtime and does no I/O; a resource that is not fit any more
/// is destroyed by a task on the pool's runtime (without a runtime it is dropped on the spot). That holds outside a runtime, on another thread, during a panic and
/// inside the manager's own methods.
#[must_use = "a lease that is dropped at once lends nothing"]
pub struct Lease<'pool, M: Manager> {
    loan: Loan<&'pool Shared<M>, M>,
}

/// A [`Lease`] that keeps the pool's inside alive instead of borrowing the pool, so that it can
/// be sent anywhere. Taking one costs a reference count more.
#[must_use = "a lease that is dropped at once lends nothing"]
pub struct OwnedLease<M: Manager> {
    loan: Loan<Arc<Shared<M>>, M>,
}

/// What both kinds of lease are made of.
struct Loan<S: Deref<Target = Shared<M>>, M: Manager> {
    shared: S,
    /// Present until the lease ends.
    held: Option<Held>,
    /// The lease is `Send` and `Sync` as if it held the resource itself.
    resource: PhantomData<M::Resource>,
}

/// What is known of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceInfo {
    /// How long ago it was created, or added to the pool.
    pub age: Duration,
    /// How long ago it was last known to be good, by its creation or a check.
    pub since_check: Duration,
}

impl<'pool, M: Manager> Borrow for Lease<'pool, M> {
    type Manager = M;
    type Handle = &'pool Shared<M>;

    #[inline]
    fn borrow(handle: Self::Handle, held: Held, taken_at: &'static Location<'static>) -> Self {
        Self {
            loan: Loan::new(handle, held, taken_at),
        }
    }
}

impl<M: Manager> Borrow for OwnedLease<M> {
    type Manager = M;
    type Handle = Arc<Shared<M>>;

    #[inline]
    fn borrow(handle: Self::Handle, held: Held, taken_at: &'static Location<'static>) -> Self {
        Self {
            loan: Loan::new(handle, held, taken_at),
        }
    }
}

impl<M: Manager> OwnedLease<M> {
    pub(crate) fn get(
        shared: Arc<Shared<M>>,
        limit: Limit,
        taken_at: &'static Location<'static>,
    ) -> impl Future<Output = GetResult<Self>> + Send + use<M> {
        Get::new(
            shared,
            taken_at,
            limit,
            move |shared: Arc<Shared<M>>, detour| async move {
                let held = shared.get_slowly(detour).await?;
                Ok(OwnedLease::borrow(shared, held, taken_at))
            },
        )
    }
}

macro_rules! lease_methods {
    ($($header:tt)+) => {
        $($header)+ {
            /// Gives the resource back. The same as dropping the lease.
            pub fn put(self) {}

            /// Has the resource destroyed instead of giving it back: it is broken, or in a state
            /// that nobody else should meet. Does not wait for the destruction.
            pub fn discard(mut self) {
                let held = self.loan.end();
                self.loan.shared.retire(held, Retirement::Discarded);
            }

            /// Takes the resource out of the pool for good. It is the caller's own then; the pool
            /// will not destroy it and has room for another.
            pub fn detach(mut self) -> M::Resource {
                let mut held = self.loan.end();
                let shared = &self.loan.shared;
                let resource = shared.table.take(&mut held);
                let now = shared.now();
                shared.command(|core, shelf, fx| core.detached(shelf, held, now, fx));
                resource
            }

            /// What is known of the resource.
            pub fn info(&self) -> ResourceInfo {
                self.loan.shared.info(self.loan.held())
            }
        }
    };
}

lease_methods!(impl<M: Manager> Lease<'_, M>);
lease_methods!(impl<M: Manager> OwnedLease<M>);

impl<S: Deref<Target = Shared<M>>, M: Manager> Loan<S, M> {
    #[inline]
    fn new(shared: S, held: Held, taken_at: &'static Location<'static>) -> Self {
        shared.lend(&held, taken_at);
        Self {
            shared,
            held: Some(held),
            resource: PhantomData,
        }
    }

    #[inline]
    fn held(&self) -> &Held {
        self.held.as_ref().expect("bug: a lease used after its end")
    }

    fn end(&mut self) -> Held {
        self.held.take().expect("bug: a lease ended twice")
    }
}

impl<S: Deref<Target = Shared<M>>, M: Manager> Drop for Loan<S, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.put(held);
        }
    }
}

impl<M: Manager> Shared<M> {
    pub(crate) fn info(&self, held: &Held) -> ResourceInfo {
        let stamps = self.table.stamps(held.slot());
        let now = self.now();
        let since = |at: u64| Duration::from_nanos(now.saturating_sub(at));
        ResourceInfo {
            age: since(stamps.born.load(Ordering::Relaxed)),
            since_check: since(stamps.checked.load(Ordering::Relaxed)),
        }
    }
}

impl<M: Manager> Deref for Lease<'_, M> {
    type Target = M::Resource;

    #[inline]
    fn deref(&self) -> &M::Resource {
        self.loan.shared.table.get(self.loan.held())
    }
}

impl<M: Manager> DerefMut for Lease<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Resource {
        let held = self
            .loan
            .held
            .as_mut()
            .expect("bug: a lease used after its end");
        self.loan.shared.table.get_mut(held)
    }
}

impl<M: Manager> Deref for OwnedLease<M> {
    type Target = M::Resource;

    #[inline]
    fn deref(&self) -> &M::Resource {
        self.loan.shared.table.get(self.loan.held())
    }
}

impl<M: Manager> DerefMut for OwnedLease<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Resource {
        let held = self
            .loan
            .held
            .as_mut()
            .expect("bug: a lease used after its end");
        self.loan.shared.table.get_mut(held)
    }
}

impl<M: Manager<Resource: fmt::Debug>> fmt::Debug for Lease<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&**self).finish()
    }
}

impl<M: Manager<Resource: fmt::Debug>> fmt::Debug for OwnedLease<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedLease").field(&**self).finish()
    }
}
