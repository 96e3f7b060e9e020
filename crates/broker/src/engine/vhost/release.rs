//! A channel leaves its queues.

use std::{cmp::Reverse, collections::BTreeMap, time::Instant};

use super::{super::keys::ConsumerKey, Outlet, QueueKey, Settlement, VHost};

/// What a channel has of one queue.
#[derive(Debug, Default)]
struct Share {
    consumers: Vec<ConsumerKey>,
    loans: Vec<u64>,
}

impl VHost {
    /// A channel ends: its consumers go, and what is lent to it comes back, those of queues that are
    /// gone excepted. The queues it consumes hear of it one after the other, the youngest first
    /// (`notify_queues` of RabbitMQ 3.10.8, and the `delegate` that it sends), then those that it has
    /// only got messages of. What one drops is a dead letter in another before that hears of the end.
    /// Each has everything back before it drops or hands out anything.
    pub(crate) fn release(
        &mut self,
        consumers: impl IntoIterator<Item = ConsumerKey>,
        loans: impl IntoIterator<Item = (QueueKey, u64)>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) {
        let mut shares = BTreeMap::<QueueKey, Share>::new();
        for consumer in consumers {
            if let Some(slot) = self.consumers.remove(&consumer) {
                let key = self.queues[slot].key(slot);
                shares.entry(key).or_default().consumers.push(consumer);
            }
        }
        for (queue, number) in loans {
            shares.entry(queue).or_default().loans.push(number);
        }
        let mut shares: Vec<_> = shares.into_iter().collect();
        shares
            .sort_by_key(|(queue, share)| (share.consumers.is_empty(), Reverse(queue.generation)));
        for (queue, share) in shares {
            self.take_back(queue, share, now, outlet);
        }
    }

    fn take_back(&mut self, key: QueueKey, share: Share, now: Instant, outlet: &mut dyn Outlet) {
        let Some(slot) = self.live_slot(key) else {
            return;
        };
        let is_consumed = !share.consumers.is_empty();
        if is_consumed && !self.part(slot, share.consumers, now, outlet) {
            return;
        }
        for number in share.loans {
            self.end_loan(key, number, Settlement::Requeue);
        }
        self.drop_heads(slot);
        self.run(slot, now, outlet);
    }
}
