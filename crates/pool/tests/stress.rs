//! Real threads, random actions, then exact counts.
//!
//! `WHARF_STRESS_OPERATIONS` says how many actions in all, `WHARF_STRESS_SEED` repeats a run as
//! far as threads can be repeated.

use std::{
    env,
    error::Error,
    fmt,
    panic::{self, PanicHookInfo},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    runtime,
    task::{JoinSet, yield_now},
    time::timeout,
};
use wharf::{Backoff, Event, Failure, GetError, Lease, Manager, OutagePolicy, Pool, Shedding};

/// No step of a sound pool takes this long on a machine that runs at all.
const HUNG: Duration = Duration::from_secs(120);
const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

#[test]
fn random_actions_from_many_threads_leave_exact_counts() {
    stress("steady", &Plan::default(), |builder| builder);
}

#[test]
fn random_actions_with_every_timeout_short_leave_exact_counts() {
    stress(
        "hurried",
        &Plan {
            resizes: true,
            ..Plan::default()
        },
        |builder| {
            builder
                .min_idle(2)
                .max_idle(4)
                .idle_timeout(2 * MS)
                .max_lifetime(10 * MS)
                .check_interval(MS)
                .keep_alive(MS)
                .create_timeout(5 * MS)
                .check_timeout(5 * MS)
                .destroy_timeout(5 * MS)
                .max_waiters(22)
                .max_creating(2)
                .warn_after(MS)
                .shedding(Shedding {
                    target: 500 * US,
                    interval: 5 * MS,
                })
        },
    );
}

#[test]
fn random_actions_through_outages_leave_exact_counts() {
    stress(
        "outages",
        &Plan {
            create_fails: 20,
            resizes: true,
            ..Plan::default()
        },
        |builder| {
            builder
                .create_timeout(5 * MS)
                .check_interval(MS)
                .outage_policy(OutagePolicy::FailFast)
        },
    );
}

/// How often things go wrong, in percent.
struct Plan {
    create_fails: u8,
    check_fails: u8,
    reset_fails: u8,
    is_dead: u8,
    resizes: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            create_fails: 10,
            check_fails: 10,
            reset_fails: 2,
            is_dead: 2,
            resizes: false,
        }
    }
}

const LEAST: usize = 2;
const MOST: usize = 8;
const TASKS: usize = 24;

fn stress(
    name: &str,
    plan: &Plan,
    configure: impl FnOnce(wharf::Builder<Forge>) -> wharf::Builder<Forge>,
) {
    let number = |name| {
        env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().unwrap())
    };
    let operations = number("WHARF_STRESS_OPERATIONS").unwrap_or(20_000);
    let seed = number("WHARF_STRESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{name}: {operations} operations, WHARF_STRESS_SEED={seed}");
    silence_expected_panics();

    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let books = Arc::new(Books::new(plan, seed));
        let forge = Forge(Arc::clone(&books));
        let told = Arc::clone(&books);
        let builder = Pool::builder(forge)
            .max_active(MOST)
            .wait_timeout(HUNG)
            .backoff(Backoff {
                min: 100 * US,
                max: 2 * MS,
            })
            .observer(move |event: &Event<'_>| told.hear(event));
        let pool = configure(builder).build().unwrap();

        let mut tasks = JoinSet::new();
        let left = Arc::new(AtomicU64::new(operations));
        for task in 0..TASKS as u64 {
            let user = User {
                pool: pool.clone(),
                books: Arc::clone(&books),
                random: fastrand::Rng::with_seed(seed ^ (task << 32)),
            };
            tasks.spawn(user.act(Arc::clone(&left)));
        }
        let done = Arc::new(AtomicBool::new(false));
        let resizer = plan.resizes.then(|| {
            let random = fastrand::Rng::with_seed(seed ^ 0xdead);
            tokio::spawn(resize(
                pool.clone(),
                Arc::clone(&books),
                random,
                Arc::clone(&done),
            ))
        });
        while let Some(ended) = timeout(HUNG + HUNG, tasks.join_next())
            .await
            .unwrap_or_else(|_| panic!("hung: {:?}", pool.status()))
        {
            ended.unwrap();
        }
        done.store(true, SeqCst);
        if let Some(resizer) = resizer {
            timeout(HUNG, resizer).await.expect("hung").unwrap();
        }
        still_works(&pool, &books).await;
        reckon(&pool, &books).await;
        println!("{name}: {:?}", pool.status().totals);
    });
}

