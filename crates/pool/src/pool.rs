//! The pool: the face that users see.

use std::{
    fmt,
    future::Future,
    panic::{Location, resume_unwind},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use crate::{
    at_home::AtHome,
    config::{self, Config},
    core::{Core, Counters, Retirement, flag},
    error::{AddError, BuildError, CloseError, GetError, TryGetError},
    get::{Borrow, Get, Limit},
    lease::{Lease, OwnedLease, ResourceInfo},
    manager::Manager,
    observer::Event,
    shared::{Checkout, Shared},
    slots::{Held, MAX_LEN},
    status::{Status, Times, Totals},
    sync::Ordering,
};

/// A pool of resources. Cloning gives another handle to the same pool; when the last handle is
/// dropped the pool closes, without waiting for what is lent out.
///
/// ```
/// # use std::{convert::Infallible, time::Duration};
/// # struct Buffers;
/// # impl wharf::Manager for Buffers {
/// #     type Resource = Vec<u8>;
/// #     type Error = Infallible;
/// #     async fn create(&self) -> Result<Vec<u8>, Infallible> { Ok(Vec::new()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = wharf::Pool::builder(Buffers)
///     .max_active(4)
///     .wait_timeout(Duration::from_secs(5))
///     .build()?;
///
/// let mut buffer = pool.get().await?;
/// buffer.extend_from_slice(b"lent, and back at the end of the scope");
/// drop(buffer);
///
/// pool.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Pool<M: Manager> {
    shared: Arc<Shared<M>>,
    /// Shared by the handles: the last one to go closes the pool.
    _closing: Arc<CloseOnDrop<M>>,
}

