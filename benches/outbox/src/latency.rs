//! How long senders wait until their messages are accepted, while there are many of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_outbox::Outbox;
use wharf_race::lane::Trouble;
use wharf_race::runtime::Arena;
use wharf_race::spread::quantile;
use wharf_race::table::Table;

use crate::{BODY, Sink, stored};

const SENDERS: usize = 64;
const EACH: usize = 1000;
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];
/// The upper ends of the histogram's buckets, in microseconds.
const BUCKETS: [u64; 16] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
];

pub(crate) fn run() {
    println!("latency: {SENDERS} senders, {EACH} messages each, from call to acceptance");
    let arena = Arena::two_workers();
    let mut table = Table::new(&["", "p50", "p90", "p99", "p99.9", "max"]);
    let mut histogram = Vec::new();
    for (name, is_stored) in [("in memory", false), ("in the journal", true)] {
        let mut row = vec![name.to_owned()];
        match arena.run(measure(is_stored)) {
            Ok(waits) => {
                row.extend(QUANTILES.iter().map(|share| {
                    let wait = quantile(&waits, *share).unwrap_or_default();
                    format!("{wait:.1?}")
                }));
                histogram.push((name, counts(&waits)));
            }
            Err(trouble) => row.push(trouble.to_string()),
        }
        table.row(row);
    }
    table.print();
    print(&histogram);
}

/// How many waits end in each bucket; the last is of those that are longer than all.
fn counts(sorted: &[Duration]) -> Vec<usize> {
    let up_to = |micros: &u64| {
        let end = Duration::from_micros(*micros);
        sorted.partition_point(|wait| *wait <= end)
    };
    let mut ends: Vec<usize> = BUCKETS.iter().map(up_to).collect();
    ends.push(sorted.len());
    let begins = std::iter::once(0).chain(ends.iter().copied());
    ends.iter()
        .zip(begins)
        .map(|(end, begin)| end - begin)
        .collect()
}

fn print(histogram: &[(&str, Vec<usize>)]) {
    let mut heads = vec!["wait"];
    heads.extend(histogram.iter().map(|(name, _)| *name));
    let mut table = Table::new(&heads);
    for place in 0..=BUCKETS.len() {
        let bucket = match BUCKETS.get(place) {
            Some(end) => format!("up to {:?}", Duration::from_micros(*end)),
            None => "longer".to_owned(),
        };
        let counts = histogram
            .iter()
            .map(|(_, counts)| counts[place].to_string());
        table.row(std::iter::once(bucket).chain(counts).collect());
    }
    table.print();
}

/// All waits, sorted.
async fn measure(is_stored: bool) -> Result<Vec<Duration>, Trouble> {
    let folder = tempfile::tempdir().map_err(Trouble::of)?;
    let outbox = match is_stored {
        true => stored::open(&folder.path().join("outbox"), true)?,
        false => Outbox::builder(Sink { is_up: true })
            .build()
            .map_err(Trouble::of)?,
    };
    let body: Arc<[u8]> = vec![0; BODY].into();
    let tasks = (0..SENDERS).map(|_| {
        let (outbox, body) = (outbox.clone(), Arc::clone(&body));
        tokio::spawn(async move {
            let mut waits = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                let since = Instant::now();
                let posted = outbox.post(Arc::clone(&body)).await;
                posted.map_err(Trouble::of)?;
                waits.push(since.elapsed());
                tokio::task::yield_now().await;
            }
            Ok::<_, Trouble>(waits)
        })
    });
    let mut waits = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        waits.extend(task.await.map_err(Trouble::of)??);
    }
    outbox.close().await;
    waits.sort_unstable();
    Ok(waits)
}
