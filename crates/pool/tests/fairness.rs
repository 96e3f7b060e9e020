//! Who is served when: strict order of arrival, whatever happens to those in line.

mod common;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use common::{
    Bell, Gate, Step, Wait, Works, assert_closes, assert_quiet, assert_waits, ended, joined, jump,
    pass, poll, poll_with, served, settle, waiting,
};
use proptest::prelude::*;
use tokio::{
    runtime,
    sync::Barrier,
    task::{JoinSet, yield_now},
    time::Instant,
};
use wharf::{Backoff, GetError, OwnedLease, Pool, Stage};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// --- Order -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_the_order_in_which_they_came() {
    // A pool of Go's database/sql kind kept its waiters in a map and served whichever the
    // iteration met first.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut lease = pool.get_owned().await.unwrap();
    let mut line: Vec<Wait> = (0..100).map(|_| waiting(&pool)).collect();

    for first in 0..line.len() {
        drop(lease);
        // Polled from the youngest to the oldest: only the oldest must find something.
        for younger in line[first + 1..].iter_mut().rev() {
            assert_waits(younger);
        }
        lease = served(&mut line[first]);
    }
    assert_eq!(works.made(), 1);
    drop(lease);
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn no_newcomer_overtakes_a_waiter_that_was_handed_a_resource() {
    // Pools that notify a waiter and leave the resource lying about let newcomers snatch it
    // before the waiter runs; one of them a thousand times in a row.
    let works = Works::new();
    let pool = works.pool(1).build().unwrap();
    let mut lease = pool.get_owned().await.unwrap();
    for _ in 0..1000 {
        let mut waiter = waiting(&pool);
        drop(lease);
        let mut newcomer = pin!(pool.get());
        assert!(poll(newcomer.as_mut()).is_pending());
        assert!(pool.try_get().is_err());
        assert!(matches!(
            pool.get_timeout(Duration::ZERO).await,
            Err(GetError::Timeout { .. })
        ));
        lease = served(&mut waiter);
        assert!(poll(newcomer.as_mut()).is_pending());
    }
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn continuous_newcomers_do_not_starve_the_line() {
    let works = Works::new();
    let pool = works.pool(2).build().unwrap();
    let mut leases = vec![
        pool.get_owned().await.unwrap(),
        pool.get_owned().await.unwrap(),
    ];
    let mut line: std::collections::VecDeque<Wait> = (0..8).map(|_| waiting(&pool)).collect();
    for _ in 0..500 {
        // Whoever returns a resource asks for one again at once, and so do others.
        drop(leases.remove(0));
        line.push_back(waiting(&pool));
        for younger in line.iter_mut().skip(1) {
            assert_waits(younger);
        }
        leases.push(served(&mut line.pop_front().unwrap()));
    }
    drop((leases, line));
    assert_closes(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn a_creation_serves_the_oldest_not_the_one_for_whom_it_was_begun() {
    let works = Works::new();
    let gate = Gate::shut();
    works.create.always(gate.then(Step::Ok));
    let pool = works.pool(3).build().unwrap();
    let first = waiting(&pool);
    let mut second = waiting(&pool);
    let mut third = waiting(&pool);
    settle().await;
    assert_eq!(works.create.calls(), 3);

    // Two creations are left for two waiters; the first to land is the second's.
    drop(first);
    gate.open(1);
    settle().await;
    assert_waits(&mut third);
    let lease = served(&mut second);
    drop(lease);
    drop(served(&mut third));
    gate.open(2);
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_check_failed_keeps_its_place_in_line() {
    let works = Works::new();
    let gate = Gate::shut();
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    let mut first = waiting(&pool);
    let mut second = waiting(&pool);

    pass(SECOND).await;
    works.check.next(gate.then(Step::Outage));
    works.create.always(gate.then(Step::Ok));
    drop(lease);
    // The first has the resource and checks it; others come in the meantime.
    assert_waits(&mut first);
    assert_eq!(works.check.calls(), 1);
    let mut third = waiting(&pool);
    gate.open(1);
    settle().await;
    assert_waits(&mut first);
    settle().await;
    assert_eq!(works.create.calls(), 2);

    // It stands before all of them.
    gate.open(1);
    settle().await;
    assert_waits(&mut third);
    assert_waits(&mut second);
    drop(served(&mut first));
    drop(served(&mut second));
    drop(served(&mut third));
    settle().await;
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_get_that_took_an_idle_resource_stands_before_those_who_came_during_its_check() {
    let works = Works::new();
    let gate = Gate::shut();
    let pool = works.pool(1).check_interval(MS).build().unwrap();
    drop(pool.get().await.unwrap());
    pass(SECOND).await;
    works.check.next(gate.then(Step::Outage));
    works.create.always(gate.then(Step::Ok));

    let mut first = waiting(&pool);
    assert_eq!(works.check.calls(), 1, "it has one, and checks it");
    let mut second = waiting(&pool);
    gate.open(1);
    settle().await;
    assert_waits(&mut first);
    settle().await;
    gate.open(1);
    settle().await;
    assert_waits(&mut second);
    drop(served(&mut first));
    drop(served(&mut second));
    assert_quiet(&pool);
}

// --- Deadlines ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_thousand_simultaneous_timeouts_end_at_their_moment_and_leave_nothing() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let began = Instant::now();
    let mut waits = JoinSet::new();
    for _ in 0..1000 {
        let get = pool.get_owned();
        waits.spawn(async move { (get.await.map(drop), Instant::now()) });
    }
    settle().await;
    assert_eq!(pool.status().waiting, 1000);
    let mut patient = joined(pool.get_owned_timeout(3 * SECOND));

    while let Some(ended) = waits.join_next().await {
        let (outcome, at) = ended.unwrap();
        let Err(GetError::Timeout {
            stage: Stage::Wait,
            waited,
            cause: None,
        }) = outcome
        else {
            panic!("{outcome:?}");
        };
        // Timers have a grain of a millisecond; early they never are.
        for late in [at - began, waited] {
            assert!((SECOND..=SECOND + 2 * MS).contains(&late), "{late:?}");
        }
    }
    assert_eq!(pool.status().waiting, 1);
    assert_eq!(pool.status().totals.waits_timed_out, 1000);
    drop(lease);
    drop(served(&mut patient));
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_its_own_counts_in_place_of_the_pools() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(10 * SECOND).build().unwrap();
    let lease = pool.get().await.unwrap();
    let began = Instant::now();
    let end = |get: Wait| async move {
        let outcome = get.await;
        assert!(matches!(outcome, Err(GetError::Timeout { .. })));
        (Instant::now() - began).as_secs()
    };
    // In line in this order, which is not the order of their deadlines.
    let ended = tokio::join!(
        end(Box::pin(pool.get_owned_timeout(30 * SECOND))),
        end(Box::pin(pool.get_owned())),
        end(Box::pin(pool.get_owned_timeout(SECOND))),
        end(Box::pin(pool.get_owned_deadline(began + 5 * SECOND))),
        end(Box::pin(pool.get_owned_timeout(Duration::ZERO))),
        end(Box::pin(pool.get_owned_deadline(began))),
        end(Box::pin(pool.get_owned_timeout(2 * SECOND))),
    );
    assert_eq!(ended, (30, 10, 1, 5, 0, 0, 2));
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn deadlines_do_not_change_the_order_of_service() {
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(10 * SECOND).build().unwrap();
    let mut lease = pool.get_owned().await.unwrap();
    // The third has the pool's own.
    let timeouts = [40, 3, 0, 20, 1, 50, 2];
    let mut line = timeouts.map(|seconds| match seconds {
        0 => waiting(&pool),
        seconds => joined(pool.get_owned_timeout(seconds * SECOND)),
    });
    for wait in &mut line {
        drop(lease);
        lease = served(wait);
    }
    drop(lease);
    assert_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_never_handed_to_a_waiter_whose_deadline_has_passed() {
    // Vitess: resources went to waiters that had timed out already, came back, went to the next
    // such waiter, and so on, until production stood still.
    let works = Works::new();
    let pool = works.pool(1).wait_timeout(SECOND).build().unwrap();
    let lease = pool.get_owned().await.unwrap();
    let mut late: Vec<Wait> = (0..50).map(|_| waiting(&pool)).collect();
    let mut live = joined(pool.get_owned_timeout(2 * SECOND));

    jump(SECOND);
    drop(lease);
    let lease = served(&mut live);
    for wait in &mut late {
        assert!(matches!(ended(wait), Err(GetError::Timeout { .. })));
    }
    assert_eq!(
        pool.status().totals.waits_served,
        2,
        "the first get, and the live one"
    );
    drop(lease);
    assert_quiet(&pool);
}

// --- Threads -----------------------------------------------------------------------------------

#[test]
fn n_returns_meet_n_waiters_that_are_just_registering() {
    // A put that looks for waiters too early and a waiter that looks for resources too early miss
    // each other: resources lie idle, the waiter sleeps.
    const N: usize = 4;
    const ROUNDS: usize = 300;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let works = Works::new();
        let pool = works.pool(N).build().unwrap();
        for _ in 0..ROUNDS {
            let start = Arc::new(Barrier::new(2 * N));
            let mut tasks = JoinSet::new();
            for _ in 0..N {
                let lease = pool.get_owned().await.unwrap();
                let at = Arc::clone(&start);
                tasks.spawn(async move {
                    at.wait().await;
                    drop(lease);
                });
            }
            for _ in 0..N {
                let (at, pool) = (Arc::clone(&start), pool.clone());
                tasks.spawn(async move {
                    at.wait().await;
                    // All of them have time: none is to come near its deadline.
                    let lease = pool.get_timeout(30 * SECOND).await.expect("was missed");
                    let _in_use = lease.hold();
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        }
        assert!(works.made() <= N);
        assert_quiet(&pool);
    });
}

#[test]
fn many_tasks_on_few_resources_get_equal_shares_on_one_thread() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert_equal_shares(&runtime);
}

#[test]
fn many_tasks_on_few_resources_get_equal_shares_on_two_threads() {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    assert_equal_shares(&runtime);
}

/// Counts turns until the shares are what they must be. On several threads the operating system
/// halts a task with a lease in its hands now and then, and all others go on in the meantime; it
/// falls behind through no fault of the pool. Over many turns such halts even out, while the
/// shares in an unfair pool stay what they are.
fn assert_equal_shares(runtime: &runtime::Runtime) {
    const TASKS: usize = 64;
    const TURNS: usize = TASKS * 4_000;
    const BATCHES: usize = 100;
    let works = Works::new();
    let mut shares = [0; TASKS];
    let mut bounds = (0.0, 0.0);
    for _ in 0..BATCHES {
        let pool = runtime.block_on(async { works.pool(4).build().unwrap() });
        for (share, turns) in shares
            .iter_mut()
            .zip(runtime.block_on(turns(&pool, TASKS, TURNS)))
        {
            *share += turns;
        }
        let mean = shares.iter().sum::<usize>() as f64 / TASKS as f64;
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        bounds = (*least as f64 / mean, *most as f64 / mean);
        if bounds.0 >= 0.98 && bounds.1 <= 1.02 {
            return;
        }
    }
    panic!("the idlest and the busiest task have {bounds:?} of the mean");
}

/// How many of so many turns each task gets. A turn is a lease held for one yield.
async fn turns(pool: &Pool<Works>, tasks: usize, turns: usize) -> Vec<usize> {
    let taken = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(Barrier::new(tasks));
    let mut running = Vec::new();
    for _ in 0..tasks {
        let (pool, taken, start) = (pool.clone(), Arc::clone(&taken), Arc::clone(&start));
        running.push(tokio::spawn(async move {
            start.wait().await;
            let mut share = 0;
            while taken.fetch_add(1, SeqCst) < turns {
                let lease = pool.get().await.unwrap();
                yield_now().await;
                drop(lease);
                share += 1;
            }
            share
        }));
    }
    let mut shares = Vec::new();
    for task in running {
        shares.push(task.await.unwrap());
    }
    shares
}

// --- The model ---------------------------------------------------------------------------------

/// What happens to the pool, one thing at a time. Indices pick among those that apply, wrapping.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// A `get` begins, with a timeout of its own (in milliseconds) or the pool's.
    Arrive(Option<u8>),
    /// A waiting or checking `get` is dropped.
    Cancel(usize),
    Return(usize),
    Discard(usize),
    Detach(usize),
    /// A resource comes back, and the oldest waiter, which has it now, is dropped before it runs.
    ReturnAndCancel(usize),
    /// Time passes, and a resource comes back before the pool has seen the time.
    PassAndReturn(u8, usize),
    Pass(u8),
    /// How the next creation to begin will end.
    Script(Create),
    /// The next check passes at once, fails at once, or waits for `EndCheck`.
    ScriptCheck(Check),
    /// The oldest creation under way ends.
    EndCreate,
    EndCheck,
    Resize(usize),
    Invalidate,
}

#[derive(Debug, Clone, Copy)]
enum Create {
    Ok,
    Refuse,
    Outage,
}

#[derive(Debug, Clone, Copy)]
enum Check {
    Pass,
    Fail,
    PassLater,
    FailLater,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<usize>();
    prop_oneof![
        6 => prop::option::weighted(0.4, 1..60_u8).prop_map(Op::Arrive),
        1 => index.prop_map(Op::Cancel),
        4 => index.prop_map(Op::Return),
        1 => index.prop_map(Op::Discard),
        1 => index.prop_map(Op::Detach),
        1 => index.prop_map(Op::ReturnAndCancel),
        1 => (1..40_u8, index).prop_map(|(ms, index)| Op::PassAndReturn(ms, index)),
        2 => (1..40_u8).prop_map(Op::Pass),
        1 => prop_oneof![Just(Create::Ok), Just(Create::Refuse), Just(Create::Outage)]
            .prop_map(Op::Script),
        2 => prop_oneof![
            Just(Check::Pass),
            Just(Check::Fail),
            Just(Check::PassLater),
            Just(Check::FailLater),
        ]
        .prop_map(Op::ScriptCheck),
        4 => Just(Op::EndCreate),
        3 => Just(Op::EndCheck),
        1 => (1..6_usize).prop_map(Op::Resize),
        1 => Just(Op::Invalidate),
    ]
}

proptest! {
    #[test]
    fn service_order_is_arrival_order_as_in_the_model(
        ops in prop::collection::vec(op(), 1..80),
        seed in any::<u64>(),
    ) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async move {
            let mut model = Model::new(seed);
            for op in ops {
                model.run(op).await;
            }
            model.finish().await;
        });
    }
}

/// The pool, and beside it what everybody who ever asked is doing.
struct Model {
    works: Works,
    pool: Pool<Works>,
    bound: usize,
    creations: Gate,
    checks: Gate,
    /// In the order of their arrival.
    gets: Vec<Get>,
    random: fastrand::Rng,
}

struct Get {
    state: State,
    wait: Option<Wait>,
    deadline: Instant,
    bell: Arc<Bell>,
    heard: usize,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// It has a resource and checks it.
    Checking,
    Served(OwnedLease<Works>),
    Gone,
}

/// What came of one step.
#[derive(Debug, Default)]
struct Word {
    /// Who was handed a resource.
    granted: Vec<usize>,
    refused: Vec<usize>,
}

impl Model {
    const USUAL: Duration = Duration::from_millis(100);

    fn new(seed: u64) -> Self {
        let works = Works::new();
        let (creations, checks) = (Gate::shut(), Gate::shut());
        works.create.always(creations.then(Step::Ok));
        let bound = 3;
        let pool = works
            .pool(bound)
            .check_interval(MS)
            .check_timeout(None)
            .create_timeout(None)
            .wait_timeout(Self::USUAL)
            .backoff(Backoff {
                min: 2 * MS,
                max: 20 * MS,
            })
            .build()
            .unwrap();
        Self {
            works,
            pool,
            bound,
            creations,
            checks,
            gets: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    async fn run(&mut self, op: Op) {
        let oldest_before = self.oldest_waiting();
        let may_refuse = matches!(op, Op::EndCreate);
        let active_before = self.pool.status().active();
        self.act(op);
        let word = self.settle().await;
        self.assert_order(&word);
        if let Some(&refused) = word.refused.first() {
            assert!(may_refuse, "{op:?} refused {refused}");
            assert_eq!(Some(refused), oldest_before, "the oldest hears of it");
        }
        assert!(word.refused.len() <= 1);
        self.assert_state(active_before);
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Arrive(ms) => {
                let (timeout, wait): (_, Wait) = match ms {
                    Some(ms) => {
                        let timeout = u32::from(ms) * MS;
                        (timeout, Box::pin(self.pool.get_owned_timeout(timeout)))
                    }
                    None => (Self::USUAL, Box::pin(self.pool.get_owned())),
                };
                self.gets.push(Get {
                    state: State::Waiting,
                    wait: Some(wait),
                    deadline: Instant::now() + timeout,
                    bell: Arc::default(),
                    heard: usize::MAX,
                });
            }
            Op::Cancel(index) => {
                let live = self.all(|state| matches!(state, State::Waiting | State::Checking));
                if let Some(index) = pick(&live, index) {
                    self.cancel(index);
                }
            }
            Op::Return(index) => drop(self.take_lease(index)),
            Op::Discard(index) => {
                if let Some(lease) = self.take_lease(index) {
                    lease.discard();
                }
            }
            Op::Detach(index) => {
                if let Some(lease) = self.take_lease(index) {
                    drop(lease.detach());
                }
            }
            Op::ReturnAndCancel(index) => {
                if let Some(lease) = self.take_lease(index) {
                    drop(lease);
                    if let Some(oldest) = self.oldest_waiting() {
                        self.cancel(oldest);
                    }
                }
            }
            Op::PassAndReturn(ms, index) => {
                jump(u32::from(ms) * MS);
                drop(self.take_lease(index));
            }
            Op::Pass(ms) => {
                jump(u32::from(ms) * MS);
            }
            Op::Script(create) => {
                let step = match create {
                    Create::Ok => Step::Ok,
                    Create::Refuse => Step::Refuse,
                    Create::Outage => Step::Outage,
                };
                self.works.create.next(self.creations.then(step));
            }
            Op::ScriptCheck(check) => {
                self.works.check.next(match check {
                    Check::Pass => Step::Ok,
                    Check::Fail => Step::Outage,
                    Check::PassLater => self.checks.then(Step::Ok),
                    Check::FailLater => self.checks.then(Step::Outage),
                });
            }
            Op::EndCreate => {
                if self.works.create.running() > 0 {
                    self.creations.open(1);
                }
            }
            Op::EndCheck => {
                if self.works.check.running() > 0 {
                    self.checks.open(1);
                }
            }
            Op::Resize(bound) => {
                self.pool.resize(bound).unwrap();
                self.bound = bound;
            }
            Op::Invalidate => self.pool.invalidate_all(),
        }
    }

    /// Runs everything until nothing moves, the `get`s in random order.
    async fn settle(&mut self) -> Word {
        let mut word = Word::default();
        loop {
            settle().await;
            let mut rung: Vec<usize> = (0..self.gets.len())
                .filter(|index| {
                    let get = &self.gets[*index];
                    get.wait.is_some() && get.bell.rings() != get.heard
                })
                .collect();
            if rung.is_empty() {
                return word;
            }
            self.random.shuffle(&mut rung);
            for index in rung {
                self.poll(index, &mut word);
            }
        }
    }

    fn poll(&mut self, index: usize, word: &mut Word) {
        let get = &mut self.gets[index];
        get.heard = get.bell.rings();
        let Some(wait) = &mut get.wait else { return };
        let was_checking = matches!(get.state, State::Checking);
        let check = &self.works.check;
        let (begun, others) = (check.calls(), check.running() - usize::from(was_checking));
        let outcome = poll_with(wait.as_mut(), &get.bell);
        let checked = check.calls() > begun;
        if checked {
            word.granted.push(index);
        }
        match outcome {
            Poll::Pending => {
                get.state = if check.running() > others {
                    State::Checking
                } else {
                    State::Waiting
                };
            }
            Poll::Ready(outcome) => {
                get.wait = None;
                get.state = match outcome {
                    Ok(lease) => {
                        assert!(Instant::now() < get.deadline, "served past its deadline");
                        if !was_checking && !checked {
                            word.granted.push(index);
                        }
                        State::Served(lease)
                    }
                    Err(GetError::Timeout { .. }) => {
                        assert!(Instant::now() >= get.deadline, "timed out early");
                        State::Gone
                    }
                    Err(GetError::Refused(_)) => {
                        word.refused.push(index);
                        State::Gone
                    }
                    Err(error) => panic!("{error:?}"),
                };
            }
        }
    }

    /// Whoever was handed a resource had nobody before it in line; nor has anybody at the end of
    /// the step, but those who got one too and lost it in its check.
    fn assert_order(&self, word: &Word) {
        for granted in &word.granted {
            let before = (0..*granted).find(|older| {
                matches!(self.gets[*older].state, State::Waiting) && !word.granted.contains(older)
            });
            assert_eq!(before, None, "still waits while {granted} was handed one");
        }
    }

    fn assert_state(&self, active_before: usize) {
        let status = self.pool.status();
        let waiting = self.all(|state| matches!(state, State::Waiting));
        assert_eq!(status.waiting, waiting.len(), "{status:?}");
        let now = Instant::now();
        for index in waiting.iter().copied() {
            assert!(
                now < self.gets[index].deadline,
                "{index} waits past its deadline"
            );
        }
        let most = self.bound.max(active_before);
        assert!(status.active() <= most, "{status:?}");
        if !waiting.is_empty() {
            assert_eq!(status.idle, 0, "idle while {waiting:?} wait");
            let full = status.active() >= self.bound;
            let creating = status.creating > 0 || status.is_down;
            assert!(
                full || creating,
                "nothing is done for those who wait: {status:?}"
            );
        }
        if status.is_down {
            assert!(self.works.create.running() <= status.creating);
        }
    }

    /// Everything that was begun ends, and then everybody who can still be served is.
    async fn finish(mut self) {
        self.act(Op::Resize(3));
        for _ in 0..2000 {
            if self
                .all(|state| matches!(state, State::Waiting | State::Checking))
                .is_empty()
            {
                break;
            }
            for op in [Op::EndCreate, Op::EndCheck, Op::Return(0), Op::Pass(1)] {
                self.run(op).await;
            }
        }
        assert!(
            self.gets.iter().all(|get| get.wait.is_none()),
            "somebody still waits"
        );
        self.gets.clear();
        self.creations.open(1000);
        self.checks.open(1000);
        pass(SECOND).await;
        assert_eq!(self.pool.status().active(), self.pool.status().idle);
        assert_quiet(&self.pool);
        assert_closes(&self.pool).await;
    }

    fn oldest_waiting(&self) -> Option<usize> {
        self.all(|state| matches!(state, State::Waiting))
            .first()
            .copied()
    }

    fn all(&self, which: impl Fn(&State) -> bool) -> Vec<usize> {
        (0..self.gets.len())
            .filter(|index| which(&self.gets[*index].state))
            .collect()
    }

    fn cancel(&mut self, index: usize) {
        let get = &mut self.gets[index];
        get.wait = None;
        get.state = State::Gone;
    }

    fn take_lease(&mut self, index: usize) -> Option<OwnedLease<Works>> {
        let held = self.all(|state| matches!(state, State::Served(_)));
        let get = &mut self.gets[pick(&held, index)?];
        match std::mem::replace(&mut get.state, State::Gone) {
            State::Served(lease) => Some(lease),
            state => unreachable!("{state:?}"),
        }
    }
}

fn pick(among: &[usize], index: usize) -> Option<usize> {
    among.get(index.checked_rem(among.len())?).copied()
}
