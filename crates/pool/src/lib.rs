//! # Wharf
//!
//! A pool that lends out expensive things (connections, channels, sessions) and gets them back.

mod builder;
mod dynamic;
mod lease;
mod pool;
mod upkeep;

mod config;
mod error;
mod get;
mod manager;
mod observer;
mod shared;
mod status;
mod tasks;
mod telemetry;
mod timings;

mod caught;
mod core;
mod depot;
mod slots;
mod sync;

pub use builder::Builder;
pub use config::{Config, OutagePolicy};
pub use core::{Backoff, Retirement, Shedding};
pub use dynamic::DynManager;
pub use error::{AddError, BuildError, Cause, CloseError, GetError, Stage, TryGetError};
pub use lease::{Lease, OwnedLease, ResourceInfo};
pub use manager::{Failure, Manager};
pub use observer::{Event, Observer};
pub use pool::Pool;
pub use status::{Status, Summary, Times, Totals};
