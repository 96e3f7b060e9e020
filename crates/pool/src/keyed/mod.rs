//! A pool for each key, and one bound over all of them.

mod builder;
mod ledger;
mod realm;

pub use builder::KeyedBuilder;

use std::{fmt, future::Future, hash::Hash, panic::Location, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use crate::{
    at_home::AtHome,
    config::Config,
    core::Core,
    error::{BuildError, CloseError, GetError, TryGetError},
    get::Borrow,
    lease::OwnedLease,
    manager::Manager,
    shared::Shared,
    status::{Status, Times, Totals},
    sync::Ordering,
};
use realm::{Allowance, Realm};

/// A pool for each key: resources of one kind that are not interchangeable, such as connections
/// to many hosts. Cloning gives another handle to the same keyed pool; when the last one is
/// dropped it closes, without waiting for what is lent out.
///
/// ```
/// # use std::{convert::Infallible, time::Duration};
/// # struct Dialler(String);
/// # impl wharf::Manager for Dialler {
/// #     type Resource = String;
/// #     type Error = Infallible;
/// #     async fn create(&self) -> Result<String, Infallible> { Ok(self.0.clone()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut per_key = wharf::Config::default();
/// per_key.max_active = 4;
/// let pool = wharf::KeyedPool::builder(|host: &String| Dialler(host.clone()))
///     .per_key(per_key)
///     .max_total(64)
///     .build()?;
///
/// let connection = pool.get(&"a.example".to_owned()).await?;
/// assert_eq!(*connection, "a.example");
/// drop(connection);
///
/// pool.close().await;
/// # Ok(())
/// # }
/// ```
///
/// # Keys
///
/// A key's pool is a [`Pool`](crate::Pool) with all its promises: the settings are
/// [`KeyedBuilder::per_key`], the line of waiters is the key's own. It is made by the first `get`
/// of the key, and two at once get the same one. It vanishes when it is not used any more: no
/// resource, no waiter, no creation under way. What it has counted stays in the [status].
/// Keys know nothing of each other: one whose creations hang or fail, or whose waiters queue up,
/// delays no other, as long as the common bound has room.
///
/// A key in an outage is kept until the pause before the next probe is over, so that the pauses
/// grow and [`OutagePolicy::FailFast`](crate::OutagePolicy::FailFast) works. Then it is probed if
/// somebody waits or has asked since the last attempt, and else it vanishes.
///
/// A key that was used costs about 8 KB with the default `max_active` of 10, not
/// counting its manager and resources, and one sleeping task (measured on two cores; the idle set
/// takes 0.3 KB more for each further core). A key that is gone costs nothing.
///
/// # The bound over all keys
///
/// At most [`KeyedBuilder::max_total`] resources exist over all keys, each counted from before its
/// creation begins until its destruction has ended. Creations that find no room wait for it in the
/// order in which they were needed, over all keys, and hold nothing meanwhile; a waiter takes a
/// resource that comes back to its key all the same, and with the last waiter goes the wish.
///
/// While somebody waits for room, resources are given up for it:
///
/// - Idle ones, the longest idle first, whatever their key; also one that comes back to a key
///   where nobody waits. No more than are needed.
/// - One that comes back to a key where somebody waits stays with the key, so that keys that are
///   in use do not take resources from each other in a circle, with a creation each time;
/// - except for a key that has nothing at all, neither a resource nor a creation under way, and
///   whose oldest waiter asked before the oldest one of the key at hand: the resource is
///   destroyed, and the room goes to that key.
///
/// So no key starves while resources come back anywhere: each either serves somebody who asked
/// earlier, of whom there are finitely many, or makes room. And what a key holds it
/// keeps for as long as it has waiters, and every other key has something. If more keys are in
/// constant use than there is room for, the room goes around among them in the order of arrival,
/// which costs a creation each time: choose `max_total` above the number of keys in constant use.
///
/// What is being destroyed for somebody's sake counts as room to come, for a tenth of a second;
/// if it takes longer, another resource is given up. Resources that came back at the same moment,
/// to the precision of the pool's coarse clock, are equally long idle.
///
/// # Locks and panics
///
/// No lock is held while the manager is made or called. The map looks keys up under a lock of one
/// in 16 parts of it, with `Eq` of the key. A panic there, in `Hash`, in `Clone` or where the
/// manager is made goes to the caller, and leaves everything as it was.
///
/// [status]: KeyedPool::status
pub struct KeyedPool<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    realm: Arc<Realm<K, M>>,
    /// Shared by the handles: the last one to go closes the pool.
    _closing: Arc<CloseOnDrop<K, M>>,
}

