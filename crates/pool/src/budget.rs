//! A bound on resources that several pools share.

use std::{future::Future, pin::Pin};

use tokio::sync::OwnedSemaphorePermit;

/// A bound that several pools share: each resource needs a unit of it.
pub(crate) trait Budget: Send + Sync + 'static {
    /// Waits for a unit, in order of asking.
    fn acquire(&self) -> Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

    /// Takes a unit if there is one and nobody waits for it.
    fn try_acquire(&self) -> Option<OwnedSemaphorePermit>;
}
