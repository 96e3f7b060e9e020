//! What it takes for the broker to be there: the time of a start, and the memory of connections.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use wharf_amqp_compare::embedded::Embedded;
use wharf_amqp_compare::node::{Keeping, connect, declare};
use wharf_amqp_compare::publish::{Courier, Load, Manner};
use wharf_broker::Broker;
use wharf_race::lane::Trouble;
use wharf_race::spread::Spread;
use wharf_race::verdict::{Bound, Verdicts};

use super::Terms;

const STARTS: usize = 100;
const CONNECTIONS: usize = 1_000;
const KIB: f64 = 1024.0;

/// From the call that starts it to the end of the first client's handshake.
pub fn start(terms: &Terms<'_>, rabbit: Option<Duration>, verdicts: &mut Verdicts) {
    let started = (0..STARTS).map(|_| terms.arena.run(started()));
    let spread = match started.collect::<Result<Vec<_>, _>>() {
        Ok(times) => Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3).collect()),
        Err(trouble) => {
            println!("  {trouble}");
            None
        }
    };
    if let Some(spread) = spread {
        println!("  ms to the first connection: {spread}, {STARTS} starts");
        if let Some(rabbit) = rabbit {
            let rabbit = rabbit.as_secs_f64() * 1e3;
            println!(
                "  RabbitMQ: {rabbit:.0} ms, {:.0} ×",
                rabbit / spread.median
            );
        }
    }
    let median = spread.map(|spread| spread.median);
    verdicts.must(median, Bound::AtMost(10.0), "ms to the first connection");
}

async fn started() -> Result<Duration, Trouble> {
    let since = Instant::now();
    let broker = Broker::builder().start().await.map_err(Trouble::of)?;
    let connection = connect(&broker.url("guest", "guest")).await?;
    let elapsed = since.elapsed();
    connection
        .close(200, "OK".into())
        .await
        .map_err(Trouble::of)?;
    Ok(elapsed)
}

/// Many connections at once, each with a channel: all are served, and cost little when idle.
pub fn connections(terms: &Terms<'_>, verdicts: &mut Verdicts) {
    match measured(terms) {
        Ok(crowd) => {
            println!(
                "  {CONNECTIONS} connections with a channel each in {:.2} s; one idle holds {:.1} \
                 KiB of heap, {:.1} KiB resident",
                crowd.elapsed.as_secs_f64(),
                crowd.heap,
                crowd.resident
            );
            let most = Bound::AtMost(64.0);
            verdicts.must(Some(crowd.heap), most, "KiB of heap for an idle connection");
            verdicts.must(
                Some(crowd.resident),
                most,
                "KiB resident for an idle connection",
            );
            let all = Bound::AtLeast(CONNECTIONS as f64);
            let confirmed = crowd.confirmed as f64;
            verdicts.must(Some(confirmed), all, "connections have a message confirmed");
        }
        Err(trouble) => {
            println!("  {trouble}");
            verdicts.must(None, Bound::AtMost(64.0), "KiB for an idle connection");
        }
    }
}

struct Measured {
    elapsed: Duration,
    /// KiB for each connection.
    heap: f64,
    resident: f64,
    /// By how many connections.
    confirmed: u64,
}

fn measured(terms: &Terms<'_>) -> Result<Measured, Trouble> {
    let mut broker = Embedded::start_counted()?;
    let load = Load {
        url: broker.url.clone(),
        exchange: "",
        queue: "crowd",
        body: 16,
        persistent: false,
        window: 1,
    };
    let first = load.clone();
    let _first = terms.arena.run(async move {
        let courier = Courier::open(&first, Manner::Careful).await?;
        declare(courier.channel(), "crowd", false, Keeping::Newest).await?;
        Ok(courier)
    })?;
    let before = broker.held()?;
    let since = Instant::now();
    let crowd = terms.arena.run(async move {
        let crowd = (0..CONNECTIONS).map(|_| Courier::open(&load, Manner::Careful));
        try_join_all(crowd).await
    })?;
    let elapsed = since.elapsed();
    let idle = broker.held()?;
    let each = |before: i64, now: i64| (now - before) as f64 / CONNECTIONS as f64 / KIB;
    let confirmed = terms.arena.run(async move {
        let verdicts = try_join_all(crowd.iter().map(Courier::publish)).await?;
        Ok(verdicts.iter().sum())
    })?;
    Ok(Measured {
        elapsed,
        heap: each(before.heap, idle.heap),
        resident: each(before.resident, idle.resident),
        confirmed,
    })
}
