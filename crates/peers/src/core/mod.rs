//! What a peer decides, without sockets, tasks or clocks: which packet has which number, what is sent
//! again, what was there before, and what each sender is told.
//!
//! ```text
//!   sender                                   receiver
//!   Outbound  ── hello(epoch, …, base) ───▶  Inbound    which epoch of the sender is listened to
//!             ◀── welcome(next, receipt) ──             what it has, and what has become of it
//!             ── packets(first, base, …) ─▶             new ones in order; known ones are skipped
//!             ◀── receipt(handled, rejected)            everything below `handled` is done with
//! ```
//!
//! A sender numbers its packets from zero, without gaps, in the order in which they are sent first. A
//! number belongs to its packet for good: one that is sent again has the same, and one whose caller
//! has left is sent again as a void. The receiver takes the number it expects next and no other, so
//! that each packet is handled once, in order, over any number of connections, for as long as both
//! processes live.

pub(crate) mod inbound;
pub(crate) mod outbound;

use thiserror::Error;

/// What the other side must not do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error("it left out packets: {found} came where {expected} was due")]
    Gap { expected: u64, found: u64 },
    #[error("it sent more than the window holds")]
    Overrun,
    #[error("it sent a packet of {0} bytes, which is more than it was told")]
    TooLarge(usize),
    #[error("it spoke of packets that it was never sent")]
    Unsent,
}

#[cfg(test)]
mod tests;
