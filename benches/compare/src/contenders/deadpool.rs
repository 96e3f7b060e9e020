use std::convert::Infallible;

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleResult};

use crate::contender::{Contender, Resource};

pub struct Deadpool(Pool<Dock>);

impl Contender for Deadpool {
    type Lease = Object<Dock>;
    type Refusal = PoolError<Infallible>;

    async fn open(size: usize) -> Self {
        Self(
            Pool::builder(Dock)
                .max_size(size)
                .build()
                .expect("a valid configuration"),
        )
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

pub struct Dock;

impl Manager for Dock {
    type Type = Resource;
    type Error = Infallible;

    async fn create(&self) -> Result<Resource, Infallible> {
        Ok(Resource::default())
    }

    async fn recycle(&self, _: &mut Resource, _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}
