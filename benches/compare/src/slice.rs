//! One contender's turn in a round: what its tasks do, and what is read off them.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, unconstrained, yield_now};

use crate::allocator;
use crate::contender::Contender;
use crate::lane::Trouble;
use crate::runtime::Arena;

/// Cycles between two yields of a task that never waits, so that all tasks of a slice take part.
/// A yield costs about a hundred nanoseconds: a tenth of one per cycle.
pub const STRIDE: u64 = 1024;

/// What can be measured, the contender's type forgotten.
pub trait Slices {
    /// Time for `tasks` tasks to get and put `strides` × [`STRIDE`] times each, holding for
    /// nothing.
    fn cycles(&self, arena: &Arena, tasks: usize, strides: u64) -> Result<Duration, Trouble>;

    /// What `tasks` tasks get done in `window`, holding for one yield each time.
    fn turns(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Turns, Trouble>;

    /// The same, with a clock read before and after every get.
    fn waits(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Waits, Trouble>;

    /// Heap allocations of warm tasks: in a `cycles` slice with one task, in a `turns` slice with
    /// more.
    fn allocations(&self, arena: &Arena, tasks: usize) -> Result<Allocations, Trouble>;
}

pub struct Turns {
    pub elapsed: Duration,
    /// Completed holds, by task.
    pub served: Vec<u64>,
}

impl Turns {
    pub fn nanoseconds(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.total()
    }

    /// The share of the task that got most, relative to the mean.
    pub fn busiest(&self) -> f64 {
        self.share(self.served.iter().max())
    }

    /// The share of the task that got least, relative to the mean.
    pub fn idlest(&self) -> f64 {
        self.share(self.served.iter().min())
    }

    fn share(&self, served: Option<&u64>) -> f64 {
        let mean = self.total() / self.served.len() as f64;
        served.map_or(0.0, |served| *served as f64 / mean)
    }

    fn total(&self) -> f64 {
        self.served.iter().sum::<u64>() as f64
    }
}

/// In nanoseconds, unsorted.
pub struct Waits {
    /// From asking to being granted.
    pub waits: Vec<u32>,
    /// From one grant of a task to its next.
    pub rounds: Vec<u32>,
}

pub struct Allocations {
    count: u64,
    cycles: u64,
}

impl Allocations {
    pub fn per_cycle(&self) -> f64 {
        self.count as f64 / self.cycles as f64
    }
}

pub fn open<C: Contender>(arena: &Arena, size: usize) -> Result<Box<dyn Slices>, Trouble> {
    let pool = arena.run(async move { Ok(&*Box::leak(Box::new(C::open(size).await))) })?;
    Ok(Box::new(Opened(pool)))
}

struct Opened<C: Contender>(&'static C);

impl<C: Contender> Slices for Opened<C> {
    fn cycles(&self, arena: &Arena, tasks: usize, strides: u64) -> Result<Duration, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let start = Instant::now();
            // Without a budget nobody is made to yield within a stride, whether its get consumes
            // budget (deadpool, mobc, the semaphore) or not.
            crew(tasks, |_| unconstrained(stride(pool, strides))).await?;
            Ok(start.elapsed())
        })
    }

    fn turns(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Turns, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let whistle = Whistle::default();
            let blown = whistle.clone();
            let start = Instant::now();
            let timer = tokio::spawn(async move {
                tokio::time::sleep(window).await;
                blown.blow();
                start.elapsed()
            });
            let served = crew(tasks, |_| take_turns(pool, whistle.clone())).await?;
            let elapsed = timer.await.map_err(failure)?;
            Ok(Turns { elapsed, served })
        })
    }

    fn waits(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Waits, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let whistle = Whistle::default();
            let blown = whistle.clone();
            tokio::spawn(async move {
                tokio::time::sleep(window).await;
                blown.blow();
            });
            let diaries = crew(tasks, |_| keep_diary(pool, whistle.clone())).await?;
            Ok(Waits {
                waits: diaries
                    .iter()
                    .flat_map(|diary| diary.waits.iter().copied())
                    .collect(),
                rounds: diaries
                    .iter()
                    .flat_map(|diary| diary.rounds.iter().copied())
                    .collect(),
            })
        })
    }

    fn allocations(&self, arena: &Arena, tasks: usize) -> Result<Allocations, Trouble> {
        let pool = self.0;
        arena.run(async move {
            if tasks == 1 {
                Ok(audit_one(pool).await)
            } else {
                audit_queue(pool, tasks).await
            }
        })
    }
}

