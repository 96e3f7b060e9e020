//! What happens with time and memory: heartbeats, deadlines, alarms, withheld confirms.

use std::time::Instant;

use amq_protocol::{frame::AMQPFrame, protocol::connection};

use super::{
    super::{ConnectionId, Output, vhost::VHost},
    Sessions,
    connection::State,
    exception::short,
};

impl Sessions {
    pub(in super::super) fn advance(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.desk.timers.first() {
            if due > now {
                break;
            }
            self.timer(id, now);
        }
        for host in &mut self.hosts {
            host.advance(now, &mut self.desk);
        }
        self.release_confirms(now);
        self.watch_memory(now);
    }

    pub(in super::super) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.desk.timers.first().map(|(due, _)| *due);
        let hosts = self.hosts.iter().filter_map(VHost::next_deadline);
        hosts
            .chain(timer)
            .chain(self.interference.next_deadline())
            .min()
    }

    /// The connection's timer went off, perhaps too early: what it waited for may have come.
    fn timer(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        if connection.state != State::Running {
            if connection.deadline <= now {
                self.release_connection(id, now);
                self.desk.shut(id);
            }
            return self.desk.rearm(id);
        }
        let full = connection.outbox.cost >= self.settings.outbox_limit * 2;
        if full {
            // It is not read from, so its silence says nothing.
            connection.last_received = now;
        }
        if connection.silence_ends().is_some_and(|end| end <= now) {
            self.release_connection(id, now);
            return self.desk.shut(id);
        }
        if connection.last_sent + connection.heartbeat / 2 <= now {
            connection.last_sent = now;
            if connection.outbox.cost == 0 {
                self.desk.push(id, Output::frame(AMQPFrame::Heartbeat));
            }
        }
        self.desk.rearm(id);
    }

    /// Sends the confirms that faults held back until now.
    pub(super) fn release_confirms(&mut self, now: Instant) {
        let mut releases = std::mem::take(&mut self.releases);
        self.interference.due(now, &mut releases);
        for release in releases.drain(..) {
            self.release_confirm(release);
        }
        self.releases = releases;
    }

    pub(in super::super) fn block(&mut self, reason: &str) {
        self.blocked = Some(reason.to_owned());
    }

    pub(in super::super) fn unblock(&mut self, now: Instant) {
        self.blocked = None;
        self.resume_publishers(now);
    }

    /// Raises or ends the memory alarm. It ends an eighth below the limit, so that a publisher
    /// at the limit is not blocked and unblocked with every message.
    pub(super) fn watch_memory(&mut self, now: Instant) {
        let limit = self.settings.memory_limit;
        let held: usize = self.hosts.iter().map(VHost::held_bytes).sum();
        if held > limit {
            self.low_on_memory = true;
        } else if self.low_on_memory && held <= limit - limit / 8 {
            self.low_on_memory = false;
            self.resume_publishers(now);
        }
    }

    /// Content came in: while there is an alarm, its connection is not read from any more, and is
    /// told so once (RabbitMQ, "Memory and Disk Alarms" and "Blocked Connection Notifications").
    pub(super) fn stall_publisher(&mut self, id: ConnectionId) {
        let reason = match &self.blocked {
            Some(reason) => reason.clone(),
            None if self.low_on_memory => "low on memory".to_owned(),
            None => return,
        };
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        connection.stalled = true;
        let told = std::mem::replace(&mut connection.blocked_told, true);
        if connection.capabilities.connection_blocked && !told {
            let reason = short(reason);
            self.send0(
                id,
                connection::AMQPMethod::Blocked(connection::Blocked { reason }),
            );
        }
    }

    fn resume_publishers(&mut self, now: Instant) {
        if self.blocked.is_some() || self.low_on_memory {
            return;
        }
        let stalled = self
            .desk
            .connections
            .iter_mut()
            .filter(|(_, it)| it.stalled);
        let mut ids: Vec<_> = stalled.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            self.resume_publisher(id, now);
        }
    }

    fn resume_publisher(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        connection.stalled = false;
        connection.last_received = now;
        let told = std::mem::take(&mut connection.blocked_told);
        if connection.capabilities.connection_blocked && told {
            self.send0(
                id,
                connection::AMQPMethod::Unblocked(connection::Unblocked {}),
            );
        }
        self.desk.touch(id);
        self.desk.rearm(id);
    }
}
