//! Where the queue of a consumer is: what it is called, and on which connection.

use std::sync::Arc;

use lapin::types::ShortString;

use super::ConsumeError;
use crate::{
    connections::Shared,
    link::{Link, Role},
    topology::Declaration,
};

/// A queue, found anew for each subscription: one that the broker names is another after each
/// reconnection, and can be consumed on its own connection only.
pub(super) struct Source {
    /// Its name, or its label in the topology.
    queue: ShortString,
    topology: Option<Declaration>,
    /// It may be gone, or was never declared: that every new connection has the topology declared
    /// is not enough.
    is_in_doubt: bool,
}

pub(super) struct Place {
    pub(super) queue: ShortString,
    pub(super) link: Arc<Link>,
}

impl Source {
    pub(super) fn new(queue: ShortString, topology: Option<Declaration>) -> Self {
        Self {
            queue,
            topology,
            is_in_doubt: true,
        }
    }

    /// Waits for a connection, and declares what has to be. The caller sets the bound.
    pub(super) async fn find(&mut self, cluster: &Shared) -> Result<Place, ConsumeError> {
        // As many channels as the broker allows: idle consumers cost their connection nothing.
        // The topology is declared on it by now, or has failed.
        let link = cluster.link(Role::Consume, usize::MAX).await?;
        let Some(topology) = &self.topology else {
            let queue = self.queue.clone();
            return Ok(Place { queue, link });
        };
        let state = topology.state();
        if !self.is_in_doubt
            && let Some(failure) = state.failure()
        {
            return Err(failure.as_ref().clone().into());
        }
        let known = topology.place(self.queue.as_str());
        let place = match known.filter(|_| state.is_declared() && !self.is_in_doubt) {
            Some(place) => place,
            None => {
                topology.declare().await?;
                let place = topology.place(self.queue.as_str());
                place.ok_or(ConsumeError::Lost)?
            }
        };
        self.is_in_doubt = false;
        Ok(Place {
            // The queue as it was given, or the broker's own word: either is short enough.
            queue: (&*place.name).into(),
            link: place.link.unwrap_or(link),
        })
    }

    /// It was lost without its connection, or could not be subscribed to.
    pub(super) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }
}
