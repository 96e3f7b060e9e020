use fast_pool::{ConnectionGuard, Manager, Pool};

use crate::contender::{Contender, Resource};

pub struct FastPool(Pool<Dock>);

impl Contender for FastPool {
    type Lease = ConnectionGuard<Dock>;
    type Refusal = String;

    async fn open(size: usize) -> Self {
        let pool = Pool::new(Dock);
        pool.set_max_open(u64::try_from(size).expect("a small pool"));
        Self(pool)
    }

    fn get(&'static self) -> impl Future<Output = Result<Self::Lease, Self::Refusal>> + Send {
        self.0.get()
    }
}

pub struct Dock;

impl Manager for Dock {
    type Connection = Resource;
    type Error = String;

    async fn connect(&self) -> Result<Resource, String> {
        Ok(Resource::default())
    }

    async fn check(&self, _: &mut Resource) -> Result<(), String> {
        Ok(())
    }
}
