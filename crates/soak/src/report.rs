//! What is printed, and whether it went well.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    time::Duration,
};

use crate::{deck::Fault, episode::Episode, gauge::Gauge};

/// The worst and the sums of all episodes of a kind.
#[derive(Default)]
struct Row {
    times: u64,
    gap: Duration,
    reconnects: [u64; 2],
    republished: u64,
    unknown: u64,
    failed: u64,
}

pub(crate) struct Report {
    seed: u64,
    rows: BTreeMap<String, Row>,
    gauges: Vec<Gauge>,
    problems: Vec<String>,
}

/// What may be more in the last third than in the first: buffers have grown to their size by then.
const MORE_LIVE: f64 = 2e6;
const MORE_RSS: f64 = 24e6;
const MORE_THREADS: f64 = 2.0;

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            rows: BTreeMap::new(),
            gauges: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, at: Duration, fault: &Fault, episode: Episode, gauge: Gauge) {
        println!(
            "{:>5.0} s  {:<44} {:>5.1} s, gap {:>5.1} s, settled in {:>4.1} s, reconnects {}+{}, confirmed {:>5}, \
             republished {:>5}, unknown {}, failed {}; holds {} B, {} channels",
            at.as_secs_f64(),
            fault.to_string(),
            episode.took.as_secs_f64(),
            episode.gap.as_secs_f64(),
            episode.settled.as_secs_f64(),
            episode.reconnects[0],
            episode.reconnects[1],
            episode.confirmed,
            episode.republished,
            episode.unknown,
            episode.failed,
            gauge.live,
            gauge.channels,
        );
        if !gauge.is_sane() {
            self.problem(format!(
                "broker and client disagree on what there is: {gauge:?}"
            ));
        }
        self.gauges.push(gauge);
        let row = self.rows.entry(fault.kind()).or_default();
        row.times += 1;
        row.gap = row.gap.max(episode.gap);
        for (sum, more) in row.reconnects.iter_mut().zip(episode.reconnects) {
            *sum += more;
        }
        row.republished += episode.republished;
        row.unknown += episode.unknown;
        row.failed += episode.failed;
    }

    /// The reading after the last episode.
    pub(crate) fn measure_last(&mut self, gauge: Gauge) {
        if !gauge.agrees() {
            self.problem(format!("the client knows channels that are not: {gauge:?}"));
        }
    }

    pub(crate) fn problem(&mut self, what: String) {
        println!("    WRONG: {what}");
        self.problems.push(what);
    }

    pub(crate) fn is_well(&self) -> bool {
        self.problems.is_empty()
    }

    /// Holds the last third of the readings against the first.
    pub(crate) fn judge(&mut self) {
        for (what, reading, more) in READINGS {
            let (first, last) = (self.third(0, reading), self.third(2, reading));
            if more.is_some_and(|more| last > first + more) {
                self.problem(format!("{what} grow: {first:.0}, and {last:.0} in the end"));
            }
        }
    }

    /// The middle of a third of the readings.
    fn third(&self, which: usize, reading: fn(&Gauge) -> f64) -> f64 {
        let length = self.gauges.len().div_ceil(3);
        let from = (which * length).min(self.gauges.len().saturating_sub(length));
        let mut third: Vec<f64> = self.gauges[from..]
            .iter()
            .take(length)
            .map(reading)
            .collect();
        third.sort_by(f64::total_cmp);
        third.get(third.len() / 2).copied().unwrap_or(0.0)
    }
}

/// A name, what it is, and how much more it may be in the end.
type Reading = (&'static str, fn(&Gauge) -> f64, Option<f64>);

const READINGS: [Reading; 5] = [
    ("threads", |gauge| gauge.threads as f64, Some(MORE_THREADS)),
    ("live bytes", |gauge| gauge.live as f64, Some(MORE_LIVE)),
    ("resident bytes", |gauge| gauge.rss as f64, Some(MORE_RSS)),
    ("connections", |gauge| gauge.connections as f64, Some(0.0)),
    // How many there are depends on how many publish at once; that both sides know the same ones
    // is looked at each time.
    ("channels", |gauge| gauge.channels as f64, None),
];

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<24} {:>5} {:>9} {:>11} {:>12} {:>8} {:>7}",
            "fault", "times", "worst gap", "reconnects", "republished", "unknown", "failed"
        )?;
        for (kind, row) in &self.rows {
            writeln!(
                f,
                "{kind:<24} {:>5} {:>7.1} s {:>11} {:>12} {:>8} {:>7}",
                row.times,
                row.gap.as_secs_f64(),
                format!("{}+{}", row.reconnects[0], row.reconnects[1]),
                row.republished,
                row.unknown,
                row.failed,
            )?;
        }
        writeln!(
            f,
            "\n{:<24} {:>12} {:>12} {:>12}",
            "at quiet moments", "first third", "second", "last"
        )?;
        for (what, reading, _) in READINGS {
            let [first, second, last] = [0, 1, 2].map(|which| self.third(which, reading));
            writeln!(f, "{what:<24} {first:>12.0} {second:>12.0} {last:>12.0}")?;
        }
        let Self { seed, problems, .. } = self;
        if problems.is_empty() {
            return writeln!(f, "\nsoak, seed {seed}: all is well");
        }
        for problem in problems {
            writeln!(f, "WRONG: {problem}")?;
        }
        writeln!(f, "\nsoak, seed {seed}: {} WRONG", problems.len())
    }
}
