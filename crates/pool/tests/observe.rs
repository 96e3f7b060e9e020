//! What a pool says about itself, and whom it turns away when there are too many.

mod common;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{
    Gate, Recorder, Step, Wait, Works, assert_closes, assert_quiet, assert_waits, ended, joined,
    served, settle, waiting,
};
use tokio::{runtime, task::JoinSet, time::sleep};
use wharf::{Event, GetError, Pool, Shedding, Status, Summary, TryGetError};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Lets paused time pass from one timer to the next, so that all of them ring at their moment.
async fn elapse(time: Duration) {
    sleep(time).await;
    settle().await;
}

// --- Status ------------------------------------------------------------------------------------

/// Idle, leased, upkeep, creating, closing, waiting.
fn counts(status: &Status) -> [usize; 6] {
    [
        status.idle,
        status.leased,
        status.upkeep,
        status.creating,
        status.closing,
        status.waiting,
    ]
}

#[tokio::test(start_paused = true)]
async fn the_status_follows_a_resource_through_its_life() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    works.check.always(gate.then(Step::Ok));
    works.destroy.always(gate.then(Step::Ok));
    let pool = works
        .pool(1)
        .keep_alive(10 * SECOND)
        .check_interval(None)
        .build()
        .unwrap();
    let look = || counts(&pool.status());
    assert_eq!(look(), [0, 0, 0, 0, 0, 0]);

    let mut first = waiting(&pool);
    let mut second = waiting(&pool);
    settle().await;
    assert_eq!(look(), [0, 0, 0, 1, 0, 2]);
    gate.open(1);
    settle().await;
    assert_eq!(look(), [0, 1, 0, 0, 0, 1], "handed over, not picked up");
    let lease = served(&mut first);
    assert_eq!(look(), [0, 1, 0, 0, 0, 1]);
    drop(lease);
    drop(served(&mut second));
    assert_eq!(look(), [1, 0, 0, 0, 0, 0]);
    elapse(12 * SECOND).await;
    assert_eq!(look(), [0, 0, 1, 0, 0, 0]);
    gate.open(1);
    settle().await;
    assert_eq!(look(), [1, 0, 0, 0, 0, 0]);
    pool.get().await.unwrap().discard();
    settle().await;
    assert_eq!(look(), [0, 0, 0, 0, 1, 0]);
    assert_eq!(pool.status().active(), 1);
    gate.open(1);
    settle().await;
    assert_eq!(look(), [0, 0, 0, 0, 0, 0]);

    assert!(!pool.status().is_closed && !pool.status().is_down);
    assert_closes(&pool).await;
    assert!(pool.status().is_closed);
}

#[tokio::test(start_paused = true)]
async fn every_outcome_is_counted_once_under_its_own_name() {
    let works = Works::new();
    let pool = works
        .pool(2)
        .max_waiters(1)
        .wait_timeout(SECOND)
        .build()
        .unwrap();
    // Served at once by a creation, which is a wait; and by an idle one, which is none.
    drop(pool.get().await.unwrap());
    let first = pool.get_owned().await.unwrap();
    works.create.next(Step::Refuse);
    assert!(matches!(pool.get().await, Err(GetError::Refused(_))));
    let second = pool.get_owned().await.unwrap();

    assert!(matches!(pool.get().await, Err(GetError::Timeout { .. })));
    drop(waiting(&pool));
    let mut wait = waiting(&pool);
    assert!(matches!(
        pool.get().await,
        Err(GetError::Overloaded { waiting: 1 })
    ));
    assert_eq!(pool.try_get().unwrap_err(), TryGetError::Exhausted);
    drop(first);
    let first = served(&mut wait);
    drop(first.detach());
    pool.add(works.widget()).unwrap();
    second.discard();
    settle().await;
    works.create.next(Step::Outage);
    let lease = pool.get_owned().await.unwrap();
    drop(pool.get_owned().await.unwrap());
    drop(lease);
    let all = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    let mut wait = waiting(&pool);
    pool.close_within(MS).await.unwrap_err();
    assert!(matches!(ended(&mut wait), Err(GetError::Closed)));
    drop(all);
    pool.close().await;

    let totals = pool.status().totals;
    assert_eq!(totals.leases, 8);
    assert_eq!(totals.waits_served, 4);
    assert_eq!(totals.waits_refused, 1);
    assert_eq!(totals.waits_timed_out, 1);
    assert_eq!(totals.waits_cancelled, 1);
    assert_eq!(totals.waits_closed, 1);
    assert_eq!(totals.overloaded, 1);
    assert_eq!(totals.shed, 0);
    assert_eq!(totals.created, 3);
    assert_eq!(totals.added, 1);
    assert_eq!(totals.create_failed, 2);
    assert_eq!(totals.detached, 1);
    assert_eq!(totals.outages, 1);
    assert_eq!(totals.retired, 3);
    assert_eq!(totals.create_abandoned, 0);
}

