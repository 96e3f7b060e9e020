//! The five scenarios of Wharf's pace table.

mod allocations;
mod alone;
mod crowd;
mod queue;
mod together;

use std::str::FromStr;

use crate::lane::{Field, Lane};
use crate::runtime::Arena;
use crate::tasks::STRIDE;
use crate::verdict::Verdicts;

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
        match self {
            Self::Alone => "alone",
            Self::Together => "together",
            Self::Queue => "queue",
            Self::Crowd => "crowd",
            Self::Allocations => "allocations",
        }
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

impl FromStr for Scenario {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
            .ok_or(())
    }
}

/// How many strides per task make a slice of at least this many microseconds. The doubling also
/// warms the lane: its resources exist afterwards.
fn strides_for(micros: u128, lane: &mut Lane, arena: &Arena, tasks: usize) -> u64 {
    let mut strides = 1;
    while let Some(elapsed) = lane.run(|pool| pool.cycles(arena, tasks, strides)) {
        if elapsed.as_micros() >= micros {
            break;
        }
        strides *= 2;
    }
    strides
}

fn nanoseconds_per_cycle(elapsed: std::time::Duration, tasks: usize, strides: u64) -> f64 {
    elapsed.as_nanos() as f64 / (tasks as f64 * strides as f64 * STRIDE as f64)
}

/// What is put beside the figures of a lane that left the race.
fn remark(lane: &Lane) -> String {
    lane.trouble().map(ToString::to_string).unwrap_or_default()
}
