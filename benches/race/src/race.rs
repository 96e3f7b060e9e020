//! Rounds in which every lane takes one short slice, so that drift of the machine hits all alike.

use std::time::Duration;

use crate::{
    lane::Lane,
    quiet::{Ear, Noise, Patience},
    spread::Spread,
};

/// After so many rounds everybody goes on with a new pool or connection: where in memory one
/// happens to lie makes a difference of up to a fifth, and must not decide a whole run.
const REOPEN: usize = 4;

/// With fewer quiet rounds than this share of those asked for, the disturbed ones count too.
const ENOUGH: f64 = 0.2;

/// How a race is run.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Quiet rounds to be run.
    pub rounds: usize,
    /// Disturbed rounds are repeated, up to this many rounds in all.
    pub most: usize,
    /// How long the race may wait for quiet, over all its rounds.
    pub patience: Duration,
    /// What disturbs a round.
    pub noise: Noise,
}

/// What every lane measured in every round; none once it was out of the race.
#[derive(Debug)]
pub struct Results<S> {
    rows: Vec<Row<S>>,
    quiet: Vec<bool>,
    wanted: usize,
}

#[derive(Debug)]
struct Row<S> {
    name: &'static str,
    samples: Vec<Option<S>>,
}

/// Each round starts with another lane, and every second one runs backwards, so that nobody
/// always follows the same neighbour. A slice is told the number of its lane.
pub fn race<E, S>(
    lanes: &mut [Lane<'_, E>],
    terms: &Terms,
    mut slice: impl FnMut(usize, &mut Lane<'_, E>) -> Option<S>,
) -> Results<S> {
    let mut results = Results::new(lanes, terms.rounds);
    let mut patience = Patience::of(terms.patience);
    while results.quiet_rounds() < terms.rounds && results.quiet.len() < terms.most {
        if results.quiet.len().is_multiple_of(REOPEN) {
            for (index, lane) in lanes.iter_mut().enumerate() {
                lane.reopen();
                // Warms it up.
                slice(index, lane);
            }
        }
        patience.wait_for_quiet();
        let ear = Ear::listen(&terms.noise);
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
    fn new<E>(lanes: &[Lane<'_, E>], wanted: usize) -> Self {
        let row = |lane: &Lane<'_, E>| Row {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::lane::Trouble;

    const ROUNDS: usize = 3;

    fn terms() -> Terms {
        Terms {
            rounds: ROUNDS,
            most: ROUNDS,
            patience: Duration::ZERO,
            noise: Noise::Waiting,
        }
    }

    #[test]
    fn every_lane_takes_a_slice_in_every_round_and_the_first_ones_differ() {
        let mut lanes = [Lane::new("a", || Ok(())), Lane::new("b", || Ok(()))];
        let mut order = Vec::new();
        let results = race(&mut lanes, &terms(), |number, lane| {
            order.push(number);
            lane.run(|()| Ok(if number == 0 { 6.0 } else { 3.0 }))
        });
        // The first two warm up.
        assert_eq!(order, [0, 1, 0, 1, 1, 0, 1, 0]);
        let ratio = results.ratio("a", "b", |figure| *figure).unwrap();
        assert!((ratio.median - 2.0).abs() < 1e-9);
        assert!(results.ratio("a", "nobody", |figure| *figure).is_none());
    }

    #[test]
    fn a_lane_in_trouble_is_out_and_the_others_go_on() {
        let slices = Cell::new(0);
        let mut lanes = [
            Lane::new("bad", || Ok(true)),
            Lane::new("good", || Ok(false)),
        ];
        let results = race(&mut lanes, &terms(), |_, lane| {
            lane.run(|bad| {
                slices.set(slices.get() + 1);
                if *bad {
                    Err(Trouble::Failed("lost a message".into()))
                } else {
                    Ok(1.0)
                }
            })
        });
        assert_eq!(slices.get(), 1 + 1 + ROUNDS);
        assert!(lanes[0].remark().contains("lost a message"));
        assert!(results.spread("bad", |figure| *figure).is_none());
        assert!(results.spread("good", |figure| *figure).is_some());
    }
}
