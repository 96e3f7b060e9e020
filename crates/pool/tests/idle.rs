//! What upkeep does, and what it leaves alone: idle timeouts, lifetimes, keep-alive, `min_idle`,
//! warnings of leases that are out for too long, and rest when there is nothing to do.

mod common;

use std::{
    panic::Location,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{
    Gate, Recorder, Step, Works, assert_closes, assert_quiet, assert_waits, poll, served, settle,
    waiting,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use wharf::{Event, GetError, Pool, Retirement};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Lets paused time pass from one timer to the next, so that all of them ring at their moment.
async fn elapse(time: Duration) {
    sleep(time).await;
    settle().await;
}

/// When each call of a script's method began.
fn moments(script: &common::Script) -> Arc<Mutex<Vec<Instant>>> {
    let moments = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = Arc::clone(&moments);
    script.hook(move || seen.lock().unwrap().push(Instant::now()));
    moments
}

/// How late upkeep may be with something measured in this.
fn grace(span: Duration) -> Duration {
    (span / 8).min(SECOND) + MS
}

/// Takes so many at once and gives them all back.
async fn fill(pool: &Pool<Works>, count: usize) {
    let mut leases = Vec::new();
    for _ in 0..count {
        leases.push(pool.get().await.unwrap());
    }
}

// --- Idle timeout ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_idle_resource_is_destroyed_never_early_and_at_most_a_little_late() {
    let mut random = fastrand::Rng::with_seed(1);
    for timeout in [40 * MS, 300 * MS, SECOND, 7 * SECOND, 600 * SECOND] {
        for _ in 0..20 {
            let works = Works::new();
            let pool = works
                .pool(2)
                .idle_timeout(timeout)
                .max_lifetime(None)
                .check_interval(None)
                .build()
                .unwrap();
            let destroyed = moments(&works.destroy);
            // Used for a while, at moments that have nothing to do with upkeep's.
            let mut returned = Instant::now();
            for _ in 0..random.usize(1..20) {
                let lease = pool.get().await.unwrap();
                elapse(timeout.mul_f64(random.f64() * 0.3)).await;
                drop(lease);
                returned = Instant::now();
                elapse(timeout.mul_f64(random.f64() * 0.3)).await;
            }
            elapse(2 * timeout).await;
            assert_eq!(works.made(), 1);
            let [destroyed] = destroyed.lock().unwrap()[..] else {
                panic!("not destroyed");
            };
            let idle = destroyed - returned;
            assert!(
                (timeout..=timeout + grace(timeout)).contains(&idle),
                "idle for {idle:?} of {timeout:?}"
            );
            assert_quiet(&pool);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn use_refreshes_the_idle_stamp() {
    // mobc stamped a connection when it was made, and took busy ones for idle.
    let works = Works::new();
    let pool = works
        .pool(1)
        .idle_timeout(SECOND)
        .max_lifetime(None)
        .build()
        .unwrap();
    for _ in 0..100 {
        drop(pool.get().await.unwrap());
        elapse(800 * MS).await;
    }
    assert_eq!(works.made(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn cold_resources_age_out_while_hot_ones_stay() {
    let works = Works::new();
    let pool = works
        .pool(8)
        .idle_timeout(10 * SECOND)
        .max_lifetime(None)
        .build()
        .unwrap();
    fill(&pool, 8).await;
    for _ in 0..200 {
        fill(&pool, 2).await;
        elapse(100 * MS).await;
    }
    assert_eq!(works.existing(), 2);
    assert_eq!(works.made(), 8);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn an_idle_resource_past_its_timeout_is_not_lent() {
    let works = Works::new();
    let pool = works.pool(1).idle_timeout(SECOND).build().unwrap();
    drop(pool.get().await.unwrap());
    // The pool has come to rest, and upkeep does not know of the time that passes then.
    elapse(500 * MS).await;
    common::jump(10 * SECOND);
    let lease = pool.get().await.unwrap();
    assert_eq!(lease.id, 1);
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_leased_resource_is_never_reaped() {
    let works = Works::new();
    let pool = works
        .pool(2)
        .idle_timeout(SECOND)
        .max_lifetime(10 * SECOND)
        .keep_alive(SECOND)
        .build()
        .unwrap();
    let lease = pool.get().await.unwrap();
    let in_use = lease.hold();
    elapse(HOUR).await;
    assert_eq!(works.destroy.calls(), 0);
    assert_eq!(works.check.calls(), 0);
    drop(in_use);
    drop(lease);
    settle().await;
    assert_eq!(works.destroy.calls(), 1, "it is past its lifetime");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn nothing_times_out_that_has_no_timeout() {
    let works = Works::new();
    let pool = works
        .pool(3)
        .idle_timeout(None)
        .max_lifetime(None)
        .build()
        .unwrap();
    fill(&pool, 3).await;
    elapse(1000 * HOUR).await;
    assert_eq!(pool.status().idle, 3);
    fill(&pool, 3).await;
    assert_eq!(works.made(), 3);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_comes_back_to_enough_idle_ones_is_destroyed() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = works
        .pool(5)
        .max_idle(2)
        .observer(recorder.clone())
        .build()
        .unwrap();
    fill(&pool, 5).await;
    settle().await;
    assert_eq!(pool.status().idle, 2);
    assert_eq!(recorder.take()[5..], ["retired Surplus"; 3]);
    assert_quiet(&pool);
}

// --- Lifetime ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_lifetime_is_enforced_on_a_resource_that_never_rests() {
    // A connection that was always in use at the reaper's rounds lived for ever.
    let works = Works::new();
    let lifetime = 10 * SECOND;
    let pool = works
        .pool(1)
        .max_lifetime(lifetime)
        .lifetime_jitter(0.0)
        .build()
        .unwrap();
    let most = lifetime + grace(lifetime);
    let until = Instant::now() + 100 * SECOND;
    while Instant::now() < until {
        let lease = pool.get().await.unwrap();
        assert!(lease.info().age <= most, "{:?} old", lease.info().age);
        sleep(3 * MS).await;
        drop(lease);
    }
    assert!((9..=10).contains(&works.made()), "{} made", works.made());
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn an_idle_resource_is_destroyed_at_the_end_of_its_life() {
    let works = Works::new();
    let lifetime = 60 * SECOND;
    let pool = works
        .pool(1)
        .idle_timeout(None)
        .max_lifetime(lifetime)
        .lifetime_jitter(0.0)
        .build()
        .unwrap();
    let destroyed = moments(&works.destroy);
    let born = Instant::now();
    drop(pool.get().await.unwrap());
    elapse(2 * lifetime).await;
    let [destroyed] = destroyed.lock().unwrap()[..] else {
        panic!("not destroyed");
    };
    let age = destroyed - born;
    assert!(
        (lifetime..=lifetime + grace(lifetime)).contains(&age),
        "{age:?}"
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_made_together_is_not_retired_together() {
    const FLEET: usize = 200;
    // Pools that jitter by a fixed time, or only above some lifetime, retire all of it at once.
    for lifetime in [200 * MS, 5 * SECOND, 1800 * SECOND, 24 * HOUR] {
        for jitter in [0.1, 0.5, 0.9] {
            let works = Works::new();
            let pool = works
                .pool(FLEET)
                .max_creating(FLEET)
                .idle_timeout(None)
                .max_lifetime(lifetime)
                .lifetime_jitter(jitter)
                .check_interval(None)
                .build()
                .unwrap();
            let born = Instant::now();
            fill(&pool, FLEET).await;
            assert_eq!(Instant::now(), born);
            let destroyed = moments(&works.destroy);
            elapse(2 * lifetime).await;
            let mut ages: Vec<_> = destroyed
                .lock()
                .unwrap()
                .iter()
                .map(|at| *at - born)
                .collect();
            ages.sort_unstable();
            assert_eq!(ages.len(), FLEET);
            let shortest = lifetime.mul_f64(1.0 - jitter);
            assert!(
                ages[0] >= shortest,
                "{:?} of {lifetime:?}, {jitter}",
                ages[0]
            );
            let last = ages[FLEET - 1];
            assert!(
                last <= lifetime + grace(lifetime),
                "{last:?} of {lifetime:?}, {jitter}"
            );
            // Spread evenly: every quarter of the span has its share.
            for quarter in 0..4 {
                let width = lifetime.mul_f64(jitter / 4.0);
                let from = shortest + quarter * width;
                let late = grace(lifetime).min(width);
                let within = |age: &&Duration| (from..from + width + late).contains(*age);
                let count = ages.iter().filter(within).count();
                assert!(
                    count >= FLEET / 10,
                    "{count} in quarter {quarter}, {lifetime:?}, {jitter}"
                );
            }
            assert_quiet(&pool);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_jitter_is_a_tenth() {
    let pool = Works::new().pool(1).build().unwrap();
    assert!((pool.config().lifetime_jitter - 0.1).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn an_expired_resource_that_comes_back_to_a_line_is_replaced_within_the_bound() {
    // The Go ancestor dropped an expired resource at hand-off and created another for the waiter
    // without a look at the bound.
    let works = Works::new();
    let gate = Gate::shut();
    let pool = works
        .pool(2)
        .max_lifetime(SECOND)
        .destroy_timeout(None)
        .wait_timeout(None)
        .build()
        .unwrap();
    let leases = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    works.destroy.always(gate.then(Step::Ok));
    let mut line = [waiting(&pool), waiting(&pool)];
    elapse(2 * SECOND).await;
    drop(leases);
    settle().await;
    assert_eq!(works.create.calls(), 2, "both are still being destroyed");
    for wait in &mut line {
        assert_waits(wait);
    }
    gate.open(2);
    settle().await;
    for wait in &mut line {
        drop(served(wait));
    }
    assert_eq!(works.most(), 2);
    gate.open(10);
    assert_closes(&pool).await;
}

// --- min_idle ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn min_idle_is_filled_without_callers_and_refilled_as_they_come() {
    let works = Works::new();
    let pool = works.pool(6).min_idle(3).build().unwrap();
    settle().await;
    assert_eq!(pool.status().idle, 3);
    let first = pool.get().await.unwrap();
    elapse(SECOND).await;
    assert_eq!((pool.status().idle, pool.status().leased), (3, 1));
    // Never beyond the bound.
    let more = [
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
    ];
    elapse(SECOND).await;
    assert_eq!((pool.status().idle, pool.status().leased), (2, 4));
    assert_eq!(works.made(), 6);
    drop((first, more));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn min_idle_is_restored_after_eviction() {
    let works = Works::new();
    let pool = works
        .pool(6)
        .min_idle(2)
        .max_lifetime(60 * SECOND)
        .build()
        .unwrap();
    settle().await;
    elapse(61 * SECOND).await;
    assert_eq!(works.destroy.calls(), 2);
    assert_eq!(pool.status().idle, 2);

    pool.invalidate_all();
    elapse(SECOND).await;
    assert_eq!(works.destroy.calls(), 4);
    assert_eq!(pool.status().idle, 2);

    assert_eq!(pool.retain(|_, _| false), 2);
    elapse(SECOND).await;
    assert_eq!(pool.status().idle, 2);
    pool.get().await.unwrap().discard();
    elapse(SECOND).await;
    assert_eq!(pool.status().idle, 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn min_idle_is_restored_after_an_outage() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(6).min_idle(2).build().unwrap();
    elapse(60 * SECOND).await;
    assert!(pool.status().is_down);
    works.create.always(Step::Ok);
    elapse(15 * SECOND).await;
    assert_eq!(pool.status().idle, 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_reaper_leaves_min_idle_alone() {
    let works = Works::new();
    let pool = works
        .pool(6)
        .min_idle(2)
        .idle_timeout(10 * SECOND)
        .max_lifetime(None)
        .build()
        .unwrap();
    fill(&pool, 6).await;
    elapse(HOUR).await;
    assert_eq!(pool.status().idle, 2);
    assert_eq!(works.made(), 6, "none was destroyed to be created again");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_min_idle_is_lent_however_long_it_was_idle() {
    // That is what it was kept for: a caller after a quiet night must not have to wait for a
    // connection to be made.
    let works = Works::new();
    let pool = works
        .pool(6)
        .min_idle(2)
        .idle_timeout(10 * SECOND)
        .max_lifetime(None)
        .build()
        .unwrap();
    settle().await;
    elapse(HOUR).await;
    assert_eq!(pool.status().idle, 2);
    works.create.always(Step::Hang);
    drop(pool.get_timeout(MS).await.unwrap());
    assert_eq!(works.destroy.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refill_that_hangs_keeps_nobody_from_what_is_idle() {
    // Vitess replaced a connection in the background and held its capacity while it dialled.
    let works = Works::new();
    let pool = works
        .pool(3)
        .min_idle(2)
        .max_lifetime(None)
        .build()
        .unwrap();
    settle().await;
    works.create.always(Step::Hang);
    pool.get().await.unwrap().discard();
    elapse(SECOND).await;
    assert!(works.create.running() > 0);
    let began = Instant::now();
    for _ in 0..100 {
        drop(pool.get().await.unwrap());
    }
    assert_eq!(Instant::now(), began);
    assert_closes_late(&pool, &works).await;
}

/// Closes a pool whose creations hang; they are cut off by their timeout.
async fn assert_closes_late(pool: &Pool<Works>, works: &Works) {
    pool.close().await;
    assert_eq!(works.existing(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refill_that_lands_is_the_oldest_waiters() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(1).min_idle(1).build().unwrap();
    settle().await;
    assert_eq!(works.create.running(), 1);
    let mut wait = waiting(&pool);
    settle().await;
    gate.open(1);
    settle().await;
    drop(served(&mut wait));
    assert_eq!(works.create.calls(), 1);
    assert_quiet(&pool);
}

// --- Keep-alive --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn keep_alive_prevents_death() {
    // The other side hangs up on whoever is silent for a minute.
    let works = Works::new();
    let pool = works
        .pool(4)
        .idle_timeout(None)
        .max_lifetime(None)
        .keep_alive(30 * SECOND)
        .build()
        .unwrap();
    fill(&pool, 4).await;
    let checked = moments(&works.check);
    let mut last = Instant::now();
    elapse(600 * SECOND).await;
    let checked = checked.lock().unwrap();
    for round in checked.chunks(4) {
        let silence = *round.last().unwrap() - last;
        assert!((30 * SECOND..60 * SECOND).contains(&silence), "{silence:?}");
        last = *round.last().unwrap();
    }
    assert!(
        (4 * 15..=4 * 20).contains(&checked.len()),
        "{}",
        checked.len()
    );
    assert_eq!(works.made(), 4);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn keep_alive_finds_death() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = works
        .pool(4)
        .idle_timeout(None)
        .keep_alive(30 * SECOND)
        .min_idle(2)
        .observer(recorder.clone())
        .build()
        .unwrap();
    fill(&pool, 4).await;
    recorder.take();
    works.check.next(Step::Ok);
    works.check.next(Step::Outage);
    works.check.next(Step::Panic);
    works.check.next(Step::Hang);
    elapse(60 * SECOND).await;
    let mut said = recorder.take();
    said.retain(|words| words != "created");
    assert_eq!(
        said[..7],
        [
            "check failed: outage",
            "retired Check",
            "panicked check",
            "check failed: panicked: as told",
            "retired Check",
            "check failed: not finished within 5s",
            "retired Check",
        ]
    );
    assert_eq!(pool.status().idle, 2, "min_idle is restored: {said:?}");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn upkeep_survives_checks_that_panic_for_ever() {
    let works = Works::new();
    works.check.always(Step::Panic);
    let pool = works
        .pool(3)
        .min_idle(3)
        .keep_alive(SECOND)
        .build()
        .unwrap();
    elapse(20 * SECOND).await;
    assert!(works.check.calls() > 30);
    works.check.always(Step::Ok);
    elapse(20 * SECOND).await;
    assert_eq!(pool.status().idle, 3);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn keep_alive_holds_one_resource_at_a_time_and_no_get_waits_while_others_are_idle() {
    let works = Works::new();
    let gate = Gate::shut();
    works.check.always(gate.then(Step::Ok));
    let pool = works
        .pool(3)
        .idle_timeout(None)
        .max_lifetime(None)
        .check_interval(None)
        .keep_alive(10 * SECOND)
        .check_timeout(None)
        .build()
        .unwrap();
    fill(&pool, 3).await;
    elapse(30 * SECOND).await;
    assert_eq!(works.check.running(), 1);
    assert_eq!((pool.status().upkeep, pool.status().idle), (1, 2));

    let began = Instant::now();
    let leases = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    assert_eq!(Instant::now(), began);
    // The third is next to be lent when its check is over.
    let mut wait = waiting(&pool);
    gate.open(1);
    settle().await;
    let third = served(&mut wait);
    drop((leases, third));
    assert_eq!(works.made(), 3);
    gate.open(100);
    elapse(SECOND).await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_not_checked_by_upkeep() {
    let works = Works::new();
    let pool = works
        .pool(1)
        .check_interval(None)
        .keep_alive(10 * SECOND)
        .build()
        .unwrap();
    for _ in 0..100 {
        drop(pool.get().await.unwrap());
        elapse(5 * SECOND).await;
    }
    assert_eq!(works.check.calls(), 0, "use is a sign of life");
    assert_quiet(&pool);
}

// --- Invalidation ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn invalidation_retires_idle_resources_now_and_leased_ones_when_they_return() {
    let works = Works::new();
    let gate = Gate::shut();
    let recorder = Recorder::default();
    let pool = works.pool(4).observer(recorder.clone()).build().unwrap();
    fill(&pool, 3).await;
    let lease = pool.get_owned().await.unwrap();
    let others = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    works.create.next(gate.then(Step::Ok));
    let mut wait = waiting(&pool);
    settle().await;
    drop(others);
    drop(served(&mut wait));
    assert_eq!((pool.status().idle, pool.status().creating), (2, 1));
    recorder.take();

    pool.invalidate_all();
    settle().await;
    assert_eq!(recorder.take(), ["retired Invalidated"; 2]);
    drop(lease);
    settle().await;
    assert_eq!(recorder.take(), ["retired Invalidated"]);
    // What was being created then is as old.
    gate.open(1);
    settle().await;
    assert_eq!(recorder.take(), ["created", "retired Invalidated"]);
    assert_eq!(works.existing(), 0);
    fill(&pool, 4).await;
    assert_eq!(pool.status().idle, 4, "those made since are good");
    assert_quiet(&pool);
}

// --- Warnings ----------------------------------------------------------------------------------

type Overdue = (Duration, &'static Location<'static>);

fn overdue() -> (Arc<Mutex<Vec<Overdue>>>, impl Fn(&Event<'_>) + Send + Sync) {
    let list = Arc::<Mutex<Vec<_>>>::default();
    let seen = Arc::clone(&list);
    let observer = move |event: &Event<'_>| {
        if let Event::Overdue { held, taken_at } = event {
            seen.lock().unwrap().push((*held, *taken_at));
        }
    };
    (list, observer)
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_out_for_too_long_is_reported_once_with_the_place_where_it_was_taken() {
    let works = Works::new();
    let (overdue, observer) = overdue();
    let pool = works
        .pool(8)
        .warn_after(10 * SECOND)
        .observer(observer)
        .build()
        .unwrap();
    let soon = Instant::now() + SECOND;
    let line = line!();
    let a = pool.get().await.unwrap();
    let b = pool.get_owned().await.unwrap();
    let c = pool.get_timeout(SECOND).await.unwrap();
    let d = pool.get_owned_deadline(soon).await.unwrap();
    drop(pool.get().await.unwrap());
    let e = pool.try_get().unwrap();
    let began = Instant::now();
    elapse(9 * SECOND).await;
    assert_eq!(overdue.lock().unwrap().len(), 0, "too early");
    elapse(2 * SECOND).await;
    let reported = std::mem::take(&mut *overdue.lock().unwrap());
    let mut lines: Vec<_> = reported.iter().map(|(_, at)| at.line() - line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3, 4, 6]);
    for (held, at) in &reported {
        assert_eq!(at.file(), file!());
        let really = Instant::now() - began;
        assert!((10 * SECOND..=really).contains(held), "{held:?}");
    }
    elapse(HOUR).await;
    assert_eq!(overdue.lock().unwrap().len(), 0, "once is enough");

    // A new lease of the same resource is another matter.
    drop((a, b, c, d, e));
    let line = line!();
    let f = pool.get().await.unwrap();
    elapse(12 * SECOND).await;
    let reported = std::mem::take(&mut *overdue.lock().unwrap());
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].1.line(), line + 1);
    drop(f);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn leases_that_return_in_time_are_not_reported() {
    let works = Works::new();
    let (overdue, observer) = overdue();
    let pool = works
        .pool(2)
        .warn_after(10 * SECOND)
        .observer(observer)
        .build()
        .unwrap();
    for _ in 0..50 {
        let lease = pool.get().await.unwrap();
        elapse(9 * SECOND).await;
        drop(lease);
    }
    elapse(100 * SECOND).await;
    assert_eq!(overdue.lock().unwrap().len(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_warning_is_never_early_and_at_most_a_little_late() {
    let works = Works::new();
    let (overdue, observer) = overdue();
    let limit = 10 * SECOND;
    let pool = works
        .pool(1)
        .check_interval(None)
        .warn_after(limit)
        .observer(observer)
        .build()
        .unwrap();
    for before in [0, 1, 300, 700, 990, 2500] {
        // The pool's clock is set going, and is behind when the lease begins.
        drop(pool.get().await.unwrap());
        elapse(before * MS).await;
        let lease = pool.get().await.unwrap();
        elapse(limit - 2 * MS).await;
        assert_eq!(overdue.lock().unwrap().len(), 0, "early, {before} ms in");
        elapse(grace(limit) + 2 * MS).await;
        let reported = std::mem::take(&mut *overdue.lock().unwrap());
        let [(held, _)] = reported[..] else {
            panic!("{reported:?}, {before} ms in");
        };
        assert!((limit..=limit + grace(limit)).contains(&held), "{held:?}");
        drop(lease);
        elapse(5 * SECOND).await;
    }
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_in_the_hands_of_upkeep_is_not_reported_as_lent() {
    let works = Works::new();
    let (overdue, observer) = overdue();
    let pool = works
        .pool(2)
        .idle_timeout(None)
        .max_lifetime(None)
        .keep_alive(60 * SECOND)
        .warn_after(10 * SECOND)
        .check_timeout(30 * SECOND)
        .observer(observer)
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    works.check.always(Step::Ok.taking(25 * SECOND));
    elapse(200 * SECOND).await;
    assert!(works.check.calls() >= 2);
    let reported = overdue.lock().unwrap();
    assert!(reported.is_empty(), "{reported:?}");
}

// --- Rest --------------------------------------------------------------------------------------

/// How often the runtime had to get up in this time.
async fn wake_ups(during: Duration) -> u64 {
    settle().await;
    let metrics = Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    sleep(during).await;
    metrics.worker_park_count(0) - before
}

/// The same without any pool: even one long sleep is a few short ones in tokio's timer wheel.
async fn wake_ups_of_sleeps(count: u32, each: Duration) -> u64 {
    let metrics = Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    for _ in 0..count {
        sleep(each).await;
    }
    metrics.worker_park_count(0) - before
}

#[tokio::test(start_paused = true)]
async fn a_pool_with_nothing_due_sleeps() {
    let usual = wake_ups_of_sleeps(1, HOUR).await;
    assert!(usual < 20, "{usual}: the measure is too coarse");

    // Never used.
    let works = Works::new();
    let pool = works.pool(8).build().unwrap();
    assert!(wake_ups(HOUR).await <= usual + 2);

    // Used, and empty again after the idle timeout.
    fill(&pool, 8).await;
    let emptied = wake_ups(HOUR).await;
    assert!(emptied <= usual + 15, "{emptied}");
    assert_eq!(works.existing(), 0);
    assert!(wake_ups(HOUR).await <= usual + 2);

    // Lent out, with someone who waits for as long as it takes.
    let pool = works
        .pool(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .build()
        .unwrap();
    let lease = pool.get_owned().await.unwrap();
    let mut wait = Box::pin(pool.get_timeout(Duration::MAX));
    assert!(poll(wait.as_mut()).is_pending());
    let lent = wake_ups(HOUR).await;
    assert!(lent <= usual + 5, "{lent}");
    drop(wait);

    // Idle for good.
    drop(lease);
    let idle = wake_ups(HOUR).await;
    assert!(idle <= usual + 5, "{idle}");
    assert_eq!(works.existing(), 1);

    // Closed.
    pool.close().await;
    assert!(wake_ups(HOUR).await <= usual + 5);
}

#[tokio::test(start_paused = true)]
async fn upkeep_of_a_fleet_that_is_kept_alive_gets_up_for_each_check() {
    let usual = wake_ups_of_sleeps(1, HOUR).await + wake_ups_of_sleeps(60, 60 * SECOND).await;
    let works = Works::new();
    let pool = works
        .pool(4)
        .min_idle(4)
        .idle_timeout(600 * SECOND)
        .max_lifetime(None)
        .keep_alive(60 * SECOND)
        .build()
        .unwrap();
    settle().await;
    let kept = wake_ups(HOUR).await;
    let checks = works.check.calls() as u64;
    assert!((200..=240).contains(&checks), "{checks}");
    assert!(
        kept <= usual + 4 * checks,
        "{kept}, where {usual} are usual"
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn upkeep_in_an_outage_gets_up_for_each_probe() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(4).build().unwrap();
    assert!(matches!(
        pool.get_timeout(MS).await,
        Err(GetError::Timeout { .. })
    ));
    let probing = wake_ups(HOUR).await;
    // Every 7.5 to 15 seconds.
    let probes = works.create.calls() as u32;
    assert!((240..=500).contains(&probes), "{probes}");
    let usual = wake_ups_of_sleeps(probes, HOUR / probes).await + u64::from(probes);
    assert!(probing <= 2 * usual, "{probing}, where {usual} are usual");
    assert_eq!(pool.status().totals.outages, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_in_steady_use_costs_upkeep_one_look_an_epoch() {
    let usual = wake_ups_of_sleeps(6_000, 100 * MS).await;
    let works = Works::new();
    let pool = works.pool(4).check_interval(None).build().unwrap();
    let metrics = Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    for _ in 0..6_000 {
        drop(pool.get().await.unwrap());
        sleep(100 * MS).await;
    }
    // Ten minutes, and an epoch is a second.
    let ups = metrics.worker_park_count(0) - before;
    assert!(ups <= usual + 5 * 600, "{ups}, where {usual} are usual");
    assert_eq!(works.made(), 1);
}

#[tokio::test(start_paused = true)]
async fn upkeep_ends_with_the_pool() {
    let metrics = Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
    for close in [false, true] {
        let works = Works::new();
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        works.reset.hook(move || _ = &inside);
        let pool = works.pool(4).min_idle(2).build().unwrap();
        settle().await;
        fill(&pool, 4).await;
        assert_eq!(metrics.num_alive_tasks(), 1, "upkeep");
        if close {
            pool.close().await;
        }
        drop(pool);
        settle().await;
        assert_eq!(metrics.num_alive_tasks(), 0);
        assert_eq!(works.existing(), 0);
        // Nothing keeps the manager.
        drop(works);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owned_lease_outlives_the_pool_and_upkeep_ends_with_the_lease() {
    let metrics = Handle::current().metrics();
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    drop(pool);
    elapse(HOUR).await;
    assert_eq!(works.existing(), 1);
    drop(lease);
    settle().await;
    assert_eq!(works.existing(), 0);
    assert_eq!(metrics.num_alive_tasks(), 0);
}

// --- Races -------------------------------------------------------------------------------------

#[test]
fn checkout_races_upkeep_and_nothing_is_lost_or_lent_twice() {
    // Real time, because it takes threads: timeouts so short that upkeep is at work all the time.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let works = Works::new();
        works.check.always(Step::Ok.yielding(1));
        let retired = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&retired);
        let pool = works
            .pool(4)
            .min_idle(2)
            .idle_timeout(2 * MS)
            .max_lifetime(5 * MS)
            .check_interval(MS)
            .keep_alive(MS)
            .wait_timeout(30 * SECOND)
            .observer(move |event: &Event<'_>| {
                if let Event::Retired {
                    why: Retirement::Idle | Retirement::Lifetime,
                } = event
                {
                    seen.fetch_add(1, SeqCst);
                }
            })
            .build()
            .unwrap();
        let mut users = tokio::task::JoinSet::new();
        for seed in 0..6 {
            let (pool, retired) = (pool.clone(), Arc::clone(&retired));
            users.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                while retired.load(SeqCst) < 200 {
                    let lease = pool.get().await.expect("served");
                    let in_use = lease.hold();
                    tokio::task::yield_now().await;
                    drop(in_use);
                    drop(lease);
                    if random.u8(..) < 64 {
                        sleep(Duration::from_micros(random.u64(..4000))).await;
                    }
                }
            });
        }
        while let Some(ended) = users.join_next().await {
            ended.unwrap();
        }
        assert!(works.most() <= 4);
        assert_closes(&pool).await;
    });
}