impl<M: Manager> Pool<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Self {
        let closing = Arc::new(CloseOnDrop(Arc::clone(&shared)));
        Self {
            shared,
            _closing: closing,
        }
    }

    /// Borrows a resource: an idle one if there is one, else the next to come back or to be
    /// created, in the order in which callers asked.
    ///
    /// # Errors
    ///
    /// See [`GetError`]. Whatever it is, the caller holds nothing and nothing is pending.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait and there is no tokio runtime: none was there when the pool was
    /// built (or it has shut down since), and the caller is not on one with its timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. A dropped call loses no resource, and its place in line goes to the next. If
    /// it is dropped during a check of a resource, that resource is destroyed, for its state is
    /// unknown then.
    #[track_caller]
    #[inline]
    pub fn get(&self) -> impl Future<Output = Result<Lease<'_, M>, GetError<M::Error>>> + Send {
        self.get_limited(Limit::usual())
    }

    /// Like [`get`](Pool::get), with a timeout of its own in place of `wait_timeout`. With a
    /// timeout of zero it takes an idle resource or fails; a resource whose check is due is then
    /// checked in the background, as by [`try_get`](Pool::try_get).
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](Pool::get).
    #[track_caller]
    pub fn get_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Lease<'_, M>, GetError<M::Error>>> + Send {
        self.get_limited(Limit::timeout(timeout))
    }

    /// Like [`get`](Pool::get), with a deadline on tokio's clock in place of `wait_timeout`.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](Pool::get).
    #[track_caller]
    pub fn get_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Lease<'_, M>, GetError<M::Error>>> + Send {
        self.get_limited(Limit::until(self.shared.moment(deadline)))
    }

    #[track_caller]
    #[inline]
    fn get_limited(
        &self,
        limit: Limit,
    ) -> impl Future<Output = Result<Lease<'_, M>, GetError<M::Error>>> + Send {
        let caller = Location::caller();
        Get::new(
            &*self.shared,
            caller,
            limit,
            move |shared: &Shared<M>, detour| async move {
                let held = shared.get_slowly(detour).await?;
                Ok(Lease::borrow(shared, held, caller))
            },
        )
    }

    /// Like [`get`](Pool::get), for a lease that does not borrow the pool.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](Pool::get).
    #[track_caller]
    pub fn get_owned(
        &self,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send + use<M> {
        self.get_owned_limited(Limit::usual())
    }

    /// Like [`get_timeout`](Pool::get_timeout), for a lease that does not borrow the pool.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](Pool::get).
    #[track_caller]
    pub fn get_owned_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send + use<M> {
        self.get_owned_limited(Limit::timeout(timeout))
    }

    /// Like [`get_deadline`](Pool::get_deadline), for a lease that does not borrow the pool.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](Pool::get).
    #[track_caller]
    pub fn get_owned_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send + use<M> {
        self.get_owned_limited(Limit::until(self.shared.moment(deadline)))
    }

    #[track_caller]
    fn get_owned_limited(
        &self,
        limit: Limit,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send + use<M> {
        OwnedLease::get(Arc::clone(&self.shared), limit, Location::caller())
    }

    /// Borrows an idle resource, or fails at once: it never waits, never starts to wait, and
    /// never overtakes those who do. It creates nothing.
    ///
    /// A resource whose check is due is not lent. It is checked in the background and lent to a
    /// later call; a check that is over at the first poll costs the caller nothing.
    ///
    /// # Errors
    ///
    /// See [`TryGetError`].
    #[track_caller]
    pub fn try_get(&self) -> Result<Lease<'_, M>, TryGetError> {
        let held = self.shared.try_get()?;
        Ok(Lease::borrow(&*self.shared, held, Location::caller()))
    }

    /// Like [`try_get`](Pool::try_get), for a lease that does not borrow the pool.
    ///
    /// # Errors
    ///
    /// See [`TryGetError`].
    #[track_caller]
    pub fn try_get_owned(&self) -> Result<OwnedLease<M>, TryGetError> {
        let held = self.shared.try_get()?;
        Ok(OwnedLease::borrow(
            Arc::clone(&self.shared),
            held,
            Location::caller(),
        ))
    }

    /// Gives a resource back. The same as dropping the lease, for those who like to say so.
    pub fn put(&self, lease: Lease<'_, M>) {
        drop(lease);
    }

    /// Adds a resource that was made outside, as if the manager had created it now: the oldest
    /// waiter gets it, if there is one.
    ///
    /// # Errors
    ///
    /// Gives the resource back if the pool is full or closed.
    pub fn add(&self, resource: M::Resource) -> Result<(), AddError<M::Resource>> {
        self.shared.settle_in_if_possible();
        let Some((mut held, generation)) = self.shared.command(|core, _, _| core.adopt()) else {
            return Err(if self.is_closed() {
                AddError::Closed(resource)
            } else {
                AddError::Full(resource)
            });
        };
        self.shared.bear(&mut held, resource, generation);
        self.shared.shelve(held);
        Ok(())
    }

    /// Keeps only the idle resources for which `keep` says true, destroys the others, and returns
    /// how many those are. Leased resources are not looked at.
    ///
    /// Each resource is out of circulation while it is looked at: a `get` that comes meanwhile waits
    /// for it rather than misses it. The pool is not locked.
    ///
    /// # Panics
    ///
    /// If `keep` panics, the resource at hand is destroyed and the panic goes on to the caller.
    pub fn retain(&self, mut keep: impl FnMut(&M::Resource, ResourceInfo) -> bool) -> usize {
        let shared = &self.shared;
        let mut removed = 0;
        for slot in 0..shared.slots.load(Ordering::Acquire) {
            let Some(held) = shared.depot.shelf.idle.take_this(slot) else {
                continue;
            };
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                keep(shared.table.get(&held), shared.info(&held))
            }));
            match looked {
                Ok(true) => shared.shelve(held),
                Ok(false) => {
                    shared.retire(held, Retirement::Removed);
                    removed += 1;
                }
                Err(panic) => {
                    shared.retire(held, Retirement::Panicked);
                    resume_unwind(panic);
                }
            }
        }
        removed
    }

    /// Retires everything created before now: idle resources at once, leased ones when they come
    /// back, those being created when they land.
    pub fn invalidate_all(&self) {
        self.shared.invalidate();
    }

    /// Changes `max_active`. Upwards, waiters are served at once. Downwards, surplus resources
    /// are destroyed: idle ones now, leased ones when they come back, before anybody is served.
    ///
    /// # Errors
    ///
    /// If `max_active` is out of bounds (see [`Config::max_active`]); nothing has changed then.
    pub fn resize(&self, max_active: usize) -> Result<(), BuildError> {
        config::within("max_active", max_active, 1, MAX_LEN as usize)?;
        let shared = &self.shared;
        let alone = shared
            .resizing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (slots, wanted) = (shared.slots.load(Ordering::Acquire), max_active as u32);
        shared.depot.shelf.idle.grow(wanted.max(slots));
        let minted = shared.table.grow(slots, wanted.max(slots));
        shared.slots.store(wanted.max(slots), Ordering::Release);
        let now = shared.now();
        let ((), mut effects) = shared
            .depot
            .command(|core, shelf, fx| core.resize(shelf, wanted, minted, now, fx));
        // What follows runs the user's code, which may resize the pool as well.
        drop(alone);
        effects.carry_out(|effect| shared.carry_out(effect));
        Ok(())
    }

    /// Closes the pool and waits until every resource has been destroyed: newcomers and waiters
    /// get `Closed`, idle resources are destroyed now, leased ones when they come back, those
    /// being created when they land. May be called any number of times, also at once.
    ///
    /// It waits for ever for a lease that its own caller holds, or if one of the manager's methods
    /// waits for it; [`close_within`](Pool::close_within) does not.
    ///
    /// # Cancel safety
    ///
    /// The pool is closed by the call itself; dropping the future only stops the wait.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<M> {
        self.shared.close();
        let shared = Arc::clone(&self.shared);
        async move { shared.drained().await }
    }

    /// Closes the pool like [`close`](Pool::close), and waits no longer than `limit`.
    ///
    /// # Errors
    ///
    /// Says what is still out. That is destroyed when it comes back all the same.
    ///
    /// # Cancel safety
    ///
    /// The pool is closed by the call itself; dropping the future only stops the wait.
    pub fn close_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<(), CloseError>> + Send + use<M> {
        let closed = self.close();
        let shared = Arc::clone(&self.shared);
        async move {
            let began = shared.now();
            let wait = async { timeout(limit, closed).await };
            if AtHome::new(|| shared.home(), wait).await.is_ok() {
                return Ok(());
            }
            let census = shared.depot.query(Core::census);
            Err(CloseError {
                waited: Duration::from_nanos(shared.now().saturating_sub(began)),
                leased: census.leased as usize,
                creating: census.creating as usize,
                closing: census.closing as usize,
            })
        }
    }

    /// Whether the pool is closed, or being closed.
    pub fn is_closed(&self) -> bool {
        self.shared.depot.shelf.gate.look().has(flag::CLOSED)
    }

    /// The state of the pool at this moment, and its running totals. Takes the pool's lock for a
    /// moment and looks at every slot: for a page of figures, not for every request.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// What the pool was built with. `max_active` may have been changed since by
    /// [`resize`](Pool::resize); [`status`](Pool::status) has the bound in force.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The manager.
    pub fn manager(&self) -> &M {
        &self.shared.manager
    }
}

