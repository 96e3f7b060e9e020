//! What an operator sees and does, from within the program.

use std::time::Instant;

use super::{
    super::{
        ConnectionId,
        settings::User,
        status::{ConnectionStatus, QueueStatus},
    },
    Sessions,
    connection::State,
};

impl Sessions {
    /// The connections that are open, oldest first.
    pub(in super::super) fn open_connections(&self) -> Vec<ConnectionStatus> {
        let all = self.connections().into_iter();
        all.filter_map(|id| self.status(id)).collect()
    }

    fn status(&self, id: ConnectionId) -> Option<ConnectionStatus> {
        if !self.is_open(id) {
            return None;
        }
        let connection = self.desk.connections.get(&id)?;
        let text = |text: &str| text.to_owned();
        let channels = self.channels(id).into_iter().map(|key| key.channel);
        Some(ConnectionStatus {
            nth: id.nth(),
            name: connection.peer.name.as_deref().map(text),
            user: connection
                .peer
                .user
                .as_deref()
                .map_or_else(String::new, text),
            vhost: self.settings.vhosts[connection.host].clone(),
            channels: channels.collect(),
            blocked: connection.stalled,
        })
    }

    /// Closes an open connection. False if there is none of this number.
    pub(in super::super) fn close_nth(
        &mut self,
        nth: u64,
        code: u16,
        text: &str,
        now: Instant,
    ) -> bool {
        let id = ConnectionId::of_nth(nth);
        let open = self.is_open(id);
        if open {
            self.close_connection(id, code, text, now);
        }
        open
    }

    /// Closes the connections of a user, and ends those that have logged in and are not open yet. How
    /// many there were.
    pub(in super::super) fn close_connections_of(
        &mut self,
        user: &str,
        code: u16,
        text: &str,
        now: Instant,
    ) -> usize {
        let mut ids = self.connections();
        ids.retain(|id| {
            let connection = self.desk.connections.get(id);
            connection.is_some_and(|it| {
                it.state < State::Closing && it.peer.user.as_deref() == Some(user)
            })
        });
        for id in &ids {
            self.close_connection(*id, code, text, now);
        }
        ids.len()
    }

    pub(in super::super) fn queues(&self, vhost: &str) -> Vec<QueueStatus> {
        let host = self.host_named(vhost);
        host.map_or_else(Vec::new, |host| self.hosts[host].queues())
    }

    pub(in super::super) fn delete_queue_of(
        &mut self,
        vhost: &str,
        queue: &str,
        now: Instant,
    ) -> bool {
        let Some(host) = self.host_named(vhost) else {
            return false;
        };
        let deleted = self.hosts[host].delete_any_queue(queue, &mut self.desk);
        self.watch_memory(now);
        deleted
    }

    /// Adds a user in place of whoever has the name.
    pub(in super::super) fn add_user(&mut self, user: User) {
        self.remove_user(&user.name);
        self.settings.users.push(user);
    }

    /// Accepts one more password of a user. False if there is nobody of this name.
    pub(in super::super) fn accept_password(&mut self, name: &str, password: String) -> bool {
        let user = self.user_named(name);
        user.map(|user| user.passwords.push(password)).is_some()
    }

    /// From now on a user has these passwords. False if there is nobody of this name.
    pub(in super::super) fn set_passwords(&mut self, name: &str, passwords: Vec<String>) -> bool {
        let user = self.user_named(name);
        user.map(|user| user.passwords = passwords).is_some()
    }

    /// False if there is nobody of this name.
    pub(in super::super) fn remove_user(&mut self, name: &str) -> bool {
        let users = &mut self.settings.users;
        let before = users.len();
        users.retain(|user| user.name != name);
        users.len() < before
    }

    fn user_named(&mut self, name: &str) -> Option<&mut User> {
        self.settings
            .users
            .iter_mut()
            .find(|user| user.name == name)
    }

    fn host_named(&self, vhost: &str) -> Option<usize> {
        self.settings.vhosts.iter().position(|name| name == vhost)
    }
}
