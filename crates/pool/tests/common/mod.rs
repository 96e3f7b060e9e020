//! What the integration tests share: a manager that does as it is told and counts what it does,
//! and ways to stand still, to let time pass and to look.

#![allow(dead_code, reason = "each test binary uses the part it needs")]

use std::{
    collections::VecDeque,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::sync::Semaphore;
use wharf::{Builder, Event, Failure, GetError, Manager, Observer, OwnedLease, Pool};

/// A manager whose every method follows a script. Clones are handles to the same works.
#[derive(Debug, Clone, Default)]
pub(crate) struct Works {
    pub(crate) create: Script,
    pub(crate) is_alive: Script,
    pub(crate) check: Script,
    pub(crate) reset: Script,
    pub(crate) destroy: Script,
    /// `Ok` classifies a fault as what it says it is.
    pub(crate) classify: Script,
    /// Run by the destructor of a widget.
    pub(crate) scrap: Script,
    census: Arc<Census>,
}

#[derive(Debug, Default)]
struct Census {
    made: AtomicUsize,
    existing: AtomicUsize,
    most: AtomicUsize,
    /// How often the pool touched or lent a widget that was in use.
    trespasses: AtomicUsize,
}

/// What a call comes to. For the synchronous methods `Ok` is `true` and the faults are `false`.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Ok,
    Refuse,
    Outage,
    Panic,
    /// It never ends.
    Hang,
    /// It is pending once, and wakes itself.
    Yield(Box<Step>),
    Takes(Duration, Box<Step>),
    After(Gate, Box<Step>),
}

impl Step {
    /// This, after some time.
    pub(crate) fn taking(self, time: Duration) -> Self {
        Step::Takes(time, Box::new(self))
    }

    /// This, after so many polls that come to nothing.
    pub(crate) fn yielding(self, polls: usize) -> Self {
        (0..polls).fold(self, |then, _| Step::Yield(Box::new(then)))
    }
}

/// The steps of one method: those that are queued, then the same one for ever.
#[derive(Clone)]
pub(crate) struct Script(Arc<Mutex<Lines>>);

struct Lines {
    queue: VecDeque<Step>,
    rest: Step,
    calls: usize,
    /// Calls of an async method that have not ended.
    running: usize,
    /// Called at the beginning of each call, without a lock.
    hook: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Holds calls up until it is opened.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("refused")]
    Refuse,
    #[error("outage")]
    Outage,
}

/// The resource. Its works count it from the beginning of its creation to the end of its drop.
#[derive(Debug)]
pub(crate) struct Widget {
    /// Counts from 0 in the order of creation.
    pub(crate) id: usize,
    in_use: Arc<AtomicBool>,
    scrap: Script,
    place: Place,
}

/// That a widget is in someone's hands. Drop it before the lease.
#[must_use]
#[derive(Debug)]
pub(crate) struct Use(Arc<AtomicBool>);

#[derive(Debug)]
struct Place(Arc<Census>);

impl Works {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A builder for a pool of these.
    pub(crate) fn pool(&self, max_active: usize) -> Builder<Works> {
        Pool::builder(self.clone()).max_active(max_active)
    }

    /// A widget that no pool knows of.
    pub(crate) fn widget(&self) -> Widget {
        self.finish(Place::new(&self.census))
    }

    /// Widgets finished.
    pub(crate) fn made(&self) -> usize {
        self.census.made.load(SeqCst)
    }

    /// Widgets that are being created, exist, or are being destroyed.
    pub(crate) fn existing(&self) -> usize {
        self.census.existing.load(SeqCst)
    }

    /// The most that ever existed at once.
    pub(crate) fn most(&self) -> usize {
        self.census.most.load(SeqCst)
    }

    /// How often a widget was lent twice, or touched by the pool while it was lent. Counted,
    /// because the pool catches panics.
    pub(crate) fn trespasses(&self) -> usize {
        self.census.trespasses.load(SeqCst)
    }

    fn finish(&self, place: Place) -> Widget {
        Widget {
            id: self.census.made.fetch_add(1, SeqCst),
            in_use: Arc::default(),
            scrap: self.scrap.clone(),
            place,
        }
    }
}

impl Manager for Works {
    type Resource = Widget;
    type Error = Fault;

    async fn create(&self) -> Result<Widget, Fault> {
        let place = Place::new(&self.census);
        self.create.run().await?;
        Ok(self.finish(place))
    }

    fn is_alive(&self, widget: &Widget) -> bool {
        widget.touch();
        self.is_alive.call()
    }

    async fn check(&self, widget: &mut Widget) -> Result<(), Fault> {
        widget.touch();
        self.check.run().await
    }

    fn reset(&self, widget: &mut Widget) -> bool {
        widget.touch();
        self.reset.call()
    }

