//! Measures the embedded broker beside RabbitMQ, with the same client on both, and what it costs to
//! hold much.
//!
//! What decides is a ratio taken within one round of one run, never a rate. Absolute are only the
//! time of a start and the memory of a connection.

mod crowd;
mod flat;
mod pace;
mod presence;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use wharf_amqp_compare::embedded::served;
use wharf_race::options::{Choice, Options};
use wharf_race::quiet::Noise;
use wharf_race::race;
use wharf_race::runtime::Arena;
use wharf_race::verdict::Verdicts;

/// Rounds chosen so that the whole takes five minutes on two processors.
const CHOICE: Choice = Choice {
    scenarios: &[
        "publish-100",
        "publish-1000",
        "publish-4x100",
        "small-100",
        "small-1000",
        "small-4x100",
        "consume-200",
        "consume-1000",
        "start",
        "connections",
        "flat-queues",
        "flat-bindings",
        "flat-channels",
        "flat-connections",
    ],
    rounds: 24,
    quick: 3,
};

/// What all scenarios share.
struct Terms<'a> {
    arena: &'a Arena,
    options: &'a Options,
}

impl Terms<'_> {
    /// Anybody else but the brokers of these numbers is noise.
    fn race(&self, brokers: Vec<u32>) -> race::Terms {
        let rounds = self.options.rounds;
        race::Terms {
            rounds,
            most: rounds + rounds / 4,
            // A tenth of a second for each, over all of them.
            patience: Duration::from_millis(100) * rounds as u32,
            noise: Noise::Strangers { servers: brokers },
        }
    }
}

fn main() -> ExitCode {
    if served() {
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(&CHOICE) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    println!(
        "{} rounds; in each, every contender takes one slice. Figures are medians over the \
         rounds;\nratios are medians of the ratios within a round, with their middle half. \
         Brokers are processes\nof their own, on the same processors as their client: processor \
         time per message is shown for both.\n",
        options.rounds
    );
    let arena = Arena::two_workers();
    let terms = Terms {
        arena: &arena,
        options: &options,
    };
    let mut verdicts = Verdicts::default();
    let mut pace = pace::Pace::new(&terms);
    for name in options.scenarios.iter().copied() {
        println!("{name}");
        let since = Instant::now();
        match name {
            "start" => presence::start(&terms, pace.rabbit_start(), &mut verdicts),
            "connections" => presence::connections(&terms, &mut verdicts),
            name if name.starts_with("flat-") => flat::run(&terms, name, &mut verdicts),
            name => pace.run(name, &mut verdicts),
        }
        println!("  ({:.0} s)\n", since.elapsed().as_secs_f64());
    }
    if verdicts.conclude() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