#[tokio::test(start_paused = true)]
async fn numbers_do_not_drift_in_a_storm_of_cancellations() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let held = [
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    for _ in 0..20 {
        let mut storm: Vec<Wait> = (0..500).map(|_| waiting(&pool)).collect();
        fastrand::shuffle(&mut storm);
        assert_eq!(pool.status().waiting, 500);
        drop(storm);
        assert_eq!(pool.status().waiting, 0);
    }
    assert_eq!(pool.status().totals.waits_cancelled, 10_000);
    assert_eq!(pool.status().times.wait_cancelled.count, 10_000);
    drop(held);
    assert_eq!(counts(&pool.status()), [2, 0, 0, 0, 0, 0]);
    assert_eq!(pool.status().totals.leases, 2);
    assert_quiet(&pool);
}

#[test]
fn a_snapshot_is_consistent_whatever_goes_on() {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        const BOUND: usize = 4;
        let works = Works::new();
        works.check.always(Step::Ok.yielding(1));
        works.destroy.always(Step::Ok.yielding(1));
        let pool = works
            .pool(BOUND)
            .min_idle(1)
            .check_interval(MS)
            .keep_alive(MS)
            .idle_timeout(3 * MS)
            .wait_timeout(30 * SECOND)
            .build()
            .unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let looks = {
            let (pool, done) = (pool.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut looks = 0;
                let mut before = pool.status().totals;
                while !done.load(SeqCst) || looks < 1000 {
                    let status = pool.status();
                    let totals = status.totals;
                    assert!(status.active() <= BOUND, "{status:?}");
                    assert_eq!(
                        totals.created + totals.added,
                        totals.retired
                            + totals.detached
                            + (status.idle + status.leased + status.upkeep) as u64,
                        "{status:?}"
                    );
                    assert!(totals.leases >= before.leases);
                    before = totals;
                    looks += 1;
                    tokio::task::yield_now().await;
                }
                looks
            })
        };
        let mut users = JoinSet::new();
        for user in 0..8 {
            let pool = pool.clone();
            users.spawn(async move {
                let mut random = fastrand::Rng::with_seed(user);
                let mut leases = 0;
                for _ in 0..1000 {
                    let lease = pool.get().await.unwrap();
                    leases += 1;
                    tokio::task::yield_now().await;
                    match random.u8(..) {
                        0..10 => lease.discard(),
                        10..15 => drop(lease.detach()),
                        15..20 => {
                            drop(lease);
                            let _ = pool.add(pool.manager().widget());
                        }
                        _ => drop(lease),
                    }
                }
                leases
            });
        }
        let mut leases = 0;
        while let Some(ended) = users.join_next().await {
            leases += ended.unwrap();
        }
        done.store(true, SeqCst);
        assert!(looks.await.unwrap() >= 1000);
        assert_eq!(pool.status().totals.leases, leases, "exact over threads");
        assert_closes(&pool).await;
    });
}

// --- Times -------------------------------------------------------------------------------------

