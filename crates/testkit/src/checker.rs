//! The total-queue checker: what was sent against what came out.
//!
//! The model is the checker of the Jepsen test of RabbitMQ: a history is valid when everything
//! that was confirmed was received, and nothing was received that was never sent. Duplicates and
//! messages of unknown fate are counted, and are no fault by themselves.
//!
//! ```
//! use wharf_testkit::checker::Checker;
//!
//! let checker = Checker::default();
//! checker.sent(1);
//! checker.confirmed(1);
//! checker.sent(2);
//! checker.unknown(2);
//! checker.received(1);
//!
//! let verdict = checker.verdict();
//! verdict.assert_valid();
//! assert_eq!(verdict.unknown, 1);
//! ```

use std::collections::HashMap;
use std::fmt::{self, Display};

use parking_lot::Mutex;

/// Collects, from any number of threads, what happened to messages known by a number.
///
/// A message costs two bytes when the numbers lie close together. Ranges may lie far apart: give
/// each of several senders a range of its own.
#[derive(Debug, Default)]
pub struct Checker {
    /// Held for one look-up and one increment, never across anything that waits.
    pages: Mutex<HashMap<u64, Box<Page>>>,
}

const PAGE: u64 = 1024;

type Page = [Record; PAGE as usize];

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// What was told of the message: bits of [`flag`].
    told: u8,
    /// How often it was received; stays at its maximum.
    received: u8,
}

mod flag {
    pub(super) const SENT: u8 = 1;
    pub(super) const CONFIRMED: u8 = 1 << 1;
    pub(super) const REJECTED: u8 = 1 << 2;
    pub(super) const RETURNED: u8 = 1 << 3;
    pub(super) const UNKNOWN: u8 = 1 << 4;
    /// A second final outcome was told, the same or another.
    pub(super) const AGAIN: u8 = 1 << 5;

    pub(super) const FINAL: u8 = CONFIRMED | REJECTED | RETURNED;
}

impl Checker {
    /// The message was handed to the client. Sending it again under the same number is no fault.
    pub fn sent(&self, id: u64) {
        self.with(id, |record| record.told |= flag::SENT);
    }

    /// The broker took responsibility for the message.
    pub fn confirmed(&self, id: u64) {
        self.outcome(id, flag::CONFIRMED);
    }

    /// The broker refused the message.
    pub fn rejected(&self, id: u64) {
        self.outcome(id, flag::REJECTED);
    }

    /// The broker found no queue for the message.
    pub fn returned(&self, id: u64) {
        self.outcome(id, flag::RETURNED);
    }

    /// Nobody can say what became of the message. Another outcome may follow.
    pub fn unknown(&self, id: u64) {
        self.with(id, |record| record.told |= flag::UNKNOWN);
    }

    /// A consumer got the message.
    pub fn received(&self, id: u64) {
        self.with(id, |record| {
            record.received = record.received.saturating_add(1);
        });
    }

    /// What all of it comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let pages = self.pages.lock();
        let mut numbers: Vec<u64> = pages.keys().copied().collect();
        numbers.sort_unstable();
        let mut verdict = Verdict::default();
        for number in numbers {
            for (id, &record) in (number * PAGE..).zip(pages[&number].iter()) {
                verdict.add(id, record);
            }
        }
        verdict
    }

    fn outcome(&self, id: u64, outcome: u8) {
        self.with(id, |record| {
            if record.told & flag::FINAL != 0 {
                record.told |= flag::AGAIN;
            }
            record.told |= outcome;
        });
    }

    fn with(&self, id: u64, change: impl FnOnce(&mut Record)) {
        let mut pages = self.pages.lock();
        let page = pages
            .entry(id / PAGE)
            .or_insert_with(|| Box::new([Record::default(); PAGE as usize]));
        let place = usize::try_from(id % PAGE).expect("bug: a place in a page is small");
        change(&mut page[place]);
    }
}

