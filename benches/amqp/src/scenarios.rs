//! What is measured, and what is promised of it.

use std::sync::Arc;
use std::time::Duration;

use wharf_amqp_compare::consume::{self, Supply};
use wharf_amqp_compare::node::{self, Keeping, Node};
use wharf_amqp_compare::publish::{self, Burst, Courier, Load, Manner};
use wharf_race::options::Options;
use wharf_race::quiet::Noise;
use wharf_race::race::{self, Results, race};
use wharf_race::runtime::Arena;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

pub const NAMES: [&str; 8] = [
    "publish-100",
    "publish-1000",
    "small-100",
    "small-1000",
    "durable-100",
    "durable-1000",
    "consume-200",
    "consume-1000",
];

pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    what: What,
}

enum What {
    Publish {
        body: usize,
        window: usize,
        persistent: bool,
        /// Those who are not rivals take part: who sends bare messages, who publishes one by one,
        /// and who opens a channel for each.
        crowd: bool,
    },
    Consume {
        prefetch: u16,
    },
}

const fn publish(
    at: usize,
    title: &'static str,
    body: usize,
    window: usize,
    persistent: bool,
) -> Scenario {
    Scenario {
        name: NAMES[at],
        title,
        what: What::Publish {
            body,
            window,
            persistent,
            crowd: at == 0,
        },
    }
}

const fn consume(at: usize, title: &'static str, prefetch: u16) -> Scenario {
    Scenario {
        name: NAMES[at],
        title,
        what: What::Consume { prefetch },
    }
}

pub const SCENARIOS: [Scenario; 8] = [
    publish(0, "256 bytes, transient, window 100", 256, 100, false),
    publish(1, "256 bytes, transient, window 1,000", 256, 1_000, false),
    publish(2, "16 bytes, transient, window 100", 16, 100, false),
    publish(3, "16 bytes, transient, window 1,000", 16, 1_000, false),
    publish(4, "256 bytes, durable, window 100", 256, 100, true),
    publish(5, "256 bytes, durable, window 1,000", 256, 1_000, true),
    consume(6, "256 bytes, transient, prefetch 200", 200),
    consume(7, "256 bytes, transient, prefetch 1,000", 1_000),
];

/// What all scenarios share.
pub struct Terms<'a> {
    pub arena: &'a Arena,
    pub node: &'a Node,
    pub options: &'a Options,
}

/// How long one publishes in a slice.
const SLICE: Duration = Duration::from_millis(200);

/// How many messages are consumed in a slice.
const MESSAGES: u64 = 5_000;

impl Scenario {
    pub fn run(&self, terms: &Terms<'_>, verdicts: &mut Verdicts) {
        match self.what {
            What::Publish {
                body,
                window,
                persistent,
                crowd,
            } => {
                let load = Load {
                    url: Arc::clone(&terms.node.url),
                    exchange: "",
                    queue: self.name,
                    body,
                    persistent,
                    window,
                };
                race_publishers(terms, &load, crowd, verdicts);
            }
            What::Consume { prefetch } => {
                let supply = Supply {
                    url: Arc::clone(&terms.node.url),
                    queue: self.name,
                    prefetch,
                    messages: MESSAGES,
                };
                race_consumers(terms, &supply, verdicts);
            }
        }
    }
}