impl<M: Manager> Shared<M> {
    pub(crate) fn try_get(&self) -> Result<Held, TryGetError> {
        loop {
            let before = self.depot.shelf.gate.look();
            match self.checkout() {
                Checkout::Fit(held) => return Ok(held),
                Checkout::Due(held) => match self.check_apart(held) {
                    Some(held) => return Ok(held),
                    None => continue,
                },
                Checkout::Nothing => {}
            }
            let look = self.depot.shelf.gate.look();
            if look.has(flag::CLOSED) {
                return Err(TryGetError::Closed);
            }
            if !look.is_drowsy_only() && !before.is_drowsy_only() {
                return Err(TryGetError::Exhausted);
            }
            // Nothing bars the way but the clock, which the core sets going.
            let now = self.now();
            self.command(|core, shelf, fx| core.look_again(shelf, now, fx));
        }
    }

    pub(crate) fn close(&self) {
        self.settle_in_if_possible();
        let now = self.now();
        let first = self.command(|core, shelf, fx| core.close(shelf, now, fx));
        if first {
            self.emit(&Event::Closed);
        }
    }

    pub(crate) fn invalidate(&self) {
        let now = self.now();
        self.command(|core, shelf, fx| core.invalidate(shelf, now, fx));
    }

    pub(crate) async fn drained(&self) {
        let mut drained = self.drained.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = drained.wait_for(|drained| *drained).await;
    }

    pub(crate) fn status(&self) -> Status {
        let (census, counters) = self
            .depot
            .query(|core, shelf| (core.census(shelf), core.counters()));
        Status {
            max_active: census.max_active as usize,
            idle: census.idle as usize,
            leased: census.leased as usize,
            upkeep: census.reserved as usize,
            creating: census.creating as usize,
            closing: census.closing as usize,
            waiting: census.waiting,
            is_down: census.down,
            is_closed: census.closed,
            totals: self.totals(counters),
            times: Times::of(&self.timings),
        }
    }

    pub(crate) fn totals(&self, counters: Counters) -> Totals {
        let slots = self.slots.load(Ordering::Acquire);
        let leases = (0..slots)
            .map(|slot| self.table.stamps(slot).leases.load(Ordering::Relaxed))
            .sum();
        Totals {
            leases,
            waits_served: counters.waits_served,
            waits_timed_out: counters.waits_timed_out,
            waits_cancelled: counters.waits_cancelled,
            waits_refused: counters.waits_refused,
            waits_closed: counters.waits_closed,
            overloaded: counters.overloaded,
            shed: counters.shed,
            created: counters.created,
            added: counters.adopted,
            create_failed: counters.create_failed,
            create_abandoned: counters.create_abandoned,
            retired: counters.retired,
            detached: counters.detached,
            outages: counters.outages,
        }
    }
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            _closing: Arc::clone(&self._closing),
        }
    }
}

impl<M: Manager> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        f.debug_struct("Pool")
            .field("max_active", &status.max_active)
            .field("idle", &status.idle)
            .field("leased", &status.leased)
            .field("creating", &status.creating)
            .field("waiting", &status.waiting)
            .field("is_down", &status.is_down)
            .field("is_closed", &status.is_closed)
            .finish_non_exhaustive()
    }
}

struct CloseOnDrop<M: Manager>(Arc<Shared<M>>);

impl<M: Manager> Drop for CloseOnDrop<M> {
    fn drop(&mut self) {
        self.0.close();
    }
}
