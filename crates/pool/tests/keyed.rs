//! `KeyedPool`: a pool for each key, and one bound over all of them (promise 14).

mod common;

use std::{
    collections::HashMap,
    future::Future,
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use common::{
    Bell, Fault, Gate, Recorder, Step, Widget, Works, eventually, pass, poll, poll_with, settle,
};
use static_assertions::assert_impl_all;
use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use wharf::{
    Backoff, Config, GetError, KeyedBuilder, KeyedPool, KeyedStatus, Manager, Observer,
    OutagePolicy, OwnedLease, Stage, TryGetError,
};

type Keyed = KeyedPool<u32, Dock>;

/// Works for each key, and a count over all of them.
#[derive(Debug, Clone, Default)]
struct Harbour {
    works: Arc<Mutex<HashMap<u32, Works>>>,
    tally: Arc<Tally>,
    managers: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Tally {
    existing: AtomicUsize,
    most: AtomicUsize,
}

/// The manager of one key. The count begins before its works do, and ends after them.
#[derive(Debug)]
struct Dock {
    works: Works,
    tally: Arc<Tally>,
    managers: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Boat {
    widget: Widget,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Arc<Tally>);

impl Harbour {
    fn new() -> Self {
        Self::default()
    }

    fn builder(&self) -> KeyedBuilder<u32, Dock> {
        let harbour = self.clone();
        KeyedPool::builder(move |key: &u32| harbour.dock(*key)).per_key(per_key(8))
    }

    fn works(&self, key: u32) -> Works {
        self.works.lock().unwrap().entry(key).or_default().clone()
    }

    fn dock(&self, key: u32) -> Dock {
        self.managers.fetch_add(1, SeqCst);
        Dock {
            works: self.works(key),
            tally: Arc::clone(&self.tally),
            managers: Arc::clone(&self.managers),
        }
    }

    /// Boats that are being created, exist or are being destroyed, over all keys.
    fn existing(&self) -> usize {
        self.tally.existing.load(SeqCst)
    }

    fn most(&self) -> usize {
        self.tally.most.load(SeqCst)
    }

    /// Managers that exist.
    fn managers(&self) -> usize {
        self.managers.load(SeqCst)
    }
}

impl Drop for Dock {
    fn drop(&mut self) {
        self.managers.fetch_sub(1, SeqCst);
    }
}

impl Counted {
    fn new(tally: &Arc<Tally>) -> Self {
        let existing = tally.existing.fetch_add(1, SeqCst) + 1;
        tally.most.fetch_max(existing, SeqCst);
        Self(Arc::clone(tally))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.existing.fetch_sub(1, SeqCst);
    }
}

impl Manager for Dock {
    type Resource = Boat;
    type Error = Fault;

    async fn create(&self) -> Result<Boat, Fault> {
        let counted = Counted::new(&self.tally);
        let widget = self.works.create().await?;
        Ok(Boat {
            widget,
            _counted: counted,
        })
    }

    async fn check(&self, boat: &mut Boat) -> Result<(), Fault> {
        self.works.check(&mut boat.widget).await
    }

    async fn destroy(&self, boat: Boat) {
        let Boat { widget, _counted } = boat;
        self.works.destroy(widget).await;
    }

    fn classify(&self, fault: &Fault) -> wharf::Failure {
        self.works.classify(fault)
    }
}

fn per_key(max_active: usize) -> Config {
    let mut config = Config::default();
    config.max_active = max_active;
    config
}

/// A key that forgets everything at once.
fn fleeting() -> Config {
    let mut config = per_key(4);
    config.max_idle = Some(0);
    config
}

#[track_caller]
fn ready<T>(future: impl Future<Output = T>) -> T {
    match poll(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("not ready"),
    }
}

/// Nothing goes on anywhere, and the common bound has all its units back but those of what is
/// idle.
#[track_caller]
fn assert_quiet(pool: &Keyed, harbour: &Harbour) -> KeyedStatus {
    let status = pool.status();
    let going_on = (
        status.leased,
        status.waiting,
        status.creating,
        status.closing,
        status.waiting_for_room,
    );
    assert_eq!(
        going_on,
        (0, 0, 0, 0, 0),
        "(leased, waiting, creating, closing, waiting for room) of {status:?}"
    );
    assert_eq!(status.active, status.idle, "{status:?}");
    assert_eq!(harbour.existing(), status.idle, "{status:?}");
    let totals = status.totals;
    assert_eq!(
        totals.created,
        totals.detached + totals.retired + status.idle as u64,
        "{totals:?}"
    );
    status
}

/// Until the tasks of the pool have done what there is to do. A key that has changed tells the common
/// bound a moment later, and a unit may be on its way to a key that does not want it any more.
async fn settled(pool: &Keyed) {
    eventually(|| {
        let status = pool.status();
        let going_on = status.creating + status.closing + status.waiting_for_room;
        (going_on, status.active) == (0, status.idle)
    })
    .await;
}

/// Gets a resource of each key and gives it back, one after the other, 1 second apart.
async fn leave_idle(pool: &Keyed, keys: &[u32]) {
    for key in keys {
        drop(pool.get(key).await.unwrap());
        pass(Duration::from_secs(1)).await;
    }
}

/// A `get` in a task of its own, which is in line when this returns.
async fn asks(pool: &Keyed, key: u32) -> Asking {
    let pool = pool.clone();
    let task = tokio::spawn(async move { pool.get(&key).await });
    settle().await;
    Asking(task)
}

struct Asking(tokio::task::JoinHandle<Result<OwnedLease<Dock>, GetError<Fault>>>);

impl Asking {
    fn is_served(&self) -> bool {
        self.0.is_finished()
    }

    async fn lease(self) -> OwnedLease<Dock> {
        assert!(self.is_served(), "still waiting");
        self.0.await.unwrap().unwrap()
    }

    async fn leave(self) {
        self.0.abort();
        let _ = self.0.await;
        settle().await;
    }
}

// --- Keys ----------------------------------------------------------------------------------------

assert_impl_all!(Keyed: Send, Sync, Clone, std::fmt::Debug, Unpin);

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_resources_and_its_own_bound() {
    let harbour = Harbour::new();
    let pool = harbour.builder().per_key(per_key(2)).build().unwrap();
    let first = [pool.get(&1).await.unwrap(), pool.get(&1).await.unwrap()];
    let second = [pool.get(&2).await.unwrap(), pool.get(&2).await.unwrap()];
    assert!(matches!(
        pool.get_timeout(&1, Duration::from_secs(1)).await,
        Err(GetError::Timeout { stage: Stage::Wait, waited, .. }) if waited >= Duration::from_secs(1)
    ));
    assert_eq!(harbour.works(1).made(), 2);
    assert_eq!(harbour.works(2).made(), 2);
    drop((first, second));
    let again = pool.get(&1).await.unwrap();
    assert_eq!(again.widget.id, 0, "reused");
    assert_eq!(harbour.works(1).made(), 2);
    drop(again);
    let mut keys = pool.keys();
    keys.sort_unstable();
    assert_eq!(keys, [1, 2]);
    assert!(pool.contains(&1) && !pool.contains(&3));
    assert_eq!(pool.key_status(&1).unwrap().idle, 2);
    assert!(pool.key_status(&3).is_none());
    assert_eq!(assert_quiet(&pool, &harbour).idle, 4);
}

#[tokio::test(start_paused = true)]
async fn two_tasks_that_use_a_key_for_the_first_time_share_its_pool() {
    let harbour = Harbour::new();
    let pool = harbour.builder().per_key(per_key(1)).build().unwrap();
    let (mut first, mut second) = (pin!(pool.get(&1)), pin!(pool.get(&1)));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    settle().await;
    let lease = ready(first).unwrap();
    assert!(poll(second.as_mut()).is_pending(), "one pool, one resource");
    drop(lease);
    drop(ready(second).unwrap());
    assert_eq!((harbour.works(1).made(), harbour.managers()), (1, 1));
}

#[test]
fn threads_that_use_keys_for_the_first_time_at_once_share_their_pools() {
    let runtime = threads(4);
    runtime.block_on(async {
        let harbour = Harbour::new();
        let pool = harbour.builder().per_key(per_key(1)).build().unwrap();
        for key in 0..200 {
            let start = Arc::new(tokio::sync::Barrier::new(4));
            let tasks: JoinSet<usize> = (0..4)
                .map(|_| {
                    let (pool, start) = (pool.clone(), Arc::clone(&start));
                    async move {
                        start.wait().await;
                        let lease = pool.get(&key).await.unwrap();
                        let _use = lease.widget.hold();
                        lease.widget.id
                    }
                })
                .collect();
            assert_eq!(tasks.join_all().await, [0; 4], "key {key} has two pools");
            assert_eq!(harbour.works(key).most(), 1);
        }
        assert_eq!(pool.status().keys, 200);
        // Those made for nothing are dropped, by their upkeep if that is looking around just then.
        eventually(|| harbour.managers() == 200).await;
        pool.close().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_key_vanishes_with_its_last_resource_and_leaves_its_totals() {
    let harbour = Harbour::new();
    let mut config = per_key(4);
    config.idle_timeout = Some(Duration::from_secs(60));
    let pool = harbour.builder().per_key(config).build().unwrap();
    leave_idle(&pool, &[1, 2]).await;
    pass(Duration::from_secs(30)).await;
    drop(pool.get(&2).await.unwrap());
    pass(Duration::from_secs(40)).await;
    assert_eq!(pool.keys(), [2], "1 was idle for longer than a minute");
    pass(Duration::from_secs(60)).await;
    assert!(pool.keys().is_empty());
    assert!(!pool.contains(&2) && pool.key_status(&2).is_none());
    let status = assert_quiet(&pool, &harbour);
    assert_eq!(
        (status.keys, status.totals.leases, status.totals.created),
        (0, 3, 2)
    );
    assert_eq!(harbour.managers(), 0);
    // And it comes back like one that was never used.
    drop(pool.get(&1).await.unwrap());
    assert_eq!(pool.status().totals.created, 3);
}

#[tokio::test(start_paused = true)]
async fn a_key_vanishes_when_its_last_resource_is_discarded_detached_or_invalidated() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    pool.get(&1).await.unwrap().discard();
    drop(pool.get(&2).await.unwrap().detach());
    drop(pool.get(&3).await.unwrap());
    pool.invalidate_key(&3);
    settle().await;
    assert!(pool.keys().is_empty(), "{:?}", pool.keys());
    assert_eq!(harbour.managers(), 0);
    assert_eq!(assert_quiet(&pool, &harbour).totals.detached, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_while_something_is_lent_created_or_destroyed() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    let gate = Gate::shut();
    harbour.works(1).create.always(gate.then(Step::Ok));
    harbour.works(1).destroy.always(gate.then(Step::Ok));
    // The caller is gone, the creation goes on (promise 4).
    asks(&pool, 1).await.leave().await;
    assert_eq!(pool.keys(), [1], "creating");
    gate.open(1);
    settle().await;
    let lease = pool.get(&1).await.unwrap();
    assert_eq!(lease.widget.id, 0);
    pass(Duration::from_secs(3600)).await;
    assert_eq!(pool.keys(), [1], "lent");
    lease.discard();
    settle().await;
    assert_eq!(pool.keys(), [1], "being destroyed");
    gate.open(1);
    settle().await;
    assert!(pool.keys().is_empty());
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn looking_at_a_key_does_not_make_it() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    assert!(matches!(pool.try_get(&1), Err(TryGetError::Exhausted)));
    assert!(!pool.contains(&1) && pool.key_status(&1).is_none());
    pool.invalidate_key(&1);
    pool.close_key(&1).await;
    drop(pool.get(&1));
    assert_eq!((pool.status().keys, harbour.managers()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_get_that_is_refused_at_once_leaves_no_key() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    let refused = pool.get_timeout(&1, Duration::ZERO).await;
    assert!(matches!(refused, Err(GetError::Timeout { .. })));
    let refused = pool.get_deadline(&2, Instant::now()).await;
    assert!(matches!(refused, Err(GetError::Timeout { .. })));
    settle().await;
    assert_eq!((pool.status().keys, harbour.managers()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn try_get_takes_what_is_idle_and_nothing_else() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    drop(pool.get(&1).await.unwrap());
    let lease = pool.try_get(&1).unwrap();
    assert!(matches!(pool.try_get(&1), Err(TryGetError::Exhausted)));
    drop(lease);
    pool.close().await;
    assert!(matches!(pool.try_get(&1), Err(TryGetError::Closed)));
    assert!(matches!(pool.try_get(&2), Err(TryGetError::Closed)));
}

/// The race that `has_vanished` settles: a `get` finds the pool of a key in the map, the pool
/// closes for want of use, and the `get` must not hear of it.
#[test]
fn keys_that_vanish_all_the_time_never_refuse_anybody() {
    let runtime = threads(4);
    runtime.block_on(async {
        let harbour = Harbour::new();
        let mut config = fleeting();
        config.max_active = 2;
        let pool = harbour.builder().per_key(config).build().unwrap();
        let tasks: JoinSet<()> = (0..8_u32)
            .map(|task| {
                let pool = pool.clone();
                async move {
                    for turn in 0..2_000 {
                        let key = (task + turn) % 3;
                        let lease = pool.get(&key).await.unwrap();
                        let _use = lease.widget.hold();
                        if turn % 7 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            })
            .collect();
        tasks.join_all().await;
        for key in 0..3 {
            assert!(
                harbour.works(key).most() <= 2,
                "two pools of one key at once"
            );
        }
        eventually(|| pool.status().keys == 0).await;
        settled(&pool).await;
        assert_eq!(assert_quiet(&pool, &harbour).totals.leases, 16_000);
        // The task that destroyed the last resource of a key may still be about to end.
        eventually(|| harbour.managers() == 0).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_keys_used_once_leave_nothing_behind() {
    let harbour = Harbour::new();
    let pool = KeyedPool::builder({
        let (works, harbour) = (Works::new(), harbour.clone());
        move |_: &u32| {
            let dock = harbour.dock(0);
            Dock {
                works: works.clone(),
                tally: Arc::clone(&dock.tally),
                managers: {
                    harbour.managers.fetch_add(1, SeqCst);
                    Arc::clone(&dock.managers)
                },
            }
        }
    })
    .per_key(fleeting())
    .max_total(1_000)
    .build()
    .unwrap();
    let tasks = Handle::current().metrics().num_alive_tasks();
    for first in (0..100_000).step_by(1_000) {
        let mut leases = Vec::new();
        for key in first..first + 1_000 {
            leases.push(pool.get(&key).await.unwrap());
        }
        assert_eq!(pool.status().keys, 1_000);
        drop(leases);
        settle().await;
    }
    let status = assert_quiet(&pool, &harbour);
    assert_eq!((status.keys, status.totals.leases), (0, 100_000));
    assert_eq!(harbour.managers(), 0);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
}

#[tokio::test(start_paused = true)]
async fn max_keys_bounds_the_keys_in_use() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_keys(2).build().unwrap();
    let first = pool.get(&1).await.unwrap();
    let _second = pool.get(&2).await.unwrap();
    let third = pool.get(&3).await;
    assert!(
        matches!(third, Err(GetError::TooManyKeys { keys: 2 })),
        "{third:?}"
    );
    drop(pool.get(&1).await.unwrap());
    assert_eq!(harbour.managers(), 2, "what was made for the third is gone");
    first.discard();
    pool.invalidate_key(&1);
    settle().await;
    drop(pool.get(&3).await.unwrap());
}

/// Where keys come from outside, `max_keys` bounds what a stranger can cost.
#[tokio::test(start_paused = true)]
async fn a_key_too_many_is_refused_before_anything_is_made_for_it() {
    let harbour = Harbour::new();
    let made = Arc::new(AtomicUsize::new(0));
    let pool = KeyedPool::builder({
        let (harbour, made) = (harbour.clone(), Arc::clone(&made));
        move |key: &u32| {
            made.fetch_add(1, SeqCst);
            harbour.dock(*key)
        }
    })
    .max_keys(1)
    .build()
    .unwrap();
    let _lease = pool.get(&0).await.unwrap();
    for key in 1..10 {
        let refused = pool.get(&key).await;
        assert!(matches!(refused, Err(GetError::TooManyKeys { keys: 1 })));
    }
    assert_eq!(made.load(SeqCst), 1);
}

#[test]
fn a_nonsensical_setting_is_named() {
    let harbour = Harbour::new();
    let named = |builder: KeyedBuilder<u32, Dock>| builder.build().unwrap_err().field;
    assert_eq!(named(harbour.builder().max_total(0)), "max_total");
    assert_eq!(named(harbour.builder().max_keys(0)), "max_keys");
    assert_eq!(named(harbour.builder().per_key(per_key(0))), "max_active");
    let mut config = per_key(2);
    config.min_idle = 1;
    assert_eq!(named(harbour.builder().per_key(config)), "min_idle");
    let pool = harbour.builder().max_total(3).build().unwrap();
    assert_eq!(pool.resize_total(0).unwrap_err().field, "max_total");
    assert_eq!(pool.status().max_total, Some(3));
}

#[tokio::test(start_paused = true)]
async fn observers_hear_which_key_it_was() {
    let harbour = Harbour::new();
    let heard: Arc<Mutex<HashMap<u32, Recorder>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let pool = harbour
        .builder()
        .observer(move |key, event| {
            let recorder = hears.lock().unwrap().entry(*key).or_default().clone();
            recorder.on_event(event);
        })
        .build()
        .unwrap();
    drop(pool.get(&1).await.unwrap());
    pool.get(&2).await.unwrap().discard();
    settle().await;
    let heard = heard.lock().unwrap();
    assert_eq!(heard[&1].take(), ["created"]);
    assert_eq!(heard[&2].take(), ["created", "retired Discarded"]);
}

#[tokio::test(start_paused = true)]
async fn invalidation_reaches_one_key_or_all() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    let leased = pool.get(&1).await.unwrap();
    leave_idle(&pool, &[1, 2]).await;
    pool.invalidate_key(&1);
    settle().await;
    assert_eq!(pool.key_status(&1).unwrap().idle, 0);
    assert_eq!(pool.key_status(&2).unwrap().idle, 1);
    drop(leased);
    settle().await;
    assert_eq!(pool.keys(), [2], "what was leased went on its return");
    leave_idle(&pool, &[1]).await;
    pool.invalidate_all();
    settle().await;
    assert!(pool.keys().is_empty());
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn the_debug_form_says_how_it_stands() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(5).build().unwrap();
    let _lease = pool.get(&1).await.unwrap();
    assert_eq!(
        format!("{pool:?}"),
        "KeyedPool { keys: 1, max_total: Some(5), active: 1, waiting_for_room: 0, is_closed: false, .. }"
    );
}

// --- What users write ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_panic_where_a_manager_is_made_leaves_no_key_and_a_usable_pool() {
    let fails = Arc::new(AtomicBool::new(true));
    let harbour = Harbour::new();
    let pool = KeyedPool::builder({
        let (fails, harbour) = (Arc::clone(&fails), harbour.clone());
        move |key: &u32| {
            assert!(!fails.load(SeqCst), "as told");
            harbour.dock(*key)
        }
    })
    .build()
    .unwrap();
    let get = catch_unwind(AssertUnwindSafe(|| ready(pool.get(&1))));
    assert!(get.is_err());
    assert_eq!(pool.status().keys, 0);
    fails.store(false, SeqCst);
    drop(pool.get(&1).await.unwrap());
    assert_quiet(&pool, &harbour);
}

/// A key that panics where it is told to.
#[derive(Debug)]
struct Touchy {
    name: u32,
    trap: Arc<Trap>,
}

#[derive(Debug, Default)]
struct Trap {
    hash: AtomicBool,
    eq: AtomicBool,
    clone: AtomicBool,
}

impl Hash for Touchy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.trap.hash.load(SeqCst), "as told");
        self.name.hash(state);
    }
}

impl PartialEq for Touchy {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.trap.eq.load(SeqCst), "as told");
        self.name == other.name
    }
}

impl Eq for Touchy {}

impl Clone for Touchy {
    fn clone(&self) -> Self {
        assert!(!self.trap.clone.load(SeqCst), "as told");
        Self {
            name: self.name,
            trap: Arc::clone(&self.trap),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_hash_eq_or_clone_of_a_key_leaves_the_map_usable() {
    let harbour = Harbour::new();
    let pool = KeyedPool::builder({
        let harbour = harbour.clone();
        move |key: &Touchy| harbour.dock(key.name)
    })
    .build()
    .unwrap();
    let trap = Arc::<Trap>::default();
    let key = |name| Touchy {
        name,
        trap: Arc::clone(&trap),
    };
    drop(pool.get(&key(1)).await.unwrap());
    let panics = |name| catch_unwind(AssertUnwindSafe(|| ready(pool.get(&key(name))))).is_err();
    trap.hash.store(true, SeqCst);
    assert!(panics(1));
    trap.hash.store(false, SeqCst);
    trap.eq.store(true, SeqCst);
    assert!(panics(1));
    // A pool that leaves the map is known by its number, not by `Eq`.
    pool.invalidate_all();
    settle().await;
    assert_eq!(pool.status().keys, 0);
    trap.eq.store(false, SeqCst);
    trap.clone.store(true, SeqCst);
    assert!(panics(2));
    trap.clone.store(false, SeqCst);
    for name in 1..=2 {
        drop(pool.get(&key(name)).await.unwrap());
    }
    assert_eq!(pool.status().keys, 2);
    pool.close().await;
    assert_eq!(harbour.existing(), 0);
}

/// No lock is held while a manager is made: it may use the keyed pool.
#[tokio::test(start_paused = true)]
async fn a_manager_may_be_made_with_the_help_of_the_same_keyed_pool() {
    let harbour = Harbour::new();
    let cell: Arc<std::sync::OnceLock<Keyed>> = Arc::default();
    let pool = KeyedPool::builder({
        let (cell, harbour) = (Arc::clone(&cell), harbour.clone());
        move |key: &u32| {
            if let Some(pool) = cell.get() {
                assert!(!pool.contains(key));
                assert!(pool.try_get(key).is_err());
                let _ = (pool.keys(), pool.status(), format!("{pool:?}"));
            }
            harbour.dock(*key)
        }
    })
    .build()
    .unwrap();
    cell.set(pool.clone()).unwrap();
    for key in 0..40 {
        drop(pool.get(&key).await.unwrap());
    }
    assert_eq!(pool.status().keys, 40);
    pool.close().await;
}

#[test]
fn a_get_without_a_runtime_panics_and_makes_no_key() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    let get = catch_unwind(AssertUnwindSafe(|| ready(pool.get(&1))));
    assert!(get.is_err());
    assert_eq!((pool.status().keys, harbour.managers()), (0, 0));
}

/// The key was made before the `get` found out that it could not wait for it. Nobody ever used it,
/// so that it was never found unused, and stayed for ever.
#[test]
fn a_get_that_panics_when_it_has_made_its_key_takes_it_along() {
    let runtime = threads(1);
    let harbour = Harbour::new();
    let pool = runtime.block_on(async { harbour.builder().max_keys(1).build().unwrap() });
    drop(runtime);
    for key in 0..3 {
        let get = catch_unwind(AssertUnwindSafe(|| ready(pool.get(&key))));
        assert!(get.is_err());
        assert_eq!((pool.keys(), harbour.managers()), (vec![], 0));
    }
    threads(1).block_on(async { drop(pool.get(&3).await.unwrap()) });
}

/// The last to hold the pool of a key that is gone may be another key's `get`, which carries out
/// what the common bound asks for. The panic was its own then, and what it still had to do was lost.
#[test]
fn a_panic_in_the_drop_of_a_manager_goes_to_nobody_who_uses_another_key() {
    #[derive(Debug)]
    struct Grumbler(Dock, bool);

    impl Manager for Grumbler {
        type Resource = Boat;
        type Error = Fault;

        async fn create(&self) -> Result<Boat, Fault> {
            self.0.create().await
        }
    }

    impl Drop for Grumbler {
        fn drop(&mut self) {
            assert!(!self.1, "as told");
        }
    }

    let harbour = Harbour::new();
    let first = threads(1);
    let pool = KeyedPool::builder({
        let harbour = harbour.clone();
        move |key: &u32| Grumbler(harbour.dock(*key), *key == 1)
    })
    .max_total(1)
    .build()
    .unwrap();
    first.block_on(async { drop(pool.get(&1).await.unwrap()) });
    // Without its runtime the key's resource is dropped, and the key forgotten, on the spot.
    drop(first);
    threads(1).block_on(async {
        drop(pool.get(&2).await.unwrap());
        assert_eq!(pool.keys(), [2]);
        pool.close().await;
    });
    assert_eq!(harbour.existing(), 0);
}

// --- A blocked key -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_key_whose_creations_hang_fail_or_panic_delays_no_other() {
    for trouble in [Step::Hang, Step::Outage, Step::Refuse, Step::Panic] {
        let harbour = Harbour::new();
        let pool = harbour.builder().max_total(10).build().unwrap();
        harbour.works(1).create.always(trouble.clone());
        let stuck: JoinSet<_> = (0..20)
            .map(|_| {
                let pool = pool.clone();
                async move { pool.get(&1).await.map(drop) }
            })
            .collect();
        settle().await;
        for key in 2..4 {
            let began = Instant::now();
            drop(pool.get(&key).await.unwrap());
            assert_eq!(began.elapsed(), Duration::ZERO, "{trouble:?}");
        }
        assert!(stuck.join_all().await.iter().all(Result::is_err));
        pool.close().await;
        assert_eq!(harbour.existing(), 0, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_long_line_delays_no_other() {
    let harbour = Harbour::new();
    let pool = harbour.builder().per_key(per_key(1)).build().unwrap();
    let _held = pool.get(&1).await.unwrap();
    let mut line = Vec::new();
    for _ in 0..50 {
        line.push(asks(&pool, 1).await);
    }
    assert_eq!(pool.key_status(&1).unwrap().waiting, 50);
    let began = Instant::now();
    drop(pool.get(&2).await.unwrap());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_down_is_kept_for_the_pause_so_that_callers_fail_fast() {
    let harbour = Harbour::new();
    let mut config = per_key(2);
    config.outage_policy = OutagePolicy::FailFast;
    config.backoff = Backoff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(60),
    };
    let pool = harbour.builder().per_key(config).build().unwrap();
    harbour.works(1).create.always(Step::Outage);
    let down = async || match pool.get(&1).await {
        Err(GetError::Down { attempt, .. }) => attempt,
        other => panic!("{other:?}"),
    };
    assert_eq!(down().await, 1);
    settle().await;
    assert_eq!(pool.status().keys_down, 1, "kept");
    // One that is asked for is probed, with growing pauses.
    for attempt in 1..5 {
        assert_eq!(down().await, attempt);
        assert_eq!(harbour.works(1).create.calls(), attempt as usize);
        pass(Duration::from_secs(1 << (attempt - 1))).await;
    }
    assert_eq!(harbour.works(1).create.calls(), 5);
    // Nobody asks any more.
    pass(Duration::from_secs(16)).await;
    assert_eq!((pool.status().keys, pool.status().keys_down), (0, 0));
    assert_eq!(harbour.works(1).create.calls(), 5, "not probed for nobody");
    harbour.works(1).create.always(Step::Ok);
    drop(pool.get(&1).await.unwrap());
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_down_heals_for_those_who_wait() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    harbour
        .works(1)
        .create
        .next(Step::Outage)
        .next(Step::Outage);
    let waiting = asks(&pool, 1).await;
    assert!(pool.key_status(&1).unwrap().is_down);
    // The unit is free between the probes.
    assert_eq!(pool.status().active, 0);
    drop(pool.get(&2).await.unwrap());
    pass(Duration::from_secs(2)).await;
    drop(waiting.lease().await);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_down_is_not_probed_at_the_cost_of_others_for_nobody() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    harbour.works(1).create.always(Step::Outage);
    asks(&pool, 1).await.leave().await;
    assert_eq!(pool.status().keys_down, 1);
    leave_idle(&pool, &[2]).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(harbour.works(1).create.calls(), 2);
    assert_eq!(pool.key_status(&2).unwrap().idle, 1);
    // The next who needs one has the probe at once, and its room.
    harbour.works(1).create.always(Step::Ok);
    let second = asks(&pool, 1).await;
    drop((held, second.lease().await));
    assert_eq!(pool.status().keys_down, 0);
    assert_quiet(&pool, &harbour);
}

// --- The bound over all keys: room ---------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_is_created_idle_lent_and_destroyed_counts_towards_the_total() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(4).build().unwrap();
    let gate = Gate::shut();
    let idle_later = pool.get(&1).await.unwrap();
    let leased = pool.get(&2).await.unwrap();
    harbour.works(3).destroy.always(gate.then(Step::Ok));
    pool.get(&3).await.unwrap().discard();
    harbour.works(4).create.always(gate.then(Step::Ok));
    let creating = asks(&pool, 4).await;
    let waiting = asks(&pool, 5).await;
    let status = pool.status();
    assert_eq!(
        (status.active, status.waiting_for_room),
        (4, 1),
        "{status:?}"
    );
    assert_eq!((status.leased, status.closing, status.creating), (2, 1, 1));
    assert_eq!(
        harbour.works(5).create.calls(),
        0,
        "room first, then the call"
    );
    assert_eq!(harbour.existing(), 4);
    gate.open(2);
    settle().await;
    drop((
        idle_later,
        leased,
        creating.lease().await,
        waiting.lease().await,
    ));
    assert_eq!(harbour.most(), 4);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn room_goes_to_creations_in_the_order_in_which_they_were_needed() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let (one, two) = (pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap());
    let third = asks(&pool, 3).await;
    let second = asks(&pool, 2).await;
    let fourth = asks(&pool, 4).await;
    assert_eq!(pool.status().waiting_for_room, 3);
    one.discard();
    settle().await;
    let third = third.lease().await;
    assert!(!second.is_served() && !fourth.is_served());
    third.discard();
    settle().await;
    let second = second.lease().await;
    assert!(!fourth.is_served());
    drop(two);
    settle().await;
    // Nobody waits for key 2 any more, so its resource made room.
    drop(fourth.lease().await);
    drop(second);
    assert_eq!(harbour.most(), 2);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_room_times_out_as_a_wait() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let refused = pool.get_timeout(&2, Duration::from_secs(3)).await;
    let Err(GetError::Timeout {
        stage,
        waited,
        cause,
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((stage, waited), (Stage::Wait, Duration::from_secs(3)));
    assert!(cause.is_none());
    settle().await;
    assert_eq!(pool.keys(), [1], "the other key is gone with its waiter");
    assert_eq!(pool.status().waiting_for_room, 0);
    drop(held);
    assert_eq!(harbour.works(2).create.calls(), 0);
    assert_eq!(pool.status().idle, 1, "nobody waits, nothing is given up");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_gives_up_its_place_in_the_wait_for_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let second = asks(&pool, 2).await;
    let third = asks(&pool, 3).await;
    second.leave().await;
    assert_eq!(pool.status().waiting_for_room, 1);
    assert!(!pool.contains(&2));
    held.discard();
    settle().await;
    drop(third.lease().await);
    assert_eq!(harbour.works(2).create.calls(), 0);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_place_given_up_at_any_moment_leaks_nothing() {
    for polls in 0..12 {
        let harbour = Harbour::new();
        let pool = harbour.builder().max_total(1).build().unwrap();
        harbour.works(2).create.always(Step::Ok.yielding(3));
        let held = pool.get(&1).await.unwrap();
        {
            let mut get = pin!(pool.get(&2));
            assert!(poll(get.as_mut()).is_pending());
            held.discard();
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        }
        settle().await;
        let status = assert_quiet(&pool, &harbour);
        assert!(status.idle <= 1 && status.active <= 1, "{status:?}");
        drop(pool.get(&3).await.unwrap());
        assert_eq!(harbour.most(), 1);
        pool.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_comes_back_serves_the_oldest_waiter_and_ends_the_wait_for_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let (one, two) = (pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap());
    let first = asks(&pool, 1).await;
    let second = asks(&pool, 1).await;
    assert_eq!(pool.status().waiting_for_room, 2);
    drop(one);
    settle().await;
    let first = first.lease().await;
    assert_eq!(first.widget.id, 0, "the same one, nothing was created");
    assert_eq!(pool.status().waiting_for_room, 1);
    drop(first);
    settle().await;
    assert_eq!(second.lease().await.widget.id, 0);
    assert_eq!(pool.status().waiting_for_room, 0);
    two.discard();
    settle().await;
    assert_eq!(pool.status().totals.created, 2);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_gives_its_room_back() {
    for trouble in [Step::Refuse, Step::Outage, Step::Panic, Step::Hang] {
        let harbour = Harbour::new();
        let mut config = per_key(1);
        config.create_timeout = Some(Duration::from_secs(1));
        let pool = harbour
            .builder()
            .per_key(config)
            .max_total(1)
            .build()
            .unwrap();
        harbour.works(1).create.always(trouble.clone());
        let failing = asks(&pool, 1).await;
        let other = asks(&pool, 2).await;
        pass(Duration::from_secs(2)).await;
        drop(other.lease().await);
        failing.leave().await;
        assert_eq!(harbour.most(), 1, "{trouble:?}");
        pool.close().await;
        assert_eq!(harbour.existing(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_detached_resource_makes_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let other = asks(&pool, 2).await;
    let boat = held.detach();
    settle().await;
    drop(other.lease().await);
    drop(boat);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_key_holds_no_slot_while_it_waits_for_room() {
    let harbour = Harbour::new();
    let pool = harbour
        .builder()
        .per_key(per_key(2))
        .max_total(2)
        .build()
        .unwrap();
    let _held = [pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap()];
    let _waiting = [asks(&pool, 1).await, asks(&pool, 1).await];
    let status = pool.key_status(&1).unwrap();
    assert_eq!(
        (status.active(), status.creating, status.waiting),
        (1, 0, 2)
    );
    assert_eq!(
        pool.status().waiting_for_room,
        1,
        "as many as the key may have"
    );
}

// --- The bound over all keys: who gives way ------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_has_been_idle_the_longest_is_evicted_first() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(4).build().unwrap();
    leave_idle(&pool, &[1, 2, 3, 4]).await;
    leave_idle(&pool, &[1]).await;
    let mut leases = Vec::new();
    for (turn, gone) in [2, 3, 4, 1].into_iter().enumerate() {
        assert!(pool.contains(&gone));
        leases.push(pool.get(&(10 + turn as u32)).await.unwrap());
        settle().await;
        assert!(
            !pool.contains(&gone),
            "{gone} in turn {turn}: {:?}",
            pool.keys()
        );
        assert_eq!(pool.status().active, 4, "one for one");
    }
    drop(leases);
    assert_eq!(harbour.most(), 4);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn within_a_key_too_the_longest_idle_is_evicted() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(pool.get(&1).await.unwrap());
    }
    for at in [1, 0, 0] {
        drop(leases.remove(at));
        pass(Duration::from_secs(2)).await;
    }
    drop(pool.get(&2).await.unwrap());
    settle().await;
    let mut left: Vec<usize> = Vec::new();
    while let Ok(lease) = pool.try_get(&1) {
        left.push(lease.widget.id);
        leases.push(lease);
    }
    left.sort_unstable();
    assert_eq!(left, [0, 2], "the second came back first");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_evicted_than_is_needed() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(6).build().unwrap();
    let gate = Gate::shut();
    for key in 1..=5 {
        harbour.works(key).destroy.always(gate.then(Step::Ok));
    }
    leave_idle(&pool, &[1, 2, 3, 4]).await;
    let leased = pool.get(&5).await.unwrap();
    let _other = pool.get(&6).await.unwrap();
    let waiting = asks(&pool, 9).await;
    assert_eq!(pool.status().closing, 1);
    // While it is on its way, what comes back stays.
    drop(leased);
    settle().await;
    let status = pool.status();
    assert_eq!((status.closing, status.idle), (1, 4), "{status:?}");
    gate.open(1);
    settle().await;
    drop(waiting.lease().await);
    assert_eq!(pool.status().totals.retired, 1);
}

/// Room that came from elsewhere was taken for that which was on its way, and the next who asked had
/// another resource destroyed although there was enough to come.
#[tokio::test(start_paused = true)]
async fn room_from_elsewhere_does_not_count_as_that_which_is_on_its_way() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let gate = Gate::shut();
    harbour.works(1).destroy.always(gate.then(Step::Ok));
    leave_idle(&pool, &[1, 2]).await;
    let elsewhere = pool.get(&3).await.unwrap();
    let first = asks(&pool, 4).await;
    assert_eq!(pool.status().closing, 1, "that of key 1 is on its way out");
    elsewhere.discard();
    settle().await;
    let first = first.lease().await;
    let second = asks(&pool, 5).await;
    assert_eq!(
        pool.key_status(&2).unwrap().idle,
        1,
        "there is enough to come"
    );
    gate.open(1);
    settle().await;
    drop((first, second.lease().await));
    assert_eq!(harbour.most(), 3);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_comes_back_to_an_idle_key_is_given_up_while_others_wait_for_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let (one, two) = (pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap());
    let waiting = asks(&pool, 3).await;
    drop(one);
    settle().await;
    let third = waiting.lease().await;
    assert!(!pool.contains(&1));
    // And when nobody waits any more, it stays.
    drop(two);
    settle().await;
    assert_eq!(pool.key_status(&2).unwrap().idle, 1);
    drop(third);
    leave_idle(&pool, &[2, 3]).await;
    assert_eq!(pool.status().totals.created, 3);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_lands_for_nobody_is_given_up_for_those_who_wait_for_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let gate = Gate::shut();
    harbour.works(1).create.always(gate.then(Step::Ok));
    let landing = asks(&pool, 1).await;
    let waiting = asks(&pool, 2).await;
    landing.leave().await;
    gate.open(1);
    settle().await;
    drop(waiting.lease().await);
    assert_eq!(harbour.most(), 1);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_takes_is_given_up_for_those_who_wait_for_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let mut granted = Box::pin(pool.get(&1));
    assert!(poll(granted.as_mut()).is_pending());
    let waiting = asks(&pool, 2).await;
    drop(held);
    drop(granted);
    settle().await;
    drop(waiting.lease().await);
    assert_eq!(harbour.most(), 1);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_do_not_take_resources_from_each_other_in_a_circle() {
    let harbour = Harbour::new();
    let pool = harbour
        .builder()
        .per_key(per_key(4))
        .max_total(4)
        .build()
        .unwrap();
    let held: Vec<_> = [
        pool.get(&1).await.unwrap(),
        pool.get(&1).await.unwrap(),
        pool.get(&2).await.unwrap(),
        pool.get(&2).await.unwrap(),
    ]
    .into();
    let served = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut busy = JoinSet::new();
    for task in 0..16 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        let key = 1 + task % 2;
        busy.spawn(async move {
            loop {
                let lease = pool.get(&key).await.unwrap();
                tokio::task::yield_now().await;
                served[key as usize - 1].fetch_add(1, SeqCst);
                drop(lease);
            }
        });
    }
    settle().await;
    drop(held);
    while served[0].load(SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    let [one, two] = [served[0].load(SeqCst), served[1].load(SeqCst)];
    assert!(two * 10 > one * 9 && two * 9 < one * 10, "{one} and {two}");
    assert_eq!(
        pool.status().totals.created,
        4,
        "no creation but the first four"
    );
    busy.shutdown().await;
    settle().await;
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_nothing_does_not_starve_beside_one_that_is_always_busy() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let mut busy = JoinSet::new();
    for _ in 0..10 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        busy.spawn(async move {
            loop {
                let lease = pool.get(&1).await.unwrap();
                tokio::task::yield_now().await;
                served.fetch_add(1, SeqCst);
                drop(lease);
            }
        });
    }
    while served.load(SeqCst) < 100 {
        tokio::task::yield_now().await;
    }
    for newcomer in 2..7 {
        let before = served.load(SeqCst);
        let lease = pool.get(&newcomer).await.unwrap();
        // Those ten who came before it, and who happened to come back meanwhile.
        assert!(served.load(SeqCst) - before <= 20);
        drop(lease);
        let created = pool.status().totals.created;
        let before = served.load(SeqCst);
        while served.load(SeqCst) < before + 100 {
            tokio::task::yield_now().await;
        }
        assert!(
            pool.status().totals.created <= created + 1,
            "it grows back, once"
        );
    }
    assert_eq!(harbour.most(), 2);
    busy.shutdown().await;
    settle().await;
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn many_more_busy_keys_than_room_all_make_progress() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let served: Arc<Vec<AtomicUsize>> = Arc::new((0..12).map(|_| AtomicUsize::new(0)).collect());
    let mut busy = JoinSet::new();
    for task in 0..36_u32 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        let key = task % 12;
        busy.spawn(async move {
            loop {
                let lease = pool.get(&key).await.unwrap();
                tokio::task::yield_now().await;
                served[key as usize].fetch_add(1, SeqCst);
                drop(lease);
            }
        });
    }
    while served.iter().map(|count| count.load(SeqCst)).sum::<usize>() < 6_000 {
        tokio::task::yield_now().await;
    }
    let counts: Vec<usize> = served.iter().map(|count| count.load(SeqCst)).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 250 && *most < 1_000, "{counts:?}");
    // The room goes around in the order of arrival: not more than one creation for each turn.
    assert!(pool.status().totals.created <= 6_000 + 100);
    assert_eq!(harbour.most(), 3);
    busy.shutdown().await;
    settle().await;
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_hungry_key_comes_after_those_who_have_waited_for_longer() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let older = asks(&pool, 1).await;
    pass(Duration::from_secs(1)).await;
    let hungry = asks(&pool, 2).await;
    pass(Duration::from_secs(1)).await;
    let younger = asks(&pool, 1).await;
    drop(held);
    settle().await;
    let older = older.lease().await;
    assert!(!hungry.is_served() && !younger.is_served());
    drop(older);
    settle().await;
    let hungry = hungry.lease().await;
    assert!(!younger.is_served());
    drop(hungry);
    settle().await;
    drop(younger.lease().await);
    assert_eq!(pool.status().totals.created, 3);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_for_a_hungry_key_goes_to_it_and_nobody_else() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    let (one, two) = (pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap());
    // Both keys would like to have more, and ask before the hungry one does.
    let more = asks(&pool, 2).await;
    pass(Duration::from_secs(1)).await;
    let hungry = asks(&pool, 3).await;
    pass(Duration::from_secs(1)).await;
    let young = asks(&pool, 1).await;
    drop(one);
    settle().await;
    let hungry = hungry.lease().await;
    assert!(!more.is_served() && !young.is_served());
    drop(two);
    settle().await;
    let more = more.lease().await;
    drop((hungry, more));
    settle().await;
    drop(young.lease().await);
    assert_eq!(harbour.most(), 2);
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn within_a_key_the_order_of_arrival_holds_under_the_common_bound() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let order: Arc<Mutex<Vec<(u32, usize)>>> = Arc::default();
    let held: Vec<_> = [
        pool.get(&7).await.unwrap(),
        pool.get(&8).await.unwrap(),
        pool.get(&9).await.unwrap(),
    ]
    .into();
    let mut tasks = JoinSet::new();
    for turn in 0..40 {
        for key in 0..4 {
            let (pool, order) = (pool.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                let lease = pool.get(&key).await.unwrap();
                order.lock().unwrap().push((key, turn));
                tokio::task::yield_now().await;
                if turn % 5 == 0 {
                    lease.discard();
                }
            });
        }
        settle().await;
        pass(Duration::from_millis(10)).await;
    }
    drop(held);
    tasks.join_all().await;
    let order = std::mem::take(&mut *order.lock().unwrap());
    for key in 0..4 {
        let turns: Vec<usize> = order
            .iter()
            .filter(|at| at.0 == key)
            .map(|at| at.1)
            .collect();
        assert!(turns.is_sorted(), "key {key}: {turns:?}");
        assert_eq!(turns.len(), 40);
    }
    assert_eq!(harbour.most(), 3);
    settle().await;
    assert_quiet(&pool, &harbour);
}

/// One blocked key never blocks another: the goodbye of what was evicted hangs, and another idle
/// resource is given up before the goodbye is cut off.
#[tokio::test(start_paused = true)]
async fn a_destruction_that_hangs_does_not_keep_others_from_room() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(2).build().unwrap();
    leave_idle(&pool, &[1, 2]).await;
    harbour.works(1).destroy.always(Step::Hang);
    let began = Instant::now();
    drop(pool.get(&3).await.unwrap());
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert!(took <= Duration::from_millis(250), "{took:?}");
    assert_eq!(harbour.most(), 2);
    pass(Duration::from_secs(10)).await;
    assert_quiet(&pool, &harbour);
}

#[tokio::test(start_paused = true)]
async fn a_hungry_key_is_fed_although_the_first_destruction_for_it_hangs() {
    let harbour = Harbour::new();
    let pool = harbour
        .builder()
        .per_key(per_key(1))
        .max_total(2)
        .build()
        .unwrap();
    harbour.works(1).destroy.always(Step::Hang);
    let (one, two) = (pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap());
    let hungry = asks(&pool, 3).await;
    pass(Duration::from_secs(1)).await;
    let _young = [asks(&pool, 1).await, asks(&pool, 2).await];
    drop(one);
    settle().await;
    assert_eq!(pool.status().closing, 1);
    pass(Duration::from_millis(200)).await;
    drop(two);
    settle().await;
    drop(hungry.lease().await);
}

/// Each watch that ended left its place to two others.
#[tokio::test(start_paused = true)]
async fn one_task_watches_however_many_goodbyes_hang() {
    let harbour = Harbour::new();
    let mut config = per_key(1);
    config.destroy_timeout = None;
    let pool = harbour
        .builder()
        .per_key(config)
        .max_total(12)
        .build()
        .unwrap();
    for key in 0..12 {
        harbour.works(key).destroy.always(Step::Hang);
    }
    leave_idle(&pool, &(0..12).collect::<Vec<_>>()).await;
    let mut asking = Vec::new();
    for key in 20..24 {
        asking.push(asks(&pool, key).await);
        pass(Duration::from_millis(110)).await;
    }
    let status = pool.status();
    assert_eq!((status.waiting_for_room, status.keys), (4, 16));
    // An upkeep for each key, one who asks for each of the last, and the goodbyes.
    let tasks = 16 + 4 + status.closing;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks + 1);
    for asking in asking {
        asking.leave().await;
    }
}

// --- Changing the bound --------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn raising_the_total_serves_those_who_wait() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(1).build().unwrap();
    let _held = pool.get(&1).await.unwrap();
    let waiting = [
        asks(&pool, 2).await,
        asks(&pool, 3).await,
        asks(&pool, 4).await,
    ];
    pool.resize_total(3).unwrap();
    settle().await;
    let served: Vec<bool> = waiting.iter().map(Asking::is_served).collect();
    assert_eq!(served, [true, true, false]);
    pool.resize_total(None).unwrap();
    settle().await;
    assert!(waiting[2].is_served());
    assert_eq!(pool.status().max_total, None);
    assert_eq!(harbour.most(), 4);
}

#[tokio::test(start_paused = true)]
async fn lowering_the_total_destroys_the_surplus_wherever_it_is() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(6).build().unwrap();
    let leased = [pool.get(&1).await.unwrap(), pool.get(&2).await.unwrap()];
    leave_idle(&pool, &[3, 4, 5, 6]).await;
    let waiting = {
        pool.resize_total(5).unwrap();
        settle().await;
        assert_eq!(pool.status().active, 5);
        assert!(!pool.contains(&3), "the longest idle went");
        pool.resize_total(1).unwrap();
        settle().await;
        assert_eq!((pool.status().active, pool.status().idle), (2, 0));
        asks(&pool, 1).await
    };
    let [one, two] = leased;
    drop(one);
    settle().await;
    assert_eq!(pool.status().active, 1, "before anybody is served");
    assert!(!waiting.is_served());
    drop(two);
    settle().await;
    drop(waiting.lease().await);
    for _ in 0..3 {
        pool.resize_total(5).unwrap();
        pool.resize_total(2).unwrap();
    }
    drop((pool.get(&7).await.unwrap(), pool.get(&8).await.unwrap()));
    settle().await;
    let status = assert_quiet(&pool, &harbour);
    assert!(status.active <= 2);
    assert_eq!(harbour.most(), 6);
}

// --- The end -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn close_refuses_all_keys_and_waits_until_everything_is_destroyed() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let gate = Gate::shut();
    harbour.works(1).destroy.always(gate.then(Step::Ok));
    harbour.works(2).create.always(gate.then(Step::Ok));
    leave_idle(&pool, &[1]).await;
    let leased = pool.get(&3).await.unwrap();
    let creating = asks(&pool, 2).await;
    let waiting = asks(&pool, 4).await;
    let mut closing = pin!(pool.close());
    let mut again = pin!(pool.close());
    assert!(poll(closing.as_mut()).is_pending());
    settle().await;
    for task in [creating, waiting] {
        assert!(matches!(task.0.await.unwrap(), Err(GetError::Closed)));
    }
    assert!(pool.is_closed());
    for key in 1..6 {
        assert!(matches!(pool.get(&key).await, Err(GetError::Closed)));
    }
    drop(leased);
    settle().await;
    assert!(poll(closing.as_mut()).is_pending());
    let out = pool.close_within(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((out.leased, out.creating, out.closing), (0, 1, 1));
    gate.open(2);
    settle().await;
    ready(closing);
    ready(again.as_mut());
    pool.close().await;
    assert_eq!((harbour.existing(), pool.status().keys), (0, 0));
    assert_eq!(harbour.managers(), 0);
    assert_quiet(&pool, &harbour);
}

/// It made its timer on the caller's runtime and not on the pool's.
#[test]
fn close_within_needs_no_runtime_of_its_caller() {
    let runtime = paused();
    let harbour = Harbour::new();
    let pool = runtime.block_on(async { harbour.builder().build().unwrap() });
    assert_eq!(harbour.managers(), 0);
    let lease = runtime.block_on(pool.get(&1)).unwrap();
    let mut closing = pin!(pool.close_within(Duration::from_secs(1)));
    assert!(poll(closing.as_mut()).is_pending());
    runtime.block_on(pass(Duration::from_secs(2)));
    let out = ready(closing).unwrap_err();
    assert_eq!((out.leased, out.creating, out.closing), (1, 0, 0));
    let mut closing = pin!(pool.close_within(Duration::from_secs(1)));
    assert!(poll(closing.as_mut()).is_pending());
    drop(lease);
    runtime.block_on(settle());
    assert_eq!(ready(closing), Ok(()));
}

#[test]
fn close_within_has_nothing_to_wait_for_where_there_are_no_keys() {
    let harbour = Harbour::new();
    let pool = harbour.builder().build().unwrap();
    assert_eq!(ready(pool.close_within(Duration::from_secs(1))), Ok(()));
    assert!(pool.is_closed());
}

/// A creation that its runtime took along was the last use of its key, and nobody looked whether
/// there was another.
#[test]
fn a_key_whose_last_creation_goes_with_its_runtime_vanishes() {
    let harbour = Harbour::new();
    let runtime = threads(1);
    let pool = runtime.block_on(async {
        let pool = harbour.builder().max_total(1).build().unwrap();
        harbour.works(1).create.next(Step::Hang);
        let get = tokio::spawn({
            let pool = pool.clone();
            async move { pool.get(&1).await.map(drop) }
        });
        eventually(|| harbour.works(1).create.running() == 1).await;
        get.abort();
        let _ = get.await;
        pool
    });
    drop(runtime);
    assert_eq!(pool.status().active, 0);
    assert_eq!((pool.keys(), harbour.managers()), (vec![], 0));
}

/// No pool of a key survives, whenever it was made.
#[test]
fn close_during_the_first_use_of_keys_leaves_nothing() {
    let runtime = threads(4);
    runtime.block_on(async {
        for round in 0..200_u32 {
            let harbour = Harbour::new();
            let pool = harbour.builder().max_total(3).build().unwrap();
            let users: JoinSet<()> = (0..4_u32)
                .map(|task| {
                    let pool = pool.clone();
                    async move {
                        for key in 0.. {
                            match pool.get(&(task * 1_000 + key)).await {
                                Ok(lease) => drop(lease),
                                Err(GetError::Closed) => return,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                    }
                })
                .collect();
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            let _ = tokio::spawn({
                let pool = pool.clone();
                async move { pool.close().await }
            })
            .await;
            assert_eq!(harbour.existing(), 0, "destroyed when `close` returns");
            users.join_all().await;
            assert_eq!(pool.status().keys, 0);
            assert_eq!(harbour.existing(), 0);
            settled(&pool).await;
            assert_eq!(pool.status().active, 0);
            eventually(|| harbour.managers() == 0).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_closed_key_is_refused_until_it_is_empty_and_fresh_after_that() {
    let harbour = Harbour::new();
    let pool = harbour.builder().per_key(per_key(1)).build().unwrap();
    let held = pool.get(&1).await.unwrap();
    let waiting = asks(&pool, 1).await;
    drop(pool.get(&2).await.unwrap());
    let mut closing = pin!(pool.close_key(&1));
    settle().await;
    assert!(matches!(waiting.0.await.unwrap(), Err(GetError::Closed)));
    assert!(poll(closing.as_mut()).is_pending());
    assert!(matches!(pool.get(&1).await, Err(GetError::Closed)));
    assert!(matches!(pool.try_get(&1), Err(TryGetError::Closed)));
    drop(pool.get(&2).await.unwrap());
    drop(held);
    closing.await;
    assert!(!pool.contains(&1));
    assert!(matches!(pool.try_get(&1), Err(TryGetError::Exhausted)));
    assert_eq!(pool.get(&1).await.unwrap().widget.id, 1);
    assert_eq!(harbour.works(1).most(), 1, "never two at once");
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_it_and_a_lease_may_outlive_it() {
    let harbour = Harbour::new();
    let pool = harbour.builder().max_total(3).build().unwrap();
    let other = pool.clone();
    let lease = pool.get(&1).await.unwrap();
    leave_idle(&pool, &[2]).await;
    drop(pool);
    settle().await;
    assert_eq!(harbour.existing(), 2, "there is another handle");
    drop(other);
    settle().await;
    assert_eq!(harbour.existing(), 1);
    drop(lease);
    settle().await;
    assert_eq!((harbour.existing(), harbour.managers()), (0, 0));
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[test]
fn a_lease_may_end_outside_any_runtime_and_make_room() {
    let runtime = threads(1);
    let harbour = Harbour::new();
    let pool = runtime.block_on(async { harbour.builder().max_total(1).build().unwrap() });
    let lease = runtime.block_on(pool.get(&1)).unwrap();
    let bell = Arc::new(Bell::default());
    let mut get = Box::pin(pool.get(&2));
    {
        let _guard = runtime.enter();
        assert!(poll_with(get.as_mut(), &bell).is_pending());
    }
    std::thread::spawn(move || drop(lease)).join().unwrap();
    drop(runtime.block_on(get).unwrap());
    assert_eq!(harbour.most(), 1);
}

/// A runtime that goes away takes creations with it, and their room comes back.
#[test]
fn a_keyed_pool_moves_on_when_its_runtime_shuts_down() {
    let harbour = Harbour::new();
    let first = threads(2);
    let pool = first.block_on(async { harbour.builder().max_total(4).build().unwrap() });
    for key in 0..4 {
        harbour.works(key).create.next(Step::Hang);
    }
    first.block_on(async {
        for key in 0..40 {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get(&key).await.map(drop) });
        }
        // Those that do not hang make room for those that do.
        eventually(|| (0..4).all(|key| harbour.works(key).create.running() == 1)).await;
    });
    drop(first);
    assert_eq!(harbour.existing(), 0);
    let second = threads(2);
    second.block_on(async {
        for key in 0..40 {
            drop(pool.get(&key).await.unwrap());
        }
        assert_eq!(harbour.most(), 4);
        pool.close().await;
        assert_eq!(pool.status().active, 0);
    });
}

// --- Everything at once --------------------------------------------------------------------------

#[test]
fn random_use_on_threads_keeps_every_bound_and_loses_nothing() {
    let runtime = threads(4);
    runtime.block_on(async {
        let harbour = Harbour::new();
        let mut config = per_key(3);
        config.check_interval = Some(Duration::from_nanos(1));
        let pool = harbour
            .builder()
            .per_key(config)
            .max_total(5)
            .build()
            .unwrap();
        for key in 0..8 {
            let works = harbour.works(key);
            works.create.always(Step::Ok.yielding(1));
            works.destroy.always(Step::Ok.yielding(1));
        }
        let tasks: JoinSet<usize> = (0..16)
            .map(|seed| {
                let (pool, harbour) = (pool.clone(), harbour.clone());
                async move {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut served = 0;
                    for _ in 0..1_500 {
                        served += usize::from(act(&pool, &harbour, &mut random).await);
                    }
                    served
                }
            })
            .collect();
        let served: usize = tasks.join_all().await.into_iter().sum();
        assert!(served > 10_000, "{served}");
        assert!(harbour.most() <= 5, "{}", harbour.most());
        for key in 0..8 {
            assert!(harbour.works(key).most() <= 3);
            assert_eq!(harbour.works(key).trespasses(), 0);
        }
        settled(&pool).await;
        assert_quiet(&pool, &harbour);
        let closed = pool.close_within(Duration::from_secs(20)).await;
        assert_eq!(closed, Ok(()));
        assert_eq!((harbour.existing(), pool.status().keys), (0, 0));
        settled(&pool).await;
        assert_eq!(pool.status().active, 0);
    });
}

async fn act(pool: &Keyed, harbour: &Harbour, random: &mut fastrand::Rng) -> bool {
    let key = random.u32(0..8);
    match random.u32(0..100) {
        0 => {
            harbour.works(key).create.next(Step::Refuse);
            false
        }
        1 => {
            pool.invalidate_key(&key);
            false
        }
        2 => {
            pool.resize_total(random.usize(3..=5)).unwrap();
            false
        }
        3..13 => {
            // Leaves after a few polls.
            let mut get = pin!(pool.get(&key));
            for _ in 0..random.u32(0..4) {
                if poll(get.as_mut()).is_ready() {
                    return true;
                }
                tokio::task::yield_now().await;
            }
            false
        }
        13..20 => pool.try_get(&key).is_ok(),
        action => {
            let lease = match pool.get(&key).await {
                Ok(lease) => lease,
                Err(GetError::Refused(_)) => return false,
                Err(error) => panic!("{error:?}"),
            };
            let in_use = lease.widget.hold();
            if random.bool() {
                tokio::task::yield_now().await;
            }
            drop(in_use);
            match action {
                20..27 => lease.discard(),
                _ => drop(lease),
            }
            true
        }
    }
}

/// Everything that goes wrong with keys goes wrong, in an order that a seed decides: nobody who asks
/// waits for ever, whatever the others do.
#[test]
fn random_use_in_virtual_time_starves_nobody_and_loses_nothing() {
    for seed in 0..40 {
        paused().block_on(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let harbour = Harbour::new();
            let (keys, most, total) = (random.u32(1..8), random.usize(1..4), random.usize(1..5));
            let mut config = per_key(most);
            config.check_interval = Some(Duration::from_millis(random.u64(1..200)));
            config.idle_timeout = Some(Duration::from_millis(random.u64(10..2_000)));
            config.create_timeout = Some(Duration::from_millis(500));
            config.destroy_timeout = Some(Duration::from_millis(300));
            config.wait_timeout = None;
            config.max_creating = random.usize(1..4);
            config.max_idle = random.bool().then(|| random.usize(0..=most));
            let pool = harbour
                .builder()
                .per_key(config)
                .max_total(total)
                .build()
                .unwrap();
            let tasks: JoinSet<()> = (0..10)
                .map(|_| {
                    let (pool, harbour, random) = (pool.clone(), harbour.clone(), random.fork());
                    use_at_random(pool, harbour, random, keys, total)
                })
                .collect();
            // Far more than all of them take if each is served in its turn.
            let limit = Duration::from_secs(20_000);
            let ended = tokio::time::timeout(limit, tasks.join_all()).await;
            assert!(ended.is_ok(), "seed {seed}: {:?}", pool.status());
            assert!(harbour.most() <= total, "seed {seed}");
            for key in 0..keys {
                assert!(harbour.works(key).most() <= most, "seed {seed}");
                assert_eq!(harbour.works(key).trespasses(), 0, "seed {seed}");
            }
            pass(Duration::from_secs(60)).await;
            let status = assert_quiet(&pool, &harbour);
            assert_eq!((status.keys, status.idle), (0, 0), "seed {seed}");
            assert_eq!(harbour.managers(), 0, "seed {seed}");
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        });
    }
}

async fn use_at_random(
    pool: Keyed,
    harbour: Harbour,
    mut random: fastrand::Rng,
    keys: u32,
    total: usize,
) {
    let doze = async |random: &mut fastrand::Rng, most: u64| match random.u64(0..most) {
        0 => tokio::task::yield_now().await,
        time => tokio::time::sleep(Duration::from_millis(time)).await,
    };
    for _ in 0..150 {
        let key = random.u32(0..keys);
        let works = harbour.works(key);
        let step = match random.u32(0..10) {
            0 => Step::Outage,
            1 => Step::Refuse,
            2 => Step::Panic,
            3 => Step::Hang,
            _ => Step::Ok.taking(Duration::from_millis(random.u64(0..150))),
        };
        match random.u32(0..60) {
            0 => drop(works.create.next(step)),
            1 => drop(works.destroy.next(step)),
            2 => drop(works.check.next(step)),
            3 => pool.invalidate_key(&key),
            4 => pool.resize_total(random.usize(1..=total)).unwrap(),
            5 => drop(pool.close_key(&key)),
            6..20 => {
                let patience = Duration::from_millis(random.u64(0..150));
                drop(tokio::time::timeout(patience, pool.get(&key)).await);
            }
            20..25 => drop(pool.try_get(&key)),
            action => match pool.get(&key).await {
                Err(GetError::Refused(_) | GetError::Closed) => {}
                Err(error) => panic!("{error:?}"),
                Ok(lease) => {
                    let in_use = lease.widget.hold();
                    doze(&mut random, 60).await;
                    drop(in_use);
                    match action {
                        25..28 => lease.discard(),
                        28..30 => drop(lease.detach()),
                        _ => drop(lease),
                    }
                }
            },
        }
    }
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

fn threads(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}
