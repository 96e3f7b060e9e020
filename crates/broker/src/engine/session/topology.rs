//! The exchange and queue classes.

use std::time::Instant;

use amq_protocol::{
    protocol::{AMQPClass, exchange, queue},
    types::{FieldTable, ShortString},
};

use super::{
    super::{
        ChannelKey,
        vhost::{BindingSpec, DestinationName, ExchangeSpec, QueueSpec, VHost},
    },
    Sessions,
    basic::{Outcome, unimplemented_method},
    exception::Exception,
};

impl Sessions {
    pub(super) fn exchange(&mut self, key: ChannelKey, method: exchange::AMQPMethod) -> Outcome {
        use exchange::AMQPMethod as Method;
        let host = self.host(key);
        let (nowait, ok) = match method {
            Method::Declare(it) => {
                declare_exchange(host, &it)?;
                (it.nowait, Method::DeclareOk(exchange::DeclareOk {}))
            }
            Method::Delete(it) => {
                host.delete_exchange(it.exchange.as_str(), it.if_unused)?;
                (it.nowait, Method::DeleteOk(exchange::DeleteOk {}))
            }
            Method::Bind(it) => {
                let to = DestinationName::Exchange(it.destination.as_str());
                let spec = binding(&it.source, to, &it.routing_key, &it.arguments);
                host.bind(key.connection, spec)?;
                (it.nowait, Method::BindOk(exchange::BindOk {}))
            }
            Method::Unbind(it) => {
                let to = DestinationName::Exchange(it.destination.as_str());
                let spec = binding(&it.source, to, &it.routing_key, &it.arguments);
                host.unbind(key.connection, spec)?;
                (it.nowait, Method::UnbindOk(exchange::UnbindOk {}))
            }
            _ => return unimplemented_method(),
        };
        self.reply_unless(nowait, key, AMQPClass::Exchange(ok))
    }

    pub(super) fn queue(
        &mut self,
        key: ChannelKey,
        method: queue::AMQPMethod,
        now: Instant,
    ) -> Outcome {
        use queue::AMQPMethod as Method;
        let (nowait, ok) = match method {
            Method::Declare(it) => self.declare_queue(key, &it, now)?,
            Method::Bind(it) => {
                let (queue, routing_key) = self.bound(key, it.queue, it.routing_key)?;
                let to = DestinationName::Queue(queue.as_str());
                let spec = binding(&it.exchange, to, &routing_key, &it.arguments);
                self.host(key).bind(key.connection, spec)?;
                (it.nowait, Method::BindOk(queue::BindOk {}))
            }
            Method::Unbind(it) => {
                let (queue, routing_key) = self.bound(key, it.queue, it.routing_key)?;
                let to = DestinationName::Queue(queue.as_str());
                let spec = binding(&it.exchange, to, &routing_key, &it.arguments);
                self.host(key).unbind(key.connection, spec)?;
                (false, Method::UnbindOk(queue::UnbindOk {}))
            }
            Method::Purge(it) => {
                let queue = self.queue_name(key, it.queue)?;
                let purged = self.host(key).purge_queue(key.connection, queue.as_str())?;
                let message_count = count(purged);
                (it.nowait, Method::PurgeOk(queue::PurgeOk { message_count }))
            }
            Method::Delete(it) => self.delete_queue(key, it)?,
            _ => return unimplemented_method(),
        };
        self.reply_unless(nowait, key, AMQPClass::Queue(ok))
    }

    fn declare_queue(
        &mut self,
        key: ChannelKey,
        method: &queue::Declare,
        now: Instant,
    ) -> Result<(bool, queue::AMQPMethod), Exception> {
        let name = method.queue.as_str();
        let host = self.host(key);
        let info = if method.passive {
            host.check_queue(key.connection, name, now)?
        } else {
            let spec = QueueSpec {
                name,
                durable: method.durable,
                exclusive: method.exclusive,
                auto_delete: method.auto_delete,
                arguments: &method.arguments,
            };
            host.declare_queue(key.connection, spec, now)?
        };
        if let Some(channel) = self.desk.channel(key.connection, key.channel) {
            channel.last_queue.clear();
            channel.last_queue.push_str(&info.name);
        }
        let ok = queue::AMQPMethod::DeclareOk(queue::DeclareOk {
            queue: ShortString::from(&*info.name),
            message_count: count(info.messages),
            consumer_count: count(info.consumers),
        });
        Ok((method.nowait, ok))
    }

    fn delete_queue(
        &mut self,
        key: ChannelKey,
        method: queue::Delete,
    ) -> Result<(bool, queue::AMQPMethod), Exception> {
        let queue = self.queue_name(key, method.queue)?;
        let host = self.host_of(key);
        let deleted = self.hosts[host].delete_queue(
            key.connection,
            queue.as_str(),
            method.if_unused,
            method.if_empty,
            &mut self.desk,
        )?;
        let message_count = count(deleted);
        let ok = queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count });
        Ok((method.nowait, ok))
    }

    /// The queue and the routing key of a binding. Empty names stand for the queue declared last,
    /// an empty routing key only beside an empty queue.
    fn bound(
        &mut self,
        key: ChannelKey,
        queue: ShortString,
        mut routing_key: ShortString,
    ) -> Result<(ShortString, ShortString), Exception> {
        if queue.as_str().is_empty() {
            routing_key = self.queue_name(key, routing_key)?;
        }
        Ok((self.queue_name(key, queue)?, routing_key))
    }

    fn host(&mut self, key: ChannelKey) -> &mut VHost {
        let host = self.host_of(key);
        &mut self.hosts[host]
    }

    fn host_of(&self, key: ChannelKey) -> usize {
        let connection = self.desk.connections.get(&key.connection);
        connection.map_or(0, |connection| connection.host)
    }
}

fn binding<'a>(
    source: &'a ShortString,
    destination: DestinationName<'a>,
    routing_key: &'a ShortString,
    arguments: &'a FieldTable,
) -> BindingSpec<'a> {
    BindingSpec {
        source: source.as_str(),
        destination,
        routing_key: routing_key.as_str(),
        arguments,
    }
}

fn declare_exchange(host: &mut VHost, method: &exchange::Declare) -> Outcome {
    let name = method.exchange.as_str();
    if method.passive {
        return Ok(host.check_exchange(name)?);
    }
    host.declare_exchange(ExchangeSpec {
        name,
        kind: method.kind.as_str(),
        durable: method.durable,
        auto_delete: method.auto_delete,
        internal: method.internal,
        arguments: &method.arguments,
    })?;
    Ok(())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