/// What became of the messages. Lists hold numbers in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages sent.
    pub sent: u64,
    /// Messages reported as confirmed.
    pub confirmed: u64,
    /// Messages reported as rejected.
    pub rejected: u64,
    /// Messages reported as returned.
    pub returned: u64,
    /// Messages reported as unknown and as nothing else: indeterminate.
    pub unknown: u64,
    /// Of those, the ones that were received.
    pub unknown_received: u64,
    /// Messages received, each counted once.
    pub received: u64,
    /// Deliveries beyond the first of a message.
    pub duplicates: u64,
    /// Confirmed and not received. Must be empty once everything has been consumed.
    pub lost: Vec<u64>,
    /// Received although never sent. Must be empty.
    pub never_sent: Vec<u64>,
    /// Reported although never sent. Must be empty.
    pub reported_unsent: Vec<u64>,
    /// Sent, and nothing reported: no confirmation, no refusal, not even that the fate is unknown.
    pub unresolved: Vec<u64>,
    /// Reported with more than one final outcome (confirmed, rejected, returned), be it the same
    /// twice. That is right only where a message was sent anew after it had been rejected.
    pub reported_twice: Vec<u64>,
    /// Reported as rejected and as nothing else, and received all the same.
    pub rejected_received: Vec<u64>,
    /// Reported as returned and as nothing else, and received all the same.
    pub returned_received: Vec<u64>,
}

impl Verdict {
    /// Whether nothing was lost and nothing came from nowhere.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lost.is_empty() && self.never_sent.is_empty() && self.reported_unsent.is_empty()
    }

    /// Asserts that nothing was lost and nothing came from nowhere.
    ///
    /// # Panics
    ///
    /// With all counts and the first culprits, when it is not so.
    #[track_caller]
    pub fn assert_valid(&self) {
        assert!(self.is_valid(), "the history is not valid: {self}");
    }

    /// Asserts, beyond [`Self::assert_valid`], that each message sent was reported exactly once.
    ///
    /// # Panics
    ///
    /// With all counts and the first culprits, when it is not so.
    #[track_caller]
    pub fn assert_all_resolved_once(&self) {
        self.assert_valid();
        let once = self.unresolved.is_empty() && self.reported_twice.is_empty();
        assert!(once, "not every message was reported once: {self}");
    }

    /// Asserts, beyond [`Self::assert_all_resolved_once`], that no report was contradicted: what
    /// was rejected or returned did not arrive.
    ///
    /// # Panics
    ///
    /// With all counts and the first culprits, when it is not so.
    #[track_caller]
    pub fn assert_exact(&self) {
        self.assert_all_resolved_once();
        let exact = self.rejected_received.is_empty() && self.returned_received.is_empty();
        assert!(exact, "a report was wrong: {self}");
    }

    fn add(&mut self, id: u64, record: Record) {
        let told = |bit| record.told & bit != 0;
        let (sent, received) = (told(flag::SENT), record.received > 0);
        let only = |bit| record.told & (flag::FINAL | flag::UNKNOWN) == bit;

        self.sent += u64::from(sent);
        self.confirmed += u64::from(told(flag::CONFIRMED));
        self.rejected += u64::from(told(flag::REJECTED));
        self.returned += u64::from(told(flag::RETURNED));
        self.unknown += u64::from(only(flag::UNKNOWN));
        self.unknown_received += u64::from(only(flag::UNKNOWN) && received);
        self.received += u64::from(received);
        self.duplicates += u64::from(record.received.saturating_sub(1));

        for (list, holds) in [
            (&mut self.lost, told(flag::CONFIRMED) && !received),
            (&mut self.never_sent, received && !sent),
            (&mut self.reported_unsent, !only(0) && !sent),
            (&mut self.unresolved, sent && only(0)),
            (&mut self.reported_twice, told(flag::AGAIN)),
            (
                &mut self.rejected_received,
                only(flag::REJECTED) && received,
            ),
            (
                &mut self.returned_received,
                only(flag::RETURNED) && received,
            ),
        ] {
            if holds {
                list.push(id);
            }
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} confirmed, {} rejected, {} returned, {} unknown ({} of them received), \
             {} received, {} duplicates",
            self.sent,
            self.confirmed,
            self.rejected,
            self.returned,
            self.unknown,
            self.unknown_received,
            self.received,
            self.duplicates,
        )?;
        for (name, list) in [
            ("LOST", &self.lost),
            ("NEVER SENT", &self.never_sent),
            ("reported but never sent", &self.reported_unsent),
            ("unresolved", &self.unresolved),
            ("reported twice", &self.reported_twice),
            ("rejected but received", &self.rejected_received),
            ("returned but received", &self.returned_received),
        ] {
            if !list.is_empty() {
                write!(f, "; {name}: {}", excerpt(list))?;
            }
        }
        Ok(())
    }
}

/// How many, and the first of them.
fn excerpt(list: &[u64]) -> String {
    const SHOWN: usize = 10;
    let first: Vec<String> = list.iter().take(SHOWN).map(u64::to_string).collect();
    let more = if list.len() > SHOWN { ", …" } else { "" };
    format!("{} ({}{more})", list.len(), first.join(", "))
}
