//! Measures the outbox: in memory beside a bare channel, with its journal beside bare redb, and how
//! long senders wait for acceptance.
//!
//! What decides is a ratio taken within one round of one run, but for the rate in memory, of which a
//! figure is promised.

mod latency;
mod memory;
mod stored;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use wharf_outbox::{Deliver, Delivery, Outcome, Readiness};
use wharf_race::lane::{Lane, Trouble};
use wharf_race::options::{Choice, Options};
use wharf_race::quiet::Noise;
use wharf_race::race::{Results, Terms, race};
use wharf_race::table::{Table, cell};
use wharf_race::verdict::Verdicts;

const CHOICE: Choice = Choice {
    scenarios: &["memory", "stored", "cycle", "latency"],
    rounds: 24,
    quick: 3,
};

/// A message of this size, as bytes.
const BODY: usize = 256;

fn main() -> ExitCode {
    let options = match Options::parse(&CHOICE) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let mut verdicts = Verdicts::default();
    for scenario in &options.scenarios {
        match *scenario {
            "memory" => memory::run(&options, &mut verdicts),
            "stored" => stored::run(&options, &mut verdicts, false),
            "cycle" => stored::run(&options, &mut verdicts, true),
            _ => latency::run(),
        }
    }
    if verdicts.conclude() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One who is measured: messages per second of one slice.
trait Contender {
    fn slice(&self) -> Result<f64, Trouble>;
}

type Entrant = Box<dyn Contender>;

fn compete(options: &Options, lanes: &mut Vec<Lane<'_, Entrant>>, base: &str) -> Results<f64> {
    lanes.retain(|lane| options.wants(lane.name));
    let terms = Terms {
        rounds: options.rounds,
        most: options.rounds * 2,
        patience: Duration::from_secs(20),
        noise: Noise::Waiting,
    };
    let results = race(lanes, &terms, |_, lane| lane.run(|entrant| entrant.slice()));
    let mut table = Table::new(&["", "messages/s", &format!("× {base}"), ""]);
    for lane in lanes.iter() {
        let rate = results.spread(lane.name, |rate| *rate);
        table.row(vec![
            lane.name.into(),
            cell(rate.map(|rate| format!("{:.0}", rate.median))),
            cell(results.ratio(lane.name, base, |rate| *rate)),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();
    results
}

/// Takes everything at once, or nothing.
#[derive(Clone)]
struct Sink {
    is_up: bool,
}

impl Deliver<Arc<[u8]>> for Sink {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, _: Delivery<'_, Arc<[u8]>>) -> Outcome<(), ()> {
        if self.is_up {
            Outcome::Delivered(())
        } else {
            Outcome::unknown("down")
        }
    }

    async fn ready(&self, _: Duration) -> Readiness {
        std::future::pending().await
    }
}