impl<K, M> KeyedPool<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    /// A builder. `manager_of` makes the manager of a key's pool. It may be called for nothing,
    /// when two tasks use a key for the first time at once.
    pub fn builder(manager_of: impl Fn(&K) -> M + Send + Sync + 'static) -> KeyedBuilder<K, M> {
        KeyedBuilder::new(manager_of)
    }

    fn new(realm: Arc<Realm<K, M>>) -> Self {
        let closing = Arc::new(CloseOnDrop(Arc::clone(&realm)));
        Self {
            realm,
            _closing: closing,
        }
    }

    /// Borrows a resource of a key: an idle one if there is one, else the next to come back or to
    /// be created, in the order in which callers asked for this key.
    ///
    /// # Errors
    ///
    /// See [`GetError`]. Whatever it is, the caller holds nothing and nothing is pending.
    ///
    /// # Panics
    ///
    /// Panics if there is no tokio runtime: none was there when the keyed pool was built (or it
    /// has shut down since), and the caller is not on one with its timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, as [`Pool::get`](crate::Pool::get) is. A dropped call gives its place in line
    /// to the next, and its place in the wait for room with it.
    #[track_caller]
    pub fn get(
        &self,
        key: &K,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send {
        self.get_limited(key, Allowance::Usual)
    }

    /// Like [`get`](KeyedPool::get), with a timeout of its own in place of `wait_timeout`.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](KeyedPool::get).
    #[track_caller]
    pub fn get_timeout(
        &self,
        key: &K,
        timeout: Duration,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send {
        self.get_limited(key, Allowance::For(timeout))
    }

    /// Like [`get`](KeyedPool::get), with a deadline in place of `wait_timeout`.
    ///
    /// # Errors, panics and cancel safety
    ///
    /// As for [`get`](KeyedPool::get).
    #[track_caller]
    pub fn get_deadline(
        &self,
        key: &K,
        deadline: Instant,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send {
        self.get_limited(key, Allowance::Until(deadline))
    }

    #[track_caller]
    fn get_limited(
        &self,
        key: &K,
        allowance: Allowance,
    ) -> impl Future<Output = Result<OwnedLease<M>, GetError<M::Error>>> + Send {
        self.realm.get(key, allowance, Location::caller())
    }

    /// Borrows an idle resource of a key, or fails at once, as [`Pool::try_get`] does. A key that
    /// is not in use is not made by it.
    ///
    /// # Errors
    ///
    /// See [`TryGetError`].
    ///
    /// [`Pool::try_get`]: crate::Pool::try_get
    #[track_caller]
    pub fn try_get(&self, key: &K) -> Result<OwnedLease<M>, TryGetError> {
        let (shared, held) = self.realm.try_get(key)?;
        Ok(OwnedLease::borrow(shared, held, Location::caller()))
    }

    /// Retires everything created before now, whatever its key: idle resources at once, leased
    /// ones when they come back, those being created when they land.
    pub fn invalidate_all(&self) {
        let (pools, _) = self.realm.pools();
        for shared in &pools {
            shared.invalidate();
        }
    }

    /// Retires everything of a key that was created before now.
    pub fn invalidate_key(&self, key: &K) {
        if let Some(shared) = self.realm.lookup(key) {
            shared.invalidate();
        }
    }

    /// Changes `max_total`. Upwards, waiting creations begin at once. Downwards, surplus resources
    /// are destroyed: idle ones now, the longest idle first, leased ones when they come back,
    /// whatever their key and whoever waits there.
    ///
    /// # Errors
    ///
    /// If `max_total` is 0; nothing has changed then.
    pub fn resize_total(&self, max_total: impl Into<Option<usize>>) -> Result<(), BuildError> {
        self.realm
            .resize(builder::bound("max_total", max_total.into())?);
        Ok(())
    }

    /// Closes the keyed pool and waits until every resource of every key has been destroyed:
    /// newcomers and waiters get `Closed`, idle resources are destroyed now, leased ones when they
    /// come back, those being created when they land. May be called any number of times, also at
    /// once.
    ///
    /// # Cancel safety
    ///
    /// The pool is closed by the call itself; dropping the future only stops the wait.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<K, M> {
        let pools = self.realm.close();
        async move { all_drained(&pools).await }
    }

    /// Closes the keyed pool like [`close`](KeyedPool::close), and waits no longer than `limit`.
    ///
    /// # Errors
    ///
    /// Says what is still out, over all keys. That is destroyed when it comes back all the same.
    ///
    /// # Panics
    ///
    /// Panics if something is still out and there is no runtime to keep the time on: the caller is
    /// on none, and those on which the keys lived have shut down.
    ///
    /// # Cancel safety
    ///
    /// The pool is closed by the call itself; dropping the future only stops the wait.
    pub fn close_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<(), CloseError>> + Send + use<K, M> {
        let pools = self.realm.close();
        async move {
            if pools.iter().all(|shared| *shared.drained.borrow()) {
                return Ok(());
            }
            let wait = async {
                let began = Instant::now();
                let in_time = timeout(limit, all_drained(&pools)).await.is_ok();
                (in_time, began.elapsed())
            };
            let (in_time, waited) = AtHome::new(|| home_of(&pools), wait).await;
            if in_time {
                return Ok(());
            }
            let mut error = CloseError {
                waited,
                leased: 0,
                creating: 0,
                closing: 0,
            };
            for shared in &pools {
                let census = shared.depot.query(Core::census);
                error.leased += census.leased as usize;
                error.creating += census.creating as usize;
                error.closing += census.closing as usize;
            }
            Err(error)
        }
    }

    /// Closes a key and waits until every resource of it has been destroyed. Until then a `get`
    /// of the key is refused with [`GetError::Closed`], so that the key never has more resources
    /// than it may; after that it is like a key that was never used.
    ///
    /// # Cancel safety
    ///
    /// The key is closed by the call itself; dropping the future only stops the wait.
    pub fn close_key(&self, key: &K) -> impl Future<Output = ()> + Send + use<K, M> {
        let shared = self.realm.lookup(key);
        if let Some(shared) = &shared {
            shared.close();
        }
        async move {
            if let Some(shared) = shared {
                shared.drained().await;
            }
        }
    }

    /// Whether the keyed pool is closed, or being closed.
    pub fn is_closed(&self) -> bool {
        self.realm.is_closed()
    }

    /// The keys in use, in no order.
    pub fn keys(&self) -> Vec<K> {
        self.realm.keys()
    }

    /// Whether a key is in use.
    pub fn contains(&self, key: &K) -> bool {
        self.realm.lookup(key).is_some()
    }

    /// The state of a key's pool and its totals, if it is in use. Its `times` are those of all
    /// keys together.
    pub fn key_status(&self, key: &K) -> Option<Status> {
        Some(self.realm.lookup(key)?.status())
    }

    /// The state at this moment, and the totals over all keys, those that are gone included.
    /// Looks at every slot of every key, one key after the other: for a page of figures, not for
    /// every request.
    pub fn status(&self) -> KeyedStatus {
        let (max_total, active, waiting_for_room) = self.realm.balance();
        let (pools, past) = self.realm.pools();
        let mut status = KeyedStatus {
            keys: pools.len(),
            max_total: (max_total < usize::MAX).then_some(max_total),
            active,
            waiting_for_room,
            idle: 0,
            leased: 0,
            upkeep: 0,
            creating: 0,
            closing: 0,
            waiting: 0,
            keys_down: 0,
            is_closed: self.is_closed(),
            totals: past,
            times: Times::of(&self.realm.timings),
        };
        for shared in &pools {
            status.add(shared);
        }
        status
    }

    /// The settings of each key's pool.
    pub fn per_key(&self) -> &Config {
        &self.realm.settings.per_key
    }
}

/// A runtime on which one of them lives.
fn home_of<M: Manager>(pools: &[Arc<Shared<M>>]) -> Option<Handle> {
    let lives = |shared: &&Arc<Shared<M>>| !shared.homeless.load(Ordering::Acquire);
    pools.iter().find(lives)?.home()
}

async fn all_drained<M: Manager>(pools: &[Arc<Shared<M>>]) {
    join_all(pools.iter().map(|shared| shared.drained())).await;
}

/// The state of a keyed pool, and its totals. Each key's numbers belong together; those of
/// different keys are taken one after the other.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyedStatus {
    /// Keys in use.
    pub keys: usize,
    /// The bound over all keys in force.
    pub max_total: Option<usize>,
    /// What counts towards it. Never more, except while the surplus of a downward
    /// [`resize_total`](KeyedPool::resize_total) has not come back.
    pub active: usize,
    /// Creations that wait for room.
    pub waiting_for_room: usize,
    /// Resources nobody uses.
    pub idle: usize,
    /// Resources lent out, or being looked at or checked on their way out.
    pub leased: usize,
    /// Idle resources that upkeep is checking.
    pub upkeep: usize,
    /// Creations under way.
    pub creating: usize,
    /// Destructions under way.
    pub closing: usize,
    /// Callers in line.
    pub waiting: usize,
    /// Keys in an outage.
    pub keys_down: usize,
    /// Whether the keyed pool is closed.
    pub is_closed: bool,
    /// Totals since the keyed pool was built.
    pub totals: Totals,
    /// How long things took since the keyed pool was built, over all keys.
    pub times: Times,
}

