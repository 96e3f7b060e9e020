//! Publishing and consuming, on the embedded broker and on RabbitMQ, by the same client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_amqp_compare::consume::{self, Fifty, Half, Supply};
use wharf_amqp_compare::embedded::Embedded;
use wharf_amqp_compare::node::{self, Keeping, Node};
use wharf_amqp_compare::publish::{self, Burst, Courier, Load, Loop, Loops, Manner, Publishing};
use wharf_race::lane::Trouble;
use wharf_race::race::{Results, race};
use wharf_race::table::{Table, cell};
use wharf_race::verdict::{Bound, Verdicts};

use super::Terms;

const OURS: &str = "wharf-broker";
const THEIRS: &str = "RabbitMQ";
const OURS_BARE: &str = "wharf-broker, bare messages";
const THEIRS_BARE: &str = "RabbitMQ, bare messages";
const OURS_HALF: &str = "wharf-broker, an ack every half prefetch";
const THEIRS_HALF: &str = "RabbitMQ, an ack every half prefetch";

/// How long one publishes in a slice.
const SLICE: Duration = Duration::from_millis(200);

/// How many messages are consumed in a slice.
const MESSAGES: u64 = 5_000;

/// Publishing: what is promised, times RabbitMQ, while the processors are busy.
const PUBLISHING: Bound = Bound::AtLeast(2.5);

type Judge = fn(&mut Verdicts, Option<f64>, Bound, &str);

const MUST: Judge = Verdicts::must;

/// One connection with a small window waits more than it works.
const AIM: Judge = Verdicts::aim;

/// Consuming.
const CONSUMING: Bound = Bound::AtLeast(1.0);

/// Both brokers, started when the first scenario wants them.
pub struct Pace<'a> {
    terms: &'a Terms<'a>,
    pair: Option<Result<Pair, Trouble>>,
}

struct Pair {
    ours: Embedded,
    theirs: Node,
    /// How long RabbitMQ took to start.
    started: Duration,
}

impl Pair {
    fn start(terms: &Terms<'_>) -> Result<Self, Trouble> {
        let since = Instant::now();
        let theirs = Node::start(terms.arena)?;
        Ok(Self {
            theirs,
            started: since.elapsed(),
            ours: Embedded::start()?,
        })
    }

    fn urls(&self) -> [&Arc<str>; 2] {
        [&self.ours.url, &self.theirs.url]
    }

    fn pids(&self) -> [u32; 2] {
        [self.ours.pid, self.theirs.pid]
    }
}

impl<'a> Pace<'a> {
    pub fn new(terms: &'a Terms<'a>) -> Self {
        Self { terms, pair: None }
    }

    fn pair(&mut self) -> Result<&Pair, Trouble> {
        let terms = self.terms;
        let pair = self.pair.get_or_insert_with(|| Pair::start(terms));
        pair.as_ref().map_err(Clone::clone)
    }

    /// How long RabbitMQ took to start.
    pub fn rabbit_start(&mut self) -> Option<Duration> {
        Some(self.pair().ok()?.started)
    }

    pub fn run(&mut self, name: &'static str, verdicts: &mut Verdicts) {
        let terms = self.terms;
        let raced = self.pair().and_then(|pair| match name {
            "publish-100" => publishing(terms, pair, name, (256, 100), verdicts, AIM),
            "publish-1000" => publishing(terms, pair, name, (256, 1_000), verdicts, MUST),
            "publish-4x100" => several(terms, pair, name, (256, 100), verdicts),
            "small-100" => publishing(terms, pair, name, (16, 100), verdicts, AIM),
            "small-1000" => publishing(terms, pair, name, (16, 1_000), verdicts, MUST),
            "small-4x100" => several(terms, pair, name, (16, 100), verdicts),
            "consume-200" => consuming(terms, pair, name, 200, verdicts),
            "consume-1000" => consuming(terms, pair, name, 1_000, verdicts),
            _ => unreachable!("bug: no scenario is called {name}"),
        });
        if let Err(trouble) = raced {
            verdicts.must(
                None,
                Bound::AtLeast(0.0),
                &format!("× RabbitMQ ({name}), {trouble}"),
            );
        }
    }
}

/// One connection at a time.
fn publishing(
    terms: &Terms<'_>,
    pair: &Pair,
    queue: &'static str,
    size: (usize, usize),
    verdicts: &mut Verdicts,
    judge: Judge,
) -> Result<(), Trouble> {
    publishers::<Loop<true>, Loop<false>>(terms, pair, queue, size, verdicts, judge)
}

