//! Rounds in which every lane takes one short slice, so that drift of the machine hits all alike.

use std::time::Duration;

use crate::lane::Lane;
use crate::quiet::{Ear, Patience};
use crate::runtime::Arena;
use crate::spread::Spread;

/// Disturbed rounds are repeated, up to this many times the rounds asked for.
const REPEATS: usize = 2;

/// After so many rounds everybody goes on with a new pool: where in memory a pool happens to lie
/// makes a difference of up to a fifth, and must not decide a whole run.
const REOPEN: usize = 4;

/// How long one race may wait for its neighbours, over all its rounds.
const PATIENCE: Duration = Duration::from_secs(30);

/// With fewer quiet rounds than this share of those asked for, the disturbed ones count too.
const ENOUGH: f64 = 0.2;

/// What every lane measured in every round; `None` once it was out of the race.
pub struct Results<S> {
    rows: Vec<Row<S>>,
    quiet: Vec<bool>,
    wanted: usize,
}

struct Row<S> {
    name: &'static str,
    samples: Vec<Option<S>>,
}

/// Each round starts with another lane, and every second one runs backwards, so that nobody
/// always follows the same neighbour.
pub fn race<S>(
    arena: &Arena,
    lanes: &mut [Lane],
    rounds: usize,
    slice: impl Fn(usize, &mut Lane) -> Option<S>,
) -> Results<S> {
    let mut results = Results::new(lanes, rounds);
    let mut patience = Patience::of(PATIENCE);
    while results.quiet_rounds() < rounds && results.quiet.len() < REPEATS * rounds {
        if results.quiet.len().is_multiple_of(REOPEN) {
            for (index, lane) in lanes.iter_mut().enumerate() {
                lane.reopen(arena);
                // Warms it up.
                slice(index, lane);
            }
        }
        patience.wait_for_quiet();
        let ear = Ear::listen();
        for position in 0..lanes.len() {
            let lane = lane_at(results.quiet.len(), position, lanes.len());
            let sample = slice(lane, &mut lanes[lane]);
            results.rows[lane].samples.push(sample);
        }
        results.quiet.push(ear.heard_nothing());
    }
    results
}

fn lane_at(round: usize, position: usize, lanes: usize) -> usize {
    let forwards = (round / 2 + position) % lanes;
    if round.is_multiple_of(2) {
        forwards
    } else {
        lanes - 1 - forwards
    }
}

impl<S> Results<S> {
    fn new(lanes: &[Lane], wanted: usize) -> Self {
        let row = |lane: &Lane| Row {
            name: lane.name,
            samples: Vec::new(),
        };
        Self {
            rows: lanes.iter().map(row).collect(),
            quiet: Vec::new(),
            wanted,
        }
    }

    /// The spread of a figure over the rounds that count.
    pub fn spread(&self, name: &str, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        Spread::of(self.samples(name)?.flatten().map(figure).collect())
    }

    /// The spread of the ratio of two lanes' figures, each taken within one round.
    pub fn ratio(&self, name: &str, base: &str, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        let rounds = self.samples(name)?.zip(self.samples(base)?);
        let both = rounds.filter_map(|(one, other)| Some((one?, other?)));
        Spread::of(
            both.map(|(one, other)| figure(one) / figure(other))
                .collect(),
        )
    }

    /// Says which rounds count.
    pub fn print_rounds(&self) {
        let (quiet, all) = (self.quiet_rounds(), self.quiet.len());
        if self.only_quiet() {
            println!("  ({quiet} rounds of {all} had both processors to themselves, and count)");
        } else {
            println!("  (LOUD: only {quiet} rounds of {all} had both processors; all count)");
        }
    }

    fn samples(&self, name: &str) -> Option<impl Iterator<Item = Option<&S>>> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        let only_quiet = self.only_quiet();
        let rounds = row.samples.iter().zip(&self.quiet);
        Some(
            rounds
                .filter(move |(_, quiet)| **quiet || !only_quiet)
                .map(|(s, _)| s.as_ref()),
        )
    }

    fn only_quiet(&self) -> bool {
        self.quiet_rounds() as f64 >= ENOUGH * self.wanted as f64
    }

    fn quiet_rounds(&self) -> usize {
        self.quiet.iter().filter(|quiet| **quiet).count()
    }
}
