use std::convert::Infallible;

use bb8::{ManageConnection, Pool, PooledConnection, RunError};

use crate::contender::{Contender, Resource};

pub struct Bb8(Pool<Dock>);

impl Contender for Bb8 {
    type Lease = PooledConnection<'static, Dock>;
    type Refusal = RunError<Infallible>;

    async fn open(size: usize) -> Self {
        let size = u32::try_from(size).expect("a small pool");
        let Ok(pool) = Pool::builder().max_size(size).build(Dock).await;
        Self(pool)
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

pub struct Dock;

impl ManageConnection for Dock {
    type Connection = Resource;
    type Error = Infallible;

    async fn connect(&self) -> Result<Resource, Infallible> {
        Ok(Resource::default())
    }

    async fn is_valid(&self, _: &mut Resource) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Resource) -> bool {
        false
    }
}
