//! The broker's processor time for a message, with little beside it and with much.

use std::time::Duration;

use wharf_amqp_compare::embedded::Embedded;
use wharf_amqp_compare::node::{self, Keeping};
use wharf_amqp_compare::publish::{self, Burst, Courier, Load, Loop, Manner};
use wharf_race::lane::Trouble;
use wharf_race::race::race;
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use super::Terms;
use super::crowd::{self, Crowd};

const SLICE: Duration = Duration::from_millis(200);

/// The most, times the least.
const FLAT: Bound = Bound::AtMost(1.25);

const QUEUE: &str = "measured";

type Place = (&'static str, Crowd);

const QUEUES: [Place; 3] = [
    ("1 queue", Crowd::Queues(0)),
    ("100 queues", Crowd::Queues(100)),
    ("10,000 queues", Crowd::Queues(10_000)),
];

const BINDINGS: [Place; 3] = [
    ("1 binding", Crowd::Bindings(0)),
    ("1,000 bindings", Crowd::Bindings(1_000)),
    ("10,000 bindings", Crowd::Bindings(10_000)),
];

const CHANNELS: [Place; 3] = [
    ("no idle channel", Crowd::Channels(0)),
    ("1,000 idle channels", Crowd::Channels(1_000)),
    ("10,000 idle channels", Crowd::Channels(10_000)),
];

const CONNECTIONS: [Place; 2] = [
    ("no idle connection", Crowd::Connections(0)),
    ("1,000 idle connections", Crowd::Connections(1_000)),
];

pub fn run(terms: &Terms<'_>, name: &'static str, verdicts: &mut Verdicts) {
    let (places, exchange): (&[Place], _) = match name {
        "flat-queues" => (&QUEUES, ""),
        "flat-bindings" => (&BINDINGS, crowd::EXCHANGE),
        "flat-channels" => (&CHANNELS, ""),
        "flat-connections" => (&CONNECTIONS, ""),
        _ => unreachable!("bug: no scenario is called {name}"),
    };
    if let Err(trouble) = compare(terms, places, exchange, verdicts) {
        verdicts.must(None, FLAT, &format!("× ({name}), {trouble}"));
    }
}

fn compare(
    terms: &Terms<'_>,
    places: &[Place],
    exchange: &'static str,
    verdicts: &mut Verdicts,
) -> Result<(), Trouble> {
    let arena = terms.arena;
    let brokers: Vec<_> = places
        .iter()
        .map(|_| Embedded::start())
        .collect::<Result<_, _>>()?;
    let load = |broker: &Embedded| Load {
        url: broker.url.clone(),
        exchange,
        queue: QUEUE,
        body: 256,
        persistent: false,
        window: 1_000,
    };
    let mut crowds = Vec::new();
    for ((_, crowd), broker) in places.iter().zip(&brokers) {
        let (load, crowd) = (load(broker), *crowd);
        crowds.push(arena.run(async move {
            let courier = Courier::open(&load, Manner::Careful).await?;
            node::declare(courier.channel(), QUEUE, false, Keeping::Newest).await?;
            crowd.gather(load.url, QUEUE).await
        })?);
    }
    let lanes = places.iter().zip(&brokers);
    let lanes =
        lanes.map(|((name, _), broker)| publish::of::<Loop<true>>(name, arena, load(broker)));
    let mut lanes: Vec<_> = lanes.collect();
    let pids: Vec<_> = brokers.iter().map(|broker| broker.pid).collect();
    let results = race(&mut lanes, &terms.race(pids.clone()), |at, lane| {
        lane.run(|publisher| publisher.burst(arena, pids[at], SLICE))
    });

    let (least, _) = places[0];
    let mut table = Table::new(&["", "broker µs", "× least", ""]);
    for lane in &lanes {
        let spread = results.spread(lane.name, Burst::broker_micros);
        table.row(vec![
            lane.name.into(),
            cell(spread.map(|spread| format!("{:.2}", spread.median))),
            cell(results.ratio(lane.name, least, Burst::broker_micros)),
            lane.remark(),
        ]);
    }
    table.print();
    results.print_rounds();
    for (most, _) in &places[1..] {
        let ratio = results.ratio(most, least, Burst::broker_micros);
        let of = format!("× {least}, with {most}");
        verdicts.must(ratio.map(|ratio| ratio.median), FLAT, &of);
    }
    drop(crowds);
    Ok(())
}
