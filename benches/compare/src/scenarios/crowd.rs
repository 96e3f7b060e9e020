use std::time::Duration;

use wharf_race::race::race;
use wharf_race::runtime::Arena;
use wharf_race::spread::quantile;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use crate::contenders::{BASELINE, WHARF};
use crate::field::Field;
use crate::slice::{Turns, Waits};

use super::terms;

const RESOURCES: usize = 8;
const TASKS: usize = 1_000;
const SLICE: Duration = Duration::from_millis(40);

/// A slice without clocks for the pace, one with clocks for the waits.
struct Sample {
    pace: Turns,
    waits: Tail,
}

/// In microseconds.
struct Tail {
    median_round: f64,
    p999_wait: f64,
}

pub fn run(field: &Field, rounds: usize, verdicts: &mut Verdicts) {
    let arena = Arena::two_workers();
    let mut lanes = field.who_can_wait(&arena, RESOURCES);
    let results = race(&mut lanes, &terms(rounds), |_, lane| {
        let pace = lane.run(|pool| pool.turns(&arena, TASKS, SLICE))?;
        let waits = lane.run(|pool| pool.waits(&arena, TASKS, SLICE))?;
        Some(Sample {
            pace,
            waits: Tail::of(waits)?,
        })
    });

    let nanoseconds = |sample: &Sample| sample.pace.nanoseconds();
    let heads = [
        "",
        "ns/cycle",
        "× deadpool",
        "median round µs",
        "p99.9 wait µs",
        "p99.9/round",
        "",
    ];
    let mut table = Table::new(&heads);
    for lane in &lanes {
        let median = |figure: fn(&Sample) -> f64| results.spread(lane.name, figure);
        let whole = |figure| cell(median(figure).map(|spread| format!("{:.0}", spread.median)));
        table.row(vec![
            lane.name.into(),
            cell(
                results
                    .spread(lane.name, nanoseconds)
                    .map(|ns| format!("{:.0}", ns.median)),
            ),
            cell(results.ratio(lane.name, BASELINE, nanoseconds)),
            whole(|sample| sample.waits.median_round),
            whole(|sample| sample.waits.p999_wait),
            cell(median(|sample| sample.waits.steepness())),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();

    let ratio = results
        .ratio(WHARF, BASELINE, nanoseconds)
        .map(|ratio| ratio.median);
    let steepness = results.spread(WHARF, |sample| sample.waits.steepness());
    let steepness = steepness.map(|steepness| steepness.median);
    verdicts.must(ratio, Bound::AtMost(0.9), "× deadpool");
    verdicts.aim(
        steepness,
        Bound::AtMost(1.2),
        "× the median round for the p99.9 wait",
    );
}

impl Tail {
    fn of(mut waits: Waits) -> Option<Self> {
        waits.waits.sort_unstable();
        waits.rounds.sort_unstable();
        Some(Self {
            median_round: f64::from(quantile(&waits.rounds, 0.5)?) / 1_000.0,
            p999_wait: f64::from(quantile(&waits.waits, 0.999)?) / 1_000.0,
        })
    }

    fn steepness(&self) -> f64 {
        self.p999_wait / self.median_round
    }
}
