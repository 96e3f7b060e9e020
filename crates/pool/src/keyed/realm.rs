//! The map from keys to pools, and the hands of the ledger.
//!
//! A key's pool closes by itself in the same step in which it is found unused (`core::share`), and
//! only then leaves the map. So a `get` that has found it in the map either is in time, and the
//! pool stays, or finds it closed, and goes back to the map for a fresh one.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    panic::Location,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::ledger::{Claim, Deed, GRACE, Id, Ledger, Spare};
use crate::{
    caught::caught,
    config::Config,
    core::{Arrival, Report},
    error::{GetError, TryGetError},
    get::{Borrow, GetResult, Limit},
    host::Host,
    lease::OwnedLease,
    manager::Manager,
    observer::{Event, Observer},
    shared::{Shared, shards},
    slots::Held,
    status::Totals,
    sync::AtomicU64,
    timings::TimingShards,
};

/// More than threads that look up keys at once, so that they rarely meet.
const SHARDS: usize = 16;

/// A table smaller than this is not worth shrinking.
const SMALL: usize = 64;

pub(super) struct Realm<K, M: Manager> {
    pub(super) settings: Settings<K, M>,
    hasher: RandomState,
    /// Under these locks runs `Eq` of keys and nothing else of the user's. A panic in it leaves
    /// the table as it was.
    shards: Box<[Shard<K, M>]>,
    /// Keys in the map, which is where `max_keys` is kept.
    keys: AtomicUsize,
    next_id: AtomicU64,
    closed: AtomicBool,
    /// Counts the waiters of all keys in the order in which they come.
    arrivals: Arc<AtomicU64>,
    pub(super) timings: TimingShards,
    /// Nothing else is locked while it is held.
    ledger: Mutex<Ledger<Arc<Shared<M>>>>,
    /// What the pools that are gone have counted. A pool leaves the map under this lock.
    past: Mutex<Totals>,
    this: Weak<Self>,
}

pub(super) struct Settings<K, M: Manager> {
    pub(super) manager_of: Box<dyn Fn(&K) -> M + Send + Sync>,
    pub(super) per_key: Config,
    pub(super) max_total: usize,
    pub(super) max_keys: usize,
    pub(super) name: String,
    pub(super) runtime: Option<Handle>,
    pub(super) observers: Vec<Arc<KeyedObserver<K>>>,
}

pub(super) type KeyedObserver<K> = dyn Fn(&K, &Event<'_>) + Send + Sync;

/// How long a `get` may take, whichever pool it ends in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allowance {
    /// `wait_timeout`.
    Usual,
    For(Duration),
    Until(Instant),
}

impl Allowance {
    fn of<M: Manager>(self, shared: &Shared<M>) -> Limit {
        match self {
            Allowance::Usual => Limit::usual(),
            Allowance::For(timeout) => Limit::timeout(timeout),
            Allowance::Until(deadline) => Limit::until(shared.moment(deadline)),
        }
    }

    /// What is left of it for a `get` that began at this moment, and has to begin again.
    fn since(self, began: Instant, usual: Option<Duration>) -> Self {
        let timeout = match self {
            Allowance::Usual => usual,
            Allowance::For(timeout) => Some(timeout),
            Allowance::Until(_) => None,
        };
        let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
        deadline.map_or(self, Allowance::Until)
    }
}

type Shard<K, M> = CachePadded<RwLock<HashTable<Entry<K, M>>>>;

struct Entry<K, M: Manager> {
    berth: Arc<Berth<K, M>>,
    shared: Arc<Shared<M>>,
}

impl<K, M: Manager> Clone for Entry<K, M> {
    fn clone(&self) -> Self {
        Self {
            berth: Arc::clone(&self.berth),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A key's place in the realm.
struct Berth<K, M: Manager> {
    realm: Weak<Realm<K, M>>,
    id: Id,
    hash: u64,
    key: K,
}

impl<K, M> Realm<K, M>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    pub(super) fn new(settings: Settings<K, M>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            keys: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            arrivals: Arc::new(AtomicU64::new(0)),
            timings: TimingShards::new(shards()),
            ledger: Mutex::new(Ledger::new(settings.max_total)),
            past: Mutex::default(),
            this: Weak::clone(this),
            settings,
        })
    }

    // --- Leases --------------------------------------------------------------------------------

