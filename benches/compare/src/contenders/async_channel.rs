use std::ops::{Deref, DerefMut};

use async_channel::{Receiver, RecvError, Sender, bounded};

use crate::contender::{Contender, Resource};

/// A bounded channel filled with resources: to get is to receive, to put is to send.
pub struct Channel {
    sender: Sender<Resource>,
    receiver: Receiver<Resource>,
}

impl Contender for Channel {
    type Lease = Lease;
    type Refusal = RecvError;

    async fn open(size: usize) -> Self {
        let (sender, receiver) = bounded(size);
        for _ in 0..size {
            sender
                .try_send(Resource::default())
                .expect("room for every resource");
        }
        Self { sender, receiver }
    }

    async fn get(&'static self) -> Result<Lease, RecvError> {
        let resource = self.receiver.recv().await?;
        Ok(Lease {
            sender: &self.sender,
            resource: Some(resource),
        })
    }
}

pub struct Lease {
    sender: &'static Sender<Resource>,
    resource: Option<Resource>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(resource) = self.resource.take() {
            self.sender
                .try_send(resource)
                .expect("room for every resource");
        }
    }
}

impl Deref for Lease {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        self.resource.as_ref().expect("present until dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Resource {
        self.resource.as_mut().expect("present until dropped")
    }
}
