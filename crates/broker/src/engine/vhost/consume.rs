//! Messages leave their queues, and come back.

use std::time::Instant;

use super::{
    super::keys::{ConnectionId, ConsumerKey},
    ConsumerSpec, Got, Lent, Outlet, QueueKey, Refusal, Settlement, VHost,
    arguments::consumer_priority,
    dead_letters::Reason,
    ready::Place,
    refusal::the_queue,
    turns::Turn,
};

impl VHost {
    /// `basic.consume`. The new consumer gets nothing before [`resume`](Self::resume), so that
    /// `consume-ok` can go first.
    ///
    /// # Errors
    ///
    /// 404 if there is no such queue; 405 for another connection's exclusive queue; 403 beside an
    /// exclusive consumer, or as one beside others; 406 for wrong arguments.
    pub(crate) fn subscribe(&mut self, spec: ConsumerSpec<'_>) -> Result<(), Refusal> {
        let slot = self.queue_slot(spec.queue)?;
        self.assert_open(slot, spec.key.channel.connection)?;
        let what = the_queue(spec.queue, &self.name);
        let priority = consumer_priority(spec.arguments, &what)?;
        let turns = &mut self.queues[slot].turns;
        if !turns.admits(spec.exclusive) {
            return Err(Refusal::access_refused(format!("{what} in exclusive use")));
        }
        let turn = Turn {
            consumer: spec.key,
            no_ack: spec.no_ack,
        };
        turns.join(turn, priority, spec.exclusive);
        self.consumers.insert(spec.key, slot);
        Ok(())
    }

    /// A consumer goes, and with the last one an auto-delete queue. What was lent to it stays
    /// lent.
    pub(crate) fn unsubscribe(
        &mut self,
        consumer: ConsumerKey,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) {
        let Some(slot) = self.consumers.remove(&consumer) else {
            return;
        };
        if self.part(slot, [consumer], now, outlet) {
            self.run(slot, now, outlet);
        }
    }

