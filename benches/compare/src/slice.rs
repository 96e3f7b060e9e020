//! One contender's turn in a round: what can be measured, and what is read off it.

use std::time::Duration;

use wharf_race::lane::Trouble;
use wharf_race::runtime::Arena;

/// What can be measured, the contender's type forgotten.
pub trait Slices {
    /// Time for `tasks` tasks to get and put `strides` × [`STRIDE`](crate::tasks::STRIDE) times
    /// each, holding for
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
    pub count: u64,
    pub cycles: u64,
}

impl Allocations {
    pub fn per_cycle(&self) -> f64 {
        self.count as f64 / self.cycles as f64
    }
}