fn race_publishers(terms: &Terms<'_>, load: &Load, crowd: bool, verdicts: &mut Verdicts) {
    let arena = terms.arena;
    let declaring = {
        let load = load.clone();
        async move {
            let courier = Courier::open(&load, Manner::Careful).await?;
            node::declare(
                courier.channel(),
                load.queue,
                load.persistent,
                Keeping::Newest,
            )
            .await
        }
    };
    if let Err(trouble) = arena.run(declaring) {
        println!("  {trouble}");
    }
    let mut names = vec![publish::WHARF, publish::LOOP, publish::CREW];
    if crowd {
        names.extend([publish::BARE, publish::ONE_BY_ONE, publish::CHANNEL_EACH]);
    }
    names.retain(|name| terms.options.wants(name));
    let lanes = names.iter().map(|name| publish::lane(name, arena, load));
    let mut lanes: Vec<_> = lanes.collect();
    let results = race(&mut lanes, &terms.race(terms.options.rounds), |_, lane| {
        lane.run(|publisher| publisher.burst(arena, terms.node.pid, SLICE))
    });

    let heads = ["", "messages/s", "client µs", "broker µs", "wharf ×", ""];
    let mut table = Table::new(&heads);
    for lane in &lanes {
        let mut row = figures(&results, lane.name);
        let ratio = results.ratio(publish::WHARF, lane.name, Burst::per_second);
        row.extend([cell(ratio), lane.remark()]);
        table.row(row);
    }
    table.print();
    results.print_rounds();
    let against = |peer| {
        let ratio = results.ratio(publish::WHARF, peer, Burst::per_second);
        ratio.map(|ratio| ratio.median)
    };
    for peer in [publish::LOOP, publish::CREW] {
        let of = format!("× {peer} ({})", load.queue);
        verdicts.must(against(peer), Bound::AtLeast(0.95), &of);
    }
    if crowd {
        let peer = publish::CHANNEL_EACH;
        let of = format!("× {peer} ({})", load.queue);
        verdicts.must(against(peer), Bound::AtLeast(25.0), &of);
    }
}

fn race_consumers(terms: &Terms<'_>, supply: &Supply, verdicts: &mut Verdicts) {
    let arena = terms.arena;
    let (url, queue) = (Arc::clone(&supply.url), supply.queue);
    let filler = match arena.run(async move { consume::filler(&url, queue).await }) {
        Ok(filler) => filler,
        Err(trouble) => {
            println!("  {trouble}");
            return verdicts.must(None, Bound::AtLeast(0.95), &format!("× lapin ({queue})"));
        }
    };
    let mut names = vec![
        consume::WHARF,
        consume::WHARF_8,
        consume::FIFTY,
        consume::HALF,
    ];
    names.retain(|name| terms.options.wants(name));
    let lanes = names.iter().map(|name| consume::lane(name, arena, supply));
    let mut lanes: Vec<_> = lanes.collect();
    let results = race(&mut lanes, &terms.race(terms.options.rounds), |_, lane| {
        lane.run(|consumer| consumer.drain(arena, terms.node.pid, &filler))
    });

    let heads = [
        "",
        "messages/s",
        "client µs",
        "broker µs",
        "one handler ×",
        "eight handlers ×",
        "",
    ];
    let mut table = Table::new(&heads);
    for lane in &lanes {
        let mut row = figures(&results, lane.name);
        for ours in [consume::WHARF, consume::WHARF_8] {
            row.push(cell(results.ratio(ours, lane.name, Burst::per_second)));
        }
        row.push(lane.remark());
        table.row(row);
    }
    table.print();
    results.print_rounds();
    for (ours, handlers) in [
        (consume::WHARF, "one handler"),
        (consume::WHARF_8, "eight handlers"),
    ] {
        for peer in [consume::FIFTY, consume::HALF] {
            let ratio = results.ratio(ours, peer, Burst::per_second);
            let of = format!("× {peer}, {handlers} ({})", supply.queue);
            verdicts.must(ratio.map(|ratio| ratio.median), Bound::AtLeast(0.95), &of);
        }
    }
}

/// What a row of a table begins with.
fn figures(results: &Results<Burst>, name: &str) -> Vec<String> {
    let median = |figure: fn(&Burst) -> f64, digits: usize| {
        let spread = results.spread(name, figure);
        cell(spread.map(|spread| format!("{:.digits$}", spread.median)))
    };
    vec![
        name.into(),
        median(Burst::per_second, 0),
        median(Burst::client_micros, 1),
        median(Burst::broker_micros, 1),
    ]
}

impl Terms<'_> {
    fn race(&self, rounds: usize) -> race::Terms {
        race::Terms {
            rounds,
            most: rounds + rounds / 4,
            // A tenth of a second for each, over all of them.
            patience: Duration::from_millis(100) * rounds as u32,
            noise: Noise::Strangers {
                servers: vec![self.node.pid],
            },
        }
    }
}
