//! Measures Wharf beside other pools and beside the structures pools are made of.
//!
//! What decides is a ratio taken within one round of one run, never a time.

mod allocator;
mod audit;
mod contender;
mod contenders;
mod field;
mod opened;
mod scenarios;
mod slice;
mod tasks;

use std::process::ExitCode;
use std::time::Instant;

use wharf_race::options::{Choice, Options};
use wharf_race::verdict::Verdicts;

use field::Field;
use scenarios::Scenario;

/// Rounds chosen so that the whole takes three to four minutes on two processors.
const CHOICE: Choice = Choice {
    scenarios: &Scenario::NAMES,
    rounds: 100,
    quick: 9,
};

fn main() -> ExitCode {
    let options = match Options::parse(&CHOICE) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let mut field = contenders::all();
    field.keep(|contender| options.wants(contender));

    if options.scenarios.is_empty() {
        println!("no scenario of that name");
        return ExitCode::SUCCESS;
    }
    print_terms(options.rounds);
    let mut verdicts = Verdicts::default();
    for name in &options.scenarios {
        run(Scenario::of(name), &field, options.rounds, &mut verdicts);
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
         rounds;\nratios are medians of the ratios within a round, with their middle half. Every \
         pool has its\ndefaults (checks, timeouts and statistics as they come), its check passes \
         at once; but mobc may\nkeep every resource idle, where its default is two. The floors \
         check and count nothing.\n"
    );
}

fn run(scenario: Scenario, field: &Field, rounds: usize, verdicts: &mut Verdicts) {
    println!("{}: {}", scenario.name(), scenario.title());
    let since = Instant::now();
    scenario.run(field, rounds, verdicts);
    println!("  ({:.0} s)\n", since.elapsed().as_secs_f64());
}
