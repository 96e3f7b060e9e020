//! What a pool has to say to the keyed pool that it is part of.

use std::sync::Arc;

use crate::{
    core::{Arrival, Report},
    sync::AtomicU64,
    timings::TimingShards,
};

/// The keyed pool, as one of its pools sees it. Called without any lock.
pub(crate) trait Host: Send + Sync + 'static {
    /// What counts the arrivals at all keys.
    fn arrivals(&self) -> Arc<AtomicU64>;

    /// The timings of all keys together: of one key alone they would take more memory than all
    /// the rest.
    fn timings(&self) -> TimingShards;

    /// The pool gives units of the common bound back, or needs more or fewer.
    fn report(&self, report: Report);

    /// A resource is idle while someone elsewhere waits for a unit.
    fn spare(&self);

    /// Whether a resource that came back is to be given up for somebody elsewhere. `oldest` is
    /// the pool's own oldest waiter.
    fn claims(&self, oldest: Option<Arrival>) -> bool;

    /// The pool is closed and empty, for good.
    fn drained(&self);
}
