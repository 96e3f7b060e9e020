//! A manager that fails, hangs or panics: who hears of it, who goes on, and how it ends.

mod common;

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    Fault, Gate, Recorder, Step, Wait, Works, assert_closes, assert_quiet, assert_waits, ended,
    joined, served, settle, waiting,
};
use tokio::{task::JoinSet, time::Instant};
use wharf::{Backoff, Cause, Event, GetError, OutagePolicy, Stage};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Attempts that failed, each with the pause after it.
type Pauses = Arc<Mutex<Vec<(u32, Duration)>>>;

/// An observer that writes the pauses down.
fn pauses() -> (Pauses, impl Fn(&Event<'_>) + Send + Sync) {
    let pauses = Pauses::default();
    let seen = Arc::clone(&pauses);
    let observer = move |event: &Event<'_>| {
        if let Event::Down {
            attempt, retry_in, ..
        } = event
        {
            seen.lock().unwrap().push((*attempt, *retry_in));
        }
    };
    (pauses, observer)
}

/// Lets paused time pass from one timer to the next, so that all of them ring at their moment.
async fn elapse(time: Duration) {
    tokio::time::sleep(time).await;
    settle().await;
}

/// When each call of `create` began.
fn dials(works: &Works) -> Arc<Mutex<Vec<Instant>>> {
    let dials = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = Arc::clone(&dials);
    works
        .create
        .hook(move || seen.lock().unwrap().push(Instant::now()));
    dials
}

