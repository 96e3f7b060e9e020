//! What a lane takes, in a program whose allocations are counted.

use std::{
    env::current_exe,
    io::{self, ErrorKind},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;
use wharf_testkit::usage::Allocations;

use crate::contenders::{Contender, Handled, aint_one::AintOne, lanes::Wharf, task_each::TaskEach};

/// Bytes for each of so many lanes.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    /// With one item.
    pub holding: f64,
    /// After it was handled.
    pub idle: f64,
}

/// Both programs must be of the same build: `cargo run` builds one, and leaves the other as it was.
const BUILD: &str = env!("LANES_BENCH_BUILD");

/// Longer than the lanes of a million keys linger while they are made on a busy machine.
const LINGER: Duration = Duration::from_secs(10);

/// Whoever has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(180);

/// Looks whether the counting program is beside this one.
///
/// # Errors
///
/// If it is not, or is of another build.
pub fn meet() -> io::Result<()> {
    let output = run(&[BUILD])?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other("it is of another build"))
}

/// Asks the counting program beside this one.
///
/// # Errors
///
/// If it is not there, or of another build, or has no answer.
pub fn ask(contender: &str) -> io::Result<Bytes> {
    let output = run(&[BUILD, contender])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Option<Vec<f64>> = text.split_whitespace().map(|f| f.parse().ok()).collect();
    match figures.as_deref() {
        Some(&[holding, idle]) if output.status.success() => Ok(Bytes { holding, idle }),
        _ => Err(io::Error::other("it has no answer")),
    }
}

fn run(args: &[&str]) -> io::Result<Output> {
    let program = current_exe()?.with_file_name("lanes-counted");
    let mut command = Command::new(program);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output()
}

/// Is the counting program, and knows who is of its build.
pub fn is_own(build: &str) -> bool {
    build == BUILD
}

/// Is the counting program, and answers if it is asked by one of its build.
pub fn answer(build: &str, contender: &str) -> bool {
    if !is_own(build) {
        return false;
    }
    let bytes = match contender {
        Wharf::NAME => count::<Wharf>(1_000_000),
        TaskEach::NAME => count::<TaskEach>(200_000),
        AintOne::NAME => count::<AintOne>(200_000),
        _ => return false,
    };
    println!("{} {}", bytes.holding, bytes.idle);
    true
}

fn count<C: Contender>(lanes: u64) -> Bytes {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let handled = Handled::default();
        let mut contender = C::open(LINGER, &handled);
        let tenth = Duration::from_millis(100);
        // The machinery is there, and so are its first allocations.
        contender.push(u64::MAX, 0).await;
        contender.rest(tenth).await;
        let before = Allocations::now();
        for key in 0..lanes {
            contender.push(key, key).await;
        }
        let opened = Allocations::now() - before;
        assert_eq!(handled.count(), 0, "the lanes are all open");
        while handled.count() <= lanes {
            contender.rest(tenth).await;
        }
        // Whoever clears up has time for it, and a push to do it at.
        contender.rest(tenth).await;
        contender.push(u64::MAX, 0).await;
        contender.rest(tenth).await;
        let idle = Allocations::now() - before;
        contender.finish().await;
        let each = |allocations: Allocations| allocations.live_bytes as f64 / lanes as f64;
        Bytes {
            holding: each(opened),
            idle: each(idle),
        }
    })
}