/// All that the bound allows can be had at once, and no more.
async fn still_works(pool: &Pool<Forge>, books: &Books) {
    books.calm.store(true, SeqCst);
    let bound = 5;
    *books.ceiling.lock().unwrap() = MOST;
    pool.resize(bound).unwrap();
    let mut leases = Vec::new();
    while leases.len() < bound {
        // The last failures of the storm may still have to be told.
        match timeout(HUNG, pool.get()).await.expect("hung") {
            Ok(lease) => {
                books.leases.fetch_add(1, SeqCst);
                leases.push(lease);
            }
            Err(GetError::Down { .. } | GetError::Refused(_)) => tokio::time::sleep(MS).await,
            Err(error) => panic!("{error:?} of {:?}", pool.status()),
        }
    }
    let uses: Vec<_> = leases.iter().map(|lease| lease.hold()).collect();
    assert!(pool.try_get().is_err());
    // The surplus may still be on its way out.
    let exact = async {
        while pool.status().active() != bound {
            yield_now().await;
        }
    };
    timeout(HUNG, exact)
        .await
        .unwrap_or_else(|_| panic!("hung: {:?}", pool.status()));
    let status = pool.status();
    assert_eq!((status.leased, status.waiting), (bound, 0), "{status:?}");
    drop(uses);
}

/// Closes the pool and compares its books with ours.
async fn reckon(pool: &Pool<Forge>, books: &Books) {
    timeout(HUNG, pool.close())
        .await
        .unwrap_or_else(|_| panic!("hung: {:?}", pool.status()));
    let status = pool.status();
    assert_eq!((status.active(), status.waiting), (0, 0), "{status:?}");
    let totals = status.totals;
    let read = |count: &AtomicU64| count.load(SeqCst);
    assert_eq!(totals.created, read(&books.created));
    assert_eq!(totals.added, read(&books.added));
    assert_eq!(totals.detached, read(&books.detached));
    assert_eq!(totals.leases, read(&books.leases));
    assert_eq!(totals.waits_timed_out, read(&books.timed_out_in_line));
    assert_eq!(totals.overloaded, read(&books.overloaded));
    // Who is shed is woken first, and a thread may be halted before it tells the observers.
    let told = async {
        while read(&books.shed) < totals.shed {
            yield_now().await;
        }
    };
    timeout(HUNG, told)
        .await
        .unwrap_or_else(|_| panic!("of {} shed, {:?} were told", totals.shed, books.shed));
    assert_eq!(totals.shed, read(&books.shed));
    assert_eq!(
        totals.created + totals.added,
        totals.retired + totals.detached
    );
    assert_eq!(books.existing.load(SeqCst), 0, "resources leaked");
    assert_eq!(books.live.load(SeqCst), 0);
    let complaints = books.complaints.lock().unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(read(&books.leases) > 0 && read(&books.created) > 0);
}

// --- The users ---------------------------------------------------------------------------------

struct User {
    pool: Pool<Forge>,
    books: Arc<Books>,
    random: fastrand::Rng,
}

