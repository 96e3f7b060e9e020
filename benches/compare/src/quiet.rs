//! Whether the workers had their processors to themselves.

use std::fs::{read_dir, read_to_string};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of a round's time, what its threads together may spend ready to run but not running. An idle
/// virtual machine alone costs some 0.15; one busy neighbour, 0.3 and more.
const TOLERATED: f64 = 0.22;

const LOOKS: usize = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(4);

/// Listens to the machine from its creation on.
pub struct Ear {
    since: Instant,
    delayed: Option<Duration>,
}

impl Ear {
    pub fn listen() -> Self {
        Self {
            delayed: delayed(),
            since: Instant::now(),
        }
    }

    /// Where the system does not tell, everything counts as quiet.
    pub fn heard_nothing(&self) -> bool {
        let (Some(before), Some(after)) = (self.delayed, delayed()) else {
            return true;
        };
        let lost = after.saturating_sub(before);
        lost.as_secs_f64() <= TOLERATED * self.since.elapsed().as_secs_f64()
    }
}

/// Time that this process's threads have been waiting for a processor (the second field of
/// `/proc/[pid]/task/[tid]/schedstat`, in nanoseconds).
fn delayed() -> Option<Duration> {
    let mut total = 0;
    for thread in read_dir("/proc/self/task").ok()? {
        let stat = read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total += stat.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

/// Waits, for as long as the budget lasts, until nobody else runs.
pub struct Patience {
    left: Duration,
}

impl Patience {
    pub fn of(budget: Duration) -> Self {
        Self { left: budget }
    }

    pub fn wait_for_quiet(&mut self) {
        let since = Instant::now();
        while since.elapsed() < self.left && !nobody_runs() {}
        self.left = self.left.saturating_sub(since.elapsed());
    }
}

/// Looks a few times, as a neighbour may just be waiting for its disk.
fn nobody_runs() -> bool {
    (0..LOOKS).all(|_| {
        sleep(BETWEEN_LOOKS);
        running() <= 1
    })
}

/// Threads that run or are ready to, this one included (`/proc/loadavg`, the fourth field).
fn running() -> u64 {
    let load = read_to_string("/proc/loadavg").unwrap_or_default();
    let count = load
        .split_whitespace()
        .nth(3)
        .and_then(|threads| threads.split('/').next());
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}
