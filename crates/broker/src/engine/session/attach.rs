//! Clients in the process: they come without a handshake and go without an answer.

use std::{sync::Arc, time::Instant};

use super::{
    super::{ConnectionId, Disconnected, Farewell},
    Sessions,
    connection::{Capabilities, Connection, State},
};

impl Sessions {
    pub(in super::super) fn attach(
        &mut self,
        user: &str,
        name: &str,
        now: Instant,
    ) -> (ConnectionId, Arc<Farewell>) {
        let farewell = Arc::new(Farewell::new());
        let frame_max = self.settings.frame_max;
        let id = self.desk.admit(|id| {
            let mut connection = Connection::new(id, now, now);
            connection.peer.user = Some(user.into());
            connection.peer.name = Some(name.into());
            connection.capabilities = Capabilities {
                consumer_cancel_notify: true,
                ..Capabilities::default()
            };
            connection.farewell = Some(Arc::clone(&farewell));
            connection.frame_max = frame_max;
            connection.state = State::Running;
            connection
        });
        (id, farewell)
    }

    pub(in super::super) fn detach_all(&mut self, now: Instant) {
        for id in self.connections() {
            if self.is_attached(id) {
                self.detach(id, Disconnected::BrokerGone, now);
            }
        }
    }

    pub(in super::super) fn is_blocked(&self, id: ConnectionId) -> bool {
        let connection = self.desk.connections.get(&id);
        connection.is_some_and(|connection| connection.stalled)
    }

    pub(super) fn is_attached(&self, id: ConnectionId) -> bool {
        let connection = self.desk.connections.get(&id);
        connection.is_some_and(|connection| connection.farewell.is_some())
    }

    /// Everything goes back that the connection had, and its client is woken to find the farewell.
    pub(super) fn detach(&mut self, id: ConnectionId, why: Disconnected, now: Instant) {
        let connection = self.desk.connection(id);
        if let Some(farewell) = connection.and_then(|it| it.farewell.clone()) {
            // Nobody else says it, but for a client that leaves at this moment and does not listen.
            let _ = farewell.set(why);
        }
        self.release_connection(id, now);
        self.desk.touch(id);
        self.desk.dismiss(id);
        self.watch_memory(now);
    }
}