impl User {
    async fn act(mut self, left: Arc<AtomicU64>) {
        while left
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            self.act_once().await;
        }
    }

    async fn act_once(&mut self) {
        let pool = self.pool.clone();
        match self.random.u8(0..100) {
            0..40 => {
                let outcome = pool.get().await;
                self.use_up(outcome).await;
            }
            40..55 => {
                let patience = u32::from(self.random.u8(..)) * 4 * US;
                let outcome = pool.get_timeout(patience).await;
                self.use_up(outcome).await;
            }
            55..70 => self.give_up(&pool).await,
            70..80 => {
                if let Ok(lease) = pool.try_get() {
                    self.use_up(Ok(lease)).await;
                }
            }
            80..88 => self.send_away(&pool).await,
            88..91 => self.add(&pool),
            91..92 => pool.invalidate_all(),
            92..94 => {
                let odd = |lump: &Lump, _| !lump.id.is_multiple_of(5);
                let _ = pool.retain(odd);
            }
            94..95 => {
                let retained = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                    pool.retain(|_, _| panic!("{EXPECTED}"))
                }));
                // Nothing was idle, or it went on to us.
                assert!(!matches!(retained, Ok(removed) if removed > 0));
            }
            95..98 => {
                let status = pool.status();
                let exist = status.idle + status.leased + status.upkeep;
                let totals = status.totals;
                assert_eq!(
                    totals.created + totals.added,
                    totals.retired + totals.detached + exist as u64,
                    "{status:?}"
                );
            }
            _ => yield_now().await,
        }
    }

    /// Does something with a lease, or writes down why there is none.
    async fn use_up(&mut self, outcome: Result<Lease<'_, Forge>, GetError<Slag>>) {
        let mut lease = match outcome {
            Ok(lease) => lease,
            Err(error) => return self.books.note(&error),
        };
        self.books.leases.fetch_add(1, SeqCst);
        let in_use = lease.hold();
        for _ in 0..self.random.u8(0..3) {
            yield_now().await;
        }
        drop(in_use);
        match self.random.u8(0..40) {
            0 => lease.discard(),
            1 => {
                lease.counts_no_more();
                let lump = lease.detach();
                self.books.detached.fetch_add(1, SeqCst);
                lump.assert_free();
            }
            2 => {
                // Dropped by a panic.
                let dropped = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                    let _lease = lease;
                    panic!("{EXPECTED}");
                }));
                assert!(dropped.is_err());
            }
            _ => drop(lease),
        }
    }

    /// Drops a `get` after a few polls.
    async fn give_up(&mut self, pool: &Pool<Forge>) {
        let polls = self.random.u8(0..4);
        let got = {
            let mut get = std::pin::pin!(pool.get());
            let mut polled = 0;
            std::future::poll_fn(|cx| {
                if let std::task::Poll::Ready(outcome) = get.as_mut().poll(cx) {
                    return std::task::Poll::Ready(Some(outcome));
                }
                polled += 1;
                if polled > polls {
                    return std::task::Poll::Ready(None);
                }
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await
        };
        if let Some(outcome) = got {
            self.use_up(outcome).await;
        }
    }

    /// Gives a lease back on another thread.
    async fn send_away(&mut self, pool: &Pool<Forge>) {
        let Ok(lease) = pool.try_get_owned() else {
            return yield_now().await;
        };
        self.books.leases.fetch_add(1, SeqCst);
        drop(lease.hold());
        let thread = tokio::task::spawn_blocking(move || drop(lease));
        thread.await.unwrap();
    }

    fn add(&mut self, pool: &Pool<Forge>) {
        match pool.add(Lump::new(&self.books, false)) {
            Ok(()) => _ = self.books.added.fetch_add(1, SeqCst),
            Err(error) => error.into_inner().assert_free(),
        }
    }
}

/// Moves the bound. The ceiling is raised before the bound is, and lowered once the surplus has
/// come back.
async fn resize(
    pool: Pool<Forge>,
    books: Arc<Books>,
    mut random: fastrand::Rng,
    done: Arc<AtomicBool>,
) {
    let mut bound = MOST;
    while !done.load(SeqCst) {
        let next = random.usize(LEAST..=MOST);
        if next > bound {
            *books.ceiling.lock().unwrap() = next;
        }
        pool.resize(next).unwrap();
        while pool.status().active() > next {
            yield_now().await;
        }
        *books.ceiling.lock().unwrap() = next;
        bound = next;
        for _ in 0..random.u8(..) {
            yield_now().await;
        }
    }
}

// --- The manager and its books -----------------------------------------------------------------

/// What really happens, counted apart from the pool.
struct Books {
    random: Mutex<fastrand::Rng>,
    create_fails: u8,
    check_fails: u8,
    reset_fails: u8,
    is_dead: u8,
    /// Nothing fails any more.
    calm: AtomicBool,
    /// The most that may live at once.
    ceiling: Mutex<usize>,
    /// Created and being created, until they are destroyed or detached. Added ones are not among
    /// them, because they live before the pool has taken them.
    live: AtomicUsize,
    existing: AtomicUsize,
    next_id: AtomicUsize,
    created: AtomicU64,
    added: AtomicU64,
    detached: AtomicU64,
    leases: AtomicU64,
    timed_out_in_line: AtomicU64,
    overloaded: AtomicU64,
    shed: AtomicU64,
    /// What must not happen, but happened where a panic would have been caught.
    complaints: Mutex<Vec<String>>,
}

impl Books {
    fn new(plan: &Plan, seed: u64) -> Self {
        Self {
            random: Mutex::new(fastrand::Rng::with_seed(!seed)),
            create_fails: plan.create_fails,
            check_fails: plan.check_fails,
            reset_fails: plan.reset_fails,
            is_dead: plan.is_dead,
            calm: AtomicBool::new(false),
            ceiling: Mutex::new(MOST),
            live: AtomicUsize::new(0),
            existing: AtomicUsize::new(0),
            next_id: AtomicUsize::new(0),
            created: AtomicU64::new(0),
            added: AtomicU64::new(0),
            detached: AtomicU64::new(0),
            leases: AtomicU64::new(0),
            timed_out_in_line: AtomicU64::new(0),
            overloaded: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            complaints: Mutex::new(Vec::new()),
        }
    }

    fn complain(&self, complaint: impl fmt::Display) {
        self.complaints.lock().unwrap().push(complaint.to_string());
    }

    fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Panicked { method, message } if *message != EXPECTED => {
                self.complain(format_args!("{method} panicked: {message}"));
            }
            // Whoever is shed may have given up, and then it does not hear of it.
            Event::Shed { .. } => _ = self.shed.fetch_add(1, SeqCst),
            _ => {}
        }
    }

    fn note(&self, error: &GetError<Slag>) {
        let count = match error {
            GetError::Timeout {
                stage: wharf::Stage::Wait | wharf::Stage::Create,
                waited,
                ..
            } => {
                if *waited >= HUNG {
                    self.complain(format_args!("{error}"));
                }
                &self.timed_out_in_line
            }
            GetError::Overloaded { .. } => &self.overloaded,
            GetError::Closed => return self.complain("closed"),
            _ => return,
        };
        count.fetch_add(1, SeqCst);
    }

    /// One of: well, an error, a panic, or (rarely, and where it is cut off) a hang.
    fn throw(&self, fails: u8) -> Throw {
        if self.calm.load(SeqCst) {
            return Throw::Well;
        }
        let mut random = self.random.lock().unwrap();
        if random.u8(0..100) >= fails {
            return Throw::Well;
        }
        match random.u8(0..10) {
            0 => Throw::Hang,
            1..4 => Throw::Panic,
            _ => Throw::Fail,
        }
    }
}

