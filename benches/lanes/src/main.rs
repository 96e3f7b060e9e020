//! What is promised of the pace of lanes, held against what is measured; beside others.

use std::{process::ExitCode, time::Duration};

use wharf_lanes_compare::{
    contenders::{Contender, aint_one::AintOne, lanes::Wharf, task_each::TaskEach},
    memory::{self, Bytes},
    pace::{Work, items_a_second, open_a_million},
    saturation::lateness,
    turns::others_take,
};
use wharf_race::{
    quiet::{Ear, Noise, Patience},
    spread::Spread,
    table::{Table, cell},
    verdict::{
        Bound::{AtLeast, AtMost},
        Verdicts,
    },
};

/// For each figure that only quiet can give.
const PATIENCE: Duration = Duration::from_secs(30);

const SCENARIOS: [&str; 4] = ["others", "million", "linger", "turns"];

/// What was asked for: names of scenarios, or all of them, and whether to be quick.
struct Wish {
    scenarios: Vec<String>,
    is_quick: bool,
}

fn main() -> ExitCode {
    let (options, scenarios): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with('-'));
    let is_known = |name: &String| SCENARIOS.contains(&name.as_str());
    if !scenarios.iter().all(is_known) || options.iter().any(|option| option != "--quick") {
        eprintln!("[--quick] [{}]", SCENARIOS.join("] ["));
        return ExitCode::from(2);
    }
    let wish = Wish {
        is_quick: !options.is_empty(),
        scenarios,
    };
    if let Err(error) = memory::meet() {
        eprintln!("lanes-counted, which counts allocations: {error}. Build with --bins.");
        return ExitCode::from(2);
    }
    let mut verdicts = Verdicts::default();
    for (name, run) in SCENARIOS
        .into_iter()
        .zip([beside_others, a_million, lingering, turns])
    {
        if wish.scenarios.is_empty() || wish.scenarios.iter().any(|wanted| wanted == name) {
            run(&wish, &mut verdicts);
        }
    }
    println!();
    if verdicts.conclude() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn beside_others(wish: &Wish, verdicts: &mut Verdicts) {
    let rounds = wish.rounds();
    println!("\nbeside others, on one thread (medians of {rounds} rounds)");
    let mut table = Table::new(&[
        "",
        "M items/s: a million keys in turn",
        "scattered",
        "10,000 keys in turn",
        "ten in a row",
        "bytes a one-item lane",
        "an idle one",
    ]);
    let (pace, memory) = row::<Wharf>(&mut table, rounds, true);
    // A task for each of a million keys would take minutes. Who answers each item has whoever pushes
    // keep millions of futures.
    row::<TaskEach>(&mut table, rounds.min(2), false);
    row::<AintOne>(&mut table, rounds.min(2), false);
    table.print();
    let (holding, idle) = memory.map(|bytes| (bytes.holding, bytes.idle)).unzip();
    let [in_turn, scattered] = pace;
    verdicts.must(
        in_turn,
        AtLeast(3.0),
        "million items a second over a million keys in turn",
    );
    verdicts.aim(
        scattered,
        AtLeast(3.0),
        "million items a second over a million keys, scattered",
    );
    verdicts.must(holding, AtMost(160.0), "bytes a one-item lane");
    verdicts.must(idle, AtMost(0.5), "bytes an idle lane");
}

fn a_million(wish: &Wish, verdicts: &mut Verdicts) {
    println!("\na million lanes opened, and flushed");
    let opened = quietly(wish.rounds(), open_a_million);
    let left = opened.iter().map(|(_, left)| *left).max();
    let took = median(opened.iter().map(|(took, _)| *took));
    verdicts.must(took, AtMost(0.5), "seconds to open them");
    verdicts.must(left.map(|left| left as f64), AtMost(0.0), "lanes left");
}

