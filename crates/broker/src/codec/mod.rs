//! Bytes to frames and back: AMQP 0-9-1, section 4.2.
//!
//! Reading trusts nothing that a peer says about itself. A frame's length is checked against what
//! was agreed before anything is allocated for it, and tables are measured on the raw bytes before
//! the recursive parser of `amq-protocol` sees them. Reading is a pure function of the bytes given
//! and the size agreed on.

mod decode;
mod encode;
mod methods;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use decode::{Decoder, frame_len};
pub(crate) use encode::Encoder;

/// The eight bytes a client opens with (section 4.2.2).
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Type, channel and length before the payload.
const FRAME_HEADER: usize = 7;
/// The octet after the payload.
const FRAME_END: u8 = 0xCE;
/// Both together.
const FRAME_OVERHEAD: usize = FRAME_HEADER + 1;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
