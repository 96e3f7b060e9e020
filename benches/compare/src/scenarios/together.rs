use wharf_race::race::race;
use wharf_race::runtime::Arena;
use wharf_race::spread::Spread;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use crate::contenders::{BASELINE, WHARF};
use crate::field::Field;

use super::{nanoseconds_per_cycle, strides_for, terms};

const RESOURCES: usize = 16;
const TASKS: usize = 16;
const SLICE_MICROS: u128 = 10_000;

/// Nanoseconds per cycle of both workers and, in the same round, of one task alone.
struct Pair {
    together: f64,
    alone: f64,
}

pub fn run(field: &Field, rounds: usize, verdicts: &mut Verdicts) {
    let arena = Arena::two_workers();
    let mut lanes = field.everyone(&arena, RESOURCES);
    let mut strides = |tasks| -> Vec<u64> {
        let calibrate = |lane| strides_for(SLICE_MICROS, lane, &arena, tasks);
        lanes.iter_mut().map(calibrate).collect()
    };
    let (together, alone) = (strides(TASKS), strides(1));

    let results = race(&mut lanes, &terms(rounds), |index, lane| {
        let both = lane.run(|pool| pool.cycles(&arena, TASKS, together[index]))?;
        let one = lane.run(|pool| pool.cycles(&arena, 1, alone[index]))?;
        Some(Pair {
            together: nanoseconds_per_cycle(both, TASKS, together[index]),
            alone: nanoseconds_per_cycle(one, 1, alone[index]),
        })
    });

    let heads = [
        "",
        "ns/cycle",
        "× deadpool",
        "alone ns",
        "together/alone",
        "",
    ];
    let mut table = Table::new(&heads);
    let one_decimal = |spread: Spread| format!("{:.1}", spread.median);
    for lane in &lanes {
        table.row(vec![
            lane.name.into(),
            cell(
                results
                    .spread(lane.name, |pair| pair.together)
                    .map(one_decimal),
            ),
            cell(results.ratio(lane.name, BASELINE, |pair| pair.together)),
            cell(
                results
                    .spread(lane.name, |pair| pair.alone)
                    .map(one_decimal),
            ),
            cell(results.spread(lane.name, |pair| pair.together / pair.alone)),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();

    let ratio = results.ratio(WHARF, BASELINE, |pair| pair.together);
    let ratio = ratio.map(|ratio| ratio.median);
    let gain = results.spread(WHARF, |pair| pair.together / pair.alone);
    verdicts.must(ratio, Bound::AtMost(0.15), "× deadpool");
    verdicts.aim(ratio, Bound::AtMost(0.05), "× deadpool");
    verdicts.aim(
        gain.map(|gain| gain.median),
        Bound::AtMost(1.0),
        "× one thread alone",
    );
}