/// In one run, of which nothing is left out: in the first linger all lanes are opened, faster than they
/// can be handled, and in several short runs it would decide the p99 of what goes on for ever. So long
/// a run is never quiet as a whole, and its batches are told apart by when they were due.
fn lingering(wish: &Wish, verdicts: &mut Verdicts) {
    println!("\ninput that never pauses (100,000 keys, linger 50 ms)");
    let long = Duration::from_secs(if wish.is_quick { 4 } else { 40 });
    let mut patience = patience(wish.rounds());
    for workers in [1, 2] {
        let ((pace, seen), was_quiet) = listening(&mut patience, || lateness(workers, long));
        println!(
            "  {workers} threads, {:.2} M items/s; late by {}",
            pace / 1e6,
            seen.all,
        );
        for (when, late) in [
            ("while the host took nothing", &seen.quiet),
            ("in the first linger", &seen.first),
        ] {
            let share = 1e2 * seen.share(late);
            println!("    due {when}, {share:.1} % of them: {late}");
        }
        if !was_quiet {
            println!("  (LOUD: something else ran)");
        }
        let judged = seen.enough_quiet().unwrap_or_else(|| {
            println!("  (LOUD: few were due while the host took nothing, so all count)");
            &seen.all
        });
        let of = format!("ms p99 lateness of the linger on {workers} threads");
        verdicts.must(judged.quantile(0.99), AtMost(5.0), &of);
    }
}

/// Measures so many times while nothing else runs, as far as patience goes: a thread that waits for
/// a processor is late whatever it does. If it was never quiet, all count, and that is said.
fn quietly<R>(rounds: usize, mut measure: impl FnMut() -> R) -> Vec<R> {
    let mut patience = patience(rounds);
    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    while quiet.len() < rounds && quiet.len() + loud.len() < 3 * rounds {
        let (measured, was_quiet) = listening(&mut patience, &mut measure);
        if was_quiet {
            quiet.push(measured);
        } else {
            loud.push(measured);
        }
    }
    if quiet.is_empty() {
        println!("  (LOUD: something else ran all the time)");
        return loud;
    }
    quiet
}

fn patience(rounds: usize) -> Patience {
    Patience::of(PATIENCE / if rounds == 1 { 10 } else { 1 })
}

/// Measures as soon as nothing else runs, or patience is at its end; tells whether nothing else ran.
fn listening<R>(patience: &mut Patience, measure: impl FnOnce() -> R) -> (R, bool) {
    let strangers = Noise::Strangers {
        servers: Vec::new(),
    };
    patience.wait_for_quiet();
    let ear = Ear::listen(&strangers);
    let measured = measure();
    (measured, ear.heard_nothing())
}

fn turns(wish: &Wish, verdicts: &mut Verdicts) {
    println!("\na hot key beside 64 others (4 at a time)");
    let ratios = (0..wish.rounds().max(3)).map(|_| {
        let alone = others_take(false);
        others_take(true) / alone
    });
    verdicts.must(
        median(ratios),
        AtMost(2.0),
        "× the time of the others without it",
    );
}

impl Wish {
    fn rounds(&self) -> usize {
        if self.is_quick { 1 } else { 5 }
    }
}

/// The figures of a million keys, in turn and scattered, and of memory.
fn row<C: Contender>(
    table: &mut Table,
    rounds: usize,
    takes_a_million: bool,
) -> ([Option<f64>; 2], Option<Bytes>) {
    let pace = |work| {
        // A column may take a minute, and who looks on wants to know whose.
        eprintln!("  … {}: {work:?}", C::NAME);
        let seen = quietly(rounds, || items_a_second::<C>(work) / 1e6);
        median(seen.into_iter())
    };
    let million = |work| takes_a_million.then(|| pace(work)).flatten();
    let many = [Work::InTurn, Work::Scattered].map(million);
    let few = [Work::FewInTurn, Work::InRows].map(pace);
    eprintln!("  … {}: memory", C::NAME);
    let memory = memory::ask(C::NAME)
        .inspect_err(|error| eprintln!("  memory is not measured: {error}"))
        .ok();
    let mut cells = vec![C::NAME.into()];
    cells.extend(
        many.into_iter()
            .chain(few)
            .map(|figure| cell(figure.map(|figure| format!("{figure:.2}")))),
    );
    for of in [|bytes: Bytes| bytes.holding, |bytes: Bytes| bytes.idle] {
        cells.push(cell(memory.map(|bytes| format!("{:.1}", of(bytes)))));
    }
    table.row(cells);
    (many, memory)
}

fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    Spread::of(figures.collect()).map(|spread| spread.median)
}
