//! What users do to a pool, by mistake or for lack of choice: wrong settings, wrong threads,
//! panics everywhere, no runtime.

mod common;

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::Duration,
};

use common::{
    Fault, Recorder, Script, Step, Works, assert_closes, assert_quiet, pass, poll, settle,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use tokio::runtime::Runtime;
use wharf::{
    Backoff, BuildError, Builder, Cause, Config, Event, Failure, GetError, Lease, Manager,
    OwnedLease, Pool, Shedding, Stage, Status, TryGetError,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// --- Types -------------------------------------------------------------------------------------

/// A manager of something that is `Send` and not `Sync`.
struct Cells;

impl Manager for Cells {
    type Resource = Cell<u32>;
    type Error = Infallible;

    async fn create(&self) -> Result<Cell<u32>, Infallible> {
        Ok(Cell::new(0))
    }
}

assert_impl_all!(Pool<Works>: Send, Sync, Clone, Unpin);
assert_impl_all!(Pool<Cells>: Send, Sync, Clone, Unpin);
assert_impl_all!(Builder<Cells>: Send);
assert_impl_all!(Lease<'static, Works>: Send, Sync, Unpin);
assert_impl_all!(OwnedLease<Works>: Send, Sync, Unpin);
// As for the resource itself: it may go to another thread, but not be seen from two.
assert_impl_all!(Lease<'static, Cells>: Send);
assert_impl_all!(OwnedLease<Cells>: Send);
assert_not_impl_any!(Lease<'static, Cells>: Sync);
assert_not_impl_any!(OwnedLease<Cells>: Sync);
// A lease is one: a copy of it would lend the resource twice.
assert_not_impl_any!(Lease<'static, Works>: Clone);
assert_not_impl_any!(OwnedLease<Works>: Clone);
assert_impl_all!(GetError<Fault>: std::error::Error, Send, Sync);
assert_impl_all!(Cause<Fault>: std::error::Error, Send, Sync, Clone);
assert_impl_all!(Config: Send, Sync, Clone, PartialEq);
assert_impl_all!(Status: Send, Sync, Clone);

#[test]
fn futures_can_be_spawned_and_owned_ones_kept() {
    fn send<T: Send>(_: T) {}
    fn owned<T: Send + 'static>(_: T) {}
    fn check<M: Manager>(pool: &Pool<M>) {
        send(pool.get());
        send(pool.get_timeout(SECOND));
        send(pool.get_deadline(tokio::time::Instant::now()));
        owned(pool.get_owned());
        owned(pool.get_owned_timeout(SECOND));
        owned(pool.get_owned_deadline(tokio::time::Instant::now()));
        owned(pool.close());
        owned(pool.close_within(SECOND));
        owned(pool.try_get_owned().ok());
    }
    check(&Pool::builder(Cells).build().unwrap());
    check(&Works::new().pool(1).build().unwrap());
}

// --- Settings ----------------------------------------------------------------------------------

/// Builds with one setting changed, which must be refused.
#[track_caller]
fn refused(set: impl FnOnce(Builder<Cells>) -> Builder<Cells>) -> BuildError {
    set(Pool::builder(Cells))
        .build()
        .expect_err("a setting that makes no sense was taken")
}

#[test]
fn every_setting_out_of_bounds_is_an_error_that_names_it_and_its_bound() {
    let zero = Duration::ZERO;
    let ages = Duration::MAX;
    let cases = [
        (
            refused(|b| b.max_active(0)),
            "max_active",
            "0",
            "from 1 to 1048576",
        ),
        (
            refused(|b| b.max_active((1 << 20) + 1)),
            "max_active",
            "1048577",
            "from 1 to 1048576",
        ),
        (
            refused(|b| b.max_active(usize::MAX)),
            "max_active",
            "18446744073709551615",
            "from 1 to 1048576",
        ),
        (
            refused(|b| b.max_active(4).min_idle(5)),
            "min_idle",
            "5",
            "from 0 to 4",
        ),
        (
            refused(|b| b.max_active(4).max_idle(5)),
            "max_idle",
            "5",
            "from 0 to 4",
        ),
        (
            refused(|b| b.max_active(4).min_idle(3).max_idle(2)),
            "max_idle",
            "2",
            "from 3 to 4",
        ),
        (
            refused(|b| b.max_waiters((1 << 20) + 1)),
            "max_waiters",
            "1048577",
            "from 0 to 1048576",
        ),
        (
            refused(|b| b.max_creating(0)),
            "max_creating",
            "0",
            "from 1 to 1048576",
        ),
        (
            refused(|b| b.lifetime_jitter(-0.1)),
            "lifetime_jitter",
            "-0.1",
            "from 0 to 0.9",
        ),
        (
            refused(|b| b.lifetime_jitter(1.0)),
            "lifetime_jitter",
            "1",
            "from 0 to 0.9",
        ),
        (
            refused(|b| b.lifetime_jitter(f64::NAN)),
            "lifetime_jitter",
            "NaN",
            "from 0 to 0.9",
        ),
        (
            refused(|b| b.idle_timeout(zero)),
            "idle_timeout",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.max_lifetime(zero)),
            "max_lifetime",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.check_interval(zero)),
            "check_interval",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.keep_alive(zero)),
            "keep_alive",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.wait_timeout(zero)),
            "wait_timeout",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.create_timeout(zero)),
            "create_timeout",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.check_timeout(zero)),
            "check_timeout",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.destroy_timeout(zero)),
            "destroy_timeout",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.warn_after(zero)),
            "warn_after",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| b.wait_timeout(ages)),
            "wait_timeout",
            "18446744073709551615.999999999s",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| {
                b.backoff(Backoff {
                    min: zero,
                    max: SECOND,
                })
            }),
            "backoff.min",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| {
                b.backoff(Backoff {
                    min: SECOND,
                    max: MS,
                })
            }),
            "backoff.max",
            "1ms",
            "from 1s to 100 years",
        ),
        (
            refused(|b| {
                b.shedding(Shedding {
                    target: zero,
                    interval: SECOND,
                })
            }),
            "shedding.target",
            "0ns",
            "from 1ns to 100 years",
        ),
        (
            refused(|b| {
                b.shedding(Shedding {
                    target: SECOND,
                    interval: MS,
                })
            }),
            "shedding.interval",
            "1ms",
            "from 1s to 100 years",
        ),
    ];
    for (error, field, value, bound) in cases {
        assert_eq!(error.field, field);
        assert_eq!(error.value, value, "{field}");
        assert_eq!(error.bound, bound, "{field}");
        assert_eq!(
            error.to_string(),
            format!("{field} is {value}, but must be {bound}")
        );
    }
}

