//! A process that is killed at any moment has lost nothing that it accepted.
//!
//! The test starts this very program again as the process that accepts, delivers and prints both,
//! and kills it, over and over, on one file. `WHARF_OUTBOX_KILLS` says how often.

#![cfg(feature = "durable")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write, stdout},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use wharf_outbox::{Deliver, Delivery, Outbox, Outcome, Raw, journal::Disk};

const KILLS: usize = 60;
const STREAMS: u64 = 4;
const WINDOW: usize = 64;
const FILE: &str = "WHARF_OUTBOX_TEST_FILE";
const BEGIN: &str = "WHARF_OUTBOX_TEST_BEGIN";
const IS_DOWN: &str = "WHARF_OUTBOX_TEST_IS_DOWN";

/// What the processes said, in order: `a 3 17` is the acceptance of message 17 of stream 3, `d 3 17`
/// its delivery.
#[derive(Default)]
struct Account {
    accepted: BTreeSet<(u64, u64)>,
    delivered: BTreeSet<(u64, u64)>,
    /// Deliveries of what had been delivered before.
    copies: usize,
    /// The last message of each stream that was delivered for the first time.
    last: BTreeMap<u64, u64>,
}

impl Account {
    fn read(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let [what @ ("a" | "d"), stream, number] = words[..] else {
            // The test harness says something too.
            return false;
        };
        let message = (stream.parse().unwrap(), number.parse().unwrap());
        if what == "a" {
            self.accepted.insert(message);
        } else if self.delivered.insert(message) {
            let last = self.last.insert(message.0, message.1);
            assert!(
                last.is_none_or(|last| last < message.1),
                "{message:?} was delivered first after {last:?}"
            );
        } else {
            self.copies += 1;
        }
        true
    }
}

#[test]
fn killed_at_any_moment_nothing_accepted_is_lost_and_the_order_is_kept() {
    let kills = env::var("WHARF_OUTBOX_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outbox");
    let mut account = Account::default();
    let mut killed_at_work = 0;
    for round in 0..kills {
        let heard = account.accepted.len();
        let mut child = Process::start(&file, round);
        match round % 4 {
            3 => child.live_for_milliseconds(),
            _ => child.live_until_it_has_accepted(&mut account),
        }
        child.0.kill().unwrap();
        child.hear_the_rest(&mut account);
        child.0.wait().unwrap();
        killed_at_work += usize::from(account.accepted.len() > heard);
    }
    assert!(
        killed_at_work > kills / 2,
        "only {killed_at_work} of {kills}"
    );

    let sink = Sink(Arc::default());
    let left = drain(&file, &sink);
    for (stream, number) in sink.0.lock().unwrap().iter() {
        account.read(&format!("d {stream} {number}"));
    }
    let lost: Vec<_> = account.accepted.difference(&account.delivered).collect();
    let (accepted, delivered) = (account.accepted.len(), account.delivered.len());
    let copies = account.copies;
    println!(
        "{kills} kills: {accepted} accepted, {delivered} delivered, {copies} of them again, {left} at the end"
    );
    // What was delivered and not removed yet: a commit, and what came during it.
    assert!(
        copies <= kills * 2 * WINDOW,
        "{copies} copies: what is delivered is not removed"
    );
    assert!(
        lost.is_empty(),
        "{} of {accepted} lost: {lost:?}",
        lost.len()
    );
}

struct Process(Child, BufReader<std::process::ChildStdout>);

impl Process {
    fn start(file: &Path, round: usize) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "the_process_that_is_killed", "--nocapture"])
            .env(FILE, file)
            .env(BEGIN, (round as u64 * 1_000_000).to_string())
            .env(IS_DOWN, (round % 3 == 1).to_string())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    /// In which it may not have come to a line.
    fn live_for_milliseconds(&self) {
        // real time: it is another process.
        thread::sleep(Duration::from_millis(fastrand::u64(..100)));
    }

    /// Until so many lines have been heard, an acceptance among them: what its predecessors have left
    /// is delivered while the first commit takes its time.
    fn live_until_it_has_accepted(&mut self, account: &mut Account) {
        let before = account.accepted.len();
        let mut left = fastrand::usize(1..300);
        while left > 0 || account.accepted.len() == before {
            let mut line = String::new();
            let length = self.1.read_line(&mut line).unwrap();
            assert_ne!(length, 0, "it ended by itself");
            left = left.saturating_sub(usize::from(account.read(line.trim_end())));
        }
        // real time: it is another process.
        thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
    }

    fn hear_the_rest(&mut self, account: &mut Account) {
        let mut line = String::new();
        // A line without an end was not said.
        while self.1.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            account.read(line.trim_end());
            line.clear();
        }
    }
}

fn drain(file: &Path, sink: &Sink) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let disk = Disk::open(file).unwrap();
        let outbox = Outbox::builder(sink.clone())
            .journal(disk, Raw)
            .build()
            .unwrap();
        let found = outbox.status().depth;
        let flushed = tokio::time::timeout(Duration::from_secs(60), outbox.flush());
        flushed.await.expect("not within a minute").unwrap();
        let totals = outbox.status().totals;
        assert_eq!((totals.set_aside, totals.missing), (0, 0));
        outbox.close().await;
        found
    })
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<(u64, u64)>>>);

impl Deliver<String> for Sink {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, delivery: Delivery<'_, String>) -> Outcome<(), ()> {
        let (stream, number) = delivery.message.split_once(' ').unwrap();
        let message = (stream.parse().unwrap(), number.parse().unwrap());
        self.0.lock().unwrap().push(message);
        Outcome::Delivered(())
    }
}

/// Not a test by itself: it does nothing unless it is started by the one above.
#[test]
fn the_process_that_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let begin: u64 = env::var(BEGIN).unwrap().parse().unwrap();
    let is_down: bool = env::var(IS_DOWN).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let disk = Disk::open(file).unwrap();
        let printer = Printer { is_down };
        let builder = Outbox::builder(printer).journal(disk, Raw).window(WINDOW);
        let builder = builder.max_messages(1 << 20);
        let outbox = builder.group_commit(16, Duration::from_millis(1)).build();
        let outbox = outbox.unwrap();
        let mut streams = Vec::new();
        for stream in 0..STREAMS {
            let outbox = outbox.clone();
            streams.push(tokio::spawn(async move {
                for number in begin.. {
                    outbox.post(format!("{stream} {number}")).await.unwrap();
                    say(&format!("a {stream} {number}\n"));
                }
            }));
        }
        for stream in streams {
            stream.await.unwrap();
        }
    });
}

/// In one write, so that it is said whole or, by the end of the file, not at all.
fn say(line: &str) {
    let mut out = stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

struct Printer {
    is_down: bool,
}

impl Deliver<String> for Printer {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, delivery: Delivery<'_, String>) -> Outcome<(), ()> {
        if self.is_down {
            return Outcome::unknown("down");
        }
        say(&format!("d {}\n", delivery.message));
        Outcome::Delivered(())
    }
}
