//! All connections, and the way out to them. The virtual hosts write through it.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic},
    types::ShortString,
};

use super::{
    super::{
        ConnectionId, ConsumerKey, Output,
        vhost::{Lent, Outlet},
    },
    channel::Channel,
    connection::{Connection, State},
};

/// The connections there are.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) connections: HashMap<ConnectionId, Connection>,
    pub(super) touched: Vec<ConnectionId>,
    pub(super) timers: BTreeSet<(Instant, ConnectionId)>,
    last_id: u64,
    pub(super) outbox_limit: usize,
}

impl Desk {
    pub(super) fn new(outbox_limit: usize) -> Self {
        Self {
            connections: HashMap::new(),
            touched: Vec::new(),
            timers: BTreeSet::new(),
            last_id: 0,
            outbox_limit,
        }
    }

    pub(super) fn admit(
        &mut self,
        connection: impl FnOnce(ConnectionId) -> Connection,
    ) -> ConnectionId {
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        self.connections.insert(id, connection(id));
        id
    }

    pub(super) fn dismiss(&mut self, id: ConnectionId) {
        if let Some(Connection {
            timer: Some(at), ..
        }) = self.connections.remove(&id)
        {
            self.timers.remove(&(at, id));
        }
    }

    pub(super) fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// A channel that is open on both sides.
    pub(super) fn channel(&mut self, id: ConnectionId, channel: u16) -> Option<&mut Channel> {
        self.connection(id)?.open_channel(channel)
    }

    /// Lists the connection for its writer, once until it is drained.
    pub(super) fn touch(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut connection.outbox.listed, true) {
            self.touched.push(id);
        }
    }

    pub(super) fn push(&mut self, id: ConnectionId, output: Output) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.state != State::Closed {
            connection.outbox.push(output);
            self.touch(id);
        }
    }

    pub(super) fn send(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) {
        self.push(id, Output::frame(AMQPFrame::Method(channel, method)));
    }

    /// The last output of a connection: what follows is dropped.
    pub(super) fn shut(&mut self, id: ConnectionId) {
        self.push(id, Output::Close);
        if let Some(connection) = self.connection(id) {
            connection.state = State::Closed;
        }
        self.rearm(id);
    }

    /// Tells the confirms gathered on a channel.
    pub(super) fn flush_confirms(&mut self, id: ConnectionId, number: u16) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(channel) = connection.channels.get_mut(&number) else {
            return;
        };
        channel.confirms_noted = false;
        let Some(confirms) = &mut channel.confirms else {
            return;
        };
        let outbox = &mut connection.outbox;
        confirms.flush(|method| {
            outbox.push(Output::frame(AMQPFrame::Method(number, method)));
        });
        self.touch(id);
    }

    /// Lists the connection's timer anew.
    pub(super) fn rearm(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let due = connection.due();
        if connection.timer == due {
            return;
        }
        if let Some(old) = std::mem::replace(&mut connection.timer, due) {
            self.timers.remove(&(old, id));
        }
        if let Some(due) = due {
            self.timers.insert((due, id));
        }
    }
}

impl Outlet for Desk {
    fn accepts(&mut self, consumer: ConsumerKey) -> bool {
        let limit = self.outbox_limit;
        let Some(connection) = self.connection(consumer.channel.connection) else {
            return false;
        };
        if connection.outbox.cost >= limit {
            connection.starve(consumer);
            return false;
        }
        connection
            .open_channel(consumer.channel.channel)
            .is_some_and(|channel| channel.accepts(consumer.number))
    }

    fn deliver(&mut self, consumer: ConsumerKey, lent: Lent) {
        let key = consumer.channel;
        let Some(channel) = self.channel(key.connection, key.channel) else {
            return;
        };
        if let Some(output) = channel.deliver(key.channel, consumer.number, lent) {
            self.push(key.connection, output);
        }
    }

    fn cancelled(&mut self, consumer: ConsumerKey) {
        let key = consumer.channel;
        let Some(connection) = self.connection(key.connection) else {
            return;
        };
        let told = connection.capabilities.consumer_cancel_notify;
        let Some(channel) = connection.channels.get_mut(&key.channel) else {
            return;
        };
        let Some(gone) = channel.forget_consumer(consumer.number) else {
            return;
        };
        if told && !channel.closing {
            let method = basic::AMQPMethod::Cancel(basic::Cancel {
                consumer_tag: ShortString::from(&*gone.tag),
                nowait: true,
            });
            self.send(key.connection, key.channel, AMQPClass::Basic(method));
        }
    }
}
