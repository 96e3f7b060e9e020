//! The broker without I/O: frames and time in, frames out.
//!
//! The engine owns every user, virtual host, connection and channel. It has no clock, no task, no
//! lock and no socket: whoever drives it passes the time, hands in the frames it read, writes what
//! [`Engine::drain`] gives and calls [`Engine::advance`] when [`Engine::next_deadline`] is due.

mod session;

pub(crate) mod vhost;

mod farewell;
mod frame;
mod interference;
mod keys;
mod message;
mod output;
mod settings;
mod status;

use std::{sync::Arc, time::Instant};

pub use farewell::Disconnected;
pub(crate) use farewell::Farewell;
pub(crate) use frame::{Frame, Malformed};
pub(crate) use interference::{Fate, Interference, Peer, Release};
pub(crate) use keys::{ChannelKey, ConnectionId, ConsumerKey};
pub(crate) use message::{Message, properties_weight};
pub(crate) use output::{ContentMethod, Output};
pub(crate) use settings::{NAME_MAX, Settings, User};
pub use status::{ConnectionStatus, QueueStatus};
pub(crate) use vhost::Limits as VHostLimits;

use session::Sessions;

/// All users, virtual hosts, connections and channels of a broker.
#[derive(Debug)]
pub(crate) struct Engine {
    sessions: Sessions,
}

