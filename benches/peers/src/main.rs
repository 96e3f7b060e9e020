//! Measures packets between two processes over loopback, beside the crate `zeromq` and beside a bare
//! TCP echo: many under way at a time, and one after the other.

mod contenders;
mod packet;
mod receiver;

use std::process::ExitCode;
use std::time::Duration;

use contenders::{Burst, Lane, lane, tcp, wharf, zeromq};
use receiver::Receiver;
use wharf_race::lane::Trouble;
use wharf_race::options::{Choice, Options};
use wharf_race::quiet::Noise;
use wharf_race::race::{self, Results, race};
use wharf_race::runtime::Arena;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound::AtLeast, Verdicts};

const CHOICE: Choice = Choice {
    scenarios: &["many", "one"],
    rounds: 40,
    quick: 4,
};

/// How long one sends in a slice.
const SLICE: Duration = Duration::from_millis(200);

const WHARF: &str = "wharf-peers";

fn main() -> ExitCode {
    if receiver::received() {
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(&CHOICE) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let mut verdicts = Verdicts::default();
    for name in &options.scenarios {
        if let Err(trouble) = run(name, &options, &mut verdicts) {
            eprintln!("{name}: {trouble}");
            return ExitCode::FAILURE;
        }
    }
    if verdicts.conclude() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(name: &str, options: &Options, verdicts: &mut Verdicts) -> Result<(), Trouble> {
    let arena = &Arena::two_workers();
    let mut receiver = Receiver::start()?;
    let to = receiver.addresses;
    let wanted = |name| options.wants(name);
    if name == "many" {
        println!("many under way (64 bytes; a window of 4,096 where there are answers)");
        let mut lanes = Vec::new();
        if wanted(WHARF) {
            lanes.push(lane::<wharf::Many>(WHARF, arena, to));
        }
        if wanted("zeromq") {
            // Nothing is acknowledged.
            lanes.push(lane::<zeromq::Push>("zeromq", arena, to));
        }
        if wanted("tcp") {
            lanes.push(lane::<tcp::Many>("tcp", arena, to));
        }
        let results = compete(lanes, arena, &mut receiver, options.rounds);
        let pace = results.spread(WHARF, Burst::per_second);
        let pace = pace.map(|pace| pace.median);
        verdicts.must(pace, AtLeast(100_000.0), "packets a second, many under way");
        verdicts.aim(
            pace,
            AtLeast(1_000_000.0),
            "packets a second, many under way",
        );
    } else {
        println!("one after the answer to the other (64 bytes)");
        let mut lanes = Vec::new();
        if wanted(WHARF) {
            lanes.push(lane::<wharf::OneByOne>(WHARF, arena, to));
        }
        if wanted("zeromq") {
            lanes.push(lane::<zeromq::Request>("zeromq", arena, to));
        }
        if wanted("tcp") {
            lanes.push(lane::<tcp::OneByOne>("tcp", arena, to));
        }
        let results = compete(lanes, arena, &mut receiver, options.rounds);
        let pace = results.spread(WHARF, Burst::per_second);
        let pace = pace.map(|pace| pace.median);
        verdicts.must(pace, AtLeast(5_000.0), "packets a second, one at a time");
    }
    Ok(())
}

fn compete(
    mut lanes: Vec<Lane<'_>>,
    arena: &Arena,
    receiver: &mut Receiver,
    rounds: usize,
) -> Results<Burst> {
    let terms = race::Terms {
        rounds,
        most: rounds + rounds / 4,
        // A tenth of a second for each, over all of them.
        patience: Duration::from_millis(100) * rounds as u32,
        noise: Noise::Strangers {
            servers: vec![receiver.pid],
        },
    };
    let results = race(&mut lanes, &terms, |_, lane| {
        lane.run(|sending| sending.burst(arena, receiver, SLICE))
    });
    let mut table = Table::new(&[
        "",
        "packets/s",
        "sender µs",
        "receiver µs",
        "wharf-peers ×",
        "",
    ]);
    for lane in &lanes {
        let median = |figure: fn(&Burst) -> f64, digits: usize| {
            let spread = results.spread(lane.name, figure);
            cell(spread.map(|spread| format!("{:.digits$}", spread.median)))
        };
        table.row(vec![
            lane.name.into(),
            median(Burst::per_second, 0),
            median(Burst::sender_micros, 2),
            median(Burst::receiver_micros, 2),
            cell(results.ratio(WHARF, lane.name, Burst::per_second)),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();
    results
}
