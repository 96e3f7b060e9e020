//! Getting a resource: the bound, the wait, and the check at checkout.

mod common;

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use common::{
    Bell, Fault, Gate, Step, Works, assert_closes, assert_quiet, jump, pass, poll, poll_with,
    settle,
};
use tokio::{sync::Barrier, task::JoinSet, time::Instant};
use wharf::{Cause, GetError, OwnedLease, Pool, Stage, TryGetError};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What a timeout says. The wait is as long as it was meant to be, to the grain of the timer.
#[track_caller]
fn timeout<T>(
    outcome: Result<T, GetError<Fault>>,
    expected: Duration,
) -> (Stage, Option<Cause<Fault>>) {
    match outcome {
        Err(GetError::Timeout {
            stage,
            waited,
            cause,
        }) => {
            assert!(
                waited >= expected && waited <= expected + 2 * MS,
                "waited {waited:?}, not {expected:?}"
            );
            (stage, cause)
        }
        Err(other) => panic!("not a timeout: {other:?}"),
        Ok(_) => panic!("not a timeout, but a lease"),
    }
}

#[track_caller]
fn assert_failed(cause: Option<&Cause<Fault>>, fault: Fault) {
    assert!(
        matches!(cause, Some(Cause::Failed(error)) if **error == fault),
        "{cause:?}"
    );
}

fn spawn_get(
    pool: &Pool<Works>,
) -> tokio::task::JoinHandle<Result<OwnedLease<Works>, GetError<Fault>>> {
    tokio::spawn(pool.get_owned())
}

/// A pool in which `count` widgets are idle, and whose next look at them is a check.
async fn idle_and_due(works: &Works, count: usize) -> Pool<Works> {
    let pool = works
        .pool(count)
        .check_interval(10 * MS)
        .check_timeout(SECOND)
        .build()
        .unwrap();
    let leases = futures_util::future::join_all((0..count).map(|_| pool.get())).await;
    drop(leases);
    pass(SECOND).await;
    assert_eq!(pool.status().idle, count);
    pool
}

