//! Bytes to frames.

use amq_protocol::{
    frame::{ProtocolVersion, parsing::parse_content_header},
    protocol::parse_class,
};
use bytes::{Buf, Bytes, BytesMut};

use super::{
    BODY, FRAME_END, FRAME_HEADER, FRAME_OVERHEAD, HEADER, HEARTBEAT, METHOD, PROTOCOL_HEADER,
    methods::{self, Arguments},
    tables,
};
use crate::engine::{Frame, Malformed};

/// No frame may be larger before `connection.tune-ok` (section 4.2.3, frame-min-size).
const FRAME_MIN_SIZE: u32 = 4_096;
/// Bodies from this size on share the read buffer. A smaller one is copied: a slice of it would
/// keep a buffer alive that is many times its size.
const SHARED_FROM: usize = 16 * 1024;

/// Takes frames off the front of a growing buffer.
#[derive(Debug)]
pub(crate) struct Decoder {
    frame_max: u32,
    /// Whether the protocol header has been read.
    begun: bool,
    /// What is left of a frame that was too large to be read. It is skipped as it comes in, so that
    /// a `connection.close-ok` behind it is found.
    skip: u64,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            frame_max: FRAME_MIN_SIZE,
            begun: false,
            skip: 0,
        }
    }

    /// The size agreed on, with the eight bytes of framing. Zero is no limit.
    pub(crate) fn agree(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// The next frame, or nothing while it is incomplete. After an error the bytes at fault are
    /// gone and reading may go on, if only to find the peer's `connection.close-ok`.
    pub(crate) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        self.pass_over(bytes);
        if !self.begun {
            return self.begin(bytes);
        }
        let Some(head) = Head::read(bytes) else {
            return Ok(None);
        };
        self.check_size(&head, bytes)?;
        if bytes.len() < head.frame_len() {
            return Ok(None);
        }
        take(&head, bytes).map(Some)
    }

    fn begin(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        let seen = bytes.len().min(PROTOCOL_HEADER.len());
        if bytes[..seen] != PROTOCOL_HEADER[..seen] {
            bytes.clear();
            return Err(Malformed::ProtocolHeader);
        }
        if seen < PROTOCOL_HEADER.len() {
            return Ok(None);
        }
        bytes.advance(seen);
        self.begun = true;
        Ok(Some(Frame::ProtocolHeader(ProtocolVersion::amqp_0_9_1())))
    }

    /// RabbitMQ grants a payload of `frame_max` itself, eight bytes more than it announces, for
    /// clients that count without the framing (`rabbit_reader`, `FRAME_SIZE_FUDGE`).
    fn check_size(&mut self, head: &Head, bytes: &mut BytesMut) -> Result<(), Malformed> {
        if self.frame_max == 0 || head.payload <= self.frame_max {
            return Ok(());
        }
        self.skip = head.frame_len() as u64;
        self.pass_over(bytes);
        Err(Malformed::TooLarge {
            frame: head.kind,
            channel: head.channel,
            payload: head.payload,
            max: self.frame_max - FRAME_OVERHEAD as u32,
        })
    }

    fn pass_over(&mut self, bytes: &mut BytesMut) {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes.advance(usize::try_from(skipped).expect("bug: more than there is"));
    }
}

/// The bytes that the frame at the front takes, if its head has been read; eight for the protocol
/// header.
pub(crate) fn frame_len(bytes: &[u8]) -> Option<usize> {
    if bytes.first() == Some(&PROTOCOL_HEADER[0]) {
        return Some(PROTOCOL_HEADER.len());
    }
    Head::read(bytes).map(|head| head.frame_len())
}

struct Head {
    kind: u8,
    channel: u16,
    payload: u32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut head = bytes.get(..FRAME_HEADER)?;
        Some(Self {
            kind: head.get_u8(),
            channel: head.get_u16(),
            payload: head.get_u32(),
        })
    }

    fn frame_len(&self) -> usize {
        self.payload as usize + FRAME_OVERHEAD
    }
}

/// The frame at the front, which is complete. It leaves the buffer whatever it turns out to be.
fn take(head: &Head, bytes: &mut BytesMut) -> Result<Frame, Malformed> {
    let len = head.frame_len();
    let payload = FRAME_HEADER..len - 1;
    let octet = bytes[len - 1];
    if octet == FRAME_END && head.kind == BODY && payload.len() >= SHARED_FROM {
        let frame = bytes.split_to(len).freeze();
        return Ok(Frame::Body(head.channel, frame.slice(payload)));
    }
    let frame = if octet == FRAME_END {
        read(head, &bytes[payload])
    } else {
        Err(Malformed::FrameEnd {
            frame: head.kind,
            channel: head.channel,
            octet,
        })
    };
    bytes.advance(len);
    frame
}

fn read(head: &Head, payload: &[u8]) -> Result<Frame, Malformed> {
    match head.kind {
        METHOD => read_method(head, payload),
        HEADER => read_header(head, payload),
        BODY => Ok(Frame::Body(head.channel, Bytes::copy_from_slice(payload))),
        HEARTBEAT if head.channel == 0 => Ok(Frame::Heartbeat),
        HEARTBEAT => Err(Malformed::Heartbeat {
            channel: head.channel,
        }),
        unknown => Err(Malformed::UnknownType {
            frame: unknown,
            channel: head.channel,
        }),
    }
}

fn read_method(head: &Head, payload: &[u8]) -> Result<Frame, Malformed> {
    let channel = head.channel;
    let syntax = Malformed::Syntax {
        frame: head.kind,
        channel,
    };
    let Some((class, method, arguments)) = methods::number(payload) else {
        return Err(syntax);
    };
    if let Some(frequent) = methods::read_frequent(class, method, arguments) {
        return Ok(Frame::Method(channel, frequent));
    }
    match methods::arguments(class, method) {
        Arguments::Unknown => {
            return Err(Malformed::UnknownMethod {
                channel,
                class,
                method,
            });
        }
        Arguments::Plain => {}
        Arguments::Table(before) => {
            tables::check_method(arguments, before).map_err(|flaw| flaw.of(head.kind, channel))?;
        }
    }
    let Ok(([], parsed)) = parse_class(payload) else {
        return Err(syntax);
    };
    match methods::prefetch_size(class, method, arguments) {
        0 => Ok(Frame::Method(channel, parsed)),
        size => Err(Malformed::PrefetchSize { channel, size }),
    }
}

fn read_header(head: &Head, payload: &[u8]) -> Result<Frame, Malformed> {
    let channel = head.channel;
    tables::check_header(payload).map_err(|flaw| flaw.of(head.kind, channel))?;
    match parse_content_header(payload) {
        Ok(([], header)) => Ok(Frame::Header(channel, Box::new(header))),
        _ => Err(Malformed::Syntax {
            frame: head.kind,
            channel,
        }),
    }
}
