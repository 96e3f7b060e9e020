//! Connections whose handshake is not done.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::ConnectionId;

/// Holds so many at a time. One more puts out the oldest, which has had the most time: those who open
/// handshakes and never end them keep nobody out for long who ends his own.
#[derive(Debug)]
pub(super) struct Lobby {
    most: usize,
    /// Ids ascend in the order in which connections come.
    waiting: Mutex<BTreeMap<ConnectionId, Arc<Notify>>>,
}

/// A place in the lobby, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    lobby: Arc<Lobby>,
    id: ConnectionId,
}

impl Lobby {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            waiting: Mutex::default(),
        })
    }

    /// The second of the two tells that the connection is put out.
    pub(super) fn enter(self: &Arc<Self>, id: ConnectionId) -> (Guest, Arc<Notify>) {
        let out = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        waiting.insert(id, Arc::clone(&out));
        let oldest = (waiting.len() > self.most).then(|| waiting.pop_first());
        drop(waiting);
        if let Some((_, oldest)) = oldest.flatten() {
            oldest.notify_one();
        }
        let lobby = Arc::clone(self);
        (Guest { lobby, id }, out)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.waiting.lock().remove(&self.id);
    }
}
