//! The bound, moved while the pool is in use.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{
    Gate, Recorder, Step, Works, assert_closes, assert_quiet, assert_waits, ended, eventually,
    pass, served, settle, waiting,
};
use tokio::{runtime, task::JoinSet};
use wharf::{GetError, OwnedLease, Pool, TryGetError};

const SECOND: Duration = Duration::from_secs(1);

/// Takes all that the pool has, and makes sure that it is this many.
async fn take_all(pool: &Pool<Works>, bound: usize) -> Vec<OwnedLease<Works>> {
    let mut leases = Vec::new();
    for _ in 0..bound {
        leases.push(pool.get_owned().await.expect("within the bound"));
    }
    let one_more = pool.get_timeout(SECOND).await;
    assert!(
        matches!(one_more, Err(GetError::Timeout { .. })),
        "{one_more:?} beyond the bound"
    );
    assert_eq!(pool.status().active(), bound);
    leases
}

#[tokio::test(start_paused = true)]
async fn growing_serves_those_who_wait_at_once_and_in_order() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let first = pool.get_owned().await.unwrap();
    let mut line: Vec<_> = (0..4).map(|_| waiting(&pool)).collect();
    settle().await;
    assert_eq!(works.create.calls(), 1);

    pool.resize(3).unwrap();
    settle().await;
    let second = served(&mut line[0]);
    let third = served(&mut line[1]);
    assert_waits(&mut line[2]);
    assert_eq!(pool.status().max_active, 3);
    assert_eq!(works.existing(), 3);

    drop((first, second, third));
    drop((served(&mut line[2]), served(&mut line[3])));
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn shrinking_closes_the_surplus_and_no_more() {
    let works = Works::new();
    let pool = works.pool(10).build().unwrap();
    drop(take_all(&pool, 10).await);
    for bound in [9, 5, 4, 1] {
        pool.resize(bound).unwrap();
        settle().await;
        assert_eq!(pool.status().idle, bound);
        assert_eq!(works.existing(), bound);
        assert_quiet(&pool);
    }
    assert_eq!(works.made(), 10);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn the_bound_lowered_while_everything_is_out_holds_as_soon_as_the_surplus_is_back() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = works.pool(4).observer(recorder.clone()).build().unwrap();
    let mut leases = take_all(&pool, 4).await;
    let kept = leases.pop().unwrap();
    recorder.take();

    pool.resize(1).unwrap();
    let mut waiter = waiting(&pool);
    assert_eq!(pool.status().active(), 4, "what is lent stays lent");
    for lease in leases {
        drop(lease);
        settle().await;
        assert_waits(&mut waiter);
        assert_eq!(pool.status().idle, 0);
    }
    assert_eq!(recorder.take(), ["retired Surplus"; 3]);
    assert_eq!(works.existing(), 1);

    // The last is within the bound: it is the waiter's.
    drop(kept);
    drop(served(&mut waiter));
    assert_eq!(works.made(), 4);
    drop(take_all(&pool, 1).await);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_destruction_does_not_make_more_surplus_than_there_is() {
    let works = Works::new();
    let gate = Gate::shut();
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(4).destroy_timeout(None).build().unwrap();
    let mut leases = take_all(&pool, 4).await;

    pool.resize(3).unwrap();
    for _ in 0..4 {
        drop(leases.pop());
        settle().await;
    }
    let status = pool.status();
    assert_eq!((status.idle, status.closing), (3, 1), "{status:?}");

    gate.open(1);
    settle().await;
    assert_eq!(works.existing(), 3);
    drop(take_all(&pool, 3).await);
    gate.open(3);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_while_surplus_is_being_destroyed() {
    let works = Works::new();
    let gate = Gate::shut();
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(4).destroy_timeout(None).build().unwrap();
    let leases = take_all(&pool, 4).await;
    pool.resize(2).unwrap();
    for lease in leases {
        lease.discard();
    }
    let mut waiter = waiting(&pool);
    settle().await;
    assert_eq!(pool.status().closing, 4);
    gate.open(2);
    settle().await;
    // Two are still going: that is the whole bound.
    assert_eq!(works.create.calls(), 4);
    assert_waits(&mut waiter);
    gate.open(1);
    settle().await;
    drop(served(&mut waiter));
    gate.open(10);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn three_cycles_of_shrink_and_grow_leave_the_bound_exact() {
    // deadpool took too few permits away when it shrank while objects were out, and gave too many
    // back when it grew: 34 out at a bound of 10.
    for out in [0, 3, 10] {
        let works = Works::new();
        let pool = works.pool(10).build().unwrap();
        let mut leases = take_all(&pool, 10).await;
        drop(leases.split_off(out));
        for _ in 0..3 {
            pool.resize(2).unwrap();
            settle().await;
            pool.resize(10).unwrap();
            settle().await;
        }
        let mut more = Vec::new();
        for _ in out..10 {
            more.push(pool.get_owned().await.unwrap());
        }
        let mut waiter = waiting(&pool);
        settle().await;
        assert_waits(&mut waiter);
        drop((waiter, leases, more));
        settle().await;
        drop(take_all(&pool, 10).await);
        assert!(works.most() <= 10, "{} at once", works.most());
        assert_closes(&pool).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cycles_with_returns_in_between_leave_the_bound_exact() {
    let works = Works::new();
    let pool = works.pool(10).build().unwrap();
    for _ in 0..3 {
        let mut leases = take_all(&pool, 10).await;
        pool.resize(2).unwrap();
        drop(leases.split_off(5));
        settle().await;
        pool.resize(6).unwrap();
        drop(leases.split_off(1));
        settle().await;
        pool.resize(10).unwrap();
        settle().await;
        drop(leases);
        settle().await;
        assert_quiet(&pool);
    }
    drop(take_all(&pool, 10).await);
    assert_eq!(works.most(), 10);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn creations_under_way_when_the_bound_is_lowered_do_not_overshoot_it() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(4).build().unwrap();
    let mut line: Vec<_> = (0..4).map(|_| waiting(&pool)).collect();
    settle().await;
    assert_eq!(works.create.running(), 4);

    pool.resize(1).unwrap();
    gate.open(4);
    settle().await;
    assert_eq!(works.existing(), 1);
    for wait in &mut line {
        drop(served(wait));
        settle().await;
    }
    // However many were destroyed for it, the others were all served by one.
    assert!(works.made() <= 5, "{} made", works.made());
    assert_eq!(pool.status().idle, 1);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn waiters_keep_their_places_and_deadlines_while_the_bound_moves() {
    let works = Works::new();
    let pool = works.pool(2).wait_timeout(10 * SECOND).build().unwrap();
    let leases = take_all(&pool, 2).await;
    let mut line: Vec<_> = (0..3).map(|_| waiting(&pool)).collect();
    for bound in [1, 2, 1, 2, 1] {
        pool.resize(bound).unwrap();
        pass(SECOND).await;
    }
    drop(leases);
    settle().await;
    assert_eq!(works.existing(), 1);
    let lease = served(&mut line[0]);
    assert_waits(&mut line[1]);
    drop(lease);
    let lease = served(&mut line[1]);
    pass(5 * SECOND).await;
    assert!(matches!(ended(&mut line[2]), Err(GetError::Timeout { .. })));
    drop(lease);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_grows_far_beyond_what_it_was_built_for() {
    let works = Works::new();
    let pool = works.pool(1).max_creating(64).build().unwrap();
    for bound in [1, 2, 65, 1000] {
        pool.resize(bound).unwrap();
        let leases = take_all(&pool, bound).await;
        let uses: Vec<_> = leases.iter().map(|lease| lease.hold()).collect();
        let mut ids: Vec<_> = leases.iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), bound);
        drop(uses);
        drop(leases);
    }
    assert_eq!(works.made(), 1000);
    pool.resize(1).unwrap();
    settle().await;
    assert_eq!(works.existing(), 1);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_bound_of_nothing_or_too_much_is_refused_and_changes_nothing() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    for absurd in [0, (1 << 20) + 1, usize::MAX] {
        let error = pool.resize(absurd).unwrap_err();
        assert_eq!(error.field, "max_active");
        assert_eq!(error.value, absurd.to_string());
    }
    assert_eq!(pool.status().max_active, 2);
    drop(take_all(&pool, 2).await);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn resizing_a_closed_pool_opens_nothing() {
    let works = Works::new();
    let pool = works.pool(2).min_idle(1).build().unwrap();
    pool.close().await;
    pool.resize(5).unwrap();
    settle().await;
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Closed);
    assert!(matches!(pool.get().await, Err(GetError::Closed)));
    assert_eq!(works.existing(), 0);
}

#[tokio::test(start_paused = true)]
async fn resources_that_were_added_count_towards_the_new_bound() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    pool.add(works.widget()).unwrap();
    assert!(pool.add(works.widget()).is_err());
    pool.resize(2).unwrap();
    pool.add(works.widget()).unwrap();
    pool.resize(1).unwrap();
    settle().await;
    assert!(pool.add(works.widget()).is_err());
    assert_eq!(works.existing(), 1);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_the_bound_in_force_and_the_configuration_the_first() {
    let pool = Works::new().pool(3).build().unwrap();
    pool.resize(7).unwrap();
    assert_eq!(pool.status().max_active, 7);
    assert_eq!(pool.config().max_active, 3);
}

#[test]
fn concurrent_resizes_with_waiters_do_not_deadlock() {
    const GETS: usize = 2000;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let works = Works::new();
        let pool = works.pool(4).build().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let mut resizers = JoinSet::new();
        for seed in 0..3 {
            let (pool, done) = (pool.clone(), Arc::clone(&done));
            resizers.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                while !done.load(SeqCst) {
                    pool.resize(random.usize(1..=12)).unwrap();
                    tokio::task::yield_now().await;
                }
            });
        }
        let mut users = JoinSet::new();
        for _ in 0..16 {
            let pool = pool.clone();
            users.spawn(async move {
                for _ in 0..GETS / 16 {
                    let lease = pool.get_timeout(30 * SECOND).await.expect("was forgotten");
                    let in_use = lease.hold();
                    tokio::task::yield_now().await;
                    drop(in_use);
                }
            });
        }
        while let Some(ended) = users.join_next().await {
            ended.unwrap();
        }
        done.store(true, SeqCst);
        while let Some(ended) = resizers.join_next().await {
            ended.unwrap();
        }
        assert!(works.most() <= 12, "{} at once", works.most());

        pool.resize(5).unwrap();
        let mut leases = Vec::new();
        for _ in 0..5 {
            leases.push(pool.get_owned_timeout(30 * SECOND).await.unwrap());
        }
        // What the last of the resizes gave up may not have been destroyed yet.
        eventually(|| pool.status().active() == 5).await;
        assert!(pool.get_timeout(Duration::ZERO).await.is_err());
        drop(leases);
        assert_closes(&pool).await;
    });
}