    pub(super) async fn get(
        &self,
        key: &K,
        mut allowance: Allowance,
        taken_at: &'static Location<'static>,
    ) -> GetResult<OwnedLease<M>> {
        let hash = self.hasher.hash_one(key);
        loop {
            let shared = match self.find(hash, key) {
                Some(shared) => shared,
                None => self.open(hash, key)?,
            };
            if let Some(held) = shared.checkout_quickly() {
                return Ok(OwnedLease::borrow(shared, held, taken_at));
            }
            let began = Instant::now();
            let limit = allowance.of(&shared);
            let _unwinding = Unwinding(&shared);
            match OwnedLease::get(Arc::clone(&shared), limit, taken_at).await {
                Err(GetError::Closed) if self.is_stale(&shared) => {
                    self.remove(hash, |entry| Arc::ptr_eq(&entry.shared, &shared));
                    allowance = allowance.since(began, self.settings.per_key.wait_timeout);
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) fn try_get(&self, key: &K) -> Result<(Arc<Shared<M>>, Held), TryGetError> {
        let missing = || match self.is_closed() {
            true => TryGetError::Closed,
            false => TryGetError::Exhausted,
        };
        let shared = self.lookup(key).ok_or_else(missing)?;
        match shared.try_get() {
            Ok(held) => Ok((shared, held)),
            Err(TryGetError::Closed) if self.is_stale(&shared) => Err(TryGetError::Exhausted),
            Err(error) => Err(error),
        }
    }

    pub(super) fn lookup(&self, key: &K) -> Option<Arc<Shared<M>>> {
        self.find(self.hasher.hash_one(key), key)
    }

    /// The pool vanished just when it was found: there is a fresh one to be had.
    fn is_stale(&self, shared: &Shared<M>) -> bool {
        !self.is_closed() && shared.depot.query(|core, _| core.has_vanished())
    }

    // --- The map -------------------------------------------------------------------------------

    fn find(&self, hash: u64, key: &K) -> Option<Arc<Shared<M>>> {
        let shard = self.shard(hash).read();
        let shard = shard.unwrap_or_else(PoisonError::into_inner);
        let entry = shard.find(hash, |entry| entry.berth.key == *key)?;
        Some(Arc::clone(&entry.shared))
    }

    /// Makes the pool of a key, unless somebody else has just done so. The user's code runs
    /// before the lock is taken, and what was made for nothing is dropped after it.
    #[cold]
    fn open(&self, hash: u64, key: &K) -> Result<Arc<Shared<M>>, GetError<M::Error>> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let keys = self.len();
        if keys >= self.settings.max_keys {
            // This one may have been made since it was looked for.
            let made = self.find(hash, key);
            return made.ok_or(GetError::TooManyKeys { keys });
        }
        let runtime = self.settings.runtime.clone();
        let runtime = runtime.unwrap_or_else(Handle::current);
        let fresh = self.make(hash, key, runtime);
        let mut shard = self.write(hash);
        if let Some(entry) = shard.find(hash, |entry| entry.berth.key == *key) {
            return Ok(Arc::clone(&entry.shared));
        }
        // `close` looks into every shard after it has set this.
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        self.count_key()?;
        let shared = Arc::clone(&fresh.shared);
        self.ledger().open(fresh.berth.id, Arc::clone(&shared));
        shard.insert_unique(hash, fresh, |entry| entry.berth.hash);
        Ok(shared)
    }

    fn make(&self, hash: u64, key: &K, runtime: Handle) -> Entry<K, M> {
        let settings = &self.settings;
        let berth = Arc::new(Berth {
            realm: Weak::clone(&self.this),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            hash,
            key: key.clone(),
        });
        let mut observers = crate::telemetry::observers(&settings.name);
        for observer in &settings.observers {
            let (observer, berth) = (Arc::clone(observer), Arc::clone(&berth));
            observers.push(
                Box::new(move |event: &Event<'_>| observer(&berth.key, event)) as Box<dyn Observer>,
            );
        }
        let shared = Shared::new(
            settings.name.clone(),
            (settings.manager_of)(key),
            settings.per_key.clone(),
            Some(runtime),
            observers,
            Some(Box::new(Arc::clone(&berth))),
        );
        Entry { berth, shared }
    }

    fn count_key(&self) -> Result<(), GetError<M::Error>> {
        let keys = self
            .keys
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| {
                (keys < self.settings.max_keys).then_some(keys + 1)
            });
        match keys {
            Ok(_) => Ok(()),
            Err(keys) => Err(GetError::TooManyKeys { keys }),
        }
    }

    /// Takes a pool that is closed and empty out of the map, unless somebody was faster.
    fn remove(&self, hash: u64, is: impl Fn(&Entry<K, M>) -> bool) {
        let removed = {
            let mut past = self.past();
            let mut shard = self.write(hash);
            let removed = shard
                .find_entry(hash, is)
                .ok()
                .map(|found| found.remove().0);
            if shard.capacity() > SMALL && shard.len() < shard.capacity() / 4 {
                let room = shard.len() * 2;
                shard.shrink_to(room, |entry| entry.berth.hash);
            }
            drop(shard);
            if let Some(entry) = &removed {
                self.keys.fetch_sub(1, Ordering::Relaxed);
                let counters = entry.shared.depot.query(|core, _| core.counters());
                past.add(&entry.shared.totals(counters));
            }
            removed
        };
        if let Some(entry) = &removed {
            let account = self.ledger().close(entry.berth.id);
            drop(account);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closes every key's pool, and refuses to make more.
    pub(super) fn close(&self) -> Vec<Arc<Shared<M>>> {
        self.closed.store(true, Ordering::SeqCst);
        let (pools, _) = self.pools();
        for shared in &pools {
            shared.close();
        }
        pools
    }

    /// All pools, and what those that are gone have counted.
    pub(super) fn pools(&self) -> (Vec<Arc<Shared<M>>>, Totals) {
        let past = self.past();
        let pools = self.collect(|entry| Arc::clone(&entry.shared));
        (pools, *past)
    }

    pub(super) fn keys(&self) -> Vec<K> {
        // Cloned without a lock: that is the user's code.
        let berths = self.collect(|entry| Arc::clone(&entry.berth));
        berths.iter().map(|berth| berth.key.clone()).collect()
    }

    fn collect<T>(&self, part: impl Fn(&Entry<K, M>) -> T) -> Vec<T> {
        let mut parts = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            parts.extend(shard.iter().map(&part));
        }
        parts
    }

    pub(super) fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    fn shard(&self, hash: u64) -> &Shard<K, M> {
        // Bits from the middle: the table itself uses the ends.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, HashTable<Entry<K, M>>> {
        let shard = self.shard(hash).write();
        shard.unwrap_or_else(PoisonError::into_inner)
    }

    fn past(&self) -> MutexGuard<'_, Totals> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- The bound over all keys ---------------------------------------------------------------

    pub(super) fn resize(&self, total: usize) {
        self.ledger().resize(total);
        self.tend();
    }

    /// The bound, what counts towards it, and how many creations wait for it.
    pub(super) fn balance(&self) -> (usize, usize, usize) {
        let ledger = self.ledger();
        (ledger.total(), ledger.taken(), ledger.waiting())
    }

    /// Carries out what the ledger decides. One thread at a time does so for all, and what its
    /// deeds lead to is done in the same loop: a chain of grants does not become a recursion.
    fn tend(&self) {
        if !self.ledger().begin_tending() {
            return;
        }
        let mut tending = Tending {
            ledger: &self.ledger,
            over: false,
        };
        while let Some(deed) = self.next_deed() {
            self.carry_out(&deed);
            // It may have the last handle to a pool, whose manager and key go with it.
            let _ = caught(|| drop(deed));
        }
        tending.over = true;
    }

    fn next_deed(&self) -> Option<Deed<Arc<Shared<M>>>> {
        self.ledger().next_deed(Instant::now(), spares_of)
    }

    fn carry_out(&self, deed: &Deed<Arc<Shared<M>>>) {
        match deed {
            Deed::Grant(shared) => {
                let now = shared.now();
                shared.command(|core, shelf, fx| core.granted(shelf, now, fx));
            }
            Deed::Press(shared) => press(shared, true),
            Deed::Evict(shared, id, spare) => {
                if !shared.evict(spare.slot, spare.returned) {
                    self.ledger().missed(*id);
                }
            }
            Deed::Watch(shared) => shared.spawn(watch(Watch(Weak::clone(&self.this)))),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<Shared<M>>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, M> Host for Arc<Berth<K, M>>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    fn arrivals(&self) -> Arc<AtomicU64> {
        let realm = self.realm.upgrade();
        realm.map_or_else(Arc::default, |realm| Arc::clone(&realm.arrivals))
    }

    fn timings(&self) -> TimingShards {
        let realm = self.realm.upgrade();
        realm.map_or_else(|| TimingShards::new(1), |realm| realm.timings.clone())
    }

    fn report(&self, report: Report) {
        let Some(realm) = self.realm.upgrade() else {
            return;
        };
        realm.ledger().report(self.id, report);
        realm.tend();
    }

    fn spare(&self) {
        if let Some(realm) = self.realm.upgrade() {
            realm.ledger().spare(self.id, spares_of);
            realm.tend();
        }
    }

    fn claims(&self, oldest: Option<Arrival>) -> bool {
        let Some(realm) = self.realm.upgrade() else {
            return false;
        };
        let claim = realm.ledger().claim(self.id, oldest, Instant::now());
        match claim {
            Claim::None => false,
            Claim::Claimed => true,
            Claim::Over(shared) => {
                press(&shared, false);
                // If it was pressed again in between, that has just been undone.
                let calm = realm.ledger().calm_down(self.id);
                if !calm {
                    press(&shared, true);
                }
                false
            }
        }
    }

    fn drained(&self) {
        if let Some(realm) = self.realm.upgrade() {
            realm.remove(self.hash, |entry| entry.berth.id == self.id);
        }
    }
}

/// What is idle in a pool, and since when, to the precision of its coarse clock. Looks at atomics
/// only, so that the ledger may ask under its lock.
fn spares_of<M: Manager>(shared: &Arc<Shared<M>>, each: &mut dyn FnMut(Instant, Spare)) {
    let idle = &shared.depot.shelf.idle;
    if idle.len() == 0 {
        return;
    }
    for slot in 0..shared.slots.load(Ordering::Acquire) {
        let returned = shared.table.stamps(slot).returned.load(Ordering::Relaxed);
        if idle.contains(slot)
            && let Some(since) = shared.instant(returned)
        {
            each(since, Spare { slot, returned });
        }
    }
}

fn press<M: Manager>(shared: &Shared<M>, pressed: bool) {
    let now = shared.now();
    shared.command(|core, shelf, fx| core.press(shelf, pressed, now, fx));
}

/// Lets another thread tend if this one panics. Otherwise it ends under the lock, together with
/// the look that found nothing more to do.
struct Tending<'a, H: Clone> {
    ledger: &'a Mutex<Ledger<H>>,
    over: bool,
}

impl<H: Clone> Drop for Tending<'_, H> {
    fn drop(&mut self) {
        if !self.over {
            let ledger = self.ledger.lock();
            ledger.unwrap_or_else(PoisonError::into_inner).end_tending();
        }
    }
}

/// Takes the pool of a key along if its first `get` panics before it is in line (for want of a
/// runtime, or in the user's waker): nobody has used it, so that nobody would find it unused.
struct Unwinding<'a, M: Manager>(&'a Shared<M>);

impl<M: Manager> Drop for Unwinding<'_, M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let now = self.0.now();
            self.0.command(|core, shelf, fx| {
                // As if it had come, and left again.
                core.arrive();
                core.look_again(shelf, now, fx);
            });
        }
    }
}

