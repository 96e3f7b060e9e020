//! Giving back: return, discard, detach; adding and retaining; what is known and counted.

mod common;

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Gate, Recorder, Step, Works, assert_closes, assert_quiet, pass, poll, settle};
use tokio::time::Instant;
use wharf::{AddError, Totals};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// --- Returning ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn put_and_drop_are_the_same() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    pool.put(pool.get().await.unwrap());
    pool.get().await.unwrap().put();
    pool.get_owned().await.unwrap().put();
    drop(pool.get().await.unwrap());
    assert_eq!((works.made(), works.reset.calls()), (1, 4));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_a_reference_to_the_resource() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut lease = pool.get().await.unwrap();
    lease.id = 7;
    assert_eq!(lease.id, 7);
    assert!(format!("{lease:?}").starts_with("Lease(Widget { id: 7"));
    drop(lease);
    let mut owned = pool.get_owned().await.unwrap();
    assert_eq!(owned.id, 7, "what a user changes stays changed");
    owned.id = 8;
    assert!(format!("{owned:?}").starts_with("OwnedLease(Widget { id: 8"));
}

#[tokio::test(start_paused = true)]
async fn a_returned_resource_goes_to_the_oldest_waiter() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut lease = pool.get().await.unwrap();
    let mut waiters: Vec<_> = (0..5).map(|_| Box::pin(pool.get())).collect();
    for waiter in &mut waiters {
        assert!(poll(waiter.as_mut()).is_pending());
    }
    for mut waiter in waiters {
        drop(lease);
        let std::task::Poll::Ready(Ok(next)) = poll(waiter.as_mut()) else {
            panic!("not served in its turn");
        };
        lease = next;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_reset_is_destroyed() {
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works.pool(1).observer(recorder.clone()).build().unwrap();
    works.reset.next(Step::Refuse);
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    drop(lease);
    assert_eq!(waiter.await.unwrap().id, 1);
    assert_eq!(recorder.take(), ["created", "retired Reset", "created"]);
    assert_eq!(works.destroy.calls(), 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_reset_once_a_lease_and_before_the_next_one() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    assert_eq!(works.reset.calls(), 0);
    drop(lease);
    assert_eq!(works.reset.calls(), 1);
    waiter.await.unwrap().discard();
    assert_eq!(works.reset.calls(), 1, "what is discarded is not reset");
}

#[tokio::test(start_paused = true)]
async fn a_return_takes_no_time_however_slow_the_destruction() {
    let (works, gate) = (Works::new(), Gate::shut());
    works.reset.always(Step::Refuse);
    works.destroy.always(gate.then(Step::Ok));
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    drop(lease);
    assert_eq!(pool.status().closing, 1);
    settle().await;
    assert!(poll(waiter.as_mut()).is_pending());
    gate.open(2);
    drop(waiter.await.unwrap());
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_clean_up_that_never_ends_does_not_keep_the_slot() {
    // sqlx cleaned up asynchronously on return; with a dead peer that never ended, and the slot
    // was gone for good. Here `reset` cannot wait, and `destroy` is cut off.
    let (works, recorder) = (Works::new(), Recorder::default());
    works.reset.next(Step::Refuse);
    works.destroy.next(Step::Hang);
    let pool = works
        .pool(1)
        .destroy_timeout(SECOND)
        .observer(recorder.clone())
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    let began = Instant::now();
    let lease = pool.get().await.unwrap();
    assert!(began.elapsed() >= SECOND && began.elapsed() <= SECOND + 2 * MS);
    assert_eq!(
        recorder.take(),
        ["created", "retired Reset", "destroy timed out", "created"]
    );
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_beyond_max_idle_is_destroyed() {
    let works = Works::new();
    let pool = works.pool(4).max_idle(2).build().unwrap();
    let out = [
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
        pool.get().await.unwrap(),
    ];
    drop(out);
    settle().await;
    assert_eq!((pool.status().idle, works.destroy.calls()), (2, 2));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn with_max_idle_zero_waiters_are_served_and_nothing_is_kept() {
    let works = Works::new();
    let pool = works.pool(1).max_idle(0).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    drop(lease);
    drop(waiter.await.unwrap());
    settle().await;
    assert_eq!((works.made(), pool.status().idle), (1, 0));
    assert_quiet(&pool);
}

// --- Discarding and detaching ------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn discard_destroys_once_and_frees_the_slot() {
    // Discarding twice is not possible: it takes the lease.
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works.pool(1).observer(recorder.clone()).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    lease.discard();
    let served = waiter.await.unwrap();
    assert_eq!(served.id, 1);
    assert_eq!(recorder.take(), ["created", "retired Discarded", "created"]);
    drop(served);
    pool.get_owned().await.unwrap().discard();
    settle().await;
    assert_eq!((works.destroy.calls(), works.existing()), (2, 0));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_detached_resource_is_its_holders_and_frees_its_slot() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut waiter = pin!(pool.get());
    assert!(poll(waiter.as_mut()).is_pending());
    let widget = lease.detach();
    let served = waiter.await.unwrap();
    assert_eq!((widget.id, served.id), (0, 1));
    drop(served);
    let owned = pool.get_owned().await.unwrap().detach();
    assert_eq!(owned.id, 1);

    // The pool closes without them, and did not destroy them.
    pool.close().await;
    assert_eq!((works.destroy.calls(), works.existing()), (0, 2));
    assert_eq!(works.reset.calls(), 1);
    drop((widget, owned));
    assert_eq!(pool.status().totals.detached, 2);
    assert_quiet(&pool);
}

// --- Adding ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_added_resource_is_lent_like_any_other() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let mut widget = works.widget();
    widget.id = 42;
    pool.add(widget).unwrap();
    assert_eq!(pool.status().idle, 1);
    let lease = pool.try_get().unwrap();
    assert_eq!(lease.id, 42);
    drop(lease);
    assert_eq!((pool.status().totals.added, works.create.calls()), (1, 0));
    assert_quiet(&pool);
    assert_closes(&pool).await;
    assert_eq!(works.destroy.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_added_resource_goes_to_the_oldest_waiter() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(2).build().unwrap();
    let (mut first, mut second) = (pin!(pool.get()), pin!(pool.get()));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    // No creation has begun: there is room.
    pool.resize(4).unwrap();
    pool.add(works.widget()).unwrap();
    assert!(poll(second.as_mut()).is_pending());
    assert!(poll(first.as_mut()).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_gives_back_what_is_added() {
    let (works, gate) = (Works::new(), Gate::shut());
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let error = pool.add(works.widget()).unwrap_err();
    assert!(matches!(&error, AddError::Full(widget) if widget.id == 1));
    assert_eq!(error.into_inner().id, 1);
    drop(lease);
    let AddError::Full(_) = pool.add(works.widget()).unwrap_err() else {
        panic!("an idle resource takes room too");
    };

    // So does one that is being destroyed, and one that is being created.
    works.destroy.always(gate.then(Step::Ok));
    pool.get().await.unwrap().discard();
    let AddError::Full(_) = pool.add(works.widget()).unwrap_err() else {
        panic!("added beside one that is not gone yet");
    };
    gate.open(1);
    settle().await;
    works.create.always(gate.then(Step::Ok));
    let mut getting = pin!(pool.get());
    assert!(poll(getting.as_mut()).is_pending());
    let AddError::Full(_) = pool.add(works.widget()).unwrap_err() else {
        panic!("added beside one that is on its way");
    };
    gate.open(9);
    drop(getting.await.unwrap());

    // And the bound is the one in force, not the one there are slots for.
    pool.resize(5).unwrap();
    pool.resize(1).unwrap();
    let AddError::Full(_) = pool.add(works.widget()).unwrap_err() else {
        panic!("added beyond a bound that was lowered");
    };
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_gives_back_what_is_added() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    pool.close().await;
    let error = pool.add(works.widget()).unwrap_err();
    assert!(matches!(&error, AddError::Closed(_)));
    drop(error.into_inner());
    assert_eq!(works.destroy.calls(), 0);
    assert_quiet(&pool);
}

// --- Retaining ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn retain_destroys_what_it_does_not_keep_and_leaves_what_is_lent() {
    let (works, recorder) = (Works::new(), Recorder::default());
    let pool = works.pool(6).observer(recorder.clone()).build().unwrap();
    let mut leases = futures_util::future::join_all((0..6).map(|_| pool.get())).await;
    let lent = leases.pop().unwrap().unwrap();
    drop(leases);
    recorder.take();
    let mut seen = Vec::new();
    let removed = pool.retain(|widget, _| {
        seen.push(widget.id);
        widget.id.is_multiple_of(2)
    });
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4], "widget 5 is lent");
    assert_eq!(lent.id, 5);
    assert_eq!(removed, 2);
    assert_eq!(recorder.take(), ["retired Removed", "retired Removed"]);
    settle().await;
    assert_eq!((pool.status().idle, works.existing()), (3, 4));
    drop(lent);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn retain_tells_the_predicate_what_is_known() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    pool.add(works.widget()).unwrap();
    pass(SECOND).await;
    pool.add(works.widget()).unwrap();
    pass(SECOND).await;
    let mut known = Vec::new();
    assert_eq!(
        pool.retain(|widget, info| {
            known.push((widget.id, info.age, info.since_check));
            info.age < 2 * SECOND
        }),
        1
    );
    known.sort_unstable();
    assert_eq!(known, [(0, 2 * SECOND, 2 * SECOND), (1, SECOND, SECOND)]);
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn what_retain_looks_at_goes_to_whoever_waits_meanwhile() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    drop(pool.get().await.unwrap());
    let mut waiter = pin!(pool.get());
    let mut polled = false;
    assert_eq!(
        pool.retain(|_, _| {
            polled = poll(waiter.as_mut()).is_pending();
            true
        }),
        0
    );
    assert!(polled, "it was out of circulation");
    assert_eq!(waiter.await.unwrap().id, 0);
    settle().await;
    assert_quiet(&pool);
}

// --- What is known and counted -----------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lease_knows_the_age_of_its_resource_and_its_last_check() {
    let works = Works::new();
    let pool = works.pool(1).check_interval(SECOND).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(3 * SECOND).await;
    let lease = pool.get().await.unwrap();
    assert_eq!(works.check.calls(), 1);
    pass(SECOND).await;
    let info = lease.info();
    assert_eq!((info.age, info.since_check), (4 * SECOND, SECOND));
    lease.discard();
    let owned = pool.get_owned().await.unwrap();
    assert_eq!(owned.info().age, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_lease_in_sixty_four_is_timed() {
    let works = Works::new();
    let pool = works.pool(1).max_lifetime(None).build().unwrap();
    for _ in 0..64 * 5 {
        let lease = pool.get().await.unwrap();
        tokio::time::advance(20 * MS).await;
        drop(lease);
    }
    let held = pool.status().times.held;
    assert_eq!(held.count, 5);
    for time in [held.mean, held.p50, held.p90, held.p99, held.p999, held.max] {
        // To a sixteenth.
        assert!(time >= 19 * MS && time <= 22 * MS, "{held:?}");
    }
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timed_lease_that_ends_in_discard_or_detach_confuses_nothing() {
    let works = Works::new();
    let pool = works.pool(1).max_lifetime(None).build().unwrap();
    for _ in 0..63 {
        drop(pool.get().await.unwrap());
    }
    pool.get().await.unwrap().discard();
    pass(SECOND).await;
    // The next resource in that slot has nothing to do with it.
    drop(pool.get().await.unwrap());
    let held = pool.status().times.held;
    assert!(held.max < SECOND, "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn every_total_is_exact() {
    let works = Works::new();
    let pool = works.pool(2).max_waiters(2).build().unwrap();

    // Two created, for two waits served.
    let one = pool.get().await.unwrap();
    let two = pool.get().await.unwrap();
    // One wait timed out, one given up, one turned away.
    assert!(pool.get_timeout(30 * MS).await.is_err());
    {
        let (mut first, mut second, mut third) =
            (pin!(pool.get()), pin!(pool.get()), pin!(pool.get()));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_ready());
        pass(40 * MS).await;
        // One served with the resource that comes back; the other gives up.
        drop(one);
        drop(first.await.unwrap().detach());
    }
    settle().await;
    // One refused.
    works.create.next(Step::Refuse);
    assert!(pool.get().await.is_err());
    // One added.
    pool.add(works.widget()).unwrap();
    two.discard();
    settle().await;

    let status = pool.status();
    let mut expected = Totals::default();
    expected.leases = 3;
    expected.waits_served = 3;
    expected.waits_timed_out = 1;
    expected.waits_cancelled = 1;
    expected.waits_refused = 1;
    expected.overloaded = 1;
    expected.created = 2;
    expected.create_failed = 1;
    // The detached one made room for the second waiter, which was gone before the dial.
    expected.create_abandoned = 1;
    expected.added = 1;
    expected.retired = 1;
    expected.detached = 1;
    assert_eq!(status.totals, expected);

    let times = &status.times;
    assert_eq!(times.wait_served.count, 3);
    assert_eq!(times.wait_timed_out.count, 1);
    assert_eq!(times.wait_cancelled.count, 1);
    assert_eq!(times.wait_failed.count, 1);
    assert_eq!(times.created.count, 2);
    assert_eq!(times.create_failed.count, 1);
    assert_eq!(times.held.count, 0);
    let timed_out = times.wait_timed_out.max;
    assert!(
        timed_out >= 27 * MS && timed_out <= 35 * MS,
        "{timed_out:?}"
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_consistent_at_every_event() {
    // An observer that looks at the status whenever something happens sees numbers that add up.
    let works = Works::new();
    let place: Arc<Mutex<Option<wharf::Pool<Works>>>> = Arc::default();
    let looks = Arc::new(Mutex::new(0));
    let observer = {
        let (place, looks) = (Arc::clone(&place), Arc::clone(&looks));
        move |_: &wharf::Event<'_>| {
            let pool = place.lock().unwrap().clone();
            if let Some(pool) = pool {
                let status = pool.status();
                assert!(status.active() <= status.max_active, "{status:?}");
                *looks.lock().unwrap() += 1;
            }
        }
    };
    works.reset.next(Step::Refuse).next(Step::Refuse);
    works.destroy.always(Step::Ok.yielding(2));
    let pool = works.pool(3).observer(observer).build().unwrap();
    *place.lock().unwrap() = Some(pool.clone());
    for round in 0..12 {
        let leases = futures_util::future::join_all((0..5).map(|_| {
            let pool = pool.clone();
            async move {
                let lease = pool.get().await.unwrap();
                tokio::task::yield_now().await;
                if round % 3 == 0 {
                    lease.discard();
                }
            }
        }));
        leases.await;
    }
    assert_closes(&pool).await;
    *place.lock().unwrap() = None;
    let looks = *looks.lock().unwrap();
    // An observer's panic is caught, and its look would not be counted.
    let totals = pool.status().totals;
    assert_eq!(looks, totals.created + totals.retired + 1);
}
