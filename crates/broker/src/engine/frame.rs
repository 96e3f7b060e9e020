//! What passes between the codec and the engine.

use amq_protocol::{
    frame::{AMQPContentHeader, ProtocolVersion},
    protocol::AMQPClass,
};
use bytes::Bytes;

/// A frame as the codec read it: within `frame_max`, its tables nested to a bounded depth.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    /// The eight bytes a client opens with.
    ProtocolHeader(ProtocolVersion),
    Method(u16, AMQPClass),
    /// A content header; its `body_size` is a claim of the peer's.
    Header(u16, Box<AMQPContentHeader>),
    Body(u16, Bytes),
    Heartbeat,
}

/// Bytes that are no frame. The peer has lost its place in the stream or never had one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The stream began with something that is not the protocol header of AMQP 0-9-1. The broker
    /// answers with its own header and closes (AMQP 0-9-1, section 4.2.2).
    ProtocolHeader,
    /// A frame claims more than was negotiated: 501.
    TooLarge {
        frame: u8,
        channel: u16,
        payload: u32,
        max: u32,
    },
    /// The octet after the payload is not 206: 501.
    FrameEnd { frame: u8, channel: u16, octet: u8 },
    /// A frame of no known type: 501.
    UnknownType { frame: u8, channel: u16 },
    /// A method number that AMQP 0-9-1 does not have.
    UnknownMethod {
        channel: u16,
        class: u16,
        method: u16,
    },
    /// A prefetch in bytes, which a frame has no room for: 540.
    PrefetchSize { channel: u16, size: u32 },
    /// Arguments or properties that do not follow the grammar: 502.
    Syntax { frame: u8, channel: u16 },
    /// Tables within tables, deeper than anyone needs: 502.
    TooDeep { channel: u16 },
    /// A heartbeat on another channel than zero: 501.
    Heartbeat { channel: u16 },
}
