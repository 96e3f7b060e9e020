//! A pool that lends out expensive things (connections, channels, sessions) and gets them back:
//! quickly, strictly in turn, and without losing one.
//!
//! You write a [`Manager`], which knows how to make a resource and how to tell a good one from a bad
//! one. A [`Pool`] decides when one is made, who gets it, and when it has to go. [`Pool::get`] lends
//! it to you as a [`Lease`], whose drop gives it back.
//!
//! ```
//! use std::{io, time::Duration};
//!
//! use tokio::{io::AsyncWriteExt, net::TcpStream};
//! use wharf::{Manager, Pool};
//!
//! struct Dialler {
//!     address: String,
//! }
//!
//! impl Manager for Dialler {
//!     type Resource = TcpStream;
//!     type Error = io::Error;
//!
//!     async fn create(&self) -> io::Result<TcpStream> {
//!         TcpStream::connect(&self.address).await
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let address = server.local_addr()?.to_string();
//! let pool = Pool::builder(Dialler { address })
//!     .max_active(8)
//!     .wait_timeout(Duration::from_secs(5))
//!     .build()?;
//!
//! let mut connection = pool.get().await?; // Waits its turn if all eight are out.
//! connection.write_all(b"hello").await?;
//! drop(connection); // Back in the pool.
//!
//! pool.close().await; // Everything has been destroyed when this returns.
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! 1. **The bound holds.** At most [`max_active`](Config::max_active) resources exist. Those being
//!    created, checked and destroyed count, until their destruction has finished.
//! 2. **Who comes first is served first.** Once somebody waits, no later `get` is served before, by
//!    no path. What comes back or is created goes straight to the oldest waiter that can still use
//!    it.
//! 3. **A `get` can be dropped at any time** and loses no resource, no slot and no wake-up.
//! 4. **Creation does not depend on the caller.** Who gives up does not cut off a connect under way;
//!    who waits takes what comes first, a returned resource or a new one. At most
//!    [`max_creating`](Config::max_creating) run at once.
//! 5. **Your code runs without the pool's lock**: managers, destructors, observers, predicates and
//!    wakers may call the pool. A panic in one of them costs at most the resource at hand.
//! 6. **Dropping a lease is cheap anywhere**: it never blocks, needs no runtime and does no I/O of
//!    its own.
//! 7. **An outage is a state, not a storm.** One prober with a growing, jittered pause, however many
//!    wait; success serves them in order. An error names its [`Stage`], its time and the last
//!    [`Cause`].
//! 8. **[`close`](Pool::close) is the end**: newcomers and waiters get `Closed`, and when it returns
//!    everything has been destroyed. [`close_within`](Pool::close_within) says what is still out.
//! 9. **[`resize`](Pool::resize) is exact**, up and down, any number of times, with waiters present.
//! 10. **[`invalidate_all`](Pool::invalidate_all) retires everything made before it**, what is lent
//!     out or being created included.
//! 11. **Upkeep stays out of the way.** One task for idle timeouts, lifetimes, `min_idle`, keep-alive
//!     and leak warnings. It ends with the pool, and sleeps while nothing is due.
//! 12. **Overload has an answer**: [`max_waiters`](Config::max_waiters) bounds the line, and
//!     [`Shedding`] turns callers away from a line that stands.
//! 13. **Numbers add up.** [`Pool::status`] is one consistent snapshot, and no cancellation makes its
//!     counters drift.
//! 14. **Keys do not get into each other's way**: a [`KeyedPool`] is a pool for each key, under one
//!     bound for all.
//! 15. **Time is tokio's.** On paused time, a test of the pool takes no time.
//!
//! # Words
//!
//! - A **resource** is what is lent; it is *idle*, *leased*, or in the hands of upkeep. A **slot** is
//!   one unit of `max_active`: a resource, or one that is being created or destroyed.
//! - **get** borrows, **put** (or drop) gives back, **discard** has a broken resource destroyed,
//!   **detach** takes it out of the pool for good.
//! - The **line** is where callers wait, in the order of their arrival. **Hand-off**: what comes back
//!   goes to the first in line and never lies idle in between.
//! - A resource is **alive** if a cheap look says so ([`Manager::is_alive`], at every checkout), and
//!   **checked** if the other side has answered ([`Manager::check`], when the last check, or the
//!   creation, is longer ago than [`check_interval`](Config::check_interval)).
//! - To **retire** a resource is to destroy it, for one of the reasons in [`Retirement`].
//! - An **outage** lasts from a failed creation until the next that succeeds (or is refused, for then
//!   somebody answered). The pool is *down* meanwhile, and a **probe** is a creation that finds out
//!   whether it is over.
//! - **Upkeep** is the pool's own task. It looks after everything that becomes due.
//!
//! # A pool for each key
//!
//! Connections to different hosts are not interchangeable. A [`KeyedPool`] has a pool for each key,
//! which is made when the key is first asked for and vanishes when it is not used any more, and one
//! bound over all of them. Who needs room under that bound gets it from what has been idle the
//! longest, whatever its key.
//!
//! ```
//! # use std::{io, net::SocketAddr};
//! # use tokio::net::{TcpListener, TcpStream};
//! use wharf::{Config, KeyedPool};
//! # struct Dialler {
//! #     address: SocketAddr,
//! # }
//! # impl wharf::Manager for Dialler {
//! #     type Resource = TcpStream;
//! #     type Error = io::Error;
//! #     async fn create(&self) -> io::Result<TcpStream> {
//! #         TcpStream::connect(self.address).await
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
//! # let hosts = [servers[0].local_addr()?, servers[1].local_addr()?];
//!
//! let mut per_host = Config::default();
//! per_host.max_active = 4;
//! let pool = KeyedPool::builder(|host: &SocketAddr| Dialler { address: *host })
//!     .per_key(per_host)
//!     .max_total(100)
//!     .build()?;
//!
//! for host in hosts {
//!     let connection = pool.get(&host).await?; // The line is the host's own.
//!     assert_eq!(connection.peer_addr()?, host);
//! }
//! assert_eq!(pool.status().idle, 2);
//!
//! pool.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # When a creation fails
//!
//! [`Manager::classify`] says what the error means for everybody else.
//!
//! - [`Failure::Outage`], the default: nobody is there, or there is no way to get there. Waiting
//!   helps. The callers stay in line until their own deadlines, or fail at once with
//!   [`GetError::Down`] if [`OutagePolicy::FailFast`] is set; the pool probes, and serves the line
//!   in order when it succeeds. Resources that exist go on being lent all the time.
//! - [`Failure::Refuse`]: somebody is there and says no (wrong password, unknown database, too many
//!   connections). Waiting does not help whoever asked: the oldest waiter gets
//!   [`GetError::Refused`] at once, and the next attempt is made for the next in line.
//!
//! A creation that panics or runs into its timeout counts as an outage: it would do so again.
//! A failed check concerns that resource alone: it is destroyed, and its `get` goes on to another
//! without losing its place.
//!
//! # Cancel safety
//!
//! | what is dropped half-way | what happens |
//! |---|---|
//! | `get` and its kin, in line | the place goes to the next, and so does a resource that was handed over at the same moment |
//! | `get`, during a check | the resource is destroyed: nobody knows what state it is in |
//! | [`close`](Pool::close), [`close_within`](Pool::close_within) | only the wait ends; the pool was closed by the call |
//! | [`Manager::create`] | never by a caller: by `create_timeout`, or with the runtime |
//! | [`Manager::check`] | by `check_timeout`, by the caller's deadline or departure; the resource is destroyed |
//! | [`Manager::destroy`] | by `destroy_timeout`, or with the runtime |
//!
//! The other methods of a manager, observers and predicates are synchronous and run to their end.
//!
//! # The runtime
//!
//! The pool lives on a tokio runtime with its timers enabled: there it creates, destroys and keeps
//! time. That is the one given to [`Builder::runtime`], or the one on which the pool is built, or
//! else the one on which somebody first has to wait. If it shuts down while the pool is in use, the
//! creations it ran are lost but not their slots, and the pool moves to the next runtime on which
//! somebody waits; the waiters keep their places. On no runtime at all resources still come back and
//! are lent again, and those that must go are dropped on the spot.
//!
//! # What it costs
//!
//! A `get` that finds an idle resource, and the return of its lease, take two atomic read-modify-write
//! operations, a few loads, a few stores to the slot's own memory, and your
//! [`is_alive`](Manager::is_alive) and [`reset`](Manager::reset). They take no lock, allocate nothing,
//! touch no counter that threads share, and read no clock, but for one lease in 64 whose length is
//! measured. That is why idle times, lifetimes and check intervals are kept by a coarse clock: never
//! early, and late by up to an eighth of the shortest of them or a second, whichever is less.
//! An [`OwnedLease`] costs a reference count more.
//!
//! A `get` that waits takes one short lock to join the line, and whoever hands it a resource takes the
//! same lock; neither allocates once the line has been as long before. Memory grows with `max_active`
//! and with the longest line there has been.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `serde` | [`Config`] can be read and written: durations in human form (`"30s"`), `"never"` for none |
//! | `tracing` | events with the target `wharf` and a field `pool`, the name given to [`Builder::name`] |
//! | `metrics` | the metrics below through the `metrics` facade, all with a label `pool` |
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `wharf_resources` | gauge | `state`: `idle`, `leased`, `upkeep`, `creating`, `closing` |
//! | `wharf_max_active`, `wharf_waiting`, `wharf_down` | gauge | |
//! | `wharf_wait_seconds` | gauge | `quantile` of the waits that were served |
//! | `wharf_gets_total` | counter | `outcome` |
//! | `wharf_retired_total` | counter | `why` |
//! | `wharf_panics_total` | counter | `method` |
//! | `wharf_overdue_total` | counter | |
//! | `wharf_create_seconds` | histogram | `outcome`: `ok`, `error` |
//!
//! Gauges and `wharf_gets_total` are brought up to date by upkeep, the others as things happen.

// A file imports only files below it in this list.
mod builder;
mod dynamic;
mod keyed;
mod pool;

mod effects;
mod home;
mod lease;
mod tasks;
mod telemetry;
mod upkeep;

mod get;
mod shared;

mod at_home;
mod caught;
mod config;
mod depot;
mod error;
mod host;
mod manager;
mod observer;
mod status;
mod timings;

mod core;
mod slots;
mod sync;

#[cfg(all(test, wharf_loom))]
mod loom_tests;
#[cfg(test)]
mod pool_scenarios;
#[cfg(all(test, not(wharf_loom)))]
mod race_tests;
#[cfg(test)]
mod scenarios;

pub use builder::Builder;
pub use config::{Config, OutagePolicy};
pub use core::{Backoff, Retirement, Shedding};
pub use dynamic::DynManager;
pub use error::{AddError, BuildError, Cause, CloseError, GetError, Stage, TryGetError};
pub use keyed::{KeyedBuilder, KeyedPool, KeyedStatus};
pub use lease::{Lease, OwnedLease, ResourceInfo};
pub use manager::{Failure, Manager};
pub use observer::{Event, Observer};
pub use pool::Pool;
pub use status::{Status, Summary, Times, Totals};

/// For the fuzz target.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use core::model;
