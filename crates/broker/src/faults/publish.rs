//! A message as a predicate sees it.

use amq_protocol::types::{AMQPValue, ShortString};

use crate::engine::{Message, Peer};

/// A message that a client published, before it is routed.
#[derive(Copy, Clone, Debug)]
pub struct Publish<'a> {
    pub(super) peer: &'a Peer,
    pub(super) channel: u16,
    pub(super) message: &'a Message,
}

impl<'a> Publish<'a> {
    /// The exchange it was published to; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> &'a str {
        self.message.exchange.as_str()
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &'a str {
        self.message.routing_key.as_str()
    }

    /// The whole body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.message.body
    }

    /// The user who published it.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.peer.user.as_deref()
    }

    /// The channel it was published on.
    #[must_use]
    pub fn channel(&self) -> u16 {
        self.channel
    }

    /// `message-id` of its properties.
    #[must_use]
    pub fn message_id(&self) -> Option<&'a str> {
        text(self.message.properties.message_id().as_ref())
    }

    /// `correlation-id` of its properties.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&'a str> {
        text(self.message.properties.correlation_id().as_ref())
    }

    /// `content-type` of its properties.
    #[must_use]
    pub fn content_type(&self) -> Option<&'a str> {
        text(self.message.properties.content_type().as_ref())
    }

    /// `type` of its properties.
    #[must_use]
    pub fn kind(&self) -> Option<&'a str> {
        text(self.message.properties.kind().as_ref())
    }

    /// `app-id` of its properties.
    #[must_use]
    pub fn app_id(&self) -> Option<&'a str> {
        text(self.message.properties.app_id().as_ref())
    }

    /// `priority` of its properties.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        *self.message.properties.priority()
    }

    /// Whether its `headers` have this one, of whatever type.
    #[must_use]
    pub fn has_header(&self, name: &str) -> bool {
        let headers = self.message.properties.headers().as_ref();
        headers.is_some_and(|headers| headers.contains_key(name))
    }

    /// A header that is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        match self
            .message
            .properties
            .headers()
            .as_ref()?
            .inner()
            .get(name)?
        {
            AMQPValue::LongString(text) => str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }
}

fn text(property: Option<&ShortString>) -> Option<&str> {
    property.map(ShortString::as_str)
}