// --- Capacity ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_returned_resource_is_reused() {
    let works = Works::new();
    let pool = works.pool(4).build().unwrap();
    for _ in 0..10 {
        let widget = pool.get().await.unwrap();
        assert_eq!(widget.id, 0);
    }
    assert_quiet(&pool);
    assert_eq!(works.made(), 1);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_before_it_is_asked_for() {
    let works = Works::new();
    let pool = works.pool(4).build().unwrap();
    pass(SECOND).await;
    assert_eq!(works.create.calls(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn over_the_bound_get_waits_and_creates_nothing() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let first = pool.get().await.unwrap();
    let second = pool.get().await.unwrap();
    let mut third = pin!(pool.get());
    assert!(poll(third.as_mut()).is_pending());
    pass(SECOND).await;
    assert!(poll(third.as_mut()).is_pending());
    assert_eq!(works.create.calls(), 2);

    let id = first.id;
    drop(first);
    assert_eq!(third.await.unwrap().id, id);
    drop(second);
    assert_eq!(works.most(), 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_under_load_and_nothing_is_lent_twice() {
    let works = Works::new();
    works.create.always(Step::Ok.yielding(3));
    works.destroy.always(Step::Ok.yielding(2));
    let pool = works.pool(4).build().unwrap();
    let mut users = JoinSet::new();
    for user in 0..32 {
        let pool = pool.clone();
        users.spawn(async move {
            for round in 0..100 {
                let widget = pool.get().await.unwrap();
                let in_use = widget.hold();
                tokio::task::yield_now().await;
                drop(in_use);
                if (user + round) % 17 == 0 {
                    widget.discard();
                }
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    settle().await;
    assert!(works.most() <= 4, "{} existed at once", works.most());
    assert_quiet(&pool);
    assert_eq!(pool.status().totals.leases, 3200);
    assert_closes(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bound_holds_on_many_threads_and_nothing_is_lent_twice() {
    let works = Works::new();
    let pool = works.pool(3).build().unwrap();
    let mut users = JoinSet::new();
    for user in 0..16 {
        let pool = pool.clone();
        users.spawn(async move {
            for round in 0..500 {
                let widget = pool.get_owned().await.unwrap();
                let in_use = widget.hold();
                if round % 3 == 0 {
                    tokio::task::yield_now().await;
                }
                drop(in_use);
                if (user + round) % 23 == 0 {
                    widget.discard();
                }
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    pool.close().await;
    assert!(works.most() <= 3, "{} existed at once", works.most());
    assert_quiet(&pool);
    assert_eq!(pool.status().totals.leases, 8000);
}

#[tokio::test(start_paused = true)]
async fn a_resource_counts_until_its_destruction_has_ended() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(1).destroy_timeout(None).build().unwrap();
    pool.get().await.unwrap().discard();
    let next = spawn_get(&pool);
    pass(SECOND).await;
    assert_eq!(works.create.calls(), 1, "created beside one that still is");
    assert_eq!((pool.status().closing, pool.status().waiting), (1, 1));

    gate.open(1);
    assert_eq!(next.await.unwrap().unwrap().id, 1);
    assert_eq!(works.most(), 1);
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn an_expired_resource_at_hand_off_does_not_break_the_bound() {
    // The Go ancestor of this pool, when the resource handed to a waiter turned out expired, went
    // on to create another without looking at the bound: three in use where two were allowed.
    let (works, gate) = (Works::new(), Gate::shut());
    works.destroy.always(gate.then(Step::Ok));
    let pool = works
        .pool(2)
        .max_lifetime(SECOND)
        .destroy_timeout(None)
        .build()
        .unwrap();
    let out = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let waiters: Vec<_> = (0..3).map(|_| spawn_get(&pool)).collect();
    pass(2 * SECOND).await;
    drop(out);
    pass(SECOND).await;
    assert_eq!(works.create.calls(), 2, "the old ones are still there");

    gate.open(2);
    settle().await;
    assert_eq!(works.create.calls(), 4);
    for waiter in waiters {
        drop(waiter.await.unwrap().unwrap());
    }
    assert_eq!(works.most(), 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_created_than_callers_wait_for() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(64).max_creating(5).build().unwrap();
    let few: Vec<_> = (0..3).map(|_| spawn_get(&pool)).collect();
    settle().await;
    assert_eq!(works.create.calls(), 3);
    let more: Vec<_> = (0..20).map(|_| spawn_get(&pool)).collect();
    settle().await;
    assert_eq!(works.create.calls(), 5, "max_creating run at once");
    gate.open(64);
    let mut leases = Vec::new();
    for getting in few.into_iter().chain(more) {
        leases.push(getting.await.unwrap().unwrap());
    }
    assert_eq!(works.made(), 23);
    drop(leases);
    settle().await;
    assert_quiet(&pool);
}

// --- Waiting -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_return_wakes_a_waiter_with_the_resource_in_its_hands() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let bell = Arc::new(Bell::default());
    let mut waiter = pin!(pool.get());
    assert!(poll_with(waiter.as_mut(), &bell).is_pending());
    drop(lease);
    assert_eq!(bell.rings(), 1);
    // Nobody else can have it in the meantime.
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    assert!(matches!(
        poll_with(waiter.as_mut(), &bell),
        Poll::Ready(Ok(_))
    ));
    assert_eq!(bell.rings(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_creation_wakes_a_waiter() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(1).build().unwrap();
    let bell = Arc::new(Bell::default());
    let mut waiter = pin!(pool.get());
    assert!(poll_with(waiter.as_mut(), &bell).is_pending());
    settle().await;
    assert_eq!(bell.rings(), 0);
    gate.open(1);
    settle().await;
    assert_eq!(bell.rings(), 1);
    assert!(matches!(
        poll_with(waiter.as_mut(), &bell),
        Poll::Ready(Ok(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_moves_to_another_task_is_woken_there() {
    // Only the waker of the last poll counts.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let (before, after) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut waiter = pin!(pool.get());
    assert!(poll_with(waiter.as_mut(), &before).is_pending());
    assert!(poll_with(waiter.as_mut(), &after).is_pending());
    drop(lease);
    assert_eq!((before.rings(), after.rings()), (0, 1));
    assert!(poll(waiter.as_mut()).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_resource_was_unfit_waits_again_and_is_served() {
    // qp woke a waiter without a resource; if it lost the race for one it was never registered
    // again, and slept while resources lay idle. Here it is handed one; should that be dead, it
    // is in line again, before everybody who came later.
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let (one, two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let (first, second) = (spawn_get(&pool), spawn_get(&pool));
    settle().await;
    works.create.always(Step::Hang);
    works.is_alive.next(Step::Refuse);
    drop(one);
    settle().await;
    assert_eq!(pool.status().waiting, 2);

    let id = two.id;
    drop(two);
    assert_eq!(first.await.unwrap().unwrap().id, id);
    assert_eq!(second.await.unwrap().unwrap().id, id);
    assert_eq!(pool.status().creating, 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_ends_at_the_pools_timeout() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(3 * SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let began = Instant::now();
    let (stage, cause) = timeout(pool.get().await, 3 * SECOND);
    assert_eq!(stage, Stage::Wait);
    assert!(cause.is_none());
    assert!(began.elapsed() <= 3 * SECOND + 2 * MS);
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_call_overrides_that_of_the_pool() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(3 * SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let shorter = pool.get_timeout(SECOND).await;
    assert_eq!(timeout(shorter, SECOND).0, Stage::Wait);
    let longer = pool.get_timeout(10 * SECOND).await;
    assert_eq!(timeout(longer, 10 * SECOND).0, Stage::Wait);
    let owned = pool.get_owned_timeout(SECOND).await;
    assert_eq!(timeout(owned, SECOND).0, Stage::Wait);
    let until = pool.get_deadline(Instant::now() + SECOND).await;
    assert_eq!(timeout(until, SECOND).0, Stage::Wait);
    let until = pool.get_owned_deadline(Instant::now() + SECOND).await;
    assert_eq!(timeout(until, SECOND).0, Stage::Wait);
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_two_timeouts_ends_first_whoever_came_first() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(9 * SECOND).build().unwrap();
    let _lease = pool.get().await.unwrap();
    let (usual, long, short) = tokio::join!(
        pool.get(),
        pool.get_timeout(20 * SECOND),
        pool.get_timeout(SECOND)
    );
    timeout(usual, 9 * SECOND);
    timeout(long, 20 * SECOND);
    timeout(short, SECOND);
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_the_wait_has_no_end() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(None).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    let mut patient = pin!(pool.get_timeout(Duration::MAX));
    assert!(poll(waiter.as_mut()).is_pending());
    assert!(poll(patient.as_mut()).is_pending());
    pass(Duration::from_secs(40 * 24 * 3600)).await;
    assert!(poll(waiter.as_mut()).is_pending());
    assert!(poll(patient.as_mut()).is_pending());
    drop(lease);
    drop(waiter.await.unwrap());
    drop(patient.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_takes_an_idle_resource_or_fails() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    timeout(pool.get_timeout(Duration::ZERO).await, Duration::ZERO);
    timeout(pool.get_deadline(Instant::now()).await, Duration::ZERO);
    assert_eq!(works.create.calls(), 0);

    let lease = pool.get().await.unwrap();
    timeout(pool.get_timeout(Duration::ZERO).await, Duration::ZERO);
    drop(lease);
    drop(pool.get_timeout(Duration::ZERO).await.unwrap());
    drop(pool.get_deadline(Instant::now()).await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_leaks_no_capacity() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let out = (pool.get().await.unwrap(), pool.get().await.unwrap());
    for _ in 0..50 {
        timeout(pool.get_timeout(MS).await, MS);
    }
    drop(out);
    let again = (pool.try_get().unwrap(), pool.try_get().unwrap());
    assert_eq!(pool.status().totals.waits_timed_out, 50);
    drop(again);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn many_waiters_time_out_at_once() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let waiters: Vec<_> = (0..1000).map(|_| spawn_get(&pool)).collect();
    settle().await;
    assert_eq!(pool.status().waiting, 1000);
    for waiter in waiters {
        timeout(waiter.await.unwrap(), SECOND);
    }
    assert_eq!(pool.status().totals.waits_timed_out, 1000);
    drop(lease);
    assert_quiet(&pool);
    drop(pool.try_get().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_although_dead_resources_keep_coming() {
    let works = Works::new();
    works.create.always(Step::Ok.taking(10 * MS));
    works.is_alive.always(Step::Refuse);
    let pool = works.pool(3).wait_timeout(95 * MS).build().unwrap();
    let began = Instant::now();
    timeout(pool.get().await, 95 * MS);
    assert!(began.elapsed() <= 97 * MS);
    assert!(works.made() >= 9, "it went on trying");
    works.is_alive.always(Step::Ok);
    pass(SECOND).await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_wait_clock_is_not_restarted_by_a_retry() {
    // commons-pool, and the Go ancestor, gave every retry the whole timeout again: with resources
    // that failed their checks one after the other a caller waited for many times what it said.
    let works = Works::new();
    let pool = idle_and_due(&works, 10).await;
    works.check.always(Step::Outage.taking(30 * MS));
    let began = Instant::now();
    let (stage, cause) = timeout(pool.get_timeout(100 * MS).await, 100 * MS);
    assert!(began.elapsed() <= 102 * MS);
    assert_eq!(stage, Stage::Check);
    assert_failed(cause.as_ref(), Fault::Outage);
    assert_eq!(works.check.calls(), 4);
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_although_the_manager_hangs() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(1).create_timeout(None).build().unwrap();
    let (stage, cause) = timeout(pool.get_timeout(SECOND).await, SECOND);
    assert_eq!(stage, Stage::Create);
    assert!(cause.is_none());

    let works = Works::new();
    works.destroy.always(Step::Hang);
    let pool = works.pool(1).destroy_timeout(None).build().unwrap();
    pool.get().await.unwrap().discard();
    let (stage, _) = timeout(pool.get_timeout(SECOND).await, SECOND);
    assert_eq!(stage, Stage::Wait);
}

#[tokio::test(start_paused = true)]
async fn a_returned_resource_goes_past_a_waiter_whose_time_is_up() {
    // Vitess handed resources to waiters that had timed out already; they gave them back, to the
    // next that had timed out, and production stood still. Here the clock jumps past the first
    // waiter's deadline and nobody, not even upkeep, has noticed when the resource comes back.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let late = Arc::new(Bell::default());
    let mut gone = pin!(pool.get_timeout(10 * MS));
    let mut gone_too = pin!(pool.get_timeout(15 * MS));
    let mut live = pin!(pool.get());
    assert!(poll_with(gone.as_mut(), &late).is_pending());
    assert!(poll_with(gone_too.as_mut(), &late).is_pending());
    let bell = Arc::new(Bell::default());
    assert!(poll_with(live.as_mut(), &bell).is_pending());

    jump(20 * MS);
    drop(lease);
    assert_eq!((late.rings(), bell.rings()), (2, 1));
    let Poll::Ready(Ok(lease)) = poll(live.as_mut()) else {
        panic!("the one that still waits is not served");
    };
    timeout(gone.await, 20 * MS);
    timeout(gone_too.await, 20 * MS);
    drop(lease);
    assert_quiet(&pool);
    assert_eq!(pool.status().totals.waits_timed_out, 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_line_turns_newcomers_away_at_once() {
    let works = Works::new();
    let pool = works.pool(1).max_waiters(2).build().unwrap();
    let lease = pool.get().await.unwrap();
    let (first, second) = (spawn_get(&pool), spawn_get(&pool));
    settle().await;
    let mut third = pin!(pool.get());
    let Poll::Ready(Err(GetError::Overloaded { waiting: 2 })) = poll(third.as_mut()) else {
        panic!("not turned away at once");
    };
    assert_eq!(pool.status().totals.overloaded, 1);
    drop(lease);
    drop(first.await.unwrap().unwrap());
    drop(second.await.unwrap().unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn with_no_waiters_allowed_get_creates_or_fails_at_once() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(2).max_waiters(0).build().unwrap();
    let (first, second) = (spawn_get(&pool), spawn_get(&pool));
    settle().await;
    // Both wait for a creation, which is not to wait for others. A third would.
    assert!(matches!(
        pool.get().await,
        Err(GetError::Overloaded { waiting: 2 })
    ));
    gate.open(2);
    let out = (
        first.await.unwrap().unwrap(),
        second.await.unwrap().unwrap(),
    );
    assert!(matches!(
        pool.get().await,
        Err(GetError::Overloaded { waiting: 0 })
    ));
    drop(out);
    drop(pool.get().await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_returns_as_registering_waiters_serve_them_all() {
    // Without the second look on both sides a waiter sleeps beside an idle resource, until its
    // timeout, which here fails the test.
    const N: usize = 8;
    let works = Works::new();
    let pool = works.pool(N).build().unwrap();
    for _ in 0..300 {
        let mut leases = Vec::new();
        for _ in 0..N {
            leases.push(pool.get_owned().await.unwrap());
        }
        let start = Arc::new(Barrier::new(2 * N));
        let mut tasks = JoinSet::new();
        for lease in leases {
            let start = Arc::clone(&start);
            tasks.spawn(async move {
                start.wait().await;
                drop(lease);
            });
        }
        for _ in 0..N {
            let (pool, start) = (pool.clone(), Arc::clone(&start));
            tasks.spawn(async move {
                start.wait().await;
                drop(pool.get().await.unwrap());
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }
    assert_eq!(works.made(), N);
    assert_quiet(&pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn returns_that_meet_a_waiter_on_its_way_into_the_line_wake_it() {
    // The same race, as tight as it gets: nobody does anything but get and put.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut users = JoinSet::new();
    for _ in 0..2 {
        let pool = pool.clone();
        users.spawn(async move {
            for _ in 0..200_000 {
                drop(pool.get().await.unwrap());
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    assert_eq!(works.made(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_races_a_return_leaks_nothing() {
    for return_first in [true, false] {
        let (works, gate) = (Works::new(), Gate::shut());
        let pool = works.pool(2).build().unwrap();
        let lease = pool.get().await.unwrap();
        works.create.always(gate.then(Step::Ok));
        let waiter = spawn_get(&pool);
        settle().await;
        if return_first {
            drop(lease);
            gate.open(1);
        } else {
            gate.open(1);
            drop(lease);
        }
        // Whichever comes first is the waiter's, the other one is idle.
        let served = waiter.await.unwrap().unwrap();
        settle().await;
        assert_eq!((pool.status().idle, works.made()), (1, 2));
        drop(served);
        assert_eq!(pool.status().idle, 2);
        assert_quiet(&pool);
        assert_closes(&pool).await;
    }
}

#[tokio::test(start_paused = true)]
async fn need_is_looked_at_again_before_dialling() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    // The creation's task has not run yet when the resource comes back.
    drop(lease);
    drop(waiter.await.unwrap());
    settle().await;
    assert_eq!(works.create.calls(), 1);
    assert_eq!(pool.status().totals.create_abandoned, 1);
    assert_quiet(&pool);
}

// --- Failures to create ------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_real_error_reaches_the_caller() {
    let works = Works::new();
    works.create.next(Step::Refuse);
    let pool = works.pool(1).build().unwrap();
    let began = Instant::now();
    let error = pool.get().await.unwrap_err();
    let GetError::Refused(Cause::Failed(fault)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(**fault, Fault::Refuse);
    let source = std::error::Error::source(&error).expect("the error keeps its source");
    assert_eq!(source.to_string(), "refused");
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(pool.get().await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn when_creations_fail_everybody_hears_of_it_and_not_only_at_the_timeout() {
    // In bb8 and mobc a failed create woke nobody else, or its caller learned only that it had
    // timed out: the error was gone.
    let works = Works::new();
    for _ in 0..4 {
        works.create.next(Step::Refuse);
    }
    let pool = works.pool(1).build().unwrap();
    let began = Instant::now();
    let waiters: Vec<_> = (0..5).map(|_| spawn_get(&pool)).collect();
    let mut outcomes = Vec::new();
    for waiter in waiters {
        outcomes.push(waiter.await.unwrap());
    }
    let served = outcomes.pop().unwrap().unwrap();
    for outcome in outcomes {
        assert!(matches!(outcome, Err(GetError::Refused(Cause::Failed(_)))));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(pool.status().totals.waits_refused, 4);
    drop(served);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_during_an_outage_names_its_cause() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(1).build().unwrap();
    let (stage, cause) = timeout(pool.get_timeout(SECOND).await, SECOND);
    assert_eq!(stage, Stage::Create);
    assert_failed(cause.as_ref(), Fault::Outage);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_after_a_hung_creation_names_the_hang() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(1).create_timeout(SECOND).build().unwrap();
    let (stage, cause) = timeout(pool.get_timeout(3 * SECOND).await, 3 * SECOND);
    assert_eq!(stage, Stage::Create);
    assert!(
        matches!(cause, Some(Cause::TimedOut(after)) if after == SECOND),
        "{cause:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn every_error_says_in_words_what_happened() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(1).build().unwrap();
    let error = pool.get_timeout(SECOND).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("waiting for one to be created"), "{said}");
    assert!(said.contains("1s") || said.contains("1.00"), "{said}");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "outage");
}

// --- Checking ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_check_is_skipped_within_its_interval_and_made_after_it() {
    let works = Works::new();
    let pool = works.pool(1).check_interval(SECOND).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND / 2).await;
    drop(pool.get().await.unwrap());
    assert_eq!(works.check.calls(), 0);
    pass(SECOND).await;
    drop(pool.get().await.unwrap());
    assert_eq!(works.check.calls(), 1);
    // A check that passed is a sign of life too.
    pass(SECOND / 2).await;
    drop(pool.get().await.unwrap());
    assert_eq!(works.check.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_check_interval_get_never_checks() {
    let works = Works::new();
    works.check.always(Step::Panic);
    let pool = works
        .pool(1)
        .check_interval(None)
        .max_lifetime(None)
        .idle_timeout(None)
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    pass(Duration::from_secs(100_000)).await;
    assert_eq!(pool.get().await.unwrap().id, 0);
    assert_eq!(works.check.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_resource_is_not_lent_and_get_goes_on_to_the_next() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    drop((pool.get().await.unwrap(), pool.get().await.unwrap()));
    works.is_alive.next(Step::Refuse);
    let looks = works.is_alive.calls();
    let lease = pool.get().await.unwrap();
    assert_eq!(works.is_alive.calls() - looks, 2);
    settle().await;
    assert_eq!((works.made(), works.existing()), (2, 1));
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_broken_first_resource_does_not_wedge_the_pool() {
    let works = Works::new();
    let pool = idle_and_due(&works, 1).await;
    works.check.next(Step::Outage);
    for _ in 0..3 {
        let lease = pool.get().await.unwrap();
        assert_eq!(lease.id, 1);
    }
    assert_eq!(works.check.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn failed_checks_free_their_capacity() {
    let works = Works::new();
    let pool = idle_and_due(&works, 3).await;
    for _ in 0..3 {
        works.check.next(Step::Outage);
    }
    let out = [
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
    ];
    assert_eq!(works.made(), 6);
    assert!(works.most() <= 3);
    drop(out);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_destroys_the_resource_and_get_goes_on() {
    let works = Works::new();
    let pool = idle_and_due(&works, 1).await;
    works.check.next(Step::Hang);
    let began = Instant::now();
    let lease = pool.get().await.unwrap();
    assert_eq!(lease.id, 1);
    assert!(began.elapsed() >= SECOND && began.elapsed() <= SECOND + 2 * MS);
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_check_cannot_push_get_past_its_deadline() {
    let works = Works::new();
    let pool = idle_and_due(&works, 1).await;
    works.check.always(Step::Hang);
    let began = Instant::now();
    let (stage, cause) = timeout(pool.get_timeout(SECOND / 4).await, SECOND / 4);
    assert_eq!(stage, Stage::Check);
    assert!(cause.is_none());
    assert!(began.elapsed() <= SECOND / 4 + 2 * MS);
    settle().await;
    assert_eq!(works.existing(), 0, "its state is unknown");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_after_a_failed_check_names_the_failure() {
    let works = Works::new();
    let pool = idle_and_due(&works, 1).await;
    works.check.next(Step::Outage);
    works.create.always(Step::Hang);
    let (stage, cause) = timeout(pool.get_timeout(SECOND).await, SECOND);
    assert_eq!(stage, Stage::Create);
    assert_failed(cause.as_ref(), Fault::Outage);
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_does_not_cost_the_place_in_line() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = idle_and_due(&works, 1).await;
    works.check.next(gate.then(Step::Outage));
    // The first holds the only resource, and checks it; the second comes meanwhile.
    let first = spawn_get(&pool);
    settle().await;
    let second = spawn_get(&pool);
    settle().await;
    gate.open(1);
    let lease = first.await.unwrap().unwrap();
    assert!(!second.is_finished());
    drop(lease);
    drop(second.await.unwrap().unwrap());
    assert_eq!(works.made(), 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_checked_at_hand_off_when_that_is_due() {
    let works = Works::new();
    let pool = works.pool(1).check_interval(SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let waiter = spawn_get(&pool);
    pass(2 * SECOND).await;
    works.check.next(Step::Outage);
    drop(lease);
    let served = waiter.await.unwrap().unwrap();
    assert_eq!((served.id, works.check.calls()), (1, 1));
    drop(served);
    settle().await;
    assert_quiet(&pool);
}

// --- try_get -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn try_get_never_waits_and_never_starts_a_wait() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    settle().await;
    assert_eq!((pool.status().waiting, works.create.calls()), (0, 0));

    let lease = pool.get().await.unwrap();
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    settle().await;
    assert_eq!((pool.status().waiting, works.create.calls()), (0, 1));
    drop(lease);
    drop(pool.try_get().unwrap());
    drop(pool.try_get_owned().unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn try_get_never_overtakes_those_who_wait() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    drop(lease);
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    drop(waiter.await.unwrap());
    drop(pool.try_get().unwrap());
}

#[tokio::test(start_paused = true)]
async fn try_get_works_after_a_long_rest() {
    // Nobody uses the pool, so nobody keeps its clock: the first caller sets it going.
    let works = Works::new();
    let pool = works
        .pool(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    pass(Duration::from_secs(100_000)).await;
    assert_eq!(pool.try_get().unwrap().id, 0);
    assert_eq!(works.check.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn try_get_lends_a_resource_whose_check_passes_at_once() {
    let works = Works::new();
    let pool = idle_and_due(&works, 1).await;
    let lease = pool.try_get().unwrap();
    assert_eq!((lease.id, works.check.calls()), (0, 1));
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn try_get_lets_a_longer_check_go_on_in_the_background() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = idle_and_due(&works, 1).await;
    works.check.next(gate.then(Step::Ok));
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    settle().await;
    assert_eq!(pool.status().leased, 1);
    gate.open(1);
    settle().await;
    let lease = pool.try_get().unwrap();
    assert_eq!((lease.id, works.check.calls()), (0, 1));
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn what_fails_its_check_in_the_background_is_destroyed() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = idle_and_due(&works, 2).await;
    works.check.next(Step::Outage);
    works.check.next(gate.then(Step::Outage));
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    gate.open(1);
    settle().await;
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);

    // One that hangs is cut off.
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.next(Step::Hang);
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    pass(2 * SECOND).await;
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn try_get_goes_on_to_a_resource_that_is_fit() {
    let works = Works::new();
    let pool = idle_and_due(&works, 2).await;
    works.check.next(Step::Hang);
    let lease = pool.try_get().unwrap();
    assert_eq!(works.check.calls(), 2);
    drop(lease);
    works.is_alive.next(Step::Refuse);
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    pass(2 * SECOND).await;
    assert_quiet(&pool);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gets_what_was_checked_in_the_background() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = idle_and_due(&works, 1).await;
    works.check.next(gate.then(Step::Ok));
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    let waiter = spawn_get(&pool);
    settle().await;
    gate.open(1);
    assert_eq!(waiter.await.unwrap().unwrap().id, 0);
}
