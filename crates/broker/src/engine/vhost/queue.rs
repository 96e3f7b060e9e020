//! A queue: what waits in it, what is lent from it, and who consumes it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::types::FieldTable;
use slab::Slab;

use super::{
    super::keys::ConnectionId,
    QueueInfo, QueueKey,
    arguments::{Overflow, QueueArguments},
    bindings::Ends,
    ready::{Place, Ready},
    turns::Turns,
};

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) generation: u32,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    /// The connection whose queue this is, if it is exclusive.
    pub(super) owner: Option<ConnectionId>,
    pub(super) declared: FieldTable,
    pub(super) arguments: QueueArguments,
    pub(super) ready: Ready,
    pub(super) lent: Slab<Place>,
    pub(super) turns: Turns,
    pub(super) ends: Ends,
    /// The next place's.
    pub(super) order: u64,
    /// When the queue was last declared, asked for a message or left by its last consumer.
    pub(super) used: Instant,
    /// When the host will look at this queue again; not later than it has to.
    pub(super) deadline: Option<Instant>,
    /// The last routing that chose this queue.
    pub(super) chosen: u64,
}

impl Queue {
    pub(super) fn key(&self, slot: usize) -> QueueKey {
        QueueKey {
            slot: u32::try_from(slot).expect("bug: more queues than fit in 32 bits"),
            generation: self.generation,
        }
    }

    pub(super) fn info(&self) -> QueueInfo {
        QueueInfo {
            name: self.name.clone(),
            messages: self.ready.len(),
            consumers: self.turns.len(),
        }
    }

    /// Whether the connection may use the queue: it is nobody's, or its own.
    pub(super) fn is_open_to(&self, connection: ConnectionId) -> bool {
        self.owner.is_none_or(|owner| owner == connection)
    }

    /// Whether `more` messages of `bytes` in their bodies leave the queue above its own limits.
    pub(super) fn overflows(&self, more: usize, bytes: usize) -> bool {
        let arguments = &self.arguments;
        exceeds(self.ready.len() + more, arguments.max_length)
            || exceeds(self.ready.body_bytes() + bytes, arguments.max_bytes)
    }

    pub(super) fn drops_head(&self) -> bool {
        self.arguments.overflow == Overflow::DropHead && self.overflows(0, 0)
    }

    /// When a message that arrives now expires, if ever.
    pub(super) fn expiry(&self, own: Option<Duration>, now: Instant) -> Option<Instant> {
        let ttl = match (own, self.arguments.message_ttl) {
            (Some(own), Some(ours)) => own.min(ours),
            (own, ours) => own.or(ours)?,
        };
        now.checked_add(ttl)
    }

    /// Whether the next message has expired.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let head = self.ready.peek().and_then(|place| place.expires);
        head.is_some_and(|expires| expires <= now)
    }

    /// When something is due here, if nothing else happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let head = self.ready.peek().and_then(|place| place.expires);
        match (head, self.end_of_disuse()) {
            (Some(head), Some(end)) => Some(head.min(end)),
            (head, end) => head.or(end),
        }
    }

    /// When the queue expires for want of use.
    pub(super) fn end_of_disuse(&self) -> Option<Instant> {
        let expires = self.arguments.expires.filter(|_| self.turns.is_empty())?;
        self.used.checked_add(expires)
    }
}

pub(super) fn exceeds(value: usize, limit: Option<usize>) -> bool {
    limit.is_some_and(|limit| value > limit)
}
