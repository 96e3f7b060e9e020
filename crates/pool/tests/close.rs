//! Closing: who is told what, what is waited for, and what is left behind.

mod common;

use std::{pin::pin, time::Duration};

use common::{Fault, Gate, Recorder, Step, Works, assert_quiet, pass, poll, settle};
use tokio::time::Instant;
use wharf::{GetError, Lease, Pool, TryGetError};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn assert_closed<T>(outcome: Result<T, GetError<Fault>>) {
    match outcome {
        Err(GetError::Closed) => {}
        Err(other) => panic!("not closed: {other:?}"),
        Ok(_) => panic!("a live resource from a closed pool"),
    }
}

/// Leases for everything a pool can have.
async fn all_out(pool: &Pool<Works>) -> Vec<Lease<'_, Works>> {
    let all = (0..pool.status().max_active).map(|_| pool.get());
    let all = futures_util::future::join_all(all).await;
    all.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(start_paused = true)]
async fn after_close_everything_is_refused_at_once() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    drop(pool.get().await.unwrap());
    assert!(!pool.is_closed());
    pool.close().await;
    assert!(pool.is_closed());
    assert!(pool.status().is_closed);

    let began = Instant::now();
    assert_closed(pool.get().await);
    assert_closed(pool.get_timeout(SECOND).await);
    assert_closed(pool.get_deadline(Instant::now() + SECOND).await);
    assert_closed(pool.get_owned().await);
    assert_closed(pool.get_timeout(Duration::ZERO).await);
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Closed);
    assert_eq!(pool.try_get_owned().unwrap_err(), TryGetError::Closed);
    assert_eq!(began.elapsed(), Duration::ZERO);
    settle().await;
    assert_eq!(works.create.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_destroys_what_is_idle_through_the_manager() {
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works.pool(3).observer(recorder.clone()).build().unwrap();
    drop(all_out(&pool).await);
    recorder.take();
    pool.close().await;
    assert_eq!((works.destroy.calls(), works.existing()), (3, 0));
    let mut events = recorder.take();
    events.sort_unstable();
    assert_eq!(
        events,
        [
            "closed",
            "retired Closed",
            "retired Closed",
            "retired Closed"
        ]
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_may_be_called_many_times_and_at_once() {
    let (works, recorder, gate) = (Works::new(), Recorder::default(), Gate::shut());
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(2).observer(recorder.clone()).build().unwrap();
    drop(all_out(&pool).await);
    let mut closings = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let pool = pool.clone();
        closings.spawn(async move { pool.close().await });
    }
    settle().await;
    assert!(closings.try_join_next().is_none(), "all of them wait");
    gate.open(2);
    while let Some(closing) = closings.join_next().await {
        closing.unwrap();
    }
    pool.close().await;
    assert_eq!(pool.close_within(Duration::ZERO).await, Ok(()));
    let closed = recorder.take().into_iter().filter(|word| word == "closed");
    assert_eq!(closed.count(), 1);
    assert_eq!(works.destroy.calls(), 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn blocked_waiters_fail_when_the_pool_closes() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let waiters: Vec<_> = (0..5).map(|_| tokio::spawn(pool.get_owned())).collect();
    settle().await;
    let began = Instant::now();
    let closing = tokio::spawn(pool.close());
    for waiter in waiters {
        assert_closed(waiter.await.unwrap());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(pool.status().totals.waits_closed, 5);
    assert!(!closing.is_finished(), "one is still out");
    drop(lease);
    closing.await.unwrap();
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_get_made_before_close_and_polled_after_it_is_refused() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    drop(pool.get().await.unwrap());
    let getting = pool.get();
    let _closing = pool.close();
    assert_closed(getting.await);
}

#[tokio::test(start_paused = true)]
async fn a_resource_granted_before_close_is_not_handed_out_after_it() {
    // With deadpool, a get in flight over close returned a live resource from a closed pool.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    drop(lease);
    let closing = pool.close();
    assert_closed(waiter.await);
    closing.await;
    assert_eq!(works.destroy.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_being_checked_at_close_is_not_handed_out_after_it() {
    // The same, for a get that was busy with a check.
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.always(gate.then(Step::Ok));
    let getting = tokio::spawn(pool.get_owned());
    settle().await;
    assert_eq!(works.check.calls(), 1);
    let closing = tokio::spawn(pool.close());
    settle().await;
    assert!(!closing.is_finished(), "it is still being checked");
    gate.open(1);
    assert_closed(getting.await.unwrap());
    closing.await.unwrap();
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_after_close_ends_the_get() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.always(gate.then(Step::Outage));
    let getting = tokio::spawn(pool.get_owned());
    settle().await;
    let closing = tokio::spawn(pool.close());
    settle().await;
    gate.open(1);
    assert_closed(getting.await.unwrap());
    closing.await.unwrap();
    assert_eq!(works.create.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_a_check_in_the_background() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.always(gate.then(Step::Ok));
    assert!(pool.try_get().is_err());
    let closing = tokio::spawn(pool.close());
    settle().await;
    assert!(!closing.is_finished());
    gate.open(1);
    closing.await.unwrap();
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_is_out_and_destroys_it_when_it_comes_back() {
    let works = Works::new();
    let pool = works.pool(3).build().unwrap();
    let mut out = all_out(&pool).await;
    let closing = tokio::spawn(pool.close());
    while let Some(lease) = out.pop() {
        pass(SECOND).await;
        assert!(!closing.is_finished());
        drop(lease);
    }
    closing.await.unwrap();
    assert_eq!(works.destroy.calls(), 3);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_detached_resource_is_not_waited_for() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let closing = tokio::spawn(pool.close());
    settle().await;
    assert!(!closing.is_finished());
    let widget = lease.detach();
    closing.await.unwrap();
    assert_eq!((works.destroy.calls(), works.existing()), (0, 1));
    drop(widget);
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_the_end_of_every_destruction() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(2).destroy_timeout(None).build().unwrap();
    drop(all_out(&pool).await);
    let closing = tokio::spawn(pool.close());
    gate.open(1);
    pass(100 * SECOND).await;
    assert!(!closing.is_finished());
    gate.open(1);
    closing.await.unwrap();
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn slow_destructions_run_side_by_side_and_hanging_ones_are_cut_off() {
    let (works, recorder) = (Works::new(), Recorder::default());
    works.destroy.next(Step::Hang).next(Step::Hang);
    works.destroy.always(Step::Ok.taking(2 * SECOND));
    let pool = works
        .pool(10)
        .destroy_timeout(3 * SECOND)
        .observer(recorder.clone())
        .build()
        .unwrap();
    drop(all_out(&pool).await);
    let began = Instant::now();
    pool.close().await;
    let took = began.elapsed();
    assert!(
        took >= 3 * SECOND && took <= 3 * SECOND + 2 * MS,
        "{took:?}"
    );
    let cut = recorder
        .take()
        .into_iter()
        .filter(|e| e == "destroy timed out");
    assert_eq!(cut.count(), 2);
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_lands_after_close_is_destroyed_and_never_handed_out() {
    // In Vitess close returned while a dial was in flight: what landed later lived on.
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(2).build().unwrap();
    let waiters = [
        tokio::spawn(pool.get_owned()),
        tokio::spawn(pool.get_owned()),
    ];
    settle().await;
    let closing = tokio::spawn(pool.close());
    for waiter in waiters {
        assert_closed(waiter.await.unwrap());
    }
    settle().await;
    assert!(!closing.is_finished(), "two are on their way");
    gate.open(2);
    closing.await.unwrap();
    assert_eq!((works.made(), works.destroy.calls()), (2, 2));
    assert_eq!(works.existing(), 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_has_not_begun_at_close_does_not_begin() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    // Its task is spawned, and has not run.
    pool.close().await;
    assert_eq!(works.create.calls(), 0);
    assert_closed(waiter.await);
    assert_quiet(&pool);

    // The same for one that nobody waits for.
    let pool = works.pool(2).min_idle(1).build().unwrap();
    settle().await;
    drop(pool.try_get().unwrap().detach());
    assert_eq!((pool.status().creating, works.create.calls()), (1, 1));
    pool.close().await;
    assert_eq!(works.create.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_after_close_ends_it() {
    for step in [Step::Refuse, Step::Outage, Step::Panic] {
        let (works, gate) = (Works::new(), Gate::shut());
        works.create.always(gate.then(step));
        let pool = works.pool(1).build().unwrap();
        let waiter = tokio::spawn(pool.get_owned());
        settle().await;
        let closing = tokio::spawn(pool.close());
        settle().await;
        assert!(!closing.is_finished());
        gate.open(9);
        closing.await.unwrap();
        assert_closed(waiter.await.unwrap());
        pass(100 * SECOND).await;
        assert_eq!(works.create.calls(), 1, "it tried again");
        assert_quiet(&pool);
    }
}

#[tokio::test(start_paused = true)]
async fn close_during_an_outage_ends_the_probes() {
    // In puddle a background creation never looked whether the pool was closed, and close hung.
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(4).min_idle(2).build().unwrap();
    let waiter = tokio::spawn(pool.get_owned());
    pass(SECOND).await;
    assert!(pool.status().is_down);
    assert_eq!(pool.close_within(SECOND).await, Ok(()));
    assert_closed(waiter.await.unwrap());
    let calls = works.create.calls();
    assert!(calls > 1);
    pass(1000 * SECOND).await;
    assert_eq!(works.create.calls(), calls);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_refilling_of_min_idle() {
    let works = Works::new();
    let pool = works.pool(4).min_idle(3).build().unwrap();
    settle().await;
    assert_eq!(pool.status().idle, 3);
    pool.close().await;
    pass(1000 * SECOND).await;
    assert_eq!((works.made(), works.existing()), (3, 0));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_hangs_at_close_is_cut_off_by_its_timeout() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(1).create_timeout(5 * SECOND).build().unwrap();
    let waiter = tokio::spawn(pool.get_owned());
    settle().await;
    let began = Instant::now();
    pool.close().await;
    let took = began.elapsed();
    assert!(
        took >= 5 * SECOND && took <= 5 * SECOND + 2 * MS,
        "{took:?}"
    );
    assert_closed(waiter.await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_bounded_close_says_what_is_still_out() {
    let works = Works::new();
    let pool = works
        .pool(6)
        .create_timeout(None)
        .destroy_timeout(None)
        .build()
        .unwrap();
    let mut out = all_out(&pool).await;
    works.create.always(Step::Hang);
    works.destroy.next(Step::Hang);
    works.destroy.next(Step::Hang);
    out.pop().unwrap().discard();
    out.pop().unwrap().discard();
    drop(out.pop().unwrap().detach());
    let _waiter = tokio::spawn(pool.get_owned());
    settle().await;
    let began = Instant::now();
    let error = pool.close_within(7 * SECOND).await.unwrap_err();
    assert_eq!((error.leased, error.creating, error.closing), (3, 1, 2));
    assert!(error.waited >= 7 * SECOND && error.waited <= 7 * SECOND + 2 * MS);
    assert!(began.elapsed() <= 7 * SECOND + 2 * MS);
    let said = error.to_string();
    assert!(said.contains("3 leased, 1 creating, 2 closing"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_straggler_that_comes_back_after_a_bounded_close_is_destroyed() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let error = pool.close_within(SECOND).await.unwrap_err();
    assert_eq!(error.leased, 1);
    drop(lease);
    assert_eq!(pool.close_within(SECOND).await, Ok(()));
    assert_eq!((works.destroy.calls(), works.existing()), (1, 0));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn close_works_by_its_call_and_a_dropped_close_stays_closed() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let lease = pool.get().await.unwrap();
    drop(pool.close());
    assert!(pool.is_closed());
    assert_closed(pool.get().await);
    drop(pool.close_within(SECOND));
    let mut closing = Box::pin(pool.close());
    assert!(poll(closing.as_mut()).is_pending());
    drop(closing);
    drop(lease);
    pool.close().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_pool() {
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works.pool(2).observer(recorder.clone()).build().unwrap();
    let other = pool.clone();
    let lease = pool.get_owned().await.unwrap();
    drop(pool.get().await.unwrap());
    drop(pool);
    settle().await;
    assert!(!other.is_closed());
    let waiting = tokio::spawn(async move {
        let second = other.get_owned().await.unwrap();
        let getting = other.get_owned();
        drop(other);
        drop(second);
        getting.await.map(drop)
    });
    assert_closed(waiting.await.unwrap());
    settle().await;
    assert!(recorder.take().contains(&"closed".to_owned()));
    assert_eq!(works.existing(), 1, "one is lent");
    drop(lease);
    settle().await;
    assert_eq!((works.existing(), works.destroy.calls()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_told_when_the_last_handle_goes() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    let waiter = tokio::spawn(pool.get_owned());
    settle().await;
    drop(pool);
    assert_closed(waiter.await.unwrap());
    drop(lease);
    settle().await;
    assert_eq!(works.existing(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_pool_is_left_when_it_is_gone() {
    // Upkeep ends with it, and so does all that keeps its inside alive: the manager is dropped.
    let works = Works::new();
    let witness = std::sync::Arc::new(());
    let held = std::sync::Arc::clone(&witness);
    works.reset.hook(move || {
        let _ = &held;
    });
    let pool = works
        .pool(2)
        .min_idle(1)
        .keep_alive(SECOND)
        .build()
        .unwrap();
    drop(works);
    pass(3 * SECOND).await;
    drop(pool.get().await.unwrap());
    drop(pool);
    settle().await;
    assert_eq!(std::sync::Arc::strong_count(&witness), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn close_among_busy_threads_hands_out_nothing_afterwards_and_loses_nothing() {
    for _ in 0..50 {
        let works = Works::new();
        works.create.always(Step::Ok.yielding(1));
        let pool = works.pool(3).build().unwrap();
        let mut users = tokio::task::JoinSet::new();
        for user in 0..8 {
            let pool = pool.clone();
            users.spawn(async move {
                loop {
                    match pool.get_owned().await {
                        Ok(widget) => {
                            let in_use = widget.hold();
                            tokio::task::yield_now().await;
                            drop(in_use);
                            if user % 4 == 0 {
                                widget.discard();
                            }
                        }
                        Err(GetError::Closed) => return,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
        while pool.status().totals.leases < 20 {
            tokio::task::yield_now().await;
        }
        pool.close().await;
        assert_eq!(works.existing(), 0, "close has returned");
        while let Some(user) = users.join_next().await {
            user.unwrap();
        }
        assert_eq!(works.existing(), 0);
        assert_quiet(&pool);
    }
}
