//! What a connection is to write.

use std::sync::Arc;

use amq_protocol::frame::AMQPFrame;

use super::Message;

/// One thing to write, in order.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// A frame as it is.
    Frame(Box<AMQPFrame>),
    /// A method with content: method frame, header frame, and the body in frames no larger than
    /// the connection's `frame_max`. Nothing else may be written between them.
    Content {
        channel: u16,
        method: ContentMethod,
        message: Arc<Message>,
    },
    /// Everything before is to be written, then the socket shut.
    Close,
}

/// The methods that carry a message to a client. Exchange and routing key are the message's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ContentMethod {
    /// `basic.deliver`
    Deliver {
        consumer_tag: ShortTag,
        delivery_tag: u64,
        redelivered: bool,
    },
    /// `basic.get-ok`
    GetOk {
        delivery_tag: u64,
        redelivered: bool,
        message_count: u32,
    },
    /// `basic.return`
    Return { code: u16, text: &'static str },
}

impl Output {
    pub(crate) fn frame(frame: AMQPFrame) -> Self {
        Self::Frame(Box::new(frame))
    }

    /// About how many bytes it is on the wire.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Frame(_) => 64,
            Self::Content { message, .. } => 128 + message.body.len(),
            Self::Close => 0,
        }
    }
}

/// A consumer tag, shared by all deliveries of its consumer. At most 255 bytes.
pub(crate) type ShortTag = Arc<str>;

#[cfg(test)]
impl ContentMethod {
    /// The method as amq-protocol knows it, to hold the codec's own encoding against.
    pub(crate) fn class(&self, message: &Message) -> amq_protocol::protocol::AMQPClass {
        use amq_protocol::{
            protocol::{AMQPClass, basic},
            types::ShortString,
        };

        let exchange = message.exchange.clone();
        let routing_key = message.routing_key.clone();
        AMQPClass::Basic(match self {
            Self::Deliver {
                consumer_tag,
                delivery_tag,
                redelivered,
            } => basic::AMQPMethod::Deliver(basic::Deliver {
                consumer_tag: ShortString::from(&**consumer_tag),
                delivery_tag: *delivery_tag,
                redelivered: *redelivered,
                exchange,
                routing_key,
            }),
            Self::GetOk {
                delivery_tag,
                redelivered,
                message_count,
            } => basic::AMQPMethod::GetOk(basic::GetOk {
                delivery_tag: *delivery_tag,
                redelivered: *redelivered,
                exchange,
                routing_key,
                message_count: *message_count,
            }),
            Self::Return { code, text } => basic::AMQPMethod::Return(basic::Return {
                reply_code: *code,
                reply_text: ShortString::from(*text),
                exchange,
                routing_key,
            }),
        })
    }
}
