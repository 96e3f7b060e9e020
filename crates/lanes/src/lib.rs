//! Batches by key: items go into a *lane* for their key, and a lane hands what it has collected to
//! your handler when there is enough of it, or when its first item has waited long enough.
//!
//! ```
//! use std::{io, time::Duration};
//!
//! use wharf_lanes::{Batch, Failed, Lanes};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lanes = Lanes::builder(
//!     async |batch: Batch<String, u32>| {
//!         // One INSERT, one message, one request for all of them.
//!         println!("{}: {:?} ({:?})", batch.key(), &batch[..], batch.reason());
//!         Ok::<_, io::Error>(())
//!     },
//!     // What could not be handled comes back here, after the last attempt.
//!     |failed: Failed<String, u32, io::Error>| eprintln!("{failed:?}: {:?}", failed.items),
//! )
//! .items(100)
//! .linger(Duration::from_millis(250))
//! .build()?;
//!
//! for reading in 0..250 {
//!     lanes.push(format!("sensor {}", reading % 2), reading).await?;
//! }
//! lanes.close().await?; // Everything has been handled when this returns.
//! assert_eq!(lanes.status().handled, 250);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! 1. **A lane is made with its first item**, atomically, and is gone when it has none: a key that is
//!    idle costs nothing.
//! 2. **A batch is flushed** when it has [`items`](Config::items), when it weighs
//!    [`bytes`](Config::bytes), or when its *first* item has waited for the
//!    [`linger`](Config::linger): a trickle of further items does not put that off, and neither does
//!    input that never pauses. [`Batch::reason`] says which it was.
//! 3. **The items of a key stay in order.** One batch of a key is handled at a time; what arrives
//!    meanwhile collects in the next.
//! 4. **Keys do not get into each other's way**: those that have a batch ready take turns, however
//!    many more batches one of them has. At most [`concurrency`](Config::concurrency) batches are
//!    handled at once. That is about turns and not about room: there is no bound for a key, so one
//!    that gets more than is handled of it may fill the bounds of all, and then everybody waits.
//! 5. **Memory has a bound**, in items, bytes and lanes, that counts what is in flight. At the bound
//!    a push waits strictly in turn, is refused with its item, or has the oldest batch flushed.
//! 6. **Nothing is silently gone.** A handler that fails, panics or takes too long gets what it has
//!    not taken out again, after a pause that grows and is jittered, before anything else of that
//!    key; after the last attempt it goes to the [`Sink`]. Closing hands back what is left. Whatever
//!    drops a handler's future, the batch comes back.
//! 7. **Your code never runs under the lock**, except for `Eq` and `Clone` of your keys.
//! 8. **Time is tokio's.** On paused time, a test of the lanes takes no time.
//!
//! Which of these hold across a crash of the process? None: lanes are memory.
//!
//! # Ends
//!
//! [`close`](Lanes::close) flushes everything and waits; [`close_within`](Lanes::close_within)
//! interrupts handlers after a time, and hands back what is left, in order. A [`KeyGuard`] closes one
//! key when it is dropped. When the last handle is dropped, what is there is still handled, in the
//! background. When the runtime ends, what is left goes to the sink as the last handle is dropped, or
//! is handed out by `close`. A handler that holds a handle on its own lanes keeps them for ever: then
//! only `close` ends them.
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `tracing` | events with the target `wharf_lanes` and a field `lanes`, the name given to [`Builder::name`]: an error for what goes to the sink, a warning for what is tried again |
//! | `metrics` | the metrics below, with a label `lanes` |
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `wharf_lanes_lanes`, `wharf_lanes_items`, `wharf_lanes_bytes`, `wharf_lanes_in_flight`, `wharf_lanes_waiting` | gauge | |
//! | `wharf_lanes_items_total` | counter | `outcome`: `accepted`, `rejected`, `handled`, `failed`, `abandoned` |
//! | `wharf_lanes_flushes_total` | counter | `reason` |
//! | `wharf_lanes_attempts_total` | counter | `outcome`: `handled`, `error`, `panic`, `timeout`, `interrupted` |
//! | `wharf_lanes_handle_seconds` | histogram | |
//!
//! Gauges, and the counters of items and flushes, are brought up to date when the timer looks (about
//! once in a linger while there are items), when nothing is held any more, and at the end.

// A file imports only files below it in this list.
mod builder;

mod timer;
mod worker;

mod guard;
mod lanes;
mod push;

mod telemetry;

mod status;

mod shared;

mod config;
mod error;
mod handler;

mod caught;
mod home;
mod lateness;

mod core;

pub use builder::Builder;
pub use config::{Config, Retry};
pub use core::{Reason, WhenFull};
pub use error::{BuildError, PushError, Unfinished};
pub use guard::KeyGuard;
pub use handler::{Batch, Cause, Failed, Handler, Key, Sink};
pub use lanes::Lanes;
pub use push::Push;
pub use status::Status;
