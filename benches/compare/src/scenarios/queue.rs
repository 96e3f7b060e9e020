use std::time::Duration;

use wharf_race::race::race;
use wharf_race::runtime::Arena;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use crate::contenders::{BASELINE, WHARF};
use crate::field::Field;
use crate::slice::Turns;

use super::terms;

const RESOURCES: usize = 4;
const TASKS: usize = 64;
/// Long enough for a thousand turns of every task, so that one turn more or less does not show.
const SLICE: Duration = Duration::from_millis(40);

pub fn run(field: &Field, rounds: usize, verdicts: &mut Verdicts) {
    let arena = Arena::two_workers();
    let mut lanes = field.who_can_wait(&arena, RESOURCES);
    let results = race(&mut lanes, &terms(rounds), |_, lane| {
        lane.run(|pool| pool.turns(&arena, TASKS, SLICE))
    });

    let heads = [
        "",
        "ns/cycle",
        "× deadpool",
        "idlest share",
        "busiest share",
        "",
    ];
    let mut table = Table::new(&heads);
    for lane in &lanes {
        let share = |of: fn(&Turns) -> f64| {
            cell(
                results
                    .spread(lane.name, of)
                    .map(|share| format!("{:.3}", share.median)),
            )
        };
        table.row(vec![
            lane.name.into(),
            cell(
                results
                    .spread(lane.name, Turns::nanoseconds)
                    .map(|ns| format!("{:.0}", ns.median)),
            ),
            cell(results.ratio(lane.name, BASELINE, Turns::nanoseconds)),
            share(Turns::idlest),
            share(Turns::busiest),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();

    let ratio = results
        .ratio(WHARF, BASELINE, Turns::nanoseconds)
        .map(|ratio| ratio.median);
    let share = |of: fn(&Turns) -> f64| results.spread(WHARF, of).map(|share| share.median);
    verdicts.must(ratio, Bound::AtMost(0.85), "× deadpool");
    verdicts.must(
        share(Turns::idlest),
        Bound::AtLeast(0.98),
        "of the mean for the idlest task",
    );
    verdicts.must(
        share(Turns::busiest),
        Bound::AtMost(1.02),
        "of the mean for the busiest task",
    );
    verdicts.aim(ratio, Bound::AtMost(0.75), "× deadpool");
}
