//! Measures the AMQP adapter beside lapin by hand and beside deadpool-lapin, on one RabbitMQ node
//! of its own.
//!
//! What decides is a ratio taken within one round of one run, never a rate.

mod scenarios;

use std::process::ExitCode;
use std::time::Instant;

use wharf_amqp_compare::node::Node;
use wharf_race::options::{Choice, Options};
use wharf_race::runtime::Arena;
use wharf_race::verdict::Verdicts;

use scenarios::{SCENARIOS, Scenario, Terms};

/// Rounds chosen so that the whole takes five minutes on two processors.
const CHOICE: Choice = Choice {
    scenarios: &scenarios::NAMES,
    rounds: 36,
    quick: 3,
};

fn main() -> ExitCode {
    let options = match Options::parse(&CHOICE) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    if options.scenarios.is_empty() {
        println!("no scenario of that name");
        return ExitCode::SUCCESS;
    }
    let arena = Arena::two_workers();
    let node = match Node::start(&arena) {
        Ok(node) => node,
        Err(trouble) => {
            eprintln!("no RabbitMQ: {trouble}");
            return ExitCode::FAILURE;
        }
    };
    print_terms(options.rounds);
    let terms = Terms {
        arena: &arena,
        node: &node,
        options: &options,
    };
    let mut verdicts = Verdicts::default();
    let chosen = |scenario: &&Scenario| options.scenarios.contains(&scenario.name);
    for scenario in SCENARIOS.iter().filter(chosen) {
        println!("{}: {}", scenario.name, scenario.title);
        let since = Instant::now();
        scenario.run(&terms, &mut verdicts);
        println!("  ({:.0} s)\n", since.elapsed().as_secs_f64());
    }
    if verdicts.conclude() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_terms(rounds: usize) {
    println!(
        "{rounds} rounds; in each, every contender takes one slice. Figures are medians over the \
         rounds;\nratios are medians of the ratios within a round, with their middle half. \
         RabbitMQ runs on the\nsame processors as its clients: processor time per message is shown \
         for both.\n"
    );
}
