use std::convert::Infallible;
use std::sync::Arc;

use asyncband::pool::bounded::{Object, Pool, PoolConfig};
use asyncband::pool::{ManageObject, ObjectStatus};

use crate::contender::{Contender, Resource};

/// asyncband is a box of primitives for any runtime; its `pool::bounded` is the former fastpool.
pub struct Asyncband(Arc<Pool<Dock>>);

impl Contender for Asyncband {
    type Lease = Object<Dock>;
    type Refusal = Infallible;

    async fn open(size: usize) -> Self {
        Self(Pool::new(PoolConfig::new(size), Dock))
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

pub struct Dock;

impl ManageObject for Dock {
    type Object = Resource;
    type Error = Infallible;

    async fn create(&self) -> Result<Resource, Infallible> {
        Ok(Resource::default())
    }

    async fn is_recyclable(&self, _: &mut Resource, _: &ObjectStatus) -> Result<(), Infallible> {
        Ok(())
    }
}
