//! What happens by itself: messages expire, and queues that nobody uses.

use std::time::Instant;

use super::{Outlet, SLICE, VHost, dead_letters::Reason};

impl VHost {
    /// Does what is due. What is too much for once stays due.
    pub(crate) fn advance(&mut self, now: Instant, outlet: &mut dyn Outlet) {
        self.now = now;
        self.clear_away();
        self.send_some_on(now, outlet);
        let end = self.work + SLICE;
        while self.work < end {
            let Some(&(due, slot)) = self.deadlines.first() else {
                break;
            };
            if due > now {
                break;
            }
            self.deadlines.pop_first();
            self.queues[slot].deadline = None;
            self.work += 1;
            self.expire(slot, now, end.saturating_sub(self.work));
            let disuse = self.queues[slot].end_of_disuse();
            if disuse.is_some_and(|disuse| disuse <= now) {
                self.remove_queue(slot, outlet);
            } else if !self.queues[slot].is_overdue(now) {
                // Consumers that wait here were held up by what has gone.
                self.dispatch(slot, now, outlet);
            }
        }
        self.bury(now, outlet);
    }

    /// When [`advance`](Self::advance) has something to do, if nothing else happens before. It may
    /// find then that it has not.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.dead.is_empty() && self.fresh_dead.is_empty() && self.remains.is_empty() {
            return self.deadlines.first().map(|(due, _)| *due);
        }
        Some(self.now)
    }

    /// Takes what has expired from the head of a queue. Behind a message that has not, others wait
    /// though their time is over, as in RabbitMQ's classic queues. What is too much for once leaves
    /// the queue overdue.
    pub(super) fn expire_heads(&mut self, slot: usize, now: Instant) {
        self.expire(slot, now, SLICE);
    }

    fn expire(&mut self, slot: usize, now: Instant, at_most: u64) {
        for _ in 0..at_most {
            let queue = &mut self.queues[slot];
            let head = queue.ready.peek().and_then(|place| place.expires);
            if head.is_none_or(|expires| expires > now) {
                break;
            }
            let Some(place) = queue.ready.pop() else {
                break;
            };
            self.work += 1;
            self.dead_letter(slot, place.message, Reason::Expired);
        }
        self.watch(slot);
    }

    /// Sees to it that the queue is looked at in time. A deadline earlier than need be stands: it
    /// costs one look, where moving it would cost every message of a busy queue.
    pub(super) fn watch(&mut self, slot: usize) {
        let queue = &mut self.queues[slot];
        let Some(due) = queue.due() else {
            return;
        };
        match queue.deadline {
            Some(deadline) if deadline <= due => return,
            Some(deadline) => {
                self.deadlines.remove(&(deadline, slot));
            }
            None => {}
        }
        queue.deadline = Some(due);
        self.deadlines.insert((due, slot));
    }
}