    /// A queue loses consumers of its own. Whether it stays.
    pub(super) fn part(
        &mut self,
        slot: usize,
        consumers: impl IntoIterator<Item = ConsumerKey>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> bool {
        let queue = &mut self.queues[slot];
        for consumer in consumers {
            queue.turns.leave(consumer);
        }
        if !queue.turns.is_empty() {
            return true;
        }
        queue.used = now;
        if queue.auto_delete {
            self.remove_queue(slot, outlet);
            return false;
        }
        true
    }

    /// Consumers that [refused](Outlet::accepts) may accept again, or are new.
    pub(crate) fn resume(
        &mut self,
        consumers: impl IntoIterator<Item = ConsumerKey>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) {
        self.settle(consumers, [], now, outlet);
    }

    /// Whether expired messages are in the way of an answer about this queue, after some of them have
    /// gone. Each call takes more of them away.
    pub(crate) fn is_overdue(&mut self, name: &str, now: Instant) -> bool {
        let Some(&slot) = self.queue_names.get(name) else {
            return false;
        };
        self.expire_heads(slot, now);
        self.queues[slot].is_overdue(now)
    }

    /// `basic.get`. There is nothing to be got while the queue [is overdue](Self::is_overdue).
    ///
    /// # Errors
    ///
    /// 404 if there is no such queue; 405 for another connection's exclusive queue.
    pub(crate) fn get(
        &mut self,
        by: ConnectionId,
        name: &str,
        no_ack: bool,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> Result<Option<Got>, Refusal> {
        let slot = self.queue_slot(name)?;
        self.assert_open(slot, by)?;
        self.visit(slot, now);
        let queue = &mut self.queues[slot];
        let got = if queue.is_overdue(now) {
            None
        } else {
            queue.ready.pop()
        };
        let lent = got.map(|place| self.lend(slot, place, no_ack));
        self.expire_heads(slot, now);
        let remaining = self.queues[slot].ready.len();
        self.bury(now, outlet);
        Ok(lent.map(|lent| Got { lent, remaining }))
    }

    /// Ends the loan of messages, those of queues that are gone excepted, and gives turns to consumers
    /// that may accept again. Only then is anything handed out, beginning at a random queue, as
    /// RabbitMQ does it: what comes back has its old order, and consumers that share a prefetch do not
    /// starve each other.
    pub(crate) fn settle(
        &mut self,
        resumed: impl IntoIterator<Item = ConsumerKey>,
        settlements: impl IntoIterator<Item = (QueueKey, u64, Settlement)>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) {
        let mut slots = Vec::new();
        for consumer in resumed {
            if let Some(&slot) = self.consumers.get(&consumer)
                && self.queues[slot].turns.resume(consumer)
            {
                slots.push(slot);
            }
        }
        for (queue, number, settlement) in settlements {
            slots.extend(self.end_loan(queue, number, settlement));
        }
        slots.sort_unstable();
        slots.dedup();
        if slots.len() > 1 {
            let first = self.random.usize(..slots.len());
            slots.rotate_left(first);
        }
        for slot in slots {
            self.drop_heads(slot);
            self.run(slot, now, outlet);
        }
        self.bury(now, outlet);
    }

    /// The queue's slot, if the message is there again. It may be one too many.
    pub(super) fn end_loan(
        &mut self,
        queue: QueueKey,
        number: u64,
        settlement: Settlement,
    ) -> Option<usize> {
        let slot = self.live_slot(queue)?;
        let number = usize::try_from(number).expect("bug: a number no queue gave out");
        let Some(mut place) = self.queues[slot].lent.try_remove(number) else {
            debug_assert!(false, "bug: settled twice");
            return None;
        };
        self.work += 1;
        match settlement {
            Settlement::Ack => {
                self.store.leave(place.message);
                None
            }
            Settlement::Requeue => {
                place.redelivered = true;
                self.queues[slot].ready.put_back(place);
                Some(slot)
            }
            Settlement::Discard => {
                self.dead_letter(slot, place.message, Reason::Rejected);
                None
            }
        }
    }

    /// Expires what is due in a queue, hands out what waits, and sends dead letters on.
    pub(super) fn run(&mut self, slot: usize, now: Instant, outlet: &mut dyn Outlet) {
        self.expire_heads(slot, now);
        if !self.queues[slot].is_overdue(now) {
            self.dispatch(slot, now, outlet);
        }
        self.bury(now, outlet);
    }

    /// Hands messages to consumers as long as there are both. What has expired behind a message
    /// that is handed out goes with it, or holds the others up until it has gone; a message without
    /// any time to live gets this one chance.
    pub(super) fn dispatch(&mut self, slot: usize, now: Instant, outlet: &mut dyn Outlet) {
        loop {
            let queue = &mut self.queues[slot];
            if queue.ready.is_empty() {
                return;
            }
            let Some(turn) = queue.turns.next(outlet) else {
                return;
            };
            let Some(place) = queue.ready.pop() else {
                return;
            };
            let lent = self.lend(slot, place, turn.no_ack);
            outlet.deliver(turn.consumer, lent);
            self.work += 1;
            self.expire_heads(slot, now);
            if self.queues[slot].is_overdue(now) {
                return;
            }
        }
    }

    /// A message leaves its queue: for a time, or for good if nobody will acknowledge it.
    fn lend(&mut self, slot: usize, place: Place, no_ack: bool) -> Lent {
        let queue = &mut self.queues[slot];
        let key = queue.key(slot);
        let redelivered = place.redelivered;
        if no_ack {
            return Lent {
                queue: key,
                number: 0,
                message: self.store.leave(place.message),
                redelivered,
            };
        }
        let message = self.store.message(place.message).clone();
        Lent {
            queue: key,
            number: queue.lent.insert(place) as u64,
            message,
            redelivered,
        }
    }
}
