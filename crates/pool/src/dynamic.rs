//! Managers whose kind is chosen at run time.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;

use crate::manager::{Failure, Manager};

/// The object-safe face of [`Manager`]. Every `Manager` has it, so that a boxed one can be used
/// where the kind of resource is the same but the way to make it is chosen at run time. Each
/// call that is async costs an allocation. Import the one of the two traits that is called: with
/// both in scope a method call on a manager is ambiguous.
///
/// ```
/// # use std::convert::Infallible;
/// use wharf::{DynManager, Manager, Pool};
///
/// # struct Plain; struct Fancy;
/// # impl Manager for Plain {
/// #     type Resource = u32; type Error = Infallible;
/// #     async fn create(&self) -> Result<u32, Infallible> { Ok(1) }
/// # }
/// # impl Manager for Fancy {
/// #     type Resource = u32; type Error = Infallible;
/// #     async fn create(&self) -> Result<u32, Infallible> { Ok(2) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let fancy = true;
/// type Backend = Box<dyn DynManager<Resource = u32, Error = Infallible>>;
/// let backend: Backend = if fancy { Box::new(Fancy) } else { Box::new(Plain) };
/// let pool = Pool::builder(backend).build()?;
/// assert_eq!(*pool.get().await?, 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait DynManager: Send + Sync + 'static {
    /// See [`Manager::Resource`].
    type Resource: Send + 'static;

    /// See [`Manager::Error`].
    type Error: Error + Send + Sync + 'static;

    /// See [`Manager::create`].
    async fn create(&self) -> Result<Self::Resource, Self::Error>;

    /// See [`Manager::is_alive`].
    fn is_alive(&self, resource: &Self::Resource) -> bool;

    /// See [`Manager::check`].
    async fn check(&self, resource: &mut Self::Resource) -> Result<(), Self::Error>;

    /// See [`Manager::reset`].
    fn reset(&self, resource: &mut Self::Resource) -> bool;

    /// See [`Manager::destroy`].
    async fn destroy(&self, resource: Self::Resource);

    /// See [`Manager::classify`].
    fn classify(&self, error: &Self::Error) -> Failure;
}

#[async_trait]
impl<M: Manager> DynManager for M {
    type Resource = M::Resource;
    type Error = M::Error;

    async fn create(&self) -> Result<M::Resource, M::Error> {
        Manager::create(self).await
    }

    fn is_alive(&self, resource: &M::Resource) -> bool {
        Manager::is_alive(self, resource)
    }

    async fn check(&self, resource: &mut M::Resource) -> Result<(), M::Error> {
        Manager::check(self, resource).await
    }

    fn reset(&self, resource: &mut M::Resource) -> bool {
        Manager::reset(self, resource)
    }

    async fn destroy(&self, resource: M::Resource) {
        Manager::destroy(self, resource).await;
    }

    fn classify(&self, error: &M::Error) -> Failure {
        Manager::classify(self, error)
    }
}

impl<R, E> Manager for Box<dyn DynManager<Resource = R, Error = E>>
where
    R: Send + 'static,
    E: Error + Send + Sync + 'static,
{
    type Resource = R;
    type Error = E;

    async fn create(&self) -> Result<R, E> {
        (**self).create().await
    }

    fn is_alive(&self, resource: &R) -> bool {
        (**self).is_alive(resource)
    }

    async fn check(&self, resource: &mut R) -> Result<(), E> {
        (**self).check(resource).await
    }

    fn reset(&self, resource: &mut R) -> bool {
        (**self).reset(resource)
    }

    async fn destroy(&self, resource: R) {
        (**self).destroy(resource).await;
    }

    fn classify(&self, error: &E) -> Failure {
        (**self).classify(error)
    }
}

impl<M: Manager> Manager for Arc<M> {
    type Resource = M::Resource;
    type Error = M::Error;

    async fn create(&self) -> Result<M::Resource, M::Error> {
        Manager::create(&**self).await
    }

    fn is_alive(&self, resource: &M::Resource) -> bool {
        Manager::is_alive(&**self, resource)
    }

    async fn check(&self, resource: &mut M::Resource) -> Result<(), M::Error> {
        Manager::check(&**self, resource).await
    }

    fn reset(&self, resource: &mut M::Resource) -> bool {
        Manager::reset(&**self, resource)
    }

    async fn destroy(&self, resource: M::Resource) {
        Manager::destroy(&**self, resource).await;
    }

    fn classify(&self, error: &M::Error) -> Failure {
        Manager::classify(&**self, error)
    }
}
