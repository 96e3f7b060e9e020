//! Dropping `get` at every await point, and what that must not cost.

mod common;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use common::{
    Bell, Fault, Gate, Recorder, Step, Works, assert_closes, assert_quiet, pass, poll, poll_with,
    settle,
};
use tokio::{task::JoinSet, time::sleep};
use wharf::{GetError, Lease, OwnedLease, Pool};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// --- Every await point -------------------------------------------------------------------------

/// What the `get` that is dropped is busy with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Busy {
    /// Waiting for one to come back; there is no room for another.
    Waiting,
    /// Waiting for one to be created; another is out and may come back.
    Creating,
    /// Checking one that was idle.
    Checking,
    /// Waiting for one to come back, and checking that one.
    CheckingAtHandOff,
}

/// When the lease that is out comes back.
#[derive(Debug, Clone, Copy)]
enum Return {
    /// Once all is over.
    Late,
    /// After the second poll, if there is one.
    Early,
    /// Right before the drop, so that a grant comes with the cancellation.
    BeforeDrop,
    /// Right after the drop.
    AfterDrop,
}

/// Who else waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Others {
    Nobody,
    Behind,
    Before,
}

#[derive(Debug, Clone)]
struct Case {
    busy: Busy,
    /// What the manager does in the meantime.
    manager: Step,
    others: Others,
    back: Return,
    /// After how many polls the `get` is dropped.
    polls: usize,
}

type Getting<'a> = Pin<Box<dyn Future<Output = Result<Lease<'a, Works>, GetError<Fault>>> + 'a>>;

/// More polls than any `get` below takes: its deadline is ten steps away.
const MANY: usize = 14;

async fn drop_at_every_await_point(manager: Step) {
    let mut cases = 0;
    for busy in [
        Busy::Waiting,
        Busy::Creating,
        Busy::Checking,
        Busy::CheckingAtHandOff,
    ] {
        for others in [Others::Nobody, Others::Behind, Others::Before] {
            for back in [
                Return::Late,
                Return::Early,
                Return::BeforeDrop,
                Return::AfterDrop,
            ] {
                // Until it completes in fewer polls than it is given.
                for polls in 0.. {
                    assert!(polls < MANY, "it never ends");
                    let case = Case {
                        busy,
                        manager: manager.clone(),
                        others,
                        back,
                        polls,
                    };
                    cases += 1;
                    if drop_after_polls(&case).await {
                        break;
                    }
                }
            }
        }
    }
    assert!(cases > 4 * 3 * 4 * 2, "only {cases} cases");
}

