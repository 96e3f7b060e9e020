//! What was published, what was reported of it, and what came.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use wharf_amqp::{Message, PublishError, Receipt, consumer::Delivery};
use wharf_testkit::checker::Checker;

/// The queue that is published to and consumed from.
pub(crate) const QUEUE: &str = "work";

/// A queue that has one message, and takes no other.
pub(crate) const FULL: &str = "full";

/// The books of a run.
pub(crate) struct Ledger {
    pub(crate) checker: Checker,
    began: Instant,
    next: AtomicU64,
    pub(crate) confirmed: AtomicU64,
    pub(crate) consumed: AtomicU64,
    /// Bodies that are not what was published.
    pub(crate) spoilt: AtomicU64,
    /// Verdicts that nothing explains.
    pub(crate) wrong: AtomicU64,
    /// Of the last confirmation, in microseconds since the beginning.
    last_confirm: AtomicU64,
    longest_gap: AtomicU64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            checker: Checker::default(),
            began: Instant::now(),
            next: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            spoilt: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            last_confirm: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
        }
    }

    /// A message with a number, and a body that tells whether it is whole.
    pub(crate) fn message(&self) -> (u64, Message) {
        let id = self.next.fetch_add(1, Relaxed);
        self.checker.sent(id);
        (id, Message::new(body(id)).to("", QUEUE).persistent())
    }

    pub(crate) fn tell(&self, id: u64, outcome: &Result<Receipt, PublishError>) {
        match outcome {
            Ok(Receipt::Confirmed { .. }) => {
                self.checker.confirmed(id);
                self.confirm();
            }
            Ok(Receipt::Unknown { .. }) => self.checker.unknown(id),
            // Nothing refuses what goes to this queue.
            Ok(_) => {
                self.checker.rejected(id);
                self.wrong(&format!("message {id}: {outcome:?}"));
            }
            // An error is the promise that no queue has it.
            Err(_) => self.checker.rejected(id),
        }
    }

    /// Its caller did not wait for its verdict.
    pub(crate) fn left(&self, id: u64) {
        self.checker.unknown(id);
    }

    pub(crate) fn wrong(&self, what: &str) {
        if self.wrong.fetch_add(1, Relaxed) < 20 {
            println!("    WRONG: {what}");
        }
    }

    pub(crate) fn received(&self, delivery: &Delivery) {
        match read(&delivery.data) {
            Some(id) => self.checker.received(id),
            None => {
                self.spoilt.fetch_add(1, Relaxed);
            }
        }
        self.consumed.fetch_add(1, Relaxed);
    }

    /// Begins to look for the longest time without a confirmation.
    pub(crate) fn watch_gaps(&self) {
        self.last_confirm.store(self.now(), Relaxed);
        self.longest_gap.store(0, Relaxed);
    }

    /// The longest time without a confirmation since, up to now.
    pub(crate) fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.longest_gap.load(Relaxed))
    }

    /// Bytes that the checker grows by as messages come.
    pub(crate) fn weight(&self) -> u64 {
        2 * self.next.load(Relaxed)
    }

    fn confirm(&self) {
        self.confirmed.fetch_add(1, Relaxed);
        let now = self.now();
        let last = self.last_confirm.swap(now, Relaxed);
        self.longest_gap
            .fetch_max(now.saturating_sub(last), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a run is shorter than that")
    }
}

/// The number, and so many bytes made of it.
fn body(id: u64) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.resize(8 + filling(id), filler(id));
    body
}

fn read(body: &[u8]) -> Option<u64> {
    let (number, filling_read) = body.split_first_chunk::<8>()?;
    let id = u64::from_be_bytes(*number);
    let is_whole =
        filling_read.len() == filling(id) && filling_read.iter().all(|byte| *byte == filler(id));
    is_whole.then_some(id)
}

/// Most are small, some take several frames.
fn filling(id: u64) -> usize {
    match id % 500 {
        0 => 60_000,
        rest => usize::try_from(rest).expect("it is small"),
    }
}

fn filler(id: u64) -> u8 {
    u8::try_from(id % 251).expect("it is small")
}