/// Spawns the tasks from within the runtime and waits for all of them.
async fn crew<T, F>(tasks: usize, task: impl Fn(usize) -> F) -> Result<Vec<T>, Trouble>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut crew: JoinSet<T> = (0..tasks).map(task).collect();
    let mut outcomes = Vec::with_capacity(tasks);
    while let Some(outcome) = crew.join_next().await {
        outcomes.push(outcome.map_err(failure)?);
    }
    Ok(outcomes)
}

fn failure(error: tokio::task::JoinError) -> Trouble {
    Trouble::Failed(error.to_string())
}

async fn stride<C: Contender>(pool: &'static C, strides: u64) {
    for _ in 0..strides {
        for _ in 0..STRIDE {
            let mut lease = pool.get().await.expect("a lease");
            lease.uses += 1;
            black_box(&mut *lease);
        }
        yield_now().await;
    }
}

async fn take_turns<C: Contender>(pool: &'static C, whistle: Whistle) -> u64 {
    let mut served = 0;
    loop {
        hold_for_a_yield(pool).await;
        if whistle.blown() {
            return served;
        }
        served += 1;
    }
}

async fn hold_for_a_yield<C: Contender>(pool: &'static C) {
    let mut lease = pool.get().await.expect("a lease");
    lease.uses += 1;
    black_box(&mut *lease);
    yield_now().await;
}

/// The first gets of a task meet a line that is still forming.
const FORMING: usize = 3;

struct Diary {
    waits: Vec<u32>,
    rounds: Vec<u32>,
}

async fn keep_diary<C: Contender>(pool: &'static C, whistle: Whistle) -> Diary {
    let mut diary = Diary {
        waits: Vec::with_capacity(1024),
        rounds: Vec::with_capacity(1024),
    };
    let mut previous = Instant::now();
    for turn in 0.. {
        let asked = Instant::now();
        let mut lease = pool.get().await.expect("a lease");
        let granted = Instant::now();
        lease.uses += 1;
        black_box(&mut *lease);
        yield_now().await;
        drop(lease);
        if whistle.blown() {
            break;
        }
        if turn >= FORMING {
            diary.waits.push(nanoseconds(granted - asked));
            diary.rounds.push(nanoseconds(granted - previous));
        }
        previous = granted;
    }
    diary
}

fn nanoseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

/// Counts the allocations of one task that never waits.
async fn audit_one<C: Contender>(pool: &'static C) -> Allocations {
    const STRIDES: u64 = 16;
    stride(pool, STRIDES).await;
    allocator::start();
    stride(pool, STRIDES).await;
    Allocations {
        count: allocator::stop(),
        cycles: STRIDES * STRIDE,
    }
}

/// Counts the allocations of tasks that queue. On one worker, every yield of this task lets all
/// others run until each of them waits or yields.
async fn audit_queue<C: Contender>(pool: &'static C, tasks: usize) -> Result<Allocations, Trouble> {
    const PASSES: usize = 5_000;
    let whistle = Whistle::default();
    let cycles = Arc::new(AtomicU64::new(0));
    let queue = crew(tasks, |_| {
        count_turns(pool, whistle.clone(), Arc::clone(&cycles))
    });
    let auditor = async {
        yields(PASSES).await;
        let before = cycles.load(Ordering::Relaxed);
        allocator::start();
        yields(PASSES).await;
        let count = allocator::stop();
        whistle.blow();
        Allocations {
            count,
            cycles: cycles.load(Ordering::Relaxed) - before,
        }
    };
    let (allocations, served) = tokio::join!(auditor, queue);
    served.map(|_| allocations)
}

async fn yields(passes: usize) {
    for _ in 0..passes {
        yield_now().await;
    }
}

async fn count_turns<C: Contender>(pool: &'static C, whistle: Whistle, cycles: Arc<AtomicU64>) {
    while !whistle.blown() {
        hold_for_a_yield(pool).await;
        cycles.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Default)]
struct Whistle(Arc<AtomicBool>);

impl Whistle {
    fn blow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn blown(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