/// Says whether the `get` was over before it could be dropped.
async fn drop_after_polls(case: &Case) -> bool {
    let works = Works::new();
    let pool = works
        .pool(
            if case.busy == Busy::Creating || case.busy == Busy::Checking {
                2
            } else {
                1
            },
        )
        .check_interval(10 * MS)
        .wait_timeout(10 * 20 * MS)
        .create_timeout(150 * MS)
        .check_timeout(110 * MS)
        .backoff(wharf::Backoff {
            min: 10 * MS,
            max: 40 * MS,
        })
        .build()
        .unwrap();
    let mut lease = Some(pool.get().await.unwrap());
    if case.busy == Busy::Checking {
        drop(pool.get().await.unwrap());
    }
    if matches!(case.busy, Busy::Checking | Busy::CheckingAtHandOff) {
        sleep(100 * MS).await;
    }
    works.create.always(case.manager.clone());
    works.check.always(case.manager.clone());

    let before = spawn_other(&pool, case.others == Others::Before).await;
    let mut getting: Option<Getting<'_>> = Some(Box::pin(pool.get()));
    let mut behind = None;
    let mut outcome = None;
    for done in 0..case.polls {
        if let Poll::Ready(got) = poll(getting.as_mut().unwrap().as_mut()) {
            outcome = Some(got);
            break;
        }
        if done == 0 {
            behind = spawn_other(&pool, case.others == Others::Behind).await;
        }
        if done == 1 && matches!(case.back, Return::Early) {
            drop(lease.take());
        }
        tokio::time::advance(20 * MS).await;
    }
    if matches!(case.back, Return::BeforeDrop) {
        drop(lease.take());
    }
    drop(getting);
    if matches!(case.back, Return::AfterDrop) {
        drop(lease.take());
    }
    let over = outcome.is_some();
    drop(outcome);

    // All is well again, and nothing of this is left.
    works.create.always(Step::Ok);
    works.check.always(Step::Ok);
    settle().await;
    drop(lease);
    for other in before.into_iter().chain(behind) {
        match other.await.unwrap() {
            Ok(lease) => drop(lease),
            // Only the manager's own answer may keep it from its resource.
            Err(GetError::Refused(_)) => {}
            Err(other) => panic!("{case:?}: {other}"),
        }
    }
    sleep(SECOND).await;
    let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_quiet(&pool)));
    assert!(quiet.is_ok(), "{case:?}");

    let bound = pool.status().max_active;
    let again = futures_util::future::join_all((0..bound).map(|_| pool.get())).await;
    assert!(again.iter().all(Result::is_ok), "{case:?}: {again:?}");
    drop(again);
    assert!(works.most() <= bound, "{case:?}");
    assert_closes(&pool).await;
    assert_eq!(works.existing(), 0, "{case:?}");
    over
}

