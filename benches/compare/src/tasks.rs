//! What the tasks of a slice do.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::{JoinError, JoinSet, yield_now};
use wharf_race::lane::Trouble;

use crate::contender::Contender;

/// Cycles between two yields of a task that never waits, so that all tasks of a slice take part.
/// A yield costs about a hundred nanoseconds: a tenth of one per cycle.
pub const STRIDE: u64 = 1024;

/// Spawns the tasks from within the runtime and waits for all of them.
pub async fn crew<T, F>(tasks: usize, task: impl Fn(usize) -> F) -> Result<Vec<T>, Trouble>
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

pub fn failure(error: JoinError) -> Trouble {
    Trouble::Failed(error.to_string())
}

/// Gets and puts without waiting. A task alone has nobody to yield to.
pub async fn stride<C: Contender>(pool: &'static C, strides: u64, among_others: bool) {
    for _ in 0..strides {
        for _ in 0..STRIDE {
            let mut lease = pool.get().await.expect("a lease");
            lease.uses += 1;
            black_box(&mut *lease);
        }
        if among_others {
            yield_now().await;
        }
    }
}

pub async fn take_turns<C: Contender>(pool: &'static C, race: Race) -> u64 {
    let mut served = 0;
    race.start().await;
    loop {
        hold_for_a_yield(pool).await;
        if race.is_over() {
            return served;
        }
        served += 1;
    }
}

pub async fn hold_for_a_yield<C: Contender>(pool: &'static C) {
    let mut lease = pool.get().await.expect("a lease");
    lease.uses += 1;
    black_box(&mut *lease);
    yield_now().await;
}

/// The first gets of a task meet a line that is still forming.
const FORMING: usize = 3;

pub struct Diary {
    pub waits: Vec<u32>,
    pub rounds: Vec<u32>,
}

pub async fn keep_diary<C: Contender>(pool: &'static C, race: Race) -> Diary {
    let mut diary = Diary {
        waits: Vec::with_capacity(1024),
        rounds: Vec::with_capacity(1024),
    };
    race.start().await;
    let mut previous = Instant::now();
    for turn in 0.. {
        let asked = Instant::now();
        let mut lease = pool.get().await.expect("a lease");
        let granted = Instant::now();
        lease.uses += 1;
        black_box(&mut *lease);
        yield_now().await;
        drop(lease);
        if race.is_over() {
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

/// A common start, so that a delay while the tasks are spawned favours none of them, and an end.
#[derive(Clone)]
pub struct Race {
    start: Arc<Barrier>,
    over: Arc<AtomicBool>,
}

impl Race {
    /// For so many tasks and one that keeps the time.
    pub fn of(tasks: usize) -> Self {
        Self {
            start: Arc::new(Barrier::new(tasks + 1)),
            over: Arc::default(),
        }
    }

    pub async fn start(&self) {
        self.start.wait().await;
    }

    /// Ends the race `window` after its start; says how long it was in fact.
    pub async fn time(self, window: Duration) -> Duration {
        self.start().await;
        let start = Instant::now();
        tokio::time::sleep(window).await;
        self.end();
        start.elapsed()
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
