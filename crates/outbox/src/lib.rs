//! Messages that are accepted while their destination is away, and delivered in order when it is
//! back: a bounded queue with a drain, in memory or in a file.
//!
//! You write a [`Deliver`], which knows how to bring a message to its destination and what the
//! destination says. An [`Outbox`] decides when that is done, and again if there was no answer.
//! [`Outbox::enqueue`] gives a [`Ticket`], which says what became of the message.
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use wharf_outbox::{Deliver, Delivery, Outbox, Outcome};
//!
//! /// Is away for the first two attempts.
//! #[derive(Default)]
//! struct Flaky(AtomicU32);
//!
//! impl Deliver<String> for Flaky {
//!     type Receipt = usize;
//!     type Rejection = &'static str;
//!
//!     async fn deliver(&self, delivery: Delivery<'_, String>) -> Outcome<usize, &'static str> {
//!         if self.0.fetch_add(1, Ordering::Relaxed) < 2 {
//!             return Outcome::unknown("nobody there"); // Tried again, under the same id.
//!         }
//!         match delivery.message.len() {
//!             0 => Outcome::Rejected("empty"), // Not tried again.
//!             length => Outcome::Delivered(length),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let outbox = Outbox::builder(Flaky::default())
//!     .max_messages(10_000)
//!     .max_bytes(16 << 20)
//!     .weigh(|message: &String| message.len())
//!     .build()?;
//!
//! let ticket = outbox.enqueue("hello".to_owned()).await?; // Accepted, though nobody is there.
//! assert_eq!(ticket.await?, 5); // Delivered, at the third attempt.
//!
//! outbox.close().await; // Everything is delivered when this returns.
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! 1. **Nothing accepted is lost silently.** A message is delivered, or its ticket says why it was
//!    not and mostly gives it back; and it is counted, with or without a ticket. Delivery is at
//!    least once: each attempt has the same [`MessageId`], by which a consumer knows copies.
//! 2. **The bounds hold**, of messages and of bytes, whatever waits, is in flight or is being
//!    stored. What happens to a message beyond them is the [`Policy`]'s to say. Who waits for room
//!    is served in the order of arrival, and nobody overtakes.
//! 3. **Order is kept**, through outages too: of all messages ([`strict`](Builder::strict)), of
//!    those of a key ([`per_key`](Builder::per_key)), or of the beginnings
//!    ([`pipelined`](Builder::pipelined)).
//! 4. **An outage is no storm.** After a delivery without an answer nothing begins for a while; then
//!    one message is tried for all, until one is answered. Who knows better when the destination is
//!    back says so ([`Deliver::ready`]).
//! 5. **Your code runs without the outbox's lock**, and a panic in a delivery costs that attempt. One in
//!    the `Drop` of a message, in a waker or in a subscriber of `tracing` costs nothing else.
//! 6. **With a [`Journal`](journal::Journal), accepted means stored**: killed at any moment, the
//!    process has lost nothing that it accepted. A record that cannot be read is set aside and keeps
//!    nobody waiting. A full disk is an error to the sender, who has the message back, until there
//!    is room. Status and metrics say that the journal fails.
//! 7. **It ends when it is told to**, with its last handle, or when its destination is closed for good,
//!    and says what is left.
//! 8. **Time is tokio's.** On paused time, a test of an outbox in memory takes no time.
//!
//! # Cancel safety
//!
//! | what is dropped half-way | what happens |
//! |---|---|
//! | [`enqueue`](Outbox::enqueue), [`post`](Outbox::post), in line for room | the message is not accepted; the place goes to the next |
//! | the same, at the moment at which there is room or during the commit | the message may be delivered |
//! | [`try_enqueue`](Outbox::try_enqueue), during the commit | the message may be delivered |
//! | [`flush`](Outbox::flush) | only the wait ends |
//! | [`close`](Outbox::close), [`close_within`](Outbox::close_within) | it stays closed and goes on delivering; nothing has been taken out |
//! | a [`Ticket`] | the message is delivered all the same |
//! | [`Deliver::deliver`] | by the outbox's end or the runtime's: the message is handed back, or tried again |
//!
//! # What it costs
//!
//! A message takes one short lock when it is put in and one when its delivery ends and the next
//! begins, and allocates for its ticket, which [`post`](Outbox::post) does without, and for its
//! delivery. The sender wakes the drain only if that sleeps.
//!
//! With a journal, one commit is for all messages that came together, and one for many removals.
//! Only a [`window`](Builder::window) of messages is in memory, and a start reads no more than that.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `durable` | `journal::Disk`, a journal in a file |
//! | `tracing` | events with the target `wharf_outbox` and a field `outbox`, the name given to [`Builder::name`] |
//! | `metrics` | the metrics below through the `metrics` facade, all with a label `outbox` |
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `wharf_outbox_depth`, `wharf_outbox_bytes`, `wharf_outbox_in_flight` | gauge | |
//! | `wharf_outbox_waiting`: senders that wait for room | gauge | |
//! | `wharf_outbox_age_seconds`: of the oldest message in memory | gauge | |
//! | `wharf_outbox_down` | gauge | |
//! | `wharf_outbox_accepted_total`, `wharf_outbox_found_total` | counter | |
//! | `wharf_outbox_outcomes_total` | counter | `outcome`: `delivered`, `rejected`, `dropped_oldest`, `dropped_newest`, `refused`, `not_stored`, `expired`, `gave_up`, `handed_back`, `set_aside`, `missing` |
//! | `wharf_outbox_unknown_total`, `wharf_outbox_panics_total`, `wharf_outbox_outages_total` | counter | |
//! | `wharf_outbox_commits_total`, `wharf_outbox_failed_commits_total`, `wharf_outbox_failed_reads_total` | counter | |
//!
//! They are brought up to date once a second while there is something to do.

// A file imports only files below it in this list.
mod builder;
mod outbox;

mod waiting;

mod drain;
mod writer;

mod shared;

mod ticket;

mod telemetry;

mod clock;
mod envelope;
mod error;

mod codec;
pub mod journal;

mod core;

mod caught;
mod deliver;
mod id;
mod settings;
mod status;

pub use builder::Builder;
pub use codec::{Codec, Raw};
pub use core::{Backoff, Rate};
pub use deliver::{BoxError, Deliver, Delivery, Outcome, Readiness};
pub use envelope::Envelope;
pub use error::{BuildError, Ended, EnqueueError, Undelivered};
pub use id::{InvalidId, MessageId};
pub use outbox::{Left, Leftover, Outbox};
pub use settings::Policy;
pub use status::{Outage, Status, Totals};
pub use ticket::Ticket;

/// The programs in the README, which are compiled with the documentation's tests.
#[cfg(all(doctest, feature = "durable"))]
#[doc = include_str!("../README.md")]
struct Readme;
