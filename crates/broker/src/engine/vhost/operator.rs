//! What an operator sees of queues, and does to them.

use super::{
    super::{keys::ConnectionId, status::QueueStatus},
    Outlet, VHost,
};

impl VHost {
    /// All queues, by name.
    pub(crate) fn queues(&self) -> Vec<QueueStatus> {
        let queues = self.queues.iter().map(|(_, queue)| QueueStatus {
            name: queue.name.to_string(),
            ready: queue.ready.len(),
            unacked: queue.lent.len(),
            consumers: queue.turns.len(),
            owner: queue.owner.map(ConnectionId::nth),
        });
        let mut queues: Vec<_> = queues.collect();
        queues.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        queues
    }

    /// Deletes a queue, whoever's it is. False if there is none.
    pub(crate) fn delete_any_queue(&mut self, name: &str, outlet: &mut dyn Outlet) -> bool {
        let slot = self.queue_names.get(name).copied();
        if let Some(slot) = slot {
            self.remove_queue(slot, outlet);
        }
        slot.is_some()
    }
}
