use std::convert::Infallible;

use mobc::{Connection, Error, Manager, Pool, async_trait};

use crate::contender::{Contender, Resource};

pub struct Mobc(Pool<Dock>);

impl Contender for Mobc {
    type Lease = Connection<Dock>;
    type Refusal = Error<Infallible>;

    /// Its default keeps two idle connections and closes the rest; with that, the measure would
    /// be one of connecting.
    async fn open(size: usize) -> Self {
        let size = u64::try_from(size).expect("a small pool");
        Self(Pool::builder().max_open(size).max_idle(size).build(Dock))
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

pub struct Dock;

#[async_trait]
impl Manager for Dock {
    type Connection = Resource;
    type Error = Infallible;

    async fn connect(&self) -> Result<Resource, Infallible> {
        Ok(Resource::default())
    }

    async fn check(&self, resource: Resource) -> Result<Resource, Infallible> {
        Ok(resource)
    }
}
