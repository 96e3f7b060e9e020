//! Whether those who are measured had the processors to themselves.

use std::{
    fs::{read_dir, read_to_string},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

const LOOKS: usize = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(4);

/// The unit of `/proc/stat` on Linux, whatever the kernel's own.
const TICK: Duration = Duration::from_millis(10);

/// Where it stands in a line of `/proc/stat`. What follows is in other fields as well.
const STEAL: usize = 7;

/// What disturbs a round.
#[derive(Debug, Clone)]
pub enum Noise {
    /// That threads of this process wait for a processor: for what runs on no more threads than
    /// there are processors.
    Waiting,
    /// That somebody else runs, besides this process and those with these numbers: for what takes
    /// turns on the processors with servers of its own.
    Strangers {
        /// The servers.
        servers: Vec<u32>,
    },
}

impl Noise {
    /// Of a round's time, how much of it is tolerated.
    fn tolerated(&self) -> f64 {
        match self {
            // An idle virtual machine alone costs some 0.15; one busy neighbour, 0.3 and more.
            Self::Waiting => 0.22,
            // Whoever counts it costs some 0.02; a compiler, 1 and more.
            Self::Strangers { .. } => 0.12,
        }
    }

    /// How much of it there has been so far, if the system tells.
    fn so_far(&self) -> Option<Duration> {
        match self {
            Self::Waiting => waited(),
            Self::Strangers { servers } => {
                let mut own = spent("self")?;
                for server in servers {
                    own += spent(&server.to_string())?;
                }
                Some(busy()?.saturating_sub(own))
            }
        }
    }
}

/// Listens to the machine from its creation on.
#[derive(Debug)]
pub struct Ear<'a> {
    noise: &'a Noise,
    since: Instant,
    before: Option<Duration>,
}

impl<'a> Ear<'a> {
    /// Begins to listen.
    pub fn listen(noise: &'a Noise) -> Self {
        Self {
            noise,
            before: noise.so_far(),
            since: Instant::now(),
        }
    }

    /// Where the system does not tell, everything counts as quiet.
    pub fn heard_nothing(&self) -> bool {
        let (Some(before), Some(after)) = (self.before, self.noise.so_far()) else {
            return true;
        };
        let noise = after.saturating_sub(before);
        noise.as_secs_f64() <= self.noise.tolerated() * self.since.elapsed().as_secs_f64()
    }
}

/// Time that this process's threads have been waiting for a processor.
fn waited() -> Option<Duration> {
    scheduled("self", 1)
}

/// Time that the threads a process has now have had a processor. A process is its number, or
/// `self`.
pub fn processor_time(process: &str) -> Option<Duration> {
    scheduled(process, 0)
}

/// A field of `/proc/[pid]/task/[tid]/schedstat`, in nanoseconds, summed over the threads.
fn scheduled(process: &str, field: usize) -> Option<Duration> {
    let mut total = 0;
    for thread in read_dir(["/proc", process, "task"].iter().collect::<PathBuf>()).ok()? {
        // A thread may end while it is looked at.
        let stat = read_to_string(thread.ok()?.path().join("schedstat")).unwrap_or_default();
        let figure = stat.split_whitespace().nth(field);
        total += figure.and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(Duration::from_nanos(total))
}

/// Time that the processors have been at work, or lent to another machine (all but idle, waiting for
/// a disk, and what is counted twice).
fn busy() -> Option<Duration> {
    let idle = |at: usize| at == 3 || at == 4;
    let ticks = ticks()?;
    let counted = ticks.iter().take(STEAL + 1).enumerate();
    let ticks: u32 = counted.filter(|(at, _)| !idle(*at)).map(|(_, n)| n).sum();
    Some(TICK * ticks)
}

/// Time that the host has kept the processors of this virtual machine from it while they had work to
/// do, summed over them (steal, in `proc(5)`). It grows in steps of 10 ms. None where the system does
/// not tell.
pub fn stolen() -> Option<Duration> {
    ticks()?.get(STEAL).map(|ticks| TICK * *ticks)
}

/// The first line of `/proc/stat`: what all processors together did with their time.
fn ticks() -> Option<Vec<u32>> {
    let stat = read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    Some(fields.map_while(|field| field.parse().ok()).collect())
}

/// Processor time of a process (`/proc/[pid]/stat`: the 14th and 15th field; the second may hold
/// anything, and ends with the last parenthesis).
fn spent(process: &str) -> Option<Duration> {
    let path: PathBuf = ["/proc", process, "stat"].iter().collect();
    let stat = read_to_string(path).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: Option<u32> = times.map(|field| field.parse::<u32>().ok()).sum();
    Some(TICK * ticks?)
}

/// Waits, for as long as the budget lasts, until nobody else runs.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
}

impl Patience {
    /// Begins with this budget.
    pub fn of(budget: Duration) -> Self {
        Self { left: budget }
    }

    /// Returns when nobody else runs, or the budget is used up.
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