    async fn destroy(&self, widget: Widget) {
        widget.touch();
        let _ = self.destroy.run().await;
        drop(widget);
    }

    fn classify(&self, fault: &Fault) -> Failure {
        self.classify.call();
        match fault {
            Fault::Refuse => Failure::Refuse,
            Fault::Outage => Failure::Outage,
        }
    }
}

impl Script {
    /// Queues a step for the next call that has none.
    pub(crate) fn next(&self, step: Step) -> &Self {
        self.lines().queue.push_back(step);
        self
    }

    /// What all calls come to for which nothing is queued.
    pub(crate) fn always(&self, step: Step) -> &Self {
        self.lines().rest = step;
        self
    }

    /// Takes back what is queued.
    pub(crate) fn clear(&self) {
        self.lines().queue.clear();
    }

    /// Runs this at the beginning of each call.
    pub(crate) fn hook(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.lines().hook = Some(Arc::new(hook));
    }

    /// Drops the hook, and with it the handles it holds.
    pub(crate) fn unhook(&self) {
        self.lines().hook = None;
    }

    pub(crate) fn calls(&self) -> usize {
        self.lines().calls
    }

    /// Calls under way.
    pub(crate) fn running(&self) -> usize {
        self.lines().running
    }

    fn begin(&self) -> Step {
        let (step, hook) = {
            let mut lines = self.lines();
            lines.calls += 1;
            let rest = lines.rest.clone();
            (lines.queue.pop_front().unwrap_or(rest), lines.hook.clone())
        };
        if let Some(hook) = hook {
            hook();
        }
        step
    }

    async fn run(&self) -> Result<(), Fault> {
        let _running = Running::begin(self);
        let mut step = self.begin();
        loop {
            step = match step {
                Step::Ok => return Ok(()),
                Step::Refuse => return Err(Fault::Refuse),
                Step::Outage => return Err(Fault::Outage),
                Step::Panic => panic!("as told"),
                Step::Hang => pending().await,
                Step::Yield(then) => {
                    Once::default().await;
                    *then
                }
                Step::Takes(time, then) => {
                    tokio::time::sleep(time).await;
                    *then
                }
                Step::After(gate, then) => {
                    gate.pass().await;
                    *then
                }
            }
        }
    }

    fn call(&self) -> bool {
        match self.begin() {
            Step::Ok => true,
            Step::Refuse | Step::Outage => false,
            Step::Panic => panic!("as told"),
            step => unreachable!("{step:?} takes an async method"),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way, to its end or its drop.
struct Running<'a>(&'a Script);

impl<'a> Running<'a> {
    fn begin(script: &'a Script) -> Self {
        script.lines().running += 1;
        Self(script)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lines().running -= 1;
    }
}

impl Default for Script {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lines {
            queue: VecDeque::new(),
            rest: Step::Ok,
            calls: 0,
            running: 0,
            hook: None,
        })))
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Script").field(&self.lines().queue).finish()
    }
}

impl Gate {
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets this many calls through.
    pub(crate) fn open(&self, calls: usize) {
        self.0.add_permits(calls);
    }

    /// A step that goes on to another once the gate lets it.
    pub(crate) fn then(&self, step: Step) -> Step {
        Step::After(self.clone(), Box::new(step))
    }

    pub(crate) async fn pass(&self) {
        self.0.acquire().await.expect("never closed").forget();
    }
}

impl Widget {
    /// Takes it into use.
    ///
    /// # Panics
    ///
    /// Panics if somebody else uses it: it was lent twice.
    #[track_caller]
    pub(crate) fn hold(&self) -> Use {
        if self.in_use.swap(true, SeqCst) {
            self.trespassed();
            panic!("widget {} is lent twice", self.id);
        }
        Use(Arc::clone(&self.in_use))
    }

    /// For the manager's methods, which only see widgets that nobody uses.
    fn touch(&self) {
        if self.in_use.load(SeqCst) {
            self.trespassed();
        }
    }

