use wharf_race::runtime::Arena;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use crate::contenders::WHARF;
use crate::field::Field;

/// Enough for one task, too few for sixteen that hold across a yield.
const RESOURCES: usize = 4;
const ONE: usize = 1;
const MANY: usize = 16;
/// The least count is shown: now and then the runtime grows a buffer of its own meanwhile.
const TRIES: usize = 3;

pub fn run(field: &Field, verdicts: &mut Verdicts) {
    let arena = Arena::one_worker();
    let mut lanes = field.who_can_wait(&arena, RESOURCES);
    let mut wharf = (None, None);
    let mut table = Table::new(&["", "not waiting", "waiting", ""]);
    for lane in &mut lanes {
        let mut per_cycle = |tasks| {
            let counts = (0..TRIES).map_while(|_| lane.run(|pool| pool.allocations(&arena, tasks)));
            counts.map(|count| count.per_cycle()).min_by(f64::total_cmp)
        };
        let (idle, waiting) = (per_cycle(ONE), per_cycle(MANY));
        let shown = |figure: Option<f64>| cell(figure.map(|count| format!("{count:.4}")));
        table.row(vec![
            lane.name.into(),
            shown(idle),
            shown(waiting),
            lane.remark(),
        ]);
        if lane.name == WHARF {
            wharf = (idle, waiting);
        }
    }
    table.print();

    verdicts.must(wharf.0, Bound::AtMost(0.0), "allocations, not waiting");
    verdicts.must(wharf.1, Bound::AtMost(0.0), "allocations, waiting");
}
