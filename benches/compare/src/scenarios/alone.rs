use wharf_race::race::race;
use wharf_race::runtime::Arena;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use crate::contenders::{BASELINE, QUEUE_FLOOR, WHARF};
use crate::field::Field;

use super::{nanoseconds_per_cycle, strides_for, terms};

const RESOURCES: usize = 16;
const SLICE_MICROS: u128 = 10_000;

pub fn run(field: &Field, rounds: usize, verdicts: &mut Verdicts) {
    let arena = Arena::two_workers();
    let mut lanes = field.everyone(&arena, RESOURCES);
    let calibrate = |lane| strides_for(SLICE_MICROS, lane, &arena, 1);
    let strides: Vec<u64> = lanes.iter_mut().map(calibrate).collect();

    let results = race(&mut lanes, &terms(rounds), |index, lane| {
        let elapsed = lane.run(|pool| pool.cycles(&arena, 1, strides[index]))?;
        Some(nanoseconds_per_cycle(elapsed, 1, strides[index]))
    });

    let mut table = Table::new(&["", "ns/cycle", "× deadpool", "× ArrayQueue", ""]);
    for lane in &lanes {
        table.row(vec![
            lane.name.into(),
            cell(
                results
                    .spread(lane.name, |ns| *ns)
                    .map(|ns| format!("{:.1}", ns.median)),
            ),
            cell(results.ratio(lane.name, BASELINE, |ns| *ns)),
            cell(results.ratio(lane.name, QUEUE_FLOOR, |ns| *ns)),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();

    let against = |base| {
        results
            .ratio(WHARF, base, |ns| *ns)
            .map(|ratio| ratio.median)
    };
    verdicts.must(against(BASELINE), Bound::AtMost(0.25), "× deadpool");
    verdicts.aim(against(QUEUE_FLOOR), Bound::AtMost(1.0), "× ArrayQueue");
}
