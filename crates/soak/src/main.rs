//! Publishes and consumes for as long as asked, while everything that can break does: the network,
//! the broker, and the callers. After each fault, messages must be confirmed again, all windows
//! must come back, and nothing that was confirmed may be missing; at the end, the program must hold
//! what it held at the beginning.
//!
//! ```text
//! cargo xtask soak [--minutes M] [--seed S]
//! ```
//!
//! The seed decides which faults come, in which order, and how hard each is. It does not decide
//! what the machine does meanwhile.

mod deck;
mod episode;
mod gauge;
mod ledger;
mod load;
mod report;
mod stage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use wharf_testkit::usage::{COUNTING, CountingAllocator};

use deck::Deck;
use gauge::Gauge;
use report::Report;
use stage::Stage;

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

const USAGE: &str = "\
usage: wharf-soak [--minutes M] [--seed S] [--only FAULT]

FAULT is the name of one in the table of a run, or a part of it.";

#[tokio::main]
async fn main() -> ExitCode {
    let Some(wish) = Wish::read() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    load::silence_wanted_panics();
    let report = run(&wish).await;
    print!("{report}");
    if report.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Wish {
    length: Duration,
    seed: u64,
    only: String,
}

impl Wish {
    fn read() -> Option<Self> {
        let mut wish = Self {
            length: Duration::from_secs(600),
            seed: fastrand::u64(1..1_000_000),
            only: String::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word.as_str() {
                "--minutes" => wish.length = Duration::from_secs(60 * value.parse::<u64>().ok()?),
                "--seed" => wish.seed = value.parse().ok()?,
                "--only" => wish.only = value,
                _ => return None,
            }
        }
        Some(wish)
    }
}

async fn run(wish: &Wish) -> Report {
    println!("seed {}", wish.seed);
    let mut stage = Stage::start().await;
    let mut report = Report::new(wish.seed);
    let mut deck = Deck::new(wish.seed, &wish.only);
    if let Err(problem) = stage.settle().await {
        report.problem(problem);
        return report;
    }
    let began = Instant::now();
    while began.elapsed() < wish.length {
        let fault = deck.draw();
        match episode::play(&mut stage, &fault).await {
            Ok(episode) => {
                let gauge = Gauge::read(&stage).await;
                report.add(began.elapsed(), &fault, episode, gauge);
            }
            Err(problem) => {
                // What follows would tell nothing: the fault is not over.
                report.problem(format!("{fault}: {problem}"));
                println!("{}", stage.describe().await);
                return report;
            }
        }
    }
    report.measure_last(Gauge::read_last(&stage).await);
    for problem in stage.end().await {
        report.problem(problem);
    }
    report.judge();
    report
}