/// One significant digit, upwards or downwards.
#[track_caller]
fn assert_about(summary: Summary, count: u64, each: Duration) {
    assert_eq!(summary.count, count, "{summary:?}");
    for time in [summary.mean, summary.p50, summary.p999, summary.max] {
        let ratio = time.as_secs_f64() / each.as_secs_f64();
        assert!((0.9..=1.15).contains(&ratio), "{summary:?}, not {each:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_told_apart_by_outcome() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    works.create.always(Step::Ok.taking(20 * MS));
    let lease = pool.get_owned().await.unwrap();
    assert_about(pool.status().times.created, 1, 20 * MS);
    assert_about(pool.status().times.wait_served, 1, 20 * MS);

    for _ in 0..3 {
        pool.get_timeout(300 * MS).await.unwrap_err();
    }
    assert_about(pool.status().times.wait_timed_out, 3, 300 * MS);
    let wait = waiting(&pool);
    elapse(5 * SECOND).await;
    drop(wait);
    assert_about(pool.status().times.wait_cancelled, 1, 5 * SECOND);
    lease.discard();
    settle().await;
    works.create.next(Step::Refuse.taking(70 * MS));
    pool.get().await.unwrap_err();
    assert_about(pool.status().times.wait_failed, 1, 70 * MS);
    assert_about(pool.status().times.create_failed, 1, 70 * MS);

    let times = pool.status().times;
    let counted = [
        times.wait_served.count,
        times.wait_timed_out.count,
        times.wait_cancelled.count,
        times.wait_failed.count,
        times.created.count,
        times.create_failed.count,
    ];
    assert_eq!(counted, [1, 3, 1, 1, 1, 1]);
    assert_eq!(times.held, Summary::default());
}

#[tokio::test(start_paused = true)]
async fn a_get_that_finds_an_idle_resource_is_no_wait() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    for _ in 0..100 {
        drop(pool.get().await.unwrap());
    }
    assert_eq!(pool.status().times.wait_served.count, 1);
    assert_eq!(pool.status().totals.leases, 100);
}

#[tokio::test(start_paused = true)]
async fn quantiles_of_the_waits_are_those_of_the_waits() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(None).build().unwrap();
    let mut lease = pool.get_owned().await.unwrap();
    let mut line: Vec<Wait> = (0..100).map(|_| waiting(&pool)).collect();
    for wait in &mut line {
        elapse(10 * MS).await;
        drop(lease);
        lease = served(wait);
    }
    // 10 ms to 1 s in even steps, and the first, which took no time.
    let waits = pool.status().times.wait_served;
    assert_eq!(waits.count, 101);
    for (quantile, expected) in [
        (waits.p50, 500),
        (waits.p90, 900),
        (waits.p99, 990),
        (waits.max, 1000),
    ] {
        let ratio = quantile.as_secs_f64() * 1000.0 / f64::from(expected);
        assert!((0.85..=1.15).contains(&ratio), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_lease_in_64_is_timed() {
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    for _ in 0..640 {
        let lease = pool.get().await.unwrap();
        sleep(30 * MS).await;
        drop(lease);
    }
    assert_about(pool.status().times.held, 10, 30 * MS);
}

// --- Observers ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn observers_hear_the_story_in_order() {
    let works = Works::new();
    let recorder = Recorder::default();
    let other = Recorder::default();
    let pool = works
        .pool(1)
        .check_interval(MS)
        .destroy_timeout(SECOND)
        .observer(recorder.clone())
        .observer(other.clone())
        .build()
        .unwrap();
    works.create.next(Step::Outage);
    let mut lease = pool.get().await.unwrap();
    works.destroy.next(Step::Hang);
    lease.discard();
    elapse(2 * SECOND).await;
    drop(pool.get().await.unwrap());
    elapse(SECOND).await;
    works.check.next(Step::Refuse);
    lease = pool.get().await.unwrap();
    works.reset.next(Step::Panic);
    drop(lease);
    settle().await;
    lease = pool.get().await.unwrap();
    works.destroy.next(Step::Panic);
    lease.discard();
    pool.close().await;
    pool.close().await;
    let story = [
        "create failed: outage",
        "down 1",
        "created",
        "up",
        "retired Discarded",
        "destroy timed out",
        "created",
        "check failed: refused",
        "retired Check",
        "created",
        "panicked reset",
        "retired Panicked",
        "created",
        "retired Discarded",
        "closed",
        "panicked destroy",
    ];
    assert_eq!(recorder.take(), story);
    assert_eq!(other.take(), story);
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_panic_and_may_call_the_pool() {
    let works = Works::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let handle = Arc::<OnceLock<Pool<Works>>>::default();
    let (seen, its) = (Arc::clone(&calls), Arc::clone(&handle));
    let pool = works
        .pool(2)
        .observer(|_: &Event<'_>| panic!("as told"))
        .observer(move |_: &Event<'_>| {
            seen.fetch_add(1, SeqCst);
            if let Some(pool) = its.get() {
                let _ = pool.status();
                drop(pool.try_get());
                pool.resize(2).unwrap();
            }
        })
        .build()
        .unwrap();
    assert!(handle.set(pool.clone()).is_ok());
    drop(pool.get().await.unwrap());
    pool.invalidate_all();
    settle().await;
    drop(pool.get().await.unwrap());
    assert_eq!(calls.load(SeqCst), 3);
    assert_quiet(&pool);
    assert_closes(&pool).await;
}

// --- Overload ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn with_no_waiters_allowed_one_may_wait_for_a_creation_but_not_for_a_return() {
    let works = Works::new();
    let pool = works.pool(2).max_waiters(0).build().unwrap();
    let first = pool.get_owned().await.unwrap();
    let second = pool.get_owned().await.unwrap();
    assert!(matches!(
        pool.get().await,
        Err(GetError::Overloaded { waiting: 0 })
    ));
    drop(first);
    let first = pool.get_owned().await.unwrap();
    second.discard();
    settle().await;
    drop(pool.get().await.unwrap());
    drop(first);
    assert_eq!(pool.status().totals.overloaded, 1);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn one_more_than_max_waiters_is_turned_away_at_once_and_the_rest_are_served() {
    let works = Works::new();
    let pool = works.pool(1).max_waiters(3).build().unwrap();
    let mut lease = pool.get_owned().await.unwrap();
    let mut line: Vec<Wait> = (0..3).map(|_| waiting(&pool)).collect();
    for _ in 0..10 {
        let outcome = pool.get_timeout(SECOND).await;
        assert!(
            matches!(outcome, Err(GetError::Overloaded { waiting: 3 })),
            "{outcome:?}"
        );
    }
    // Whoever leaves makes room for another.
    drop(line.remove(1));
    line.push(waiting(&pool));
    assert!(matches!(pool.get().await, Err(GetError::Overloaded { .. })));
    for wait in &mut line {
        drop(lease);
        lease = served(wait);
    }
    drop(lease);
    assert_eq!(pool.status().totals.overloaded, 11);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn those_for_whom_there_is_room_to_create_do_not_count_as_waiters() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    let pool = works
        .pool(4)
        .max_waiters(2)
        .max_creating(1)
        .build()
        .unwrap();
    let mut line: Vec<Wait> = (0..6).map(|_| waiting(&pool)).collect();
    assert!(matches!(
        pool.get().await,
        Err(GetError::Overloaded { waiting: 6 })
    ));
    gate.open(4);
    settle().await;
    for wait in &mut line {
        drop(served(wait));
    }
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_get_that_was_in_line_is_not_turned_away_when_its_check_fails() {
    let works = Works::new();
    let pool = works
        .pool(1)
        .max_waiters(1)
        .check_interval(MS)
        .build()
        .unwrap();
    let lease = pool.get_owned().await.unwrap();
    let mut first = waiting(&pool);
    elapse(SECOND).await;
    let gate = Gate::shut();
    works.check.next(gate.then(Step::Outage));
    works.create.always(gate.then(Step::Ok));
    drop(lease);
    assert_waits(&mut first);
    let mut second = waiting(&pool);
    gate.open(1);
    settle().await;
    assert_waits(&mut first);
    settle().await;
    gate.open(1);
    settle().await;
    drop(served(&mut first));
    drop(served(&mut second));
    assert_eq!(pool.status().totals.overloaded, 0);
    assert_quiet(&pool);
}

// --- Shedding ----------------------------------------------------------------------------------

fn shedding(works: &Works, recorder: &Recorder) -> Pool<Works> {
    works
        .pool(1)
        .shedding(Shedding {
            target: 5 * MS,
            interval: 100 * MS,
        })
        .wait_timeout(60 * SECOND)
        .observer(recorder.clone())
        .build()
        .unwrap()
}

/// So many ask every 10 ms, and one is served every 10 ms: after so many rounds, who was shed and
/// who was served, by their numbers.
async fn load(pool: &Pool<Works>, per_round: usize, rounds: usize) -> (Vec<usize>, Vec<usize>) {
    let (shed, lent) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(vec![])));
    let mut waits = JoinSet::new();
    for round in 0..rounds {
        for number in 0..per_round {
            let (get, shed, lent) = (pool.get_owned(), Arc::clone(&shed), Arc::clone(&lent));
            waits.spawn(async move {
                let number = round * per_round + number;
                match get.await {
                    Ok(lease) => {
                        lent.lock().unwrap().push(number);
                        sleep(10 * MS).await;
                        drop(lease);
                    }
                    Err(GetError::Shed { waited }) => {
                        assert!(waited >= 5 * MS, "{waited:?}");
                        shed.lock().unwrap().push(number);
                    }
                    Err(error) => panic!("{error}"),
                }
            });
        }
        elapse(10 * MS).await;
    }
    while let Some(ended) = waits.join_next().await {
        ended.unwrap();
    }
    let take = |list: &Mutex<Vec<usize>>| std::mem::take(&mut *list.lock().unwrap());
    (take(&shed), take(&lent))
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_served_and_nobody_is_shed() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = shedding(&works, &recorder);
    for _ in 0..10 {
        // Gone within the interval, though all but the first wait for longer than the target.
        let (shed, lent) = load(&pool, 8, 1).await;
        assert_eq!((shed.len(), lent.len()), (0, 8));
        elapse(SECOND).await;
    }
    assert_eq!(pool.status().totals.shed, 0);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_standing_line_is_shed_from_its_head_and_faster_and_faster() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = shedding(&works, &recorder);
    let (shed, lent) = load(&pool, 2, 600).await;
    assert_eq!(shed.len() + lent.len(), 1200);
    // Everybody is dealt with in the order of arrival, one way or the other.
    assert!(shed.is_sorted() && lent.is_sorted());
    assert!(
        lent[..8].iter().copied().eq(0..8),
        "nobody is shed at once: {lent:?}"
    );
    let (first, second) = shed.split_at(shed.len() / 2);
    assert!(
        second[second.len() - 1] - second[0] < first[first.len() - 1] - first[0],
        "the rate grows"
    );
    assert_eq!(pool.status().totals.shed, shed.len() as u64);
    let said = recorder.take();
    assert_eq!(
        said.iter().filter(|words| *words == "shed").count(),
        shed.len()
    );
    assert_eq!(pool.status().times.wait_failed.count, shed.len() as u64);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn shedding_keeps_the_line_short_and_ends_with_the_overload() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = shedding(&works, &recorder);
    let mut waits = JoinSet::new();
    let mut longest = 0;
    for round in 0..3000 {
        // An overload of a quarter.
        for _ in 0..(if round % 4 == 0 { 2 } else { 1 }) {
            let get = pool.get_owned();
            waits.spawn(async move {
                if let Ok(lease) = get.await {
                    sleep(10 * MS).await;
                    drop(lease);
                }
            });
        }
        elapse(10 * MS).await;
        if round > 1000 {
            longest = longest.max(pool.status().waiting);
        }
    }
    while waits.join_next().await.is_some() {}
    // Without it 750 would stand there at the end.
    assert!(longest < 150, "{longest} in line");
    let before = pool.status().totals.shed;
    assert!(before > 500, "{before} shed");

    elapse(10 * SECOND).await;
    let (shed, lent) = load(&pool, 1, 200).await;
    assert_eq!((shed.len(), lent.len()), (0, 200));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn the_only_waiter_is_not_shed_however_long_it_waits() {
    let works = Works::new();
    let recorder = Recorder::default();
    let pool = shedding(&works, &recorder);
    let mut lease = pool.get_owned().await.unwrap();
    for _ in 0..20 {
        let mut wait = joined(pool.get_owned());
        elapse(SECOND).await;
        drop(lease);
        lease = served(&mut wait);
    }
    drop(lease);
    assert_eq!(pool.status().totals.shed, 0);
    assert_quiet(&pool);
}

// --- Features ----------------------------------------------------------------------------------

#[cfg(feature = "metrics")]
mod figures {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::atomic::AtomicU64,
    };

    use metrics::{
        Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder as Registry,
        SharedString, Unit,
    };

    use super::*;

    /// Keeps every figure under its name and labels: `wharf_waiting{pool=harbour}`.
    #[derive(Default)]
    struct Board {
        counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        histograms: Mutex<BTreeMap<String, Arc<Values>>>,
    }

    #[derive(Default)]
    struct Values(Mutex<Vec<f64>>);

    impl HistogramFn for Values {
        fn record(&self, value: f64) {
            self.0.lock().unwrap().push(value);
        }
    }

    fn named<T: Default>(board: &Mutex<BTreeMap<String, Arc<T>>>, key: &Key) -> Arc<T> {
        let labels: BTreeSet<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let labels: Vec<_> = labels.into_iter().collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(board.lock().unwrap().entry(name).or_default())
    }

    impl Registry for Board {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(named(&self.counters, key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(named(&self.gauges, key))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(named(&self.histograms, key))
        }
    }

    impl Board {
        #[track_caller]
        fn gauge(&self, name: &str) -> f64 {
            let gauges = self.gauges.lock().unwrap();
            let Some(gauge) = gauges.get(name) else {
                panic!("no {name} in {:?}", gauges.keys());
            };
            f64::from_bits(gauge.load(SeqCst))
        }

        fn counter(&self, name: &str) -> u64 {
            let counters = self.counters.lock().unwrap();
            counters.get(name).map_or(0, |counter| counter.load(SeqCst))
        }

        fn values(&self, name: &str) -> Vec<f64> {
            let histograms = self.histograms.lock().unwrap();
            let values = histograms.get(name);
            values.map_or_else(Vec::new, |values| values.0.lock().unwrap().clone())
        }

        /// What is on the board is what the pool says.
        #[track_caller]
        fn assert_fresh(&self, pool: &Pool<Works>) {
            let status = pool.status();
            for (state, count) in [
                ("idle", status.idle),
                ("leased", status.leased),
                ("upkeep", status.upkeep),
                ("creating", status.creating),
                ("closing", status.closing),
            ] {
                let shown = self.gauge(&format!("wharf_resources{{pool=harbour,state={state}}}"));
                assert_eq!(shown as usize, count, "{state} of {status:?}");
            }
            let gauge = |name: &str| self.gauge(&format!("wharf_{name}{{pool=harbour}}")) as usize;
            assert_eq!(gauge("waiting"), status.waiting, "waiting of {status:?}");
            assert_eq!(gauge("max_active"), status.max_active);
            assert_eq!(gauge("down"), usize::from(status.is_down), "{status:?}");
            let gets = |outcome: &str| {
                self.counter(&format!(
                    "wharf_gets_total{{outcome={outcome},pool=harbour}}"
                ))
            };
            let totals = status.totals;
            assert_eq!(gets("lent"), totals.leases);
            assert_eq!(gets("timed_out"), totals.waits_timed_out);
            assert_eq!(gets("cancelled"), totals.waits_cancelled);
            assert_eq!(gets("refused"), totals.waits_refused);
            assert_eq!(gets("closed"), totals.waits_closed);
            assert_eq!(gets("overloaded"), totals.overloaded);
        }
    }

    fn on_board(test: impl AsyncFnOnce(&Board)) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let board = Board::default();
        metrics::with_local_recorder(&board, || runtime.block_on(test(&board)));
    }

    #[test]
    fn metrics_are_never_older_than_a_second() {
        // Whatever happens, and if nothing happens after it: nobody is to look at a gauge that
        // shows for ever what was so once.
        on_board(async |board| {
            let works = Works::new();
            let pool = works
                .pool(3)
                .name("harbour")
                .idle_timeout(60 * SECOND)
                .wait_timeout(100 * SECOND)
                .max_waiters(2)
                .build()
                .unwrap();
            let fresh = async || {
                elapse(1100 * MS).await;
                board.assert_fresh(&pool);
            };
            fresh().await;
            let mut leases: Vec<_> = Vec::new();
            for _ in 0..3 {
                leases.push(pool.get_owned().await.unwrap());
            }
            fresh().await;
            let cancelled = waiting(&pool);
            let mut other = waiting(&pool);
            fresh().await;
            pool.get().await.unwrap_err();
            fresh().await;
            elapse(20 * SECOND).await;
            drop(cancelled);
            fresh().await;
            elapse(20 * SECOND).await;
            leases.pop();
            drop(served(&mut other));
            fresh().await;
            leases.pop().unwrap().discard();
            fresh().await;
            drop(leases.pop().unwrap().detach());
            fresh().await;
            pool.add(works.widget()).unwrap();
            fresh().await;
            pool.resize(7).unwrap();
            fresh().await;
            elapse(100 * SECOND).await;
            assert_eq!(works.existing(), 0);
            board.assert_fresh(&pool);
            works.create.always(Step::Outage);
            pool.get_timeout(MS).await.unwrap_err();
            fresh().await;
            works.create.always(Step::Ok);
            elapse(20 * SECOND).await;
            fresh().await;
            pool.invalidate_all();
            fresh().await;
            let lease = pool.get_owned().await.unwrap();
            elapse(20 * SECOND).await;
            drop(pool.close());
            fresh().await;
            drop(lease);
            fresh().await;
            assert_eq!(pool.status().active(), 0);
        });
    }

    #[test]
    fn metrics_tell_durations_and_reasons_as_they_come() {
        on_board(async |board| {
            let works = Works::new();
            works.create.next(Step::Outage.taking(30 * MS));
            works.create.always(Step::Ok.taking(20 * MS));
            let pool = works
                .pool(1)
                .name("harbour")
                .warn_after(10 * SECOND)
                .build()
                .unwrap();
            let lease = pool.get().await.unwrap();
            elapse(15 * SECOND).await;
            works.reset.next(Step::Panic);
            drop(lease);
            pool.get().await.unwrap().discard();
            settle().await;

            let created = board.values("wharf_create_seconds{outcome=ok,pool=harbour}");
            assert_eq!(created.len(), 2);
            assert!((0.02..0.03).contains(&created[0]), "{created:?}");
            let failed = board.values("wharf_create_seconds{outcome=error,pool=harbour}");
            assert_eq!(failed.len(), 1);
            assert!((0.03..0.04).contains(&failed[0]), "{failed:?}");
            for why in ["panicked", "discarded"] {
                let name = format!("wharf_retired_total{{pool=harbour,why={why}}}");
                assert_eq!(board.counter(&name), 1, "{name}");
            }
            assert_eq!(board.counter("wharf_overdue_total{pool=harbour}"), 1);
            assert_eq!(
                board.counter("wharf_panics_total{method=reset,pool=harbour}"),
                1
            );
            elapse(2 * SECOND).await;
            let waited = board.gauge("wharf_wait_seconds{pool=harbour,quantile=0.999}");
            assert!((0.05..0.25).contains(&waited), "{waited}");
        });
    }
}
