//! Connections and channels: what clients say to the broker and what it answers.
//!
//! RabbitMQ 3.10 is the reference for every reply, code and text.

mod attach;
mod handshake;
mod operator;
mod upkeep;

mod dispatch;

mod basic;
mod closing;
mod consume;
mod publish;
mod settle;
mod topology;
mod transaction;

mod desk;

mod connection;

mod channel;

mod confirms;
mod content;
mod credentials;
mod exception;

#[cfg(test)]
mod tests;

use std::{fmt, time::Instant};

use super::{
    ChannelKey, ConnectionId, Output, Settings,
    interference::{Interference, Peer, Release, Undisturbed},
    vhost::{Epoch, VHost},
};

use connection::{Connection, FRAME_MIN_SIZE, State};
use desk::Desk;
use exception::Exception;

/// Every connection of a broker, and the virtual hosts they work on.
pub(super) struct Sessions {
    settings: Settings,
    interference: Box<dyn Interference>,
    /// In the order of their names in the settings.
    hosts: Vec<VHost>,
    desk: Desk,
    random: fastrand::Rng,
    /// Bytes of messages that are not whole and of open transactions, of all connections.
    pending: usize,
    /// Why publishers are blocked by the operator, if they are.
    blocked: Option<String>,
    /// Whether they are blocked because messages take more memory than they may.
    low_on_memory: bool,
    /// Kept for its allocation.
    releases: Vec<Release>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("desk", &self.desk)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let epoch = Epoch {
            instant: now,
            unix: settings.unix,
        };
        let hosts = settings
            .vhosts
            .iter()
            .map(|name| VHost::new(name, settings.vhost_limits, epoch, random.u64(..)))
            .collect();
        let desk = Desk::new(settings.outbox_limit);
        Self {
            settings,
            interference: Box::new(Undisturbed),
            hosts,
            desk,
            random,
            pending: 0,
            blocked: None,
            low_on_memory: false,
            releases: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, now: Instant) -> ConnectionId {
        let deadline = now + self.settings.handshake_timeout;
        let id = self.desk.admit(|id| Connection::new(id, deadline, now));
        self.desk.rearm(id);
        id
    }

    pub(super) fn disconnect(&mut self, id: ConnectionId, now: Instant) {
        self.release_connection(id, now);
        self.desk.dismiss(id);
        self.watch_memory(now);
    }

    pub(super) fn drain(&mut self, id: ConnectionId, into: &mut Vec<Output>) -> usize {
        let Some(connection) = self.desk.connection(id) else {
            return 0;
        };
        for channel in std::mem::take(&mut connection.confirming) {
            self.desk.flush_confirms(id, channel);
        }
        self.desk
            .connection(id)
            .map_or(0, |connection| connection.outbox.drain(into))
    }

    pub(super) fn touched(&mut self) -> std::vec::Drain<'_, ConnectionId> {
        self.desk.touched.drain(..)
    }

    /// A connection whose outbox is twice as full as deliveries may make it answers too much for
    /// what it reads.
    pub(super) fn wants_more(&self, id: ConnectionId) -> bool {
        self.desk.connections.get(&id).is_some_and(|connection| {
            connection.state != State::Closed
                && !connection.stalled
                && connection.outbox.cost < self.desk.outbox_limit * 2
        })
    }

    pub(super) fn outbox_limit(&self) -> usize {
        self.desk.outbox_limit
    }

    pub(super) fn written(&mut self, id: ConnectionId, cost: usize, now: Instant) {
        let limit = self.desk.outbox_limit;
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        let was_full = connection.outbox.cost >= limit * 2;
        connection.outbox.cost = connection.outbox.cost.saturating_sub(cost);
        if cost > 0 {
            connection.last_sent = now;
        }
        if was_full {
            connection.last_received = now;
            self.desk.touch(id);
        }
        self.feed_starved(id, now);
        if self.low_on_memory {
            // What needs no acknowledgement is out of memory when it is handed out.
            self.watch_memory(now);
        }
    }

    /// Offers room in the outbox to the consumers that waited for it, once half of it is free.
    fn feed_starved(&mut self, id: ConnectionId, now: Instant) {
        let limit = self.desk.outbox_limit;
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        if connection.outbox.cost > limit / 2 || connection.starved.is_empty() {
            return;
        }
        let host = connection.host;
        let consumers = std::mem::take(&mut connection.starved);
        self.hosts[host].resume(consumers, now, &mut self.desk);
    }

    /// How many consumers are noted to wait for room in the outbox.
    #[cfg(test)]
    fn starved(&self, id: ConnectionId) -> usize {
        self.desk.connections[&id].starved.len()
    }

    pub(super) fn frame_max(&self, id: ConnectionId) -> u32 {
        self.desk
            .connections
            .get(&id)
            .map_or(FRAME_MIN_SIZE, |connection| connection.frame_max)
    }

    pub(super) fn work(&self) -> u64 {
        self.hosts.iter().map(VHost::work).sum()
    }

    pub(super) fn is_open(&self, id: ConnectionId) -> bool {
        self.state_of(id) == State::Running
    }

    pub(super) fn peer(&self, id: ConnectionId) -> Option<Peer> {
        let connection = self.desk.connections.get(&id)?;
        Some(connection.peer.clone())
    }

    pub(super) fn interfere(&mut self, interference: Box<dyn Interference>) {
        self.interference = interference;
    }

    pub(super) fn close_connection(
        &mut self,
        id: ConnectionId,
        code: u16,
        text: &str,
        now: Instant,
    ) {
        if self.is_open(id) {
            let exception = Exception::verbatim(code, text);
            self.connection_exception(id, &exception, (0, 0), now);
        } else {
            self.desk.shut(id);
        }
    }

    pub(super) fn close_channel(&mut self, key: ChannelKey, code: u16, text: &str, now: Instant) {
        let exception = Exception::verbatim(code, text);
        self.channel_exception(key, &exception, (0, 0), now);
    }

    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        let mut ids: Vec<_> = self.desk.connections.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn channels(&self, id: ConnectionId) -> Vec<ChannelKey> {
        let Some(connection) = self.desk.connections.get(&id) else {
            return Vec::new();
        };
        let open = connection.channels.iter().filter(|(_, it)| !it.closing);
        let mut numbers: Vec<u16> = open.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let key = |channel| ChannelKey {
            connection: id,
            channel,
        };
        numbers.into_iter().map(key).collect()
    }

    pub(super) fn queue_depth(&self, vhost: &str, queue: &str) -> Option<(usize, usize)> {
        let host = self.settings.vhosts.iter().position(|name| name == vhost)?;
        self.hosts[host].queue_depth(queue)
    }
}