impl KeyedStatus {
    fn add<M: Manager>(&mut self, shared: &Shared<M>) {
        let (census, counters) = shared
            .depot
            .query(|core, shelf| (core.census(shelf), core.counters()));
        self.idle += census.idle as usize;
        self.leased += census.leased as usize;
        self.upkeep += census.reserved as usize;
        self.creating += census.creating as usize;
        self.closing += census.closing as usize;
        self.waiting += census.waiting;
        self.keys_down += usize::from(census.down);
        self.totals.add(&shared.totals(counters));
    }
}

impl<K, M> Clone for KeyedPool<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    fn clone(&self) -> Self {
        Self {
            realm: Arc::clone(&self.realm),
            _closing: Arc::clone(&self._closing),
        }
    }
}

impl<K, M> fmt::Debug for KeyedPool<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (max_total, active, waiting_for_room) = self.realm.balance();
        f.debug_struct("KeyedPool")
            .field("keys", &self.realm.len())
            .field("max_total", &(max_total < usize::MAX).then_some(max_total))
            .field("active", &active)
            .field("waiting_for_room", &waiting_for_room)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

struct CloseOnDrop<K, M>(Arc<Realm<K, M>>)
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager;

impl<K, M> Drop for CloseOnDrop<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    fn drop(&mut self) {
        drop(self.0.close());
    }
}