/// The place of the one who watches. If its runtime drops it, somebody else must.
struct Watch<K, M: Manager>(Weak<Realm<K, M>>);

impl<K, M: Manager> Drop for Watch<K, M> {
    fn drop(&mut self) {
        if let Some(realm) = self.0.upgrade() {
            let ledger = realm.ledger.lock();
            ledger.unwrap_or_else(PoisonError::into_inner).watch_again();
        }
    }
}

/// Looks again when what is coming has not come in time.
async fn watch<K, M>(mut watch: Watch<K, M>)
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    M: Manager,
{
    loop {
        sleep(GRACE).await;
        let Some(realm) = watch.0.upgrade() else {
            return;
        };
        let over = realm.ledger().is_watch_over(Instant::now());
        realm.tend();
        if over {
            // Its place may have been taken since.
            watch.0 = Weak::new();
            return;
        }
    }
}

#[cfg(all(test, not(wharf_loom)))]
mod tests {
    use super::*;

    /// The wait clock is not wound up again for a `get` that has to begin again.
    #[test]
    fn what_is_left_of_an_allowance_ends_when_the_whole_would_have_ended() {
        let began = Instant::now();
        let (usual, own) = (Duration::from_secs(30), Duration::from_secs(5));
        let ends = |allowance: Allowance, usual| match allowance.since(began, usual) {
            Allowance::Until(deadline) => Some(deadline - began),
            Allowance::Usual | Allowance::For(_) => None,
        };
        assert_eq!(ends(Allowance::Usual, Some(usual)), Some(usual));
        assert_eq!(ends(Allowance::Usual, None), None);
        assert_eq!(ends(Allowance::For(own), Some(usual)), Some(own));
        assert_eq!(ends(Allowance::For(Duration::MAX), Some(usual)), None);
        assert_eq!(ends(Allowance::Until(began + own), Some(usual)), Some(own));
    }
}
