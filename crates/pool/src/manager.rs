//! What the user provides: how to make, check and destroy a resource.

use std::{
    error::Error,
    future::{Future, ready},
};

/// Makes, checks and destroys the resources of a pool.
///
/// Only [`create`](Manager::create) must be written. Every other method has a default that does
/// nothing, so a manager says no more than its resources need.
///
/// None of the methods is called while the pool holds a lock, and any of them may call the pool.
/// A panic in one of them costs the resource at hand (or the creation), is reported to the
/// observers, and leaves the pool as it was.
///
/// ```
/// # use std::io;
/// use tokio::net::TcpStream;
///
/// struct Dialler(String);
///
/// impl wharf::Manager for Dialler {
///     type Resource = TcpStream;
///     type Error = io::Error;
///
///     async fn create(&self) -> io::Result<TcpStream> {
///         TcpStream::connect(&self.0).await
///     }
///
///     fn is_alive(&self, stream: &TcpStream) -> bool {
///         // Nothing to read on a connection nobody uses; end of stream or an error: it is dead.
///         matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
///     }
/// }
/// ```
pub trait Manager: Send + Sync + 'static {
    /// What the pool lends. It needs no `Sync`; a lease of it can be shared between threads if
    /// it is.
    type Resource: Send + 'static;

    /// Why a resource could not be created, or did not pass its check.
    type Error: Error + Send + Sync + 'static;

    /// Makes a resource.
    ///
    /// Runs in a task of its own on the pool's runtime, within `create_timeout`. At most
    /// `max_creating` run at once, and only one during an outage.
    ///
    /// # Cancel safety
    ///
    /// A caller of `get` that gives up does not cancel it. It is dropped, at any await point,
    /// when `create_timeout` passes or the runtime shuts down, and must then clean up by drop.
    fn create(&self) -> impl Future<Output = Result<Self::Resource, Self::Error>> + Send;

    /// Whether a resource looks alive: a cheap, synchronous look at every checkout. It must not
    /// block, and always runs to its end. A resource that does not look alive is destroyed, and
    /// `get` goes on to another.
    fn is_alive(&self, resource: &Self::Resource) -> bool {
        let _ = resource;
        true
    }

    /// Makes sure that a resource works, by asking the other side for instance.
    ///
    /// Called at checkout when the last check (or the creation) is longer ago than
    /// `check_interval`, and by upkeep
    /// every `keep_alive` on idle resources. Bounded by `check_timeout` and by the caller's
    /// deadline. An error destroys the resource, and `get` goes on to another.
    ///
    /// # Cancel safety
    ///
    /// It is dropped, at any await point, when a deadline passes or the caller of `get` gives up.
    /// The resource is in an unknown state then, and is destroyed.
    fn check(
        &self,
        resource: &mut Self::Resource,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = resource;
        ready(Ok(()))
    }

    /// Makes a resource that comes back fit for the next user, or says that it is not (`false`),
    /// and it is destroyed. Runs to its end in the drop of the lease: it must not block. It is not
    /// asked about resources that are discarded or detached.
    fn reset(&self, resource: &mut Self::Resource) -> bool {
        let _ = resource;
        true
    }

    /// Takes leave of a resource. Runs in a task of its own, within `destroy_timeout`; the
    /// resource counts towards `max_active` until it has ended.
    ///
    /// When the pool has no runtime (any more), resources are dropped instead.
    ///
    /// # Cancel safety
    ///
    /// It is dropped, at any await point, when `destroy_timeout` passes or the runtime shuts down.
    fn destroy(&self, resource: Self::Resource) -> impl Future<Output = ()> + Send {
        drop(resource);
        ready(())
    }

    /// What an error of [`create`](Manager::create) means for everybody else. By default an
    /// [outage](Failure::Outage), for most resources are connections to one place. A creation that
    /// times out or panics is an outage without being asked about, for it would do so again.
    fn classify(&self, error: &Self::Error) -> Failure {
        let _ = error;
        Failure::Outage
    }
}

/// What a failure to create means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// This creation is refused, for a reason that its caller must hear: the oldest waiter gets
    /// the error at once. The next creation may succeed. It ends an outage, for the other side has
    /// answered. If nobody waits, creations for `min_idle` pause as in an outage.
    Refuse,
    /// Nothing can be created for now: the pool is *down*. One prober tries again with a growing
    /// pause, however many wait, until it succeeds.
    Outage,
}
