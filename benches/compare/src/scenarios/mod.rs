//! The five scenarios of Wharf's pace table.

mod allocations;
mod alone;
mod crowd;
mod queue;
mod together;

use std::time::Duration;

use wharf_race::quiet::Noise;
use wharf_race::race::Terms;
use wharf_race::runtime::Arena;
use wharf_race::verdict::Verdicts;

use crate::field::{Field, Lane};
use crate::tasks::STRIDE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Alone,
    Together,
    Queue,
    Crowd,
    Allocations,
}

impl Scenario {
    pub const ALL: [Self; 5] = [
        Self::Alone,
        Self::Together,
        Self::Queue,
        Self::Crowd,
        Self::Allocations,
    ];

    pub const NAMES: [&str; 5] = ["alone", "together", "queue", "crowd", "allocations"];

    /// The scenario of one of these names.
    pub fn of(name: &str) -> Self {
        let named = Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name);
        named.expect("bug: a scenario without a name")
    }

    pub fn run(self, field: &Field, rounds: usize, verdicts: &mut Verdicts) {
        match self {
            Self::Alone => alone::run(field, rounds, verdicts),
            Self::Together => together::run(field, rounds, verdicts),
            Self::Queue => queue::run(field, rounds, verdicts),
            Self::Crowd => crowd::run(field, rounds, verdicts),
            Self::Allocations => allocations::run(field, verdicts),
        }
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Alone => "get+put, one task, 16 resources",
            Self::Together => "get+put, 16 tasks, 16 resources, 2 worker threads",
            Self::Queue => "64 tasks on 4 resources, hold = one yield",
            Self::Crowd => "1,000 tasks on 8 resources, hold = one yield",
            Self::Allocations => "heap allocations per warm get+put",
        }
    }
}

/// Disturbed rounds are repeated, up to twice the rounds asked for.
fn terms(rounds: usize) -> Terms {
    Terms {
        rounds,
        most: 2 * rounds,
        patience: Duration::from_secs(30),
        noise: Noise::Waiting,
    }
}

/// How many strides per task make a slice of at least this many microseconds. The doubling also
/// warms the lane: its resources exist afterwards.
fn strides_for(micros: u128, lane: &mut Lane<'_>, arena: &Arena, tasks: usize) -> u64 {
    let mut strides = 1;
    while let Some(elapsed) = lane.run(|pool| pool.cycles(arena, tasks, strides)) {
        if elapsed.as_micros() >= micros {
            break;
        }
        strides *= 2;
    }
    strides
}

fn nanoseconds_per_cycle(elapsed: Duration, tasks: usize, strides: u64) -> f64 {
    elapsed.as_nanos() as f64 / (tasks as f64 * strides as f64 * STRIDE as f64)
}
