//! Taking messages: `basic.qos`, `consume`, `cancel` and `get`.

use std::{sync::Arc, time::Instant};

use amq_protocol::{
    protocol::{AMQPClass, basic},
    types::ShortString,
};

use super::{
    super::{ChannelKey, ConsumerKey, Output, output::ContentMethod, vhost::ConsumerSpec},
    Sessions,
    basic::Outcome,
    exception::Exception,
};

/// The pseudo-queue of RabbitMQ's direct reply-to.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl Sessions {
    pub(super) fn qos(&mut self, key: ChannelKey, method: &basic::Qos, now: Instant) -> Outcome {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        // RabbitMQ gives the two meanings of "global" to consumer and channel; setting the
        // consumers' limit lifts the channel's (its page "Consumer Prefetch").
        channel.global_prefetch = if method.global {
            method.prefetch_count
        } else {
            channel.prefetch = method.prefetch_count;
            0
        };
        let waiting = std::mem::take(&mut channel.starved);
        let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
        self.reply(key, AMQPClass::Basic(ok))?;
        self.resume(key, waiting, now);
        Ok(())
    }

    pub(super) fn consume(
        &mut self,
        key: ChannelKey,
        method: basic::Consume,
        now: Instant,
    ) -> Outcome {
        let most = self.settings.max_consumers_per_channel;
        let queue = self.queue_name(key, method.queue)?;
        let tag: Arc<str> = if method.consumer_tag.as_str().is_empty() {
            let made_up = std::iter::repeat_with(|| self.random.alphanumeric());
            format!("amq.ctag-{}", made_up.take(22).collect::<String>()).into()
        } else {
            method.consumer_tag.as_str().into()
        };
        let Some(connection) = self.desk.connections.get_mut(&key.connection) else {
            return Ok(());
        };
        connection.last_consumer += 1;
        let (number, host) = (connection.last_consumer, connection.host);
        let Some(channel) = connection.open_channel(key.channel) else {
            return Ok(());
        };
        if channel.tags.contains_key(&tag) {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Exception::new(530, text));
        }
        if queue.as_str() == REPLY_TO {
            return Err(Exception::new(540, "direct reply-to"));
        }
        if channel.consumers.len() >= most {
            let text =
                format!("number of consumers on the channel has reached the maximum ({most})");
            return Err(Exception::new(530, text));
        }
        let consumer = ConsumerKey {
            channel: key,
            number,
        };
        self.hosts[host].subscribe(ConsumerSpec {
            key: consumer,
            queue: queue.as_str(),
            no_ack: method.no_ack,
            exclusive: method.exclusive,
            arguments: &method.arguments,
        })?;
        channel.consume(number, Arc::clone(&tag), method.no_ack);
        let ok = basic::AMQPMethod::ConsumeOk(basic::ConsumeOk {
            consumer_tag: ShortString::from(&*tag),
        });
        self.reply_unless(method.nowait, key, AMQPClass::Basic(ok))?;
        self.hosts[host].resume([consumer], now, &mut self.desk);
        Ok(())
    }

    pub(super) fn cancel(
        &mut self,
        key: ChannelKey,
        method: basic::Cancel,
        now: Instant,
    ) -> Outcome {
        let Some(connection) = self.desk.connection(key.connection) else {
            return Ok(());
        };
        let host = connection.host;
        let Some(channel) = connection.open_channel(key.channel) else {
            return Ok(());
        };
        if let Some(&number) = channel.tags.get(method.consumer_tag.as_str()) {
            channel.forget_consumer(number);
            let consumer = ConsumerKey {
                channel: key,
                number,
            };
            self.hosts[host].unsubscribe(consumer, now, &mut self.desk);
        }
        let ok = basic::AMQPMethod::CancelOk(basic::CancelOk {
            consumer_tag: method.consumer_tag,
        });
        self.reply_unless(method.nowait, key, AMQPClass::Basic(ok))
    }

    pub(super) fn get(&mut self, key: ChannelKey, method: &basic::Get, now: Instant) -> Outcome {
        let queue = self.queue_name(key, method.queue.clone())?;
        let Some(connection) = self.desk.connection(key.connection) else {
            return Ok(());
        };
        let host = &mut self.hosts[connection.host];
        let no_ack = method.no_ack;
        let got = host.get(key.connection, queue.as_str(), no_ack, now, &mut self.desk)?;
        let Some(got) = got else {
            let empty = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
            return self.reply(key, AMQPClass::Basic(empty));
        };
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        let delivery_tag = channel.got(&got.lent, no_ack);
        let output = Output::Content {
            channel: key.channel,
            method: ContentMethod::GetOk {
                delivery_tag,
                redelivered: got.lent.redelivered,
                message_count: u32::try_from(got.remaining).unwrap_or(u32::MAX),
            },
            message: got.lent.message,
        };
        self.desk.flush_confirms(key.connection, key.channel);
        self.desk.push(key.connection, output);
        Ok(())
    }

    /// The name itself, or if it is empty that of the queue declared last on the channel.
    pub(super) fn queue_name(
        &mut self,
        key: ChannelKey,
        name: ShortString,
    ) -> Result<ShortString, Exception> {
        if !name.as_str().is_empty() {
            return Ok(name);
        }
        let channel = self.desk.channel(key.connection, key.channel);
        let last = channel.map_or("", |channel| channel.last_queue.as_str());
        if last.is_empty() {
            return Err(Exception::new(404, "no previously declared queue"));
        }
        Ok(ShortString::from(last))
    }
}