/// Several connections at a time, each with such a window.
fn several(
    terms: &Terms<'_>,
    pair: &Pair,
    queue: &'static str,
    size: (usize, usize),
    verdicts: &mut Verdicts,
) -> Result<(), Trouble> {
    publishers::<Loops<true>, Loops<false>>(terms, pair, queue, size, verdicts, MUST)
}

fn publishers<Careful: Publishing, Bare: Publishing>(
    terms: &Terms<'_>,
    pair: &Pair,
    queue: &'static str,
    (body, window): (usize, usize),
    verdicts: &mut Verdicts,
    judge: Judge,
) -> Result<(), Trouble> {
    let arena = terms.arena;
    let load = |url: &Arc<str>| Load {
        url: Arc::clone(url),
        exchange: "",
        queue,
        body,
        persistent: false,
        window,
    };
    for url in pair.urls() {
        let load = load(url);
        arena.run(async move {
            let courier = Courier::open(&load, Manner::Careful).await?;
            node::declare(courier.channel(), queue, false, Keeping::Newest).await
        })?;
    }
    let [ours, theirs] = pair.urls().map(load);
    let mut lanes = [
        publish::of::<Careful>(OURS, arena, ours.clone()),
        publish::of::<Careful>(THEIRS, arena, theirs.clone()),
        publish::of::<Bare>(OURS_BARE, arena, ours),
        publish::of::<Bare>(THEIRS_BARE, arena, theirs),
    ];
    let pids = pair.pids();
    let results = race(&mut lanes, &terms.race(pids.to_vec()), |at, lane| {
        lane.run(|publisher| publisher.burst(arena, pids[at % 2], SLICE))
    });
    let remarks = lanes.map(|lane| (lane.name, lane.remark()));
    print(&results, &remarks);
    for (ours, theirs) in [(OURS, THEIRS), (OURS_BARE, THEIRS_BARE)] {
        let ratio = results.ratio(ours, theirs, Burst::per_second);
        let of = format!("× {theirs} ({queue})");
        judge(verdicts, ratio.map(|ratio| ratio.median), PUBLISHING, &of);
    }
    Ok(())
}

fn consuming(
    terms: &Terms<'_>,
    pair: &Pair,
    queue: &'static str,
    prefetch: u16,
    verdicts: &mut Verdicts,
) -> Result<(), Trouble> {
    let arena = terms.arena;
    let filler = |url: &Arc<str>| {
        let url = Arc::clone(url);
        arena.run(async move { consume::filler(&url, queue).await })
    };
    let [ours, theirs] = pair.urls();
    let fillers = [filler(ours)?, filler(theirs)?];
    let supply = |url: &Arc<str>| Supply {
        url: Arc::clone(url),
        queue,
        prefetch,
        messages: MESSAGES,
    };
    let mut lanes = [
        consume::of::<Fifty>(OURS, arena, supply(ours)),
        consume::of::<Fifty>(THEIRS, arena, supply(theirs)),
        consume::of::<Half>(OURS_HALF, arena, supply(ours)),
        consume::of::<Half>(THEIRS_HALF, arena, supply(theirs)),
    ];
    let pids = pair.pids();
    let results = race(&mut lanes, &terms.race(pids.to_vec()), |at, lane| {
        lane.run(|consumer| consumer.drain(arena, pids[at % 2], &fillers[at % 2]))
    });
    let remarks = lanes.map(|lane| (lane.name, lane.remark()));
    print(&results, &remarks);
    for (ours, theirs) in [(OURS, THEIRS), (OURS_HALF, THEIRS_HALF)] {
        let ratio = results.ratio(ours, theirs, Burst::per_second);
        let of = format!("× {theirs} ({queue})");
        verdicts.must(ratio.map(|ratio| ratio.median), CONSUMING, &of);
    }
    Ok(())
}

fn print(results: &Results<Burst>, remarks: &[(&'static str, String)]) {
    let heads = ["", "messages/s", "client µs", "broker µs", "× RabbitMQ", ""];
    let mut table = Table::new(&heads);
    for (at, (name, remark)) in remarks.iter().enumerate() {
        let median = |figure: fn(&Burst) -> f64, digits: usize| {
            let spread = results.spread(name, figure);
            cell(spread.map(|spread| format!("{:.digits$}", spread.median)))
        };
        let theirs = remarks[at | 1].0;
        table.row(vec![
            (*name).into(),
            median(Burst::per_second, 0),
            median(Burst::client_micros, 1),
            median(Burst::broker_micros, 1),
            cell(results.ratio(name, theirs, Burst::per_second)),
            remark.clone(),
        ]);
    }
    table.print();
    results.print_rounds();
}
