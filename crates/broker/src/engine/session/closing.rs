//! Ends: of channels and connections, asked for or forced.

use std::time::{Duration, Instant};

use amq_protocol::protocol::{AMQPClass, channel, connection};

use super::{
    super::{ChannelKey, ConnectionId, ConsumerKey, Disconnected},
    Sessions,
    channel::Channel,
    connection::State,
    exception::{Cause, Exception},
};

/// How long the broker waits for `connection.close-ok`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

impl Sessions {
    /// Closes what the exception's code says: the channel, or the connection.
    pub(super) fn exception(
        &mut self,
        key: ChannelKey,
        exception: &Exception,
        cause: Cause,
        now: Instant,
    ) {
        if exception.is_soft() {
            self.channel_exception(key, exception, cause, now);
        } else {
            self.connection_exception(key.connection, exception, cause, now);
        }
    }

    pub(super) fn channel_exception(
        &mut self,
        key: ChannelKey,
        exception: &Exception,
        cause: Cause,
        now: Instant,
    ) {
        if self.desk.channel(key.connection, key.channel).is_none() {
            return;
        }
        self.desk.flush_confirms(key.connection, key.channel);
        let method = channel::AMQPMethod::Close(channel::Close {
            reply_code: exception.code,
            reply_text: exception.reply_text(),
            class_id: cause.0,
            method_id: cause.1,
        });
        self.desk
            .send(key.connection, key.channel, AMQPClass::Channel(method));
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        if let Some(channel) = connection.channels.insert(key.channel, Channel::closing()) {
            self.release_channel(key, channel, now);
        }
    }

    /// An exception that ends the connection. During the handshake nothing is said, except where
    /// RabbitMQ does.
    pub(super) fn connection_exception(
        &mut self,
        id: ConnectionId,
        exception: &Exception,
        cause: Cause,
        now: Instant,
    ) {
        if self.is_attached(id) {
            let why = Disconnected::Closed {
                code: exception.code,
                text: exception.reply_text().into(),
            };
            return self.detach(id, why, now);
        }
        let state = self.state_of(id);
        let told = match state {
            State::Tune => exception.code == 530,
            State::Opening | State::Running => true,
            State::Header | State::Start | State::Closing | State::Closed => false,
        };
        if !told {
            return self.desk.shut(id);
        }
        self.release_connection(id, now);
        self.send_close(id, exception, cause);
        if let Some(connection) = self.desk.connection(id) {
            connection.state = State::Closing;
            connection.stalled = false;
            connection.deadline = now + CLOSE_TIMEOUT;
        }
        self.desk.rearm(id);
    }

    pub(super) fn send_close(&mut self, id: ConnectionId, exception: &Exception, cause: Cause) {
        self.send0(
            id,
            connection::AMQPMethod::Close(connection::Close {
                reply_code: exception.code,
                reply_text: exception.reply_text(),
                class_id: cause.0,
                method_id: cause.1,
            }),
        );
    }

    /// The client closes a channel.
    pub(super) fn close_by_client(&mut self, key: ChannelKey, now: Instant) {
        self.desk.flush_confirms(key.connection, key.channel);
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        if let Some(channel) = connection.channels.remove(&key.channel) {
            self.release_channel(key, channel, now);
        }
        let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
        self.desk.send(key.connection, key.channel, ok);
    }

    /// Gives back everything a connection has: channels first, then its exclusive queues.
    pub(super) fn release_connection(&mut self, id: ConnectionId, now: Instant) {
        let keys = self.channels(id);
        for key in &keys {
            self.desk.flush_confirms(id, key.channel);
        }
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        // All at once: what one of them gives back is not for another to be delivered.
        let mut channels = std::mem::take(&mut connection.channels);
        for key in keys {
            if let Some(channel) = channels.remove(&key.channel) {
                self.release_channel(key, channel, now);
            }
        }
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        self.pending -= std::mem::take(&mut connection.pending);
        if connection.state == State::Running {
            let host = connection.host;
            self.hosts[host].drop_owner(id, &mut self.desk);
        }
    }

    /// Ends the consumers of a channel that is no longer open, and gives its deliveries back.
    fn release_channel(&mut self, key: ChannelKey, mut channel: Channel, now: Instant) {
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        let pending = channel.pending();
        connection.pending -= pending;
        self.pending -= pending;
        let host = &mut self.hosts[connection.host];
        let consumers = channel.consumers.keys().map(|number| ConsumerKey {
            channel: key,
            number: *number,
        });
        let consumers: Vec<_> = consumers.collect();
        let unacked = channel.all_unacked().into_iter();
        let loans = unacked.map(|unacked| (unacked.queue, unacked.number));
        host.release(consumers, loans, now, &mut self.desk);
    }
}
