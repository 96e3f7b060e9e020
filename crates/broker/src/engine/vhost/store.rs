//! The messages of a virtual host, each held once however many queues it is in.

use std::{mem::size_of, sync::Arc};

use slab::Slab;

use super::super::message::Message;

/// What one place in a queue costs beside the message, in bytes.
const PLACE: usize = 64;

/// Where a message is in its [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageKey(usize);

/// Messages with the number of places they have in queues, and the bytes of all of them.
#[derive(Debug, Default)]
pub(super) struct Store {
    messages: Slab<Stored>,
    bytes: usize,
}

#[derive(Debug)]
struct Stored {
    message: Arc<Message>,
    places: usize,
    weight: usize,
}

impl Store {
    /// Takes a message in. It has to get a place, and is forgotten with its last.
    pub(super) fn admit(&mut self, message: Arc<Message>) -> MessageKey {
        let weight = size_of::<Stored>() + message.weight();
        self.bytes += weight;
        MessageKey(self.messages.insert(Stored {
            message,
            places: 0,
            weight,
        }))
    }

    /// The message has one more place.
    pub(super) fn place(&mut self, key: MessageKey) {
        self.messages[key.0].places += 1;
        self.bytes += PLACE;
    }

    /// The message has one place less.
    pub(super) fn leave(&mut self, key: MessageKey) -> Arc<Message> {
        self.bytes -= PLACE;
        let stored = &mut self.messages[key.0];
        stored.places -= 1;
        if stored.places > 0 {
            return stored.message.clone();
        }
        self.forget(key)
    }

    pub(super) fn message(&self, key: MessageKey) -> &Arc<Message> {
        &self.messages[key.0].message
    }

    /// Bytes of all messages and their places.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, key: MessageKey) -> Arc<Message> {
        let stored = self.messages.remove(key.0);
        self.bytes -= stored.weight;
        stored.message
    }
}
