//! The commands people and CI run. `cargo xtask --help` lists them.

mod bench;
mod campaign;
mod cargo;
mod cli;
mod embedded;
mod examples;
mod failures;
mod fuzz;
mod limit;
mod python;
mod rabbit;
mod real_time;
mod report;
mod test;
mod tools;

use std::env;
use std::process::ExitCode;

use crate::cli::Task;
use crate::report::Report;

/// What shells and scripts expect of a command line that makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(env::args().skip(1)) {
        Ok(Task::Help) => {
            print!("{}", cli::USAGE);
            ExitCode::SUCCESS
        }
        Ok(task) => carry_out(&task),
        Err(problem) => {
            eprint!("xtask: {problem}\n\n{}", cli::USAGE);
            ExitCode::from(MISUSED)
        }
    }
}

fn carry_out(task: &Task) -> ExitCode {
    let mut report = Report::new(task.name());
    match task {
        Task::Help => unreachable!("bug: help is answered before any work starts"),
        Task::Test => test::run(&mut report),
        Task::Bench { names } => bench::run(&mut report, names),
        Task::BenchOf {
            what,
            rounds,
            quick,
            names,
        } => bench::of(&mut report, *what, *rounds, *quick, names),
        Task::Loom { preemptions } => campaign::loom(&mut report, *preemptions),
        Task::Fuzz { seconds, target } => fuzz::run(&mut report, *seconds, target.as_deref()),
        Task::Model { cases } => campaign::model(&mut report, *cases),
        Task::Stress { millions } => campaign::stress(&mut report, *millions),
        Task::Kill { times } => campaign::kill(&mut report, *times),
        Task::Cuts { times } => campaign::cuts(&mut report, *times),
        Task::Soak { minutes, seed } => campaign::soak(&mut report, *minutes, *seed),
        Task::Rabbit(change) => rabbit::run(&mut report, *change),
        Task::Deny => tools::deny(&mut report, tools::Scope::WithAdvisories),
    }
    report.finish()
}