impl Engine {
    /// A broker without connections.
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            sessions: Sessions::new(settings, now),
        }
    }

    /// A socket was accepted. The handshake's deadline runs from here.
    pub(crate) fn connect(&mut self, now: Instant) -> ConnectionId {
        self.sessions.connect(now)
    }

    /// A client in the process is here, open at once, on the first virtual host and without a
    /// heartbeat. When the broker ends the connection it is gone, and why is in the farewell.
    pub(crate) fn attach(
        &mut self,
        user: &str,
        name: &str,
        now: Instant,
    ) -> (ConnectionId, Arc<Farewell>) {
        self.sessions.attach(user, name, now)
    }

    /// Ends every connection of a client in the process: the broker is going away.
    pub(crate) fn detach_all(&mut self, now: Instant) {
        self.sessions.detach_all(now);
    }

    /// Whether this connection has published while the broker takes no message, and is to publish
    /// nothing until it does again.
    pub(crate) fn is_blocked(&self, id: ConnectionId) -> bool {
        self.sessions.is_blocked(id)
    }

    /// A frame came in. The first one is the protocol header. Ask [`wants_more`](Self::wants_more)
    /// before each frame.
    pub(crate) fn receive(&mut self, id: ConnectionId, frame: Frame, now: Instant) {
        self.sessions.receive(id, frame, now);
    }

    /// The codec could not read what came in. Nothing may be received on this connection
    /// afterwards but what `wants_more` allows.
    pub(crate) fn malformed(&mut self, id: ConnectionId, what: Malformed, now: Instant) {
        self.sessions.malformed(id, what, now);
    }

    /// The socket is gone, or the listener gave the connection up.
    pub(crate) fn disconnect(&mut self, id: ConnectionId, now: Instant) {
        self.sessions.disconnect(id, now);
    }

    /// Does everything that is due: heartbeats, deadlines, expiry of messages and queues.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.sessions.advance(now);
    }

    /// When [`advance`](Self::advance) has to be called next, if nothing else happens before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.sessions.next_deadline()
    }

    /// Moves everything that is to be written on this connection into `into`, in order, and
    /// returns its cost in bytes (an estimate), which goes back through
    /// [`written`](Self::written) when the socket has taken it. Confirms that were gathered since
    /// the last call leave here, as few as possible.
    pub(crate) fn drain(&mut self, id: ConnectionId, into: &mut Vec<Output>) -> usize {
        self.sessions.drain(id, into)
    }

    /// The connections that have something to write and had nothing when they were last drained.
    /// Each is named once until it is drained.
    pub(crate) fn touched(&mut self) -> std::vec::Drain<'_, ConnectionId> {
        self.sessions.touched()
    }

    /// Bytes of output waiting for one connection above which nothing more is delivered to it.
    pub(crate) fn outbox_limit(&self) -> usize {
        self.sessions.outbox_limit()
    }

    /// Whether to go on reading from this connection. False while it must wait (publisher under a
    /// memory alarm, outbox full) and for ever once it is closed.
    pub(crate) fn wants_more(&self, id: ConnectionId) -> bool {
        self.sessions.wants_more(id)
    }

    /// Whether this frame, which nothing came before, has to wait: expired messages are in the way of
    /// its answer, more than may be taken away in one go. Each call takes some.
    pub(crate) fn must_wait(&mut self, id: ConnectionId, frame: &Frame, now: Instant) -> bool {
        self.sessions.must_wait(id, frame, now)
    }

    /// Messages touched so far, by whatever was asked for. A publish to a thousand queues is a
    /// thousand times the work of one to a single queue.
    pub(crate) fn work(&self) -> u64 {
        self.sessions.work()
    }

    /// The socket has taken output that [`drain`](Self::drain) said costs `cost` bytes.
    pub(crate) fn written(&mut self, id: ConnectionId, cost: usize, now: Instant) {
        self.sessions.written(id, cost, now);
    }

    /// The largest frame this connection may send and receive, in bytes with its eight bytes of
    /// frame overhead: the agreed one after Tune, 4,096 before.
    pub(crate) fn frame_max(&self, id: ConnectionId) -> u32 {
        self.sessions.frame_max(id)
    }

    /// Whether the connection is open: its handshake is done and nobody has closed it.
    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        self.sessions.is_open(id)
    }

    /// Who is at the other end, as far as is known; `None` when the connection is gone.
    pub(crate) fn peer(&self, id: ConnectionId) -> Option<Peer> {
        self.sessions.peer(id)
    }

    /// Sets what stands between the engine and its clients, for tests of theirs.
    pub(crate) fn interfere(&mut self, interference: Box<dyn Interference>) {
        self.sessions.interfere(interference);
    }

    /// Closes the connection as an operator does: `code` and `text` go to the client verbatim.
    pub(crate) fn close_connection(
        &mut self,
        id: ConnectionId,
        code: u16,
        text: &str,
        now: Instant,
    ) {
        self.sessions.close_connection(id, code, text, now);
    }

    /// Closes one channel with a code and text of the operator's choice.
    pub(crate) fn close_channel(&mut self, key: ChannelKey, code: u16, text: &str, now: Instant) {
        self.sessions.close_channel(key, code, text, now);
    }

    /// Blocks every publisher, as RabbitMQ does on a resource alarm, until
    /// [`unblock`](Self::unblock). The reason is what `connection.blocked` tells.
    pub(crate) fn block(&mut self, reason: &str) {
        self.sessions.block(reason);
    }

    /// Ends what [`block`](Self::block) began.
    pub(crate) fn unblock(&mut self, now: Instant) {
        self.sessions.unblock(now);
    }

    /// The connections there are, oldest first.
    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        self.sessions.connections()
    }

    /// The channels of a connection, in ascending order.
    pub(crate) fn channels(&self, id: ConnectionId) -> Vec<ChannelKey> {
        self.sessions.channels(id)
    }

    /// Messages ready and not acknowledged in a queue, `None` if there is no such queue.
    pub(crate) fn queue_depth(&self, vhost: &str, queue: &str) -> Option<(usize, usize)> {
        self.sessions.queue_depth(vhost, queue)
    }

    /// The connections that are open, oldest first.
    pub(crate) fn open_connections(&self) -> Vec<ConnectionStatus> {
        self.sessions.open_connections()
    }

    /// Closes one of them as [`close_connection`](Self::close_connection) does. False if there is
    /// none of this number.
    pub(crate) fn close_nth(&mut self, nth: u64, code: u16, text: &str, now: Instant) -> bool {
        self.sessions.close_nth(nth, code, text, now)
    }

    /// The queues of a virtual host by name; none if there is no such host.
    pub(crate) fn queues(&self, vhost: &str) -> Vec<QueueStatus> {
        self.sessions.queues(vhost)
    }

    /// Deletes a queue, whoever's it is. False if there is none.
    pub(crate) fn delete_queue(&mut self, vhost: &str, queue: &str, now: Instant) -> bool {
        self.sessions.delete_queue_of(vhost, queue, now)
    }

    /// Adds a user in place of whoever has the name.
    pub(crate) fn add_user(&mut self, user: User) {
        self.sessions.add_user(user);
    }

    /// Accepts one more password of a user. False if there is nobody of this name.
    pub(crate) fn accept_password(&mut self, name: &str, password: String) -> bool {
        self.sessions.accept_password(name, password)
    }

    /// From now on a user has these passwords. False if there is nobody of this name.
    pub(crate) fn set_passwords(&mut self, name: &str, passwords: Vec<String>) -> bool {
        self.sessions.set_passwords(name, passwords)
    }

    /// Closes the connections of a user as an operator does. How many there were.
    pub(crate) fn close_connections_of(
        &mut self,
        user: &str,
        code: u16,
        text: &str,
        now: Instant,
    ) -> usize {
        self.sessions.close_connections_of(user, code, text, now)
    }

    /// From now on nobody of this name may log in. False if there is none.
    pub(crate) fn remove_user(&mut self, name: &str) -> bool {
        self.sessions.remove_user(name)
    }
}