enum Throw {
    Well,
    Fail,
    Panic,
    Hang,
}

const EXPECTED: &str = "as the dice say";

struct Forge(Arc<Books>);

#[derive(Debug)]
struct Slag;

impl fmt::Display for Slag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slag")
    }
}

impl Error for Slag {}

impl Forge {
    async fn throw(&self, fails: u8) -> Result<(), Slag> {
        match self.0.throw(fails) {
            Throw::Well => Ok(()),
            Throw::Fail => Err(Slag),
            Throw::Panic => panic!("{EXPECTED}"),
            // Longer than most timeouts, and still an end.
            Throw::Hang => {
                tokio::time::sleep(20 * MS).await;
                Ok(())
            }
        }
    }

    fn throw_now(&self, fails: u8) -> bool {
        match self.0.throw(fails) {
            Throw::Well => true,
            Throw::Fail | Throw::Hang => false,
            Throw::Panic => panic!("{EXPECTED}"),
        }
    }
}

impl Manager for Forge {
    type Resource = Lump;
    type Error = Slag;

    async fn create(&self) -> Result<Lump, Slag> {
        let lump = Lump::new(&self.0, true);
        yield_now().await;
        self.throw(self.0.create_fails).await?;
        self.0.created.fetch_add(1, SeqCst);
        Ok(lump)
    }

    fn is_alive(&self, lump: &Lump) -> bool {
        lump.assert_free();
        self.throw_now(self.0.is_dead)
    }

    async fn check(&self, lump: &mut Lump) -> Result<(), Slag> {
        let in_use = lump.hold();
        let outcome = self.throw(self.0.check_fails).await;
        drop(in_use);
        outcome
    }

    fn reset(&self, lump: &mut Lump) -> bool {
        lump.assert_free();
        self.throw_now(self.0.reset_fails)
    }

    async fn destroy(&self, lump: Lump) {
        lump.assert_free();
        let _ = self.throw(self.0.check_fails).await;
    }

    fn classify(&self, _: &Slag) -> Failure {
        if self.0.random.lock().unwrap().bool() {
            Failure::Refuse
        } else {
            Failure::Outage
        }
    }
}

/// The resource.
struct Lump {
    id: usize,
    books: Arc<Books>,
    in_use: Arc<AtomicBool>,
    /// Counts as live until it is dropped or detached.
    counts: bool,
}

/// That a lump is in someone's hands.
struct InUse(Arc<AtomicBool>);

impl Lump {
    fn new(books: &Arc<Books>, counts: bool) -> Self {
        books.existing.fetch_add(1, SeqCst);
        if counts {
            // Counted and compared in one step: between two, the ceiling may be lowered for a count
            // that was right under the old one.
            let ceiling = books.ceiling.lock().unwrap();
            let (live, ceiling) = (books.live.fetch_add(1, SeqCst) + 1, *ceiling);
            if live > ceiling {
                books.complain(format_args!("{live} at once, of {ceiling}"));
            }
        }
        Self {
            id: books.next_id.fetch_add(1, SeqCst),
            books: Arc::clone(books),
            in_use: Arc::default(),
            counts,
        }
    }

    fn counts_no_more(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.books.live.fetch_sub(1, SeqCst);
        }
    }

    fn hold(&self) -> InUse {
        if self.in_use.swap(true, SeqCst) {
            self.books
                .complain(format_args!("{} is lent twice", self.id));
        }
        InUse(Arc::clone(&self.in_use))
    }

    fn assert_free(&self) {
        if self.in_use.load(SeqCst) {
            self.books.complain(format_args!("{} is in use", self.id));
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Drop for Lump {
    fn drop(&mut self) {
        self.counts_no_more();
        self.books.existing.fetch_sub(1, SeqCst);
    }
}

/// The panics that the dice ask for would fill the screen.
fn silence_expected_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let payload = info.payload();
            let formatted = payload.downcast_ref::<String>().map(String::as_str);
            let words = formatted.or(payload.downcast_ref::<&str>().copied());
            if words != Some(EXPECTED) {
                usual(info);
            }
        }));
    });
}