/// Another caller, patient enough to be served for sure.
async fn spawn_other(
    pool: &Pool<Works>,
    wanted: bool,
) -> Option<tokio::task::JoinHandle<Result<OwnedLease<Works>, GetError<Fault>>>> {
    if !wanted {
        return None;
    }
    let other = tokio::spawn(pool.get_owned_timeout(100 * SECOND));
    tokio::task::yield_now().await;
    Some(other)
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_when_the_manager_succeeds() {
    drop_at_every_await_point(Step::Ok).await;
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_when_the_manager_is_slow() {
    drop_at_every_await_point(Step::Ok.yielding(2).taking(30 * MS)).await;
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_when_the_manager_refuses() {
    drop_at_every_await_point(Step::Refuse).await;
    drop_at_every_await_point(Step::Refuse.yielding(2).taking(30 * MS)).await;
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_in_an_outage() {
    drop_at_every_await_point(Step::Outage).await;
    drop_at_every_await_point(Step::Outage.yielding(2).taking(30 * MS)).await;
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_when_the_manager_panics() {
    drop_at_every_await_point(Step::Panic).await;
    drop_at_every_await_point(Step::Panic.yielding(2).taking(30 * MS)).await;
}

#[tokio::test(start_paused = true)]
async fn get_dropped_at_every_await_point_leaks_nothing_when_the_manager_hangs() {
    drop_at_every_await_point(Step::Hang).await;
}

// --- Single stories ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_get_that_is_never_polled_does_nothing() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    drop(pool.get());
    drop(pool.get_owned());
    let status = pool.status();
    assert_eq!((status.waiting, status.totals.waits_cancelled), (0, 0));
    settle().await;
    assert_eq!(works.create.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_meets_its_cancellation_goes_to_the_next_in_line() {
    // The Go ancestor handed over through a buffered channel; qp and early sqlx did the like. A
    // waiter that was cancelled between the grant and its wake-up kept the resource for ever, and
    // its slot.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut gone = Box::pin(pool.get());
    let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
    let (mut second, mut third) = (pin!(pool.get()), pin!(pool.get()));
    assert!(poll(gone.as_mut()).is_pending());
    assert!(poll_with(second.as_mut(), &bells[0]).is_pending());
    assert!(poll_with(third.as_mut(), &bells[1]).is_pending());
    drop(lease);
    drop(gone);
    assert_eq!((bells[0].rings(), bells[1].rings()), (1, 0));
    let Poll::Ready(Ok(lease)) = poll(second.as_mut()) else {
        panic!("the grant was lost");
    };
    drop(lease);
    assert_eq!(bells[1].rings(), 1);
    drop(third.await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_meets_its_cancellation_is_idle_if_nobody_waits() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut gone = Box::pin(pool.get());
    assert!(poll(gone.as_mut()).is_pending());
    drop(lease);
    drop(gone);
    assert_eq!(pool.try_get().unwrap().id, 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_whole_line_that_is_cancelled_passes_the_grant_on_to_its_end() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut line: Vec<_> = (0..100).map(|_| Box::pin(pool.get())).collect();
    for getting in &mut line {
        assert!(poll(getting.as_mut()).is_pending());
    }
    let mut last = pin!(pool.get());
    assert!(poll(last.as_mut()).is_pending());
    drop(lease);
    // The first of the line first: each holds the grant when it is dropped.
    for getting in line {
        drop(getting);
    }
    assert!(poll(last.as_mut()).is_ready());
    assert_quiet_and_served(&pool, 1);
}

#[track_caller]
fn assert_quiet_and_served(pool: &Pool<Works>, made: usize) {
    assert_quiet(pool);
    assert_eq!(pool.manager().made(), made);
    assert_eq!(pool.status().totals.retired, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_loses_no_returned_resource() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let out = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let mut kept = Box::pin(pool.get());
    {
        let mut gone = Box::pin(pool.get());
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(kept.as_mut()).is_pending());
        drop(out);
    }
    drop(kept.await.unwrap());
    drop((pool.try_get().unwrap(), pool.try_get().unwrap()));
    assert_quiet_and_served(&pool, 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_cancel_the_creation() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(1).build().unwrap();
    let mut gone = Box::pin(pool.get());
    assert!(poll(gone.as_mut()).is_pending());
    settle().await;
    drop(gone);
    settle().await;
    assert_eq!(pool.status().creating, 1);
    gate.open(1);
    settle().await;
    assert_eq!(pool.try_get().unwrap().id, 0, "it waits for the next");
    assert_quiet_and_served(&pool, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_the_dial_spares_it() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut gone = Box::pin(pool.get());
    assert!(poll(gone.as_mut()).is_pending());
    drop(gone);
    settle().await;
    assert_eq!(works.create.calls(), 0);
    assert_eq!(pool.status().totals.create_abandoned, 1);
    drop(pool.get().await.unwrap());
    assert_quiet_and_served(&pool, 1);
}

#[tokio::test(start_paused = true)]
async fn the_creation_of_one_that_left_serves_the_next() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(1).build().unwrap();
    let mut gone = Box::pin(pool.get());
    assert!(poll(gone.as_mut()).is_pending());
    settle().await;
    drop(gone);
    let next = tokio::spawn(pool.get_owned());
    settle().await;
    assert_eq!(works.create.calls(), 1, "one is on its way already");
    gate.open(1);
    drop(next.await.unwrap().unwrap());
    assert_quiet_and_served(&pool, 1);
}

#[tokio::test(start_paused = true)]
async fn a_resource_whose_check_was_cut_by_cancellation_is_discarded() {
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works
        .pool(1)
        .check_interval(MS)
        .observer(recorder.clone())
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.next(Step::Hang);
    let mut gone = Box::pin(pool.get());
    assert!(poll(gone.as_mut()).is_pending());
    let next = tokio::spawn(pool.get_owned());
    settle().await;
    assert_eq!(works.check.calls(), 1);
    recorder.take();
    drop(gone);
    // Its slot is free for the one behind.
    assert_eq!(next.await.unwrap().unwrap().id, 1);
    assert_eq!(recorder.take(), ["retired Check", "created"]);
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn cancelled_requests_tear_down_no_healthy_resource() {
    // With sqlx and pgx every cancelled request closed the connection it had, or was about to
    // get: under load and short deadlines the pool did nothing but reconnect.
    let works = Works::new();
    let pool = works.pool(4).build().unwrap();
    let mut requests = JoinSet::new();
    for request in 0..400_u64 {
        let pool = pool.clone();
        requests.spawn(async move {
            // Cut off while it waits, while it is granted, or while it works.
            let limit = Duration::from_millis(1 + request % 23);
            let _ = tokio::time::timeout(limit, async {
                let widget = pool.get().await.unwrap();
                let _in_use = widget.hold();
                sleep(7 * MS).await;
            })
            .await;
        });
    }
    while let Some(request) = requests.join_next().await {
        request.unwrap();
    }
    settle().await;
    let totals = pool.status().totals;
    assert!(totals.waits_cancelled > 300, "{totals:?}");
    assert_quiet_and_served(&pool, 4);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_aborted_gives_back_what_it_holds() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    let holder = tokio::spawn(async move {
        let _lease = lease;
        std::future::pending::<()>().await;
    });
    let waiter = tokio::spawn(pool.get_owned());
    settle().await;
    holder.abort();
    assert_eq!(waiter.await.unwrap().unwrap().id, 0);
    assert_quiet_and_served(&pool, 1);
}

#[tokio::test(start_paused = true)]
async fn counters_do_not_drift_in_a_storm_of_cancellations() {
    let works = Works::new();
    let pool = works.pool(3).build().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut line, mut leases): (Vec<Getting<'_>>, Vec<_>) = (Vec::new(), Vec::new());
    let mut waits = 0;
    for _ in 0..20_000 {
        match random.u8(..8) {
            0..=2 => {
                let mut getting: Getting<'_> = Box::pin(pool.get());
                if let Poll::Ready(lease) = poll(getting.as_mut()) {
                    leases.push(lease.unwrap());
                } else {
                    waits += 1;
                    line.push(getting);
                }
            }
            3 if !line.is_empty() => {
                let at = random.usize(..line.len());
                if let Poll::Ready(lease) = poll(line[at].as_mut()) {
                    leases.push(lease.unwrap());
                    drop(line.swap_remove(at));
                }
            }
            4 | 5 if !line.is_empty() => drop(line.swap_remove(random.usize(..line.len()))),
            6 if !leases.is_empty() => drop(leases.swap_remove(random.usize(..leases.len()))),
            7 => tokio::task::yield_now().await,
            _ => {}
        }
        assert!(leases.len() <= 3);
    }
    drop((line, leases));
    settle().await;
    assert_quiet(&pool);
    let totals = pool.status().totals;
    assert!(totals.waits_served > 500, "{totals:?}");
    assert!(totals.waits_cancelled > 500, "{totals:?}");
    assert_eq!(totals.waits_served + totals.waits_cancelled, waits);
    assert!(works.most() <= 3);
    drop(futures_util::future::join_all((0..3).map(|_| pool.get())).await);
    assert_quiet(&pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn aborts_on_many_threads_leak_nothing() {
    let works = Works::new();
    works.create.always(Step::Ok.yielding(1));
    let pool = works.pool(3).build().unwrap();
    for round in 0..300 {
        let mut tasks = Vec::new();
        for _ in 0..12 {
            let pool = pool.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..4 {
                    let widget = pool.get_owned().await.unwrap();
                    let _in_use = widget.hold();
                    tokio::task::yield_now().await;
                }
            }));
        }
        for (number, task) in tasks.iter().enumerate() {
            if (number + round) % 3 > 0 {
                task.abort();
            }
        }
        for task in tasks {
            match task.await {
                Ok(()) => {}
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
    }
    // Everything can be had at once, so nothing was lost.
    let all = futures_util::future::join_all((0..3).map(|_| pool.get())).await;
    assert!(all.iter().all(Result::is_ok));
    drop(all);
    assert!(works.most() <= 3);
    pool.close().await;
    assert_quiet(&pool);
}