    fn trespassed(&self) {
        self.place.0.trespasses.fetch_add(1, SeqCst);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Drop for Widget {
    fn drop(&mut self) {
        self.scrap.call();
    }
}

impl Place {
    fn new(census: &Arc<Census>) -> Self {
        let existing = census.existing.fetch_add(1, SeqCst) + 1;
        census.most.fetch_max(existing, SeqCst);
        Self(Arc::clone(census))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.existing.fetch_sub(1, SeqCst);
    }
}

/// Writes down what a pool tells its observers, each event in a few words: `created`,
/// `retired Idle`, `down 1`, `panicked create`, `overdue`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// What was written since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Recorder {
    fn on_event(&self, event: &Event<'_>) {
        let words = match event {
            Event::Created { .. } => "created".to_owned(),
            Event::CreateFailed { cause, .. } => format!("create failed: {cause}"),
            Event::CheckFailed { cause } => format!("check failed: {cause}"),
            Event::Retired { why } => format!("retired {why:?}"),
            Event::DestroyTimedOut { .. } => "destroy timed out".to_owned(),
            Event::Down { attempt, .. } => format!("down {attempt}"),
            Event::Up { .. } => "up".to_owned(),
            Event::Overdue { .. } => "overdue".to_owned(),
            Event::Shed { .. } => "shed".to_owned(),
            Event::Panicked { method, .. } => format!("panicked {method}"),
            Event::Closed => "closed".to_owned(),
            event => format!("{event:?}"),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(words);
    }
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicUsize);

impl Bell {
    pub(crate) fn rings(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls once, with a waker that rings the bell.
pub(crate) fn poll_with<F: Future + ?Sized>(
    future: Pin<&mut F>,
    bell: &Arc<Bell>,
) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
}

#[derive(Default)]
struct Once(bool);

impl Future for Once {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lets every other task run until it waits for something. No time passes. For runtimes of one
/// thread.
pub(crate) async fn settle() {
    // Each turn runs all that is runnable; this is the longest chain of tasks waking tasks.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Waits for what other threads are about to do.
///
/// # Panics
///
/// Panics if they have not done it within a minute.
#[track_caller]
pub(crate) fn eventually(mut done: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let began = std::time::Instant::now();
        while !done() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "never, at {caller}"
            );
            tokio::task::yield_now().await;
        }
    }
}

/// Lets paused time pass in small steps, so that the pool's clock follows it.
pub(crate) async fn pass(time: Duration) {
    settle().await;
    let step = (time / 8).max(Duration::from_millis(1));
    let mut left = time;
    while !left.is_zero() {
        tokio::time::advance(step.min(left)).await;
        left = left.saturating_sub(step);
        settle().await;
    }
}

/// Moves the paused clock, and nobody runs: not even upkeep knows.
pub(crate) fn jump(time: Duration) {
    // The clock moves at the first poll; what would come after it lets others run.
    let _ = poll(std::pin::pin!(tokio::time::advance(time)));
}

/// Nothing goes on, and nothing was lost or made up: what was created or added and not detached
/// or destroyed is idle, in the pool's books and in fact. Detached widgets must be gone.
#[track_caller]
pub(crate) fn assert_quiet(pool: &Pool<Works>) {
    let status = pool.status();
    let going_on = (
        status.leased,
        status.waiting,
        status.creating,
        status.closing,
        status.upkeep,
    );
    assert_eq!(
        going_on,
        (0, 0, 0, 0, 0),
        "(leased, waiting, creating, closing, upkeep) of {status:?}"
    );
    let totals = status.totals;
    assert_eq!(
        totals.created + totals.added,
        totals.detached + totals.retired + status.idle as u64,
        "{totals:?}"
    );
    assert_eq!(pool.manager().existing(), status.idle, "{status:?}");
    assert_eq!(pool.manager().trespasses(), 0);
}

/// Closes the pool, and everything is gone in a moment.
#[track_caller]
pub(crate) fn assert_closes(pool: &Pool<Works>) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let pool = pool.clone();
    async move {
        let closed = pool.close_within(Duration::from_secs(60)).await;
        assert_eq!(closed, Ok(()), "at {caller}");
        assert_eq!(pool.status().active(), 0, "at {caller}");
        assert_quiet(&pool);
    }
}

/// A `get` under way, that can be polled by hand.
pub(crate) type Wait = Pin<Box<dyn Future<Output = Outcome> + Send>>;
pub(crate) type Outcome = Result<OwnedLease<Works>, GetError<Fault>>;

/// A `get` that stands in line, or waits for a creation.
#[track_caller]
pub(crate) fn waiting(pool: &Pool<Works>) -> Wait {
    joined(pool.get_owned())
}

/// Polls a `get` for the first time. It must not be over.
#[track_caller]
pub(crate) fn joined(get: impl Future<Output = Outcome> + Send + 'static) -> Wait {
    let mut wait: Wait = Box::pin(get);
    assert!(poll(wait.as_mut()).is_pending(), "it waits");
    wait
}

/// The lease that a wait has come to.
#[track_caller]
pub(crate) fn served(wait: &mut Wait) -> OwnedLease<Works> {
    ended(wait).expect("a lease")
}

/// What a wait has come to.
#[track_caller]
pub(crate) fn ended(wait: &mut Wait) -> Outcome {
    match poll(wait.as_mut()) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it still waits"),
    }
}

/// A wait that has come to nothing yet.
#[track_caller]
pub(crate) fn assert_waits(wait: &mut Wait) {
    assert!(poll(wait.as_mut()).is_pending(), "it waits no more");
}
