//! Acknowledgements: `basic.ack`, `nack`, `reject` and `recover`.

use std::time::Instant;

use super::{
    super::{ChannelKey, ConsumerKey, vhost::Settlement},
    Sessions,
    basic::Outcome,
    channel::Unacked,
    exception::Exception,
};

impl Sessions {
    pub(super) fn settle(
        &mut self,
        key: ChannelKey,
        tag: u64,
        multiple: bool,
        settlement: Settlement,
        now: Instant,
    ) -> Outcome {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        let Some(taken) = channel.take(tag, multiple) else {
            let text = format!("unknown delivery tag {tag}");
            return Err(Exception::precondition_failed(text));
        };
        if let Some(transaction) = &mut channel.transaction {
            let taken = taken.into_iter().map(|unacked| (unacked, settlement));
            transaction.settlements.extend(taken);
            return Ok(());
        }
        let taken = taken.into_iter().map(|unacked| (unacked, settlement));
        self.settle_all(key, taken, now);
        Ok(())
    }

    /// Everything that is not acknowledged goes back to be delivered again.
    pub(super) fn recover(&mut self, key: ChannelKey, now: Instant) {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return;
        };
        let taken = std::mem::take(&mut channel.unacked).into_iter();
        let taken = taken.map(|unacked| (unacked, Settlement::Requeue));
        self.settle_all(key, taken, now);
    }

    /// Makes room in the channel, and tells the queues what became of deliveries, one consumer after
    /// the other, in the order of their tags: what one gives back is handed out before the next is
    /// heard (`foreach_per_queue` of RabbitMQ 3.10.8), and may come to the same channel again. Only
    /// then the consumers that the channel's limit had refused are asked.
    pub(super) fn settle_all(
        &mut self,
        key: ChannelKey,
        settlements: impl Iterator<Item = (Unacked, Settlement)>,
        now: Instant,
    ) {
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        let host = connection.host;
        let mut settlements: Vec<_> = settlements.collect();
        if let Some(channel) = self.desk.channel(key.connection, key.channel) {
            channel.sort_by_consumer(&mut settlements);
            channel.make_room(settlements.len());
        }
        for group in settlements.chunk_by(|(one, _), (other, _)| one.goes_with(other)) {
            let mut resumed = Vec::new();
            if let Some(channel) = self.desk.channel(key.connection, key.channel) {
                resumed.extend(group.iter().filter_map(|(it, _)| channel.settled(it)));
            }
            let resumed = resumed.into_iter().map(|number| ConsumerKey {
                channel: key,
                number,
            });
            let settlements = group.iter().map(|(it, what)| (it.queue, it.number, *what));
            self.hosts[host].settle(resumed, settlements, now, &mut self.desk);
        }
        if let Some(channel) = self.desk.channel(key.connection, key.channel) {
            let starved = std::mem::take(&mut channel.starved);
            self.resume(key, starved, now);
        }
    }

    /// Consumers of a channel may have room again.
    pub(super) fn resume(&mut self, key: ChannelKey, numbers: Vec<u64>, now: Instant) {
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        let host = &mut self.hosts[connection.host];
        let consumers = numbers.into_iter().map(|number| ConsumerKey {
            channel: key,
            number,
        });
        host.resume(consumers, now, &mut self.desk);
    }
}
