//! What is compared: anything that lends a [`Resource`] and takes it back.

use std::fmt::Debug;
use std::future::Future;
use std::ops::DerefMut;

/// The thing lent. Every cycle writes to it, as a user of a connection would.
#[derive(Debug, Default)]
pub struct Resource {
    pub uses: u64,
}

/// A pool, or a floor: a bare structure that shows what a pool's parts cost.
///
/// Pools are leaked on purpose: with `&'static self` every contender may lend by borrow, and
/// nobody pays for a reference count that its own interface does not ask for.
pub trait Contender: Sized + Send + Sync + 'static {
    /// Goes back to the pool when dropped.
    type Lease: DerefMut<Target = Resource> + Send + 'static;

    type Refusal: Debug;

    fn open(size: usize) -> impl Future<Output = Self> + Send;

    /// The contender's own future wherever it has one: a wrapper would cost the fastest most.
    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send;
}