// --- Down and up -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_in_an_outage_make_one_probe_at_a_time_and_are_served_in_order() {
    let works = Works::new();
    works.create.always(Step::Outage.taking(20 * MS));
    let most = Arc::new(Mutex::new(0));
    let pool = works.pool(4).wait_timeout(600 * SECOND).build().unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waits = JoinSet::new();
    for index in 0..1000 {
        let (get, served) = (pool.get_owned(), Arc::clone(&served));
        waits.spawn(async move {
            let lease = get.await.unwrap();
            served.lock().unwrap().push(index);
            tokio::time::sleep(MS).await;
            drop(lease);
        });
    }
    // Those begun before the outage was known may still be four.
    elapse(30 * MS).await;
    assert!(pool.status().is_down);
    assert_eq!(works.create.calls(), 4);
    let (seen, create) = (Arc::clone(&most), works.create.clone());
    works.create.hook(move || {
        let mut most = seen.lock().unwrap();
        *most = create.running().max(*most);
    });
    // Others come and go all the time, also while a probe is on its way.
    for _ in 0..6_000 {
        drop(waiting(&pool));
        elapse(10 * MS).await;
    }
    assert_eq!(*most.lock().unwrap(), 1, "probes at once");
    assert_eq!(pool.status().waiting, 1000);
    assert_eq!(pool.status().totals.outages, 1);
    // 100 ms doubling to 15 s, of each a half at least: a dozen in a minute, whoever waits.
    let calls = works.create.calls();
    assert!((8..=25).contains(&calls), "{calls} calls");

    works.create.always(Step::Ok.taking(20 * MS));
    works.create.unhook();
    while let Some(ended) = waits.join_next().await {
        ended.unwrap();
    }
    assert!(served.lock().unwrap().iter().copied().eq(0..1000));
    assert_eq!(works.made(), 4, "the fleet is whole again");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn back_off_grows_to_its_maximum_and_returns_to_its_minimum() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let (pauses, observer) = pauses();
    let dials = dials(&works);
    let backoff = Backoff {
        min: 100 * MS,
        max: 2 * SECOND,
    };
    let pool = works
        .pool(2)
        .backoff(backoff)
        .wait_timeout(None)
        .observer(observer)
        .build()
        .unwrap();
    for outage in 1..=2 {
        works.create.always(Step::Outage);
        dials.lock().unwrap().clear();
        let mut wait = waiting(&pool);
        elapse(20 * SECOND).await;
        let pauses = std::mem::take(&mut *pauses.lock().unwrap());
        let dials = std::mem::take(&mut *dials.lock().unwrap());
        assert!(pauses.len() > 10);
        let mut whole = backoff.min;
        for (index, (attempt, pause)) in pauses.iter().copied().enumerate() {
            assert_eq!(attempt as usize, index + 1);
            assert!(
                (whole / 2..=whole).contains(&pause),
                "outage {outage}, attempt {attempt}: {pause:?}, not within half of {whole:?}"
            );
            whole = (2 * whole).min(backoff.max);
            if let Some(next) = dials.get(index + 1) {
                let really = *next - dials[index];
                assert!((pause..pause + 2 * MS).contains(&really), "{really:?}");
            }
        }
        // Not the same pause each time, at the maximum either.
        let at_most: Vec<_> = pauses[6..].iter().map(|(_, pause)| *pause).collect();
        assert!(at_most.windows(2).any(|pair| pair[0] != pair[1]));

        works.create.always(Step::Ok);
        elapse(3 * SECOND).await;
        served(&mut wait).discard();
        settle().await;
        assert_eq!(pool.status().totals.outages, outage);
    }
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_heals_without_callers() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let recorder = Recorder::default();
    let pool = works.pool(2).observer(recorder.clone()).build().unwrap();
    drop(waiting(&pool));
    settle().await;
    // Nobody had to wait: the creation was for nothing.
    assert_eq!(recorder.take(), Vec::<String>::new());

    let hopeless = pool.get_timeout(10 * MS).await;
    assert!(matches!(hopeless, Err(GetError::Timeout { .. })));
    assert!(pool.status().is_down);
    elapse(30 * SECOND).await;
    assert!(pool.status().is_down);
    works.create.always(Step::Ok);
    recorder.take();
    elapse(15 * SECOND).await;
    assert!(!pool.status().is_down);
    assert_eq!(recorder.take(), ["created", "up"]);
    assert_eq!(pool.status().idle, 1);
    assert!(pool.try_get().is_ok());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn recovery_happens_inside_the_wait_timeout() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(2).wait_timeout(30 * SECOND).build().unwrap();
    let mut wait = waiting(&pool);
    elapse(10 * SECOND).await;
    works.create.always(Step::Ok);
    elapse(15 * SECOND).await;
    drop(served(&mut wait));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_return_serves_a_waiter_while_creates_fail() {
    let works = Works::new();
    let pool = works.pool(3).wait_timeout(None).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    works.create.always(Step::Outage);
    let mut line: Vec<Wait> = (0..3).map(|_| waiting(&pool)).collect();
    elapse(5 * SECOND).await;
    assert!(pool.status().is_down);
    drop(lease);
    for wait in &mut line {
        drop(served(wait));
    }
    assert!(pool.status().is_down);
    // Nor does the outage keep anybody from what is idle.
    drop(pool.get().await.unwrap());
    drop(pool.try_get().unwrap());
    works.create.always(Step::Ok);
    elapse(15 * SECOND).await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn creations_begun_before_the_outage_was_known_count_as_one_failure() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Outage));
    let (pauses, observer) = pauses();
    let pool = works.pool(8).observer(observer).build().unwrap();
    let line: Vec<Wait> = (0..8).map(|_| waiting(&pool)).collect();
    settle().await;
    assert_eq!(works.create.running(), 8);
    gate.open(8);
    settle().await;
    assert_eq!(pauses.lock().unwrap().len(), 1);
    assert_eq!(pool.status().totals.outages, 1);
    assert_eq!(pool.status().totals.create_failed, 8);
    drop(line);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_them_that_succeeds_ends_the_outage_for_all() {
    let works = Works::new();
    let (bad, good) = (Gate::shut(), Gate::shut());
    works.create.next(bad.then(Step::Outage));
    works.create.next(good.then(Step::Ok));
    let recorder = Recorder::default();
    let pool = works.pool(2).observer(recorder.clone()).build().unwrap();
    let mut first = waiting(&pool);
    let mut second = waiting(&pool);
    settle().await;
    bad.open(1);
    settle().await;
    assert!(pool.status().is_down);
    good.open(1);
    settle().await;
    assert!(!pool.status().is_down);
    drop((served(&mut first), served(&mut second)));
    assert_eq!(
        recorder.take(),
        [
            "create failed: outage",
            "down 1",
            "created",
            "up",
            "created"
        ]
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_for_room_and_runs_when_there_is_some() {
    let works = Works::new();
    let pool = works.pool(2).wait_timeout(None).build().unwrap();
    let kept = pool.get_owned().await.unwrap();
    let gone = pool.get_owned().await.unwrap();
    works.create.always(Step::Outage);
    gone.discard();
    let mut wait = waiting(&pool);
    settle().await;
    assert!(pool.status().is_down);
    pool.add(works.widget()).unwrap();
    let added = served(&mut wait);

    // The pool is full: nothing to probe for.
    let calls = works.create.calls();
    elapse(120 * SECOND).await;
    assert_eq!(works.create.calls(), calls);
    works.create.always(Step::Ok);
    let mut wait = waiting(&pool);
    added.discard();
    settle().await;
    assert!(!pool.status().is_down);
    drop(served(&mut wait));
    drop(kept);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_an_outage() {
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(2).build().unwrap();
    let mut wait = waiting(&pool);
    elapse(SECOND).await;
    let calls = works.create.calls();
    pool.close().await;
    assert!(matches!(ended(&mut wait), Err(GetError::Closed)));
    elapse(60 * SECOND).await;
    assert_eq!(works.create.calls(), calls, "no probe of a closed pool");
}

// --- Failing fast ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn failing_fast_tells_waiters_and_newcomers_the_cause_at_once() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Outage));
    let pool = works
        .pool(2)
        .outage_policy(OutagePolicy::FailFast)
        .build()
        .unwrap();
    let mut line: Vec<Wait> = (0..5).map(|_| waiting(&pool)).collect();
    settle().await;
    gate.open(1);
    settle().await;
    for wait in &mut line {
        assert_down(ended(wait), 1);
    }
    let began = Instant::now();
    assert_down(pool.get_owned().await, 1);
    assert_eq!(Instant::now(), began);
    gate.open(1000);
    elapse(SECOND).await;
    let Err(GetError::Down { attempt, .. }) = pool.get().await else {
        panic!("not down");
    };
    assert!(attempt > 1, "the probes are counted");
    let totals = pool.status().totals;
    assert_eq!(totals.waits_refused, 7);
    assert_eq!(totals.waits_timed_out, 0);

    works.create.always(Step::Ok);
    elapse(15 * SECOND).await;
    drop(pool.get().await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn failing_fast_still_lends_what_is_idle() {
    let works = Works::new();
    let pool = works
        .pool(2)
        .outage_policy(OutagePolicy::FailFast)
        .build()
        .unwrap();
    let lease = pool.get_owned().await.unwrap();
    works.create.always(Step::Outage);
    let mut wait = waiting(&pool);
    settle().await;
    assert_down(ended(&mut wait), 1);
    assert_down(pool.get_owned().await, 1);
    drop(lease);
    drop(pool.get().await.unwrap());
    assert_closes(&pool).await;
}

#[track_caller]
fn assert_down(outcome: common::Outcome, expected: u32) {
    let Err(GetError::Down { cause, attempt }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_failed(&cause, Fault::Outage);
    assert_eq!(attempt, expected);
}

#[track_caller]
fn assert_failed(cause: &Cause<Fault>, fault: Fault) {
    assert!(
        matches!(cause, Cause::Failed(error) if **error == fault),
        "{cause:?}"
    );
}

// --- Refusals ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_refusal_reaches_the_oldest_waiter_at_once_and_the_next_goes_on() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.next(gate.then(Step::Refuse));
    works.create.next(gate.then(Step::Refuse));
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(1).build().unwrap();
    let mut line: Vec<Wait> = (0..3).map(|_| waiting(&pool)).collect();
    settle().await;
    for refused in 0..2 {
        gate.open(1);
        settle().await;
        let outcome = ended(&mut line[refused]);
        let Err(GetError::Refused(cause)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_failed(&cause, Fault::Refuse);
        assert_waits(&mut line[refused + 1]);
    }
    assert!(!pool.status().is_down);
    gate.open(1);
    settle().await;
    drop(served(&mut line[2]));
    assert_eq!(pool.status().totals.waits_refused, 2);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn all_pending_callers_return_when_every_creation_is_refused() {
    // Elsewhere the first failure woke only its own caller, and the others slept on.
    let works = Works::new();
    works.create.always(Step::Refuse);
    let pool = works.pool(3).wait_timeout(None).build().unwrap();
    let mut line: Vec<Wait> = (0..20).map(|_| waiting(&pool)).collect();
    // No time passes, and nobody asks again: each failure leads to the next attempt by itself.
    for _ in 0..20 {
        settle().await;
    }
    for wait in &mut line {
        assert!(matches!(ended(wait), Err(GetError::Refused(_))));
    }
    assert_eq!(
        works.create.calls(),
        20,
        "each heard of a failure of its own"
    );
    works.create.always(Step::Ok);
    drop(pool.get().await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_refused_probe_ends_the_outage_for_the_other_side_has_answered() {
    let works = Works::new();
    works.create.next(Step::Outage);
    works.create.next(Step::Refuse);
    let pool = works.pool(1).build().unwrap();
    let mut first = waiting(&pool);
    let mut second = waiting(&pool);
    elapse(SECOND).await;
    assert!(matches!(ended(&mut first), Err(GetError::Refused(_))));
    drop(served(&mut second));
    assert!(!pool.status().is_down);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn refusals_that_nobody_hears_do_not_spin() {
    let works = Works::new();
    works.create.always(Step::Refuse);
    let pool = works.pool(4).min_idle(2).build().unwrap();
    elapse(60 * SECOND).await;
    let calls = works.create.calls();
    assert!((4..=40).contains(&calls), "{calls} calls in a minute");
    works.create.always(Step::Ok);
    elapse(15 * SECOND).await;
    assert_eq!(pool.status().idle, 2);
    assert_quiet(&pool);
}

// --- Panics and hangs --------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_panicking_create_leaks_no_count_and_blocks_nobody() {
    // bb8 counted a connection as pending before it called `connect`, and for ever after that
    // panicked.
    let works = Works::new();
    works.create.always(Step::Panic);
    let recorder = Recorder::default();
    let pool = works
        .pool(3)
        .backoff(Backoff {
            min: MS,
            max: 10 * MS,
        })
        .observer(recorder.clone())
        .build()
        .unwrap();
    let mut line: Vec<Wait> = (0..3).map(|_| waiting(&pool)).collect();
    elapse(SECOND).await;
    assert!(works.create.calls() > 50);
    assert_eq!(
        recorder.take()[..3],
        [
            "panicked create",
            "create failed: panicked: as told",
            "down 1"
        ]
    );
    works.create.always(Step::Ok);
    elapse(SECOND).await;
    let leases: Vec<_> = line.iter_mut().map(served).collect();
    assert_eq!(leases.len(), 3, "the whole bound can be used");
    drop(leases);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_message_of_a_panic_reaches_the_caller() {
    let works = Works::new();
    works.create.always(Step::Panic);
    let pool = works.pool(1).build().unwrap();
    let outcome = pool.get_timeout(SECOND).await;
    let Err(GetError::Timeout {
        stage: Stage::Create,
        waited,
        cause: Some(Cause::Panicked(message)),
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(&*message, "as told");
    assert!((SECOND..SECOND + 2 * MS).contains(&waited));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_classification_counts_as_an_outage() {
    let works = Works::new();
    works.create.next(Step::Refuse);
    works.classify.next(Step::Panic);
    let recorder = Recorder::default();
    let pool = works.pool(1).observer(recorder.clone()).build().unwrap();
    drop(pool.get().await.unwrap());
    assert_eq!(
        recorder.take(),
        [
            "panicked classify",
            "create failed: refused",
            "down 1",
            "created",
            "up"
        ]
    );
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_hung_create_is_cut_off_by_its_timeout_and_retried() {
    let works = Works::new();
    works.create.next(Step::Hang);
    let recorder = Recorder::default();
    let pool = works
        .pool(1)
        .create_timeout(2 * SECOND)
        .wait_timeout(10 * SECOND)
        .observer(recorder.clone())
        .build()
        .unwrap();
    let began = Instant::now();
    let lease = pool.get().await.unwrap();
    let took = Instant::now() - began;
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    assert_eq!(
        recorder.take(),
        [
            "create failed: not finished within 2s",
            "down 1",
            "created",
            "up"
        ]
    );
    drop(lease);
    assert_eq!(works.existing(), 1, "the hung one cleaned up by drop");
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn hung_creates_take_no_more_than_their_share_of_the_bound() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(6).max_creating(3).build().unwrap();
    let mut line: Vec<Wait> = (0..6).map(|_| waiting(&pool)).collect();
    elapse(5 * SECOND).await;
    assert_eq!(works.create.running(), 3);
    // The rest of the bound is free for what comes from elsewhere.
    for wait in line.iter_mut().take(3) {
        pool.add(works.widget()).unwrap();
        drop(served(wait));
    }
    drop(line);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_callers_cancellation_does_not_cancel_the_create() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(2).build().unwrap();
    let wait = waiting(&pool);
    settle().await;
    drop(wait);
    settle().await;
    assert_eq!(works.create.running(), 1);
    gate.open(1);
    settle().await;
    assert_eq!(pool.status().idle, 1);
    drop(pool.try_get().unwrap());
    assert_quiet(&pool);
}

// --- What errors say ---------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_timeout_in_an_outage_names_the_stage_the_wait_and_the_real_error() {
    // bb8 and mobc told their callers "timed out" and kept the reason to themselves.
    let works = Works::new();
    works.create.always(Step::Outage);
    let pool = works.pool(1).wait_timeout(3 * SECOND).build().unwrap();
    let outcome = pool.get().await;
    let Err(error) = outcome else {
        panic!("{outcome:?}")
    };
    let GetError::Timeout {
        stage: Stage::Create,
        waited,
        cause: Some(cause),
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!((3 * SECOND..3 * SECOND + 2 * MS).contains(waited));
    assert_failed(cause, Fault::Outage);
    assert!(
        error
            .to_string()
            .contains("timed out waiting for one to be created")
    );
    let mut root: &dyn Error = &error;
    while let Some(source) = root.source() {
        root = source;
    }
    assert_eq!(root.to_string(), "outage");
}

#[tokio::test(start_paused = true)]
async fn a_create_still_under_way_at_the_deadline_is_named_without_a_cause() {
    let works = Works::new();
    works.create.always(Step::Hang);
    let pool = works.pool(1).create_timeout(5 * SECOND).build().unwrap();
    let outcome = pool.get_timeout(2 * SECOND).await;
    assert!(
        matches!(
            outcome,
            Err(GetError::Timeout {
                stage: Stage::Create,
                cause: None,
                ..
            })
        ),
        "{outcome:?}"
    );
    // Once it has been cut off, that is the cause.
    let outcome = pool.get_timeout(4 * SECOND).await;
    let Err(GetError::Timeout {
        stage: Stage::Create,
        cause: Some(Cause::TimedOut(limit)),
        ..
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(limit, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_what_is_lent_out_has_no_failure_to_tell() {
    let works = Works::new();
    works.create.next(Step::Outage);
    let pool = works.pool(1).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    let outcome = pool.get_timeout(SECOND).await;
    assert!(
        matches!(
            outcome,
            Err(GetError::Timeout {
                stage: Stage::Wait,
                cause: None,
                ..
            })
        ),
        "the failure was before its time: {outcome:?}"
    );
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_check_cut_off_by_the_deadline_is_named_as_the_stage() {
    let works = Works::new();
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    elapse(SECOND).await;
    works.check.next(Step::Hang);
    let outcome = pool.get_timeout(SECOND).await;
    let Err(GetError::Timeout {
        stage: Stage::Check,
        waited,
        cause: None,
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!((SECOND..SECOND + 2 * MS).contains(&waited), "{waited:?}");
    settle().await;
    assert_eq!(works.existing(), 0, "its state is unknown");
    drop(pool.get().await.unwrap());
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_time_waited_is_the_whole_of_it_whatever_the_stage() {
    // Two seconds in line, one in the check.
    let works = Works::new();
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    works.check.always(Step::Hang);
    let mut wait = joined(pool.get_owned_timeout(3 * SECOND));
    elapse(2 * SECOND).await;
    drop(lease);
    assert_waits(&mut wait);
    elapse(SECOND).await;
    let outcome = ended(&mut wait);
    let Err(GetError::Timeout {
        stage: Stage::Check,
        waited,
        ..
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!(
        (3 * SECOND..3 * SECOND + 2 * MS).contains(&waited),
        "{waited:?}"
    );
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_is_the_cause_when_nothing_else_comes_of_it() {
    let works = Works::new();
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    elapse(SECOND).await;
    works.check.next(Step::Refuse);
    works.create.always(Step::Hang);
    let outcome = pool.get_timeout(SECOND).await;
    let Err(GetError::Timeout {
        stage: Stage::Create,
        cause: Some(cause),
        ..
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_failed(&cause, Fault::Refuse);
    assert_closes(&pool).await;
}
