use std::convert::Infallible;

use wharf::{GetError, Lease, Manager, OwnedLease, Pool};

use crate::contender::{Contender, Resource};

/// `get`: a lease that borrows the pool.
pub struct Borrowed(Pool<Dock>);

impl Contender for Borrowed {
    type Lease = Lease<'static, Dock>;
    type Refusal = GetError<Infallible>;

    async fn open(size: usize) -> Self {
        Self(pool(size))
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

/// `get_owned`: a lease that keeps the pool alive.
pub struct Owned(Pool<Dock>);

impl Contender for Owned {
    type Lease = OwnedLease<Dock>;
    type Refusal = GetError<Infallible>;

    async fn open(size: usize) -> Self {
        Self(pool(size))
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get_owned()
    }
}

fn pool(size: usize) -> Pool<Dock> {
    Pool::builder(Dock)
        .max_active(size)
        .build()
        .expect("a valid configuration")
}

pub struct Dock;

impl Manager for Dock {
    type Resource = Resource;
    type Error = Infallible;

    async fn create(&self) -> Result<Resource, Infallible> {
        Ok(Resource::default())
    }
}
