//! What an outbox exports through the `metrics` facade.

#![cfg(feature = "metrics")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use common::{
    Mode, Target,
    book::{self, Book, Digits},
    within,
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    atomics::AtomicU64,
};
use wharf_outbox::{Envelope, Policy};

/// The last value of each metric, by its name and the labels besides `outbox`.
#[derive(Default)]
struct Board(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Board {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let mut name = key.name().to_owned();
        let mut outbox = None;
        for label in key.labels() {
            match label.key() {
                "outbox" => outbox = Some(label.value().to_owned()),
                _ => name = format!("{name} {}", label.value()),
            }
        }
        assert_eq!(outbox.as_deref(), Some("mail"), "{name}");
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn bits(&self, name: &str) -> u64 {
        let board = self.0.lock().unwrap();
        let cell = board
            .get(name)
            .unwrap_or_else(|| panic!("there is no {name}"));
        cell.load(Ordering::Relaxed)
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.bits(name))
    }
}

impl Recorder for Board {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn metrics_are_never_older_than_a_second_while_there_is_something_to_do() {
    let board = Board::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&board, || {
        runtime.block_on(async {
            let target = Target::new(Mode::Held);
            let outbox = target.outbox().name("mail").max_messages(3);
            let outbox = outbox.weigh(|_| 10).policy(Policy::Reject).build().unwrap();
            for message in 0..4 {
                let _ = outbox.post(message).await;
            }
            tokio::time::sleep(Duration::from_millis(20_500)).await;
            assert_eq!(board.gauge("wharf_outbox_depth"), 3.0);
            assert_eq!(board.gauge("wharf_outbox_bytes"), 30.0);
            assert_eq!(board.gauge("wharf_outbox_in_flight"), 1.0);
            let age = board.gauge("wharf_outbox_age_seconds");
            assert!((19.4..=20.5).contains(&age), "{age}");
            assert_eq!(board.bits("wharf_outbox_accepted_total"), 3);
            assert_eq!(board.bits("wharf_outbox_outcomes_total refused"), 1);

            target.set(Mode::Up);
            within("flush", outbox.flush()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(board.gauge("wharf_outbox_depth"), 0.0);
            assert_eq!(board.bits("wharf_outbox_outcomes_total delivered"), 3);
        });
    });
}

#[test]
fn every_count_of_an_outbox_with_a_journal_is_exported_in_the_end() {
    let board = Board::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let history = async {
        let (target, book) = (Target::new(Mode::Held), Book::default());
        let build = || {
            let builder = target.outbox().name("mail").journal(book.clone(), Digits);
            let builder = builder.max_messages(9).window(4).policy(Policy::Reject);
            builder.group_commit(8, Duration::ZERO).build().unwrap()
        };
        // It leaves a message and counts no failure: the board shows the higher of two outboxes' counts.
        let first = build();
        first.post(0).await.unwrap();
        let _ = first.close_within(Duration::ZERO).await;

        target.set(Mode::Panics);
        let outbox = build();
        book::until("a panic", || outbox.status().totals.panics > 0).await;
        target.set(Mode::Held);
        // One is too high for the destination, one cannot be read, one expires, one is on a stain.
        let short = Envelope::new(2).ttl(Duration::ZERO);
        outbox.post(short).await.unwrap();
        book::until("its end", || outbox.status().totals.expired > 0).await;
        for message in [1, 1000, 3, 5, 6, 7, 8, 4] {
            outbox.post(message).await.unwrap();
        }
        assert!(outbox.post(9).await.is_err(), "it is full");
        target.set(Mode::Up);
        // The last.
        let last = book.pages().next - 1;
        book.pages().damaged = last..last + 1;
        book::until("room", || outbox.status().depth < 8).await;
        book.pages().fails = true;
        assert!(outbox.post(9).await.is_err(), "it is not stored");
        book.pages().fails = false;
        book::within("the end", outbox.close()).await;
        outbox.status().totals
    };
    let totals = metrics::with_local_recorder(&board, || runtime.block_on(history));
    let outcome = |outcome| format!("wharf_outbox_outcomes_total {outcome}");
    for (name, count) in [
        ("wharf_outbox_accepted_total".to_owned(), totals.accepted),
        ("wharf_outbox_found_total".to_owned(), totals.found),
        (outcome("delivered"), totals.delivered),
        (outcome("rejected"), totals.rejected),
        (outcome("refused"), totals.refused),
        (outcome("not_stored"), totals.not_stored),
        (outcome("expired"), totals.expired),
        (outcome("set_aside"), totals.set_aside),
        (outcome("missing"), totals.missing),
        ("wharf_outbox_unknown_total".to_owned(), totals.unknown),
        ("wharf_outbox_panics_total".to_owned(), totals.panics),
        ("wharf_outbox_outages_total".to_owned(), totals.outages),
        ("wharf_outbox_commits_total".to_owned(), totals.commits),
        (
            "wharf_outbox_failed_commits_total".to_owned(),
            totals.failed_commits,
        ),
        (
            "wharf_outbox_failed_reads_total".to_owned(),
            totals.failed_reads,
        ),
    ] {
        assert_eq!(board.bits(&name), count, "{name}");
        assert!(count > 0, "{name} is not put to the test");
    }
    let resolved = totals.delivered + totals.rejected + totals.expired;
    let lost = totals.set_aside + totals.missing;
    assert_eq!(totals.accepted + totals.found, resolved + lost);
    assert_eq!(board.gauge("wharf_outbox_depth"), 0.0);
}