#[test]
fn every_bound_itself_is_allowed() {
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    let nano = Duration::from_nanos(1);
    for time in [nano, century] {
        let builder = Pool::builder(Cells)
            .max_active(1)
            .min_idle(1)
            .max_idle(1)
            .max_waiters(1 << 20)
            .max_creating(1 << 20)
            .lifetime_jitter(0.9)
            .idle_timeout(time)
            .max_lifetime(time)
            .check_interval(time)
            .keep_alive(time)
            .wait_timeout(time)
            .create_timeout(time)
            .check_timeout(time)
            .destroy_timeout(time)
            .warn_after(time)
            .backoff(Backoff {
                min: time,
                max: time,
            })
            .shedding(Shedding {
                target: time,
                interval: time,
            });
        let pool = builder.build().unwrap();
        assert_eq!(pool.config().max_lifetime, Some(time));
    }
    assert!(Pool::builder(Cells).max_active(1 << 20).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_resize_changes_nothing() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let lease = pool.get().await.unwrap();
    for size in [0, (1 << 20) + 1, usize::MAX] {
        let error = pool.resize(size).unwrap_err();
        assert_eq!((error.field, error.value), ("max_active", size.to_string()));
    }
    assert_eq!(pool.status().max_active, 2);
    drop(lease);
    assert_quiet(&pool);
}

#[test]
fn the_builder_sets_what_it_says_and_the_rest_has_its_default() {
    let pool = Pool::builder(Cells)
        .max_active(7)
        .idle_timeout(None)
        .wait_timeout(SECOND)
        .build()
        .unwrap();
    let mut expected = Config::default();
    expected.max_active = 7;
    expected.idle_timeout = None;
    expected.wait_timeout = Some(SECOND);
    assert_eq!(*pool.config(), expected);
    let other = Pool::builder(Cells)
        .config(expected.clone())
        .build()
        .unwrap();
    assert_eq!(*other.config(), expected);
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;
    use wharf::OutagePolicy;

    #[test]
    fn durations_are_read_in_human_form_and_never_switches_them_off() {
        let text = r#"
            max_active = 64
            min_idle = 4
            max_idle = 32
            idle_timeout = "10m"
            max_lifetime = "never"
            keep_alive = "45s"
            wait_timeout = "1m 30s"
            outage_policy = "fail_fast"
            shedding = { target = "50ms", interval = "1s" }

            [backoff]
            min = "250ms"
        "#;
        let config: Config = toml::from_str(text).unwrap();
        let mut expected = Config::default();
        expected.max_active = 64;
        expected.min_idle = 4;
        expected.max_idle = Some(32);
        expected.idle_timeout = Some(600 * SECOND);
        expected.max_lifetime = None;
        expected.keep_alive = Some(45 * SECOND);
        expected.wait_timeout = Some(90 * SECOND);
        expected.outage_policy = OutagePolicy::FailFast;
        expected.shedding = Some(Shedding {
            target: 50 * MS,
            interval: SECOND,
        });
        expected.backoff.min = 250 * MS;
        assert_eq!(config, expected);

        let text = r#"{ "max_active": 3, "check_interval": "never", "destroy_timeout": "2s" }"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let mut expected = Config::default();
        expected.max_active = 3;
        expected.check_interval = None;
        expected.destroy_timeout = Some(2 * SECOND);
        assert_eq!(config, expected);
    }

    #[test]
    fn nothing_at_all_is_the_default() {
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        assert_eq!(
            serde_json::from_str::<Config>("{}").unwrap(),
            Config::default()
        );
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        for text in [
            "max_activ = 3",
            "[backoff]\nminimum = \"1s\"",
            "shedding = { target = \"1ms\", interval = \"1s\", foo = 1 }",
        ] {
            let error = toml::from_str::<Config>(text).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
        let error = serde_json::from_str::<Config>(r#"{ "max_conns": 3 }"#).unwrap_err();
        assert!(error.to_string().contains("`max_conns`"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_form_is_an_error() {
        for text in [
            r#"idle_timeout = "soon""#,
            r#"idle_timeout = "10""#,
            r#"idle_timeout = """#,
            "idle_timeout = 10",
            "max_active = -1",
            r#"max_active = "10""#,
            r#"outage_policy = "panic""#,
            r#"shedding = { target = "1ms" }"#,
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_read_and_then_refused_by_the_builder() {
        for (text, field) in [
            ("max_active = 0", "max_active"),
            (r#"wait_timeout = "0s""#, "wait_timeout"),
            (r#"wait_timeout = "1000years""#, "wait_timeout"),
            ("lifetime_jitter = nan", "lifetime_jitter"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = Pool::builder(Cells).config(config).build().unwrap_err();
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut odd = Config::default();
        odd.max_active = 9;
        odd.max_idle = Some(5);
        odd.idle_timeout = None;
        odd.max_lifetime = Some(Duration::new(3723, 4_005_006));
        odd.lifetime_jitter = 0.25;
        odd.keep_alive = Some(Duration::from_nanos(1));
        odd.warn_after = Some(90 * SECOND);
        odd.outage_policy = OutagePolicy::FailFast;
        odd.backoff = Backoff {
            min: 7 * MS,
            max: 11 * SECOND,
        };
        odd.shedding = Some(Shedding {
            target: 5 * MS,
            interval: 100 * MS,
        });
        for config in [Config::default(), odd] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(
                serde_json::from_str::<Config>(&text).unwrap(),
                config,
                "{text}"
            );
        }
    }
}

// --- Leases that end in odd places -------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lease_may_be_dropped_on_a_thread_without_a_runtime() {
    // mobc and sqlx spawned a task in the drop of their guards: a panic outside a runtime.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    for end in [drop, OwnedLease::put, OwnedLease::discard] {
        let lease = pool.get_owned().await.unwrap();
        let waiter = tokio::spawn(pool.get_owned());
        settle().await;
        std::thread::spawn(move || end(lease)).join().unwrap();
        drop(waiter.await.unwrap().unwrap());
    }
    let lease = pool.get_owned().await.unwrap();
    drop(std::thread::spawn(move || lease.detach()).join().unwrap());
    works.reset.next(Step::Refuse);
    let lease = pool.get_owned().await.unwrap();
    std::thread::spawn(move || drop(lease)).join().unwrap();
    settle().await;
    assert_eq!(works.destroy.calls(), 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_borrowed_lease_may_end_on_another_thread() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    std::thread::scope(|threads| threads.spawn(|| drop(lease)).join().unwrap());
    assert_eq!(pool.try_get().unwrap().id, 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_lease_may_outlive_every_handle_of_its_pool() {
    let works = Works::new();
    let pool = works.pool(3).build().unwrap();
    let leases = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    drop(pool);
    let [first, second, third] = leases;
    assert_eq!(first.id, 0, "it is still lent");
    drop(first);
    second.discard();
    let widget = third.detach();
    settle().await;
    assert_eq!((works.destroy.calls(), works.existing()), (2, 1));
    drop(widget);
}

#[test]
fn a_lease_may_outlive_the_runtime() {
    let works = Works::new();
    let runtime = paused();
    let (pool, kept, discarded) = runtime.block_on(async {
        let pool = works.pool(3).build().unwrap();
        let kept = pool.get_owned().await.unwrap();
        let discarded = pool.get_owned().await.unwrap();
        (pool, kept, discarded)
    });
    drop(runtime);
    drop(kept);
    // There is nobody to run `destroy`, so the resource is dropped.
    discarded.discard();
    assert_eq!((works.destroy.calls(), works.existing()), (0, 1));
    assert_quiet(&pool);
    assert_eq!(pool.try_get().unwrap().id, 0);
    let lease = pool.try_get_owned().unwrap();
    drop(pool);
    drop(lease);
    assert_eq!(works.existing(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_dropped_by_a_panic_is_given_back() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let waiter = {
        let lease = pool.get_owned().await.unwrap();
        let waiter = tokio::spawn(pool.get_owned());
        settle().await;
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _lease = lease;
            panic!("the holder's");
        }));
        assert!(unwound.is_err());
        waiter
    };
    assert_eq!(waiter.await.unwrap().unwrap().id, 0);
    // The same in a task, with a resource that is not fit any more, whose manager panics too.
    for step in [Step::Ok, Step::Refuse] {
        let lease = pool.get_owned().await.unwrap();
        works.reset.next(step);
        let holder = tokio::spawn(async move {
            let _lease = lease;
            panic!("the holder's");
        });
        assert!(holder.await.unwrap_err().is_panic());
    }
    settle().await;
    assert_quiet(&pool);
    assert_eq!(works.destroy.calls(), 1);
    drop(pool.get().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_back_to_its_own_pool_whoever_puts_it() {
    let (works, others) = (Works::new(), Works::new());
    let (pool, other) = (
        works.pool(1).build().unwrap(),
        others.pool(1).build().unwrap(),
    );
    other.put(pool.get().await.unwrap());
    assert_quiet(&pool);
    assert_quiet(&other);
    assert_eq!((pool.status().idle, other.status().idle), (1, 0));
}

// --- Calls into the pool from where it calls out -----------------------------------------------

/// All that can be asked of a pool without waiting.
fn use_it(pool: &Pool<Works>) {
    thread_local! { static INSIDE: Cell<bool> = const { Cell::new(false) } }
    if INSIDE.replace(true) {
        return;
    }
    let max_active = pool.status().max_active;
    drop(pool.try_get());
    drop(pool.try_get_owned());
    let _ = poll(pin!(pool.get()));
    let _ = poll(pin!(pool.get_owned_timeout(SECOND)));
    pool.retain(|_, _| true);
    drop(pool.add(pool.manager().widget()));
    pool.resize(max_active + 1).unwrap();
    pool.resize(max_active).unwrap();
    let _ = (pool.is_closed(), format!("{pool:?}"));
    INSIDE.set(false);
}

/// Has every method of the manager called, and every destructor. Who is refused depends on who
/// else asks.
async fn exercise(works: &Works, pool: &Pool<Works>) {
    for _ in 0..3 {
        drop(pool.get().await);
        pass(SECOND).await;
        let lease = pool.get().await;
        works.create.next(Step::Refuse);
        let _ = pool.get().await.map(Lease::discard);
        let _ = lease.map(Lease::discard);
        settle().await;
        pool.invalidate_all();
    }
    works.create.clear();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn every_callback_may_use_the_pool_and_end_leases() {
    // bb8 and deadpool ran destructors and predicates under their locks: a callback that touched
    // the pool hung it.
    fn scripts(works: &Works) -> [(&'static str, Script); 7] {
        [
            ("create", works.create.clone()),
            ("is_alive", works.is_alive.clone()),
            ("check", works.check.clone()),
            ("reset", works.reset.clone()),
            ("destroy", works.destroy.clone()),
            ("classify", works.classify.clone()),
            ("the destructor", works.scrap.clone()),
        ]
    }
    for at in 0..7 {
        let works = Works::new();
        let pool = works.pool(3).check_interval(MS).build().unwrap();
        let (name, script) = scripts(&works)[at].clone();
        let stash = Arc::new(Mutex::new(vec![pool.get_owned().await.unwrap()]));
        let calls = Arc::new(AtomicUsize::new(0));
        script.hook({
            let (pool, stash, calls) = (pool.clone(), Arc::clone(&stash), Arc::clone(&calls));
            move || {
                calls.fetch_add(1, SeqCst);
                let lease = stash.lock().unwrap().pop();
                drop(lease);
                use_it(&pool);
            }
        });
        exercise(&works, &pool).await;
        assert!(calls.load(SeqCst) > 0, "{name} was not called");
        assert!(stash.lock().unwrap().is_empty());
        script.unhook();
        pass(SECOND).await;
        assert_quiet(&pool);
        drop(pool.get().await.unwrap());
        assert_closes(&pool).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_use_the_pool() {
    let works = Works::new();
    let place: Arc<Mutex<Option<Pool<Works>>>> = Arc::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let observer = {
        let (place, seen) = (Arc::clone(&place), Arc::clone(&seen));
        move |_: &Event<'_>| {
            let pool = place.lock().unwrap().clone();
            if let Some(pool) = pool {
                seen.fetch_add(1, SeqCst);
                use_it(&pool);
            }
        }
    };
    let pool = works
        .pool(3)
        .check_interval(MS)
        .observer(observer)
        .build()
        .unwrap();
    *place.lock().unwrap() = Some(pool.clone());
    works.check.next(Step::Outage);
    exercise(&works, &pool).await;
    assert!(seen.load(SeqCst) > 10);
    pass(SECOND).await;
    *place.lock().unwrap() = None;
    assert_quiet(&pool);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn every_callback_may_close_the_pool() {
    for at in 0..5 {
        let works = Works::new();
        let pool = works.pool(2).check_interval(MS).build().unwrap();
        drop(pool.get().await.unwrap());
        pass(SECOND).await;
        let script = [
            &works.create,
            &works.is_alive,
            &works.check,
            &works.reset,
            &works.destroy,
        ][at];
        script.hook({
            let pool = pool.clone();
            move || drop(pool.close())
        });
        let lease = pool.get().await;
        let other = pool.get().await;
        drop((lease, other.map(Lease::discard)));
        settle().await;
        assert!(pool.is_closed(), "callback {at}");
        assert_closes(&pool).await;
        script.unhook();
    }
}

// --- Panics ------------------------------------------------------------------------------------

/// After a panic in one of its methods: the pool has told of it, and works as before.
async fn assert_survived(pool: &Pool<Works>, recorder: &Recorder, method: &str) {
    settle().await;
    let events = recorder.take();
    let told = events
        .iter()
        .filter(|event| **event == format!("panicked {method}"));
    assert_eq!(told.count(), 1, "{events:?}");
    assert_quiet(pool);
    let max_active = pool.status().max_active;
    let all = futures_util::future::join_all((0..max_active).map(|_| pool.get())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    drop(all);
    assert_closes(pool).await;
}

fn recorded(works: &Works) -> (Pool<Works>, Recorder) {
    let recorder = Recorder::default();
    let pool = works
        .pool(2)
        .check_interval(MS)
        .observer(recorder.clone())
        .build()
        .unwrap();
    (pool, recorder)
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_create_leaks_no_capacity_and_is_the_cause() {
    // In bb8 a panic in `connect` left the count of pending connections too high for ever: after
    // as many panics as the pool had slots it was dead.
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    works.create.always(Step::Panic);
    let error = pool.get_timeout(20 * SECOND).await.unwrap_err();
    let GetError::Timeout {
        stage: Stage::Create,
        cause: Some(Cause::Panicked(message)),
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(&*message, "as told");
    assert!(works.create.calls() > 4, "{}", works.create.calls());
    works.create.always(Step::Ok);
    let both = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(both);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_create_is_survived() {
    for step in [Step::Panic, Step::Panic.yielding(1)] {
        let works = Works::new();
        works.create.next(step);
        let (pool, recorder) = recorded(&works);
        drop(pool.get().await.unwrap());
        assert_survived(&pool, &recorder, "create").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_classify_is_survived() {
    let works = Works::new();
    works.create.next(Step::Refuse);
    works.classify.next(Step::Panic);
    let (pool, recorder) = recorded(&works);
    // Of an error that cannot be classified the worst is thought: an outage.
    drop(pool.get().await.unwrap());
    assert_eq!(pool.status().totals.outages, 1);
    assert_survived(&pool, &recorder, "classify").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_is_alive_costs_the_resource() {
    let works = Works::new();
    let (pool, recorder) = recorded(&works);
    drop(pool.get().await.unwrap());
    works.is_alive.next(Step::Panic);
    assert_eq!(pool.get().await.unwrap().id, 1);
    assert_survived(&pool, &recorder, "is_alive").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_check_costs_the_resource() {
    for step in [Step::Panic, Step::Panic.yielding(1)] {
        let works = Works::new();
        let (pool, recorder) = recorded(&works);
        drop(pool.get().await.unwrap());
        pass(SECOND).await;
        works.check.next(step.clone());
        assert_eq!(pool.get().await.unwrap().id, 1);
        assert_survived(&pool, &recorder, "check").await;

        // And in the background.
        let (pool, recorder) = recorded(&works);
        drop(pool.get().await.unwrap());
        pass(SECOND).await;
        works.check.next(step);
        assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
        assert_survived(&pool, &recorder, "check").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_reset_costs_the_resource_and_does_not_reach_the_holder() {
    let works = Works::new();
    let (pool, recorder) = recorded(&works);
    let lease = pool.get().await.unwrap();
    works.reset.next(Step::Panic);
    drop(lease);
    settle().await;
    assert_eq!(works.existing(), 0);
    assert_survived(&pool, &recorder, "reset").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_destroy_frees_the_slot() {
    for step in [Step::Panic, Step::Panic.yielding(1)] {
        let works = Works::new();
        let (pool, recorder) = recorded(&works);
        works.destroy.next(step);
        pool.get().await.unwrap().discard();
        assert_survived(&pool, &recorder, "destroy").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_destructor_frees_the_slot() {
    let works = Works::new();
    let (pool, recorder) = recorded(&works);
    works.scrap.next(Step::Panic);
    pool.get().await.unwrap().discard();
    assert_survived(&pool, &recorder, "destroy").await;
}

#[test]
fn a_panic_in_a_destructor_without_a_runtime_frees_the_slot() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = works.pool(1).observer(recorder.clone()).build().unwrap();
    pool.add(works.widget()).unwrap();
    works.scrap.next(Step::Panic);
    pool.try_get().unwrap().discard();
    assert_eq!(recorder.take(), ["retired Discarded", "panicked drop"]);
    assert_quiet(&pool);
    pool.add(works.widget()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_observer_changes_nothing() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = works
        .pool(2)
        .check_interval(MS)
        .observer(|event: &Event<'_>| panic!("{event:?}"))
        .observer(recorder.clone())
        .build()
        .unwrap();
    exercise(&works, &pool).await;
    assert_quiet(&pool);
    assert_closes(&pool).await;
    // The observers behind it hear all the same.
    assert!(recorder.take().contains(&"closed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_predicate_of_retain_leaves_the_pool_usable() {
    let works = Works::new();
    let pool = works.pool(4).build().unwrap();
    drop(futures_util::future::join_all((0..4).map(|_| pool.get())).await);
    let mut looked = 0;
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        pool.retain(|_, _| {
            looked += 1;
            assert!(looked < 2, "as told");
            true
        })
    }));
    assert!(unwound.is_err(), "the caller hears of its own panic");
    settle().await;
    assert_eq!((pool.status().idle, works.destroy.calls()), (3, 1));
    assert_quiet(&pool);
    assert_eq!(pool.retain(|_, _| false), 3);
    assert_closes(&pool).await;
}

/// A waker that panics when it is woken, and one that panics when it goes.
struct Alarming {
    on_wake: bool,
}

impl Wake for Alarming {
    fn wake(self: Arc<Self>) {
        assert!(!self.on_wake, "woken");
    }
}

impl Drop for Alarming {
    fn drop(&mut self) {
        assert!(self.on_wake || std::thread::panicking(), "dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_costs_nothing() {
    let works = Works::new();
    let (pool, recorder) = recorded(&works);
    pool.resize(1).unwrap();
    let lease = pool.get().await.unwrap();
    let waker = Waker::from(Arc::new(Alarming { on_wake: true }));
    let mut alarmed = Box::pin(pool.get());
    let mut next = pin!(pool.get());
    assert!(
        alarmed
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(poll(next.as_mut()).is_pending());
    drop(lease);
    // It was woken in vain, and has its resource all the same, or gives it to the next.
    drop(alarmed);
    drop(next.await.unwrap());
    assert_survived(&pool, &recorder, "wake").await;
}

#[tokio::test(start_paused = true)]
async fn a_waker_whose_destructor_panics_costs_nothing() {
    let works = Works::new();
    let (pool, _) = recorded(&works);
    pool.resize(1).unwrap();
    let lease = pool.get().await.unwrap();
    let mut replaced = Box::pin(pool.get());
    let mut cancelled = Box::pin(pool.get());
    for getting in [&mut replaced, &mut cancelled] {
        let waker = Waker::from(Arc::new(Alarming { on_wake: false }));
        let polled = getting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        // From here on the pool has the last of it.
        drop(waker);
    }
    assert!(poll(replaced.as_mut()).is_pending());
    drop(cancelled);
    drop(lease);
    drop(replaced.await.unwrap());
    assert_quiet(&pool);
}

/// Its futures hang, and panic when they are dropped.
struct Sticky {
    hang: Arc<Mutex<&'static str>>,
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

impl Sticky {
    async fn stick(&self, method: &'static str) {
        let hang = std::mem::take(&mut *self.hang.lock().unwrap());
        if hang == method {
            let _sticky = PanicsOnDrop;
            pending::<()>().await;
        } else {
            *self.hang.lock().unwrap() = hang;
        }
    }
}

impl Manager for Sticky {
    type Resource = u32;
    type Error = Infallible;

    async fn create(&self) -> Result<u32, Infallible> {
        self.stick("create").await;
        Ok(0)
    }

    async fn check(&self, _: &mut u32) -> Result<(), Infallible> {
        self.stick("check").await;
        Ok(())
    }

    async fn destroy(&self, _: u32) {
        self.stick("destroy").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_of_the_managers_that_panics_when_it_is_cut_off_costs_its_resource() {
    for method in ["create", "check", "destroy"] {
        let hang = Arc::new(Mutex::new(""));
        let sticky = Sticky {
            hang: Arc::clone(&hang),
        };
        let pool = Pool::builder(sticky)
            .max_active(1)
            .check_interval(MS)
            .create_timeout(SECOND)
            .check_timeout(SECOND)
            .destroy_timeout(SECOND)
            .build()
            .unwrap();
        pool.add(0).unwrap();
        pass(SECOND).await;
        *hang.lock().unwrap() = method;
        if method != "check" {
            assert_eq!(pool.retain(|_, _| false), 1);
        }
        // A check runs on its caller's time, so the caller may meet the panic.
        let outcome = tokio::spawn(pool.get_owned()).await;
        assert!(
            method == "check" || matches!(&outcome, Ok(Ok(_))),
            "{method}"
        );
        drop(outcome);
        settle().await;
        assert_eq!(*hang.lock().unwrap(), "", "{method} did not hang");
        let status = pool.status();
        assert_eq!(
            (status.leased, status.creating, status.closing),
            (0, 0, 0),
            "{method}: {status:?}"
        );
        drop(pool.get().await.unwrap());
        assert_eq!(pool.close_within(SECOND).await, Ok(()), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_without_words_is_told_as_well() {
    struct Wordless;

    impl Manager for Wordless {
        type Resource = u32;
        type Error = Infallible;

        async fn create(&self) -> Result<u32, Infallible> {
            std::panic::panic_any(7_u8);
        }
    }

    let pool = Pool::builder(Wordless).max_active(1).build().unwrap();
    let error = pool.get_timeout(SECOND).await.unwrap_err();
    let GetError::Timeout {
        cause: Some(cause), ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(cause.to_string(), "panicked: (no message)");
}

#[tokio::test(start_paused = true)]
async fn an_error_whose_destructor_panics_costs_nothing() {
    #[derive(Debug, thiserror::Error)]
    #[error("touchy")]
    struct Touchy(Arc<AtomicUsize>);

    impl Drop for Touchy {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            assert!(std::thread::panicking(), "dropped");
        }
    }

    /// Fails three times.
    struct Touching {
        calls: AtomicUsize,
        dropped: Arc<AtomicUsize>,
    }

    impl Manager for Touching {
        type Resource = u32;
        type Error = Touchy;

        async fn create(&self) -> Result<u32, Touchy> {
            if self.calls.fetch_add(1, SeqCst) < 3 {
                return Err(Touchy(Arc::clone(&self.dropped)));
            }
            Ok(0)
        }

        fn classify(&self, _: &Touchy) -> Failure {
            Failure::Refuse
        }
    }

    let dropped = Arc::new(AtomicUsize::new(0));
    let manager = Touching {
        calls: AtomicUsize::new(0),
        dropped: Arc::clone(&dropped),
    };
    let pool = Pool::builder(manager).max_active(1).build().unwrap();
    for _ in 0..3 {
        // Refused, and gone before it hears of it: the pool alone has the error.
        let mut gone = Box::pin(pool.get());
        assert!(poll(gone.as_mut()).is_pending());
        settle().await;
        drop(gone);
    }
    assert_eq!(dropped.load(SeqCst), 2, "the last failure is kept");
    drop(pool.get().await.unwrap());
    assert_eq!((pool.status().idle, pool.status().creating), (1, 0));
    pool.close().await;
    assert_eq!(pool.status().active(), 0);
    // With the pool goes the last one. That panic is the caller's.
    drop(catch_unwind(AssertUnwindSafe(move || drop(pool))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ever_destroyed_twice() {
    // `Widget` cannot be destroyed twice without being created twice; the counts would differ.
    let works = Works::new();
    works.destroy.always(Step::Ok.yielding(2));
    let pool = works
        .pool(3)
        .max_idle(1)
        .check_interval(MS)
        .build()
        .unwrap();
    for round in 0..100 {
        let leases = futures_util::future::join_all((0..3).map(|_| pool.get())).await;
        if round % 5 == 0 {
            works.reset.next(Step::Refuse);
        }
        for (at, lease) in leases.into_iter().enumerate() {
            let lease = lease.unwrap();
            if (at + round) % 4 == 0 {
                lease.discard();
            }
        }
        if round % 7 == 0 {
            pool.invalidate_all();
        }
        if round % 3 == 0 {
            pool.retain(|widget, _| widget.id % 2 == 0);
        }
    }
    pool.invalidate_all();
    assert_closes(&pool).await;
    assert_eq!(works.destroy.calls(), works.made());
    assert_eq!(works.scrap.calls(), works.made());
    assert_eq!(pool.status().totals.retired, works.made() as u64);
}

// --- Runtimes ----------------------------------------------------------------------------------

fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Runs a future on a thread that has no runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[track_caller]
fn message_of<T>(panicking: impl FnOnce() -> T) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(panicking)) else {
        panic!("it did not panic");
    };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn get_without_any_runtime_panics_and_says_why() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let said = message_of(|| poll(pin!(pool.get())).is_pending());
    assert!(said.contains("runtime"), "{said}");
    assert_quiet(&pool);

    // It was the waiting that needed one.
    pool.add(works.widget()).unwrap();
    drop(block_on(pool.get()).unwrap());
    drop(pool.try_get().unwrap());
    assert_quiet(&pool);
}

#[test]
fn a_pool_that_never_sees_a_runtime_lends_what_is_added_and_closes() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    pool.add(works.widget()).unwrap();
    pool.add(works.widget()).unwrap();
    let (one, two) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    one.discard();
    assert_eq!(works.existing(), 1);
    drop(two);
    block_on(pool.close());
    assert_eq!((works.existing(), works.destroy.calls()), (0, 0));
    assert_quiet(&pool);
}

#[test]
fn a_pool_built_outside_a_runtime_settles_on_the_first_that_waits_for_it() {
    let works = Works::new();
    let pool = works.pool(1).min_idle(1).build().unwrap();
    assert_eq!(works.create.calls(), 0);
    let runtime = paused();
    runtime.block_on(async {
        let lease = pool.get().await.unwrap();
        // Its upkeep runs here: the deadline is kept.
        assert!(pool.get_timeout(SECOND).await.is_err());
        drop(lease);
        assert_quiet(&pool);
        assert_closes(&pool).await;
    });
}

#[test]
fn a_pool_can_be_given_its_runtime() {
    let works = Works::new();
    let runtime = Runtime::new().unwrap();
    let pool = works
        .pool(1)
        .check_interval(None)
        .runtime(runtime.handle().clone())
        .build()
        .unwrap();
    // No runtime here; what must run, runs there.
    let lease = block_on(pool.get()).unwrap();
    assert!(block_on(pool.get_timeout(MS)).is_err());
    lease.discard();
    drop(block_on(pool.get()).unwrap());
    block_on(pool.close());
    assert_eq!(works.destroy.calls(), 2);
    assert_quiet(&pool);
}

#[test]
fn a_check_outside_a_runtime_is_timed_by_the_pools_own() {
    let works = Works::new();
    let runtime = Runtime::new().unwrap();
    let pool = works
        .pool(1)
        .check_interval(Duration::from_nanos(1))
        .check_timeout(MS)
        .runtime(runtime.handle().clone())
        .build()
        .unwrap();
    drop(block_on(pool.get()).unwrap());
    works.check.always(Step::Hang);
    let began = std::time::Instant::now();
    while works.check.calls() == 0 {
        drop(block_on(pool.get()).unwrap());
        assert!(began.elapsed() < 20 * SECOND, "no check became due");
        std::thread::yield_now();
    }
    works.check.always(Step::Ok);
    drop(block_on(pool.get()).unwrap());
    block_on(pool.close());
    assert_quiet(&pool);
}

#[test]
fn a_pool_moves_on_when_its_runtime_shuts_down() {
    let works = Works::new();
    let first = paused();
    let pool = works
        .pool(4)
        .create_timeout(None)
        .destroy_timeout(None)
        .build()
        .unwrap();
    let lease = first.block_on(async {
        let out = [
            pool.get_owned().await.unwrap(),
            pool.get_owned().await.unwrap(),
            pool.get_owned().await.unwrap(),
        ];
        let [idle, lease, discarded] = out;
        drop(idle);
        works.destroy.next(Step::Hang);
        discarded.discard();
        let taken = pool.try_get().unwrap();
        works.create.next(Step::Hang);
        assert!(pool.get_timeout(MS).await.is_err());
        drop(taken);
        let status = pool.status();
        assert_eq!((status.creating, status.closing), (1, 1));
        lease
    });
    drop(first);
    // What ran there ended with it, and took nothing along.
    let status = pool.status();
    assert_eq!(
        (status.idle, status.leased, status.creating, status.closing),
        (1, 1, 0, 0)
    );
    assert_eq!(works.existing(), 2);

    paused().block_on(async {
        let all = [
            pool.get().await.unwrap(),
            pool.get().await.unwrap(),
            pool.get().await.unwrap(),
        ];
        assert_eq!(all[0].id, 0, "what was idle is still good");
        let began = tokio::time::Instant::now();
        assert!(pool.get_timeout(SECOND).await.is_err());
        assert!(began.elapsed() <= SECOND + 2 * MS, "upkeep runs here");
        let waiter = tokio::spawn(pool.get_owned());
        settle().await;
        drop(lease);
        drop(waiter.await.unwrap().unwrap());
        drop(all);
        settle().await;
        assert_quiet(&pool);
        assert_closes(&pool).await;
    });
}

#[test]
fn a_waiter_elsewhere_survives_the_end_of_the_pools_runtime() {
    let works = Works::new();
    let (home, elsewhere) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    works.create.always(Step::Hang);
    let pool = works
        .pool(1)
        .create_timeout(None)
        .runtime(home.handle().clone())
        .build()
        .unwrap();
    let waiter = elsewhere.spawn(pool.get_owned());
    while works.create.calls() == 0 {
        std::thread::yield_now();
    }
    works.create.always(Step::Ok);
    home.shutdown_background();
    let lease = elsewhere.block_on(waiter).unwrap().unwrap();
    drop(lease);
    elsewhere.block_on(pool.close());
    assert_quiet(&pool);
}

#[test]
fn a_waiter_without_a_runtime_panics_and_keeps_nothing() {
    // Its runtime has gone, and it is polled where there is none. That is a panic, but not one
    // that leaves a dead waiter in line, to be handed the next resource.
    let works = Works::new();
    let runtime = paused();
    let pool = works.pool(1).build().unwrap();
    let lease = runtime.block_on(pool.get_owned()).unwrap();
    let mut waiter = Box::pin(pool.get());
    runtime.block_on(async { assert!(poll(waiter.as_mut()).is_pending()) });
    drop(runtime);
    let said = message_of(|| poll(waiter.as_mut()).is_pending());
    assert!(said.contains("runtime"), "{said}");
    drop(waiter);
    assert_eq!(pool.status().waiting, 0);
    drop(lease);
    assert_quiet(&pool);
    drop(pool.try_get().unwrap());
}

/// One pool for the tests below, each of which has a runtime of its own that ends with it.
fn shared_pool() -> &'static Pool<Works> {
    static POOL: OnceLock<Pool<Works>> = OnceLock::new();
    POOL.get_or_init(|| Works::new().pool(2).wait_timeout(None).build().unwrap())
}

async fn use_the_shared_pool() {
    for round in 0..50 {
        let widget = shared_pool().get().await.unwrap();
        let in_use = widget.hold();
        tokio::task::yield_now().await;
        drop(in_use);
        if round % 5 == 0 {
            widget.discard();
        }
    }
}

#[tokio::test]
async fn a_static_pool_serves_a_first_test() {
    use_the_shared_pool().await;
}

#[tokio::test]
async fn a_static_pool_serves_a_second_test() {
    use_the_shared_pool().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_pool_serves_a_third_test() {
    use_the_shared_pool().await;
}

#[test]
fn a_static_pool_survives_many_short_runtimes() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..10 {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(use_the_shared_pool());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(shared_pool().manager().trespasses(), 0);
    assert!(shared_pool().manager().most() <= 2);
}
