//! Not pools: the bare structures that pools are made of. They check nothing, count nothing and
//! (but for the semaphore) cannot wait.

use std::convert::Infallible;
use std::hint::spin_loop;
use std::ops::{Deref, DerefMut};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use crate::contender::{Contender, Resource};

/// `parking_lot::Mutex<Vec>`: pop and push.
pub struct MutexVec(Mutex<Vec<Resource>>);

impl Contender for MutexVec {
    type Lease = Returned<Self>;
    type Refusal = Infallible;

    async fn open(size: usize) -> Self {
        Self(Mutex::new((0..size).map(|_| Resource::default()).collect()))
    }

    async fn get(&'static self) -> Result<Self::Lease, Infallible> {
        Ok(Returned::new(self))
    }
}

impl Store for MutexVec {
    fn pop(&self) -> Option<Resource> {
        self.0.lock().pop()
    }

    fn push(&self, resource: Resource) {
        self.0.lock().push(resource);
    }
}

/// `crossbeam_queue::ArrayQueue`: pop and push.
pub struct Queue(ArrayQueue<Resource>);

impl Contender for Queue {
    type Lease = Returned<Self>;
    type Refusal = Infallible;

    async fn open(size: usize) -> Self {
        let queue = ArrayQueue::new(size);
        for _ in 0..size {
            queue
                .push(Resource::default())
                .expect("room for every resource");
        }
        Self(queue)
    }

    async fn get(&'static self) -> Result<Self::Lease, Infallible> {
        Ok(Returned::new(self))
    }
}

impl Store for Queue {
    fn pop(&self) -> Option<Resource> {
        self.0.pop()
    }

    fn push(&self, resource: Resource) {
        self.0.push(resource).expect("room for every resource");
    }
}

/// `tokio::sync::Semaphore`: acquire and release, with nothing behind it.
pub struct Sem(Semaphore);

impl Contender for Sem {
    type Lease = Permit;
    type Refusal = AcquireError;

    async fn open(size: usize) -> Self {
        Self(Semaphore::new(size))
    }

    async fn get(&'static self) -> Result<Permit, AcquireError> {
        let permit = self.0.acquire().await?;
        Ok(Permit {
            _permit: permit,
            resource: Resource::default(),
        })
    }
}

pub struct Permit {
    _permit: SemaphorePermit<'static>,
    resource: Resource,
}

impl Deref for Permit {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        &self.resource
    }
}

impl DerefMut for Permit {
    fn deref_mut(&mut self) -> &mut Resource {
        &mut self.resource
    }
}

pub trait Store: 'static {
    fn pop(&self) -> Option<Resource>;
    fn push(&self, resource: Resource);
}

/// A resource that goes back to its store when dropped.
pub struct Returned<S: Store> {
    store: &'static S,
    resource: Option<Resource>,
}

impl<S: Store> Returned<S> {
    /// Spins while the store is empty, which no scenario with floors lets happen.
    fn new(store: &'static S) -> Self {
        loop {
            if let Some(resource) = store.pop() {
                return Self {
                    store,
                    resource: Some(resource),
                };
            }
            spin_loop();
        }
    }
}

impl<S: Store> Drop for Returned<S> {
    fn drop(&mut self) {
        if let Some(resource) = self.resource.take() {
            self.store.push(resource);
        }
    }
}

impl<S: Store> Deref for Returned<S> {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        self.resource.as_ref().expect("present until dropped")
    }
}

impl<S: Store> DerefMut for Returned<S> {
    fn deref_mut(&mut self) -> &mut Resource {
        self.resource.as_mut().expect("present until dropped")
    }
}
