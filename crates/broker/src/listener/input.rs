//! What a connection has read.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
};

use amq_protocol::protocol::{AMQPClass, connection::AMQPMethod};
use bytes::{Bytes, BytesMut};

use super::{buffers::Sizing, socket::Socket};
use crate::{
    codec::{BODY, Decoder, frame_len},
    engine::{Frame, Malformed},
};

/// Frames decoded at a time. A small one takes many times its bytes when it is decoded.
const FRAMES_AHEAD: usize = 128;
/// Bytes of frames with tables decoded at a time, unless one alone has more. A table's entry, too, takes
/// many times its bytes.
const TABLES_AHEAD: usize = 16 * 1024;

/// Bytes, and the frames at their front.
#[derive(Debug)]
pub(super) struct Input {
    bytes: BytesMut,
    /// How large the buffer is that the bytes are in.
    room: usize,
    sizing: Sizing,
    /// Whether buffers grow. Before the handshake is done nobody needs large ones.
    is_open: bool,
    decoder: Decoder,
    /// Decoded and not yet taken by the engine, each with the bytes it came in.
    frames: VecDeque<Decoded>,
    /// Whether there may be a whole frame among the bytes.
    undecoded: bool,
    /// Whether the engine takes more.
    pub(super) wanted: bool,
}

pub(super) type Decoded = (Result<Frame, Malformed>, usize);

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            room: 0,
            sizing: Sizing::new(),
            is_open: false,
            decoder: Decoder::new(),
            frames: VecDeque::new(),
            undecoded: false,
            wanted: true,
        }
    }

    /// Reads once.
    pub(super) fn read(&mut self, socket: &Socket) -> io::Result<()> {
        self.make_room();
        match socket.try_read_buf(&mut self.bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.has_read(read);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The handshake is done.
    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    /// Frames may be so large from here on.
    pub(super) fn agree(&mut self, frame_max: u32) {
        self.decoder.agree(frame_max);
    }

    pub(super) fn front(&self) -> Option<&Decoded> {
        self.frames.front()
    }

    pub(super) fn pop(&mut self) -> Option<Decoded> {
        self.frames.pop_front()
    }

    /// Whether the next frame, if there is one, is yet to be decoded.
    pub(super) fn is_undecoded(&self) -> bool {
        self.undecoded && self.frames.is_empty()
    }

    /// Bytes behind the frames that are decoded.
    pub(super) fn behind(&self) -> usize {
        self.bytes.len()
    }

    /// Decodes the next frames if there are none, so many as are worth a turn under the lock: what
    /// waits for the engine waits as bytes. Ends behind `connection.tune-ok`, for the engine is to say
    /// how large the frames behind it may be.
    pub(super) fn decode(&mut self) {
        if !self.wanted || !self.is_undecoded() {
            return;
        }
        let mut tables = 0;
        while self.frames.len() < FRAMES_AHEAD {
            let has_table = self.bytes.first() != Some(&BODY);
            tables += frame_len(&self.bytes).filter(|_| has_table).unwrap_or(0);
            if tables > TABLES_AHEAD && !self.frames.is_empty() {
                return;
            }
            let before = self.bytes.len();
            let frame = match self.decoder.next(&mut self.bytes) {
                Ok(None) => {
                    self.undecoded = false;
                    return;
                }
                Ok(Some(frame)) => Ok(self.unpinned(frame)),
                Err(what) => Err(what),
            };
            let last = frame.as_ref().is_ok_and(is_tune_ok);
            self.frames.push_back((frame, before - self.bytes.len()));
            if last {
                return;
            }
        }
    }

    /// A body that shares the buffer keeps all of it. It may if it is most of it.
    fn unpinned(&self, frame: Frame) -> Frame {
        match frame {
            Frame::Body(channel, body) if body.len() < self.room / 2 => {
                Frame::Body(channel, Bytes::copy_from_slice(&body))
            }
            frame => frame,
        }
    }

    fn has_read(&mut self, bytes: usize) {
        self.undecoded = true;
        if self.is_open {
            self.sizing.adapt(bytes);
        }
    }

    /// A burst is over when its room is not filled any more. Its frames took more than its bytes.
    ///
    /// A buffer is never twice as large as what is in it and what is about to be read, so that one frame
    /// that comes in several reads takes most of it.
    fn make_room(&mut self) {
        if self.bytes.is_empty() && self.sizing.is_excessive(self.room) {
            self.bytes = BytesMut::new();
            self.room = 0;
            self.frames.shrink_to_fit();
        }
        let size = self.sizing.size();
        if self.bytes.try_reclaim(size) {
            return;
        }
        let held = self.bytes.len();
        let mut larger = BytesMut::with_capacity(held + size.max(held / 2));
        larger.extend_from_slice(&self.bytes);
        self.room = larger.capacity();
        self.bytes = larger;
    }
}

pub(super) fn is_tune_ok(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Method(0, AMQPClass::Connection(AMQPMethod::TuneOk(_)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 206];

    /// Of a client that is open.
    fn input() -> Input {
        let mut input = Input::new();
        input.open();
        input.agree(131_072);
        receive(&mut input, b"AMQP\0\0\x09\x01");
        input.decode();
        input.pop();
        input
    }

    /// One read, which takes what there is room for. Gives the rest.
    fn read<'a>(input: &mut Input, bytes: &'a [u8]) -> &'a [u8] {
        input.make_room();
        let space = input.bytes.capacity() - input.bytes.len();
        let (taken, rest) = bytes.split_at(bytes.len().min(space));
        input.bytes.extend_from_slice(taken);
        input.has_read(taken.len());
        rest
    }

    /// So many reads as it takes.
    fn receive(input: &mut Input, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = read(input, bytes);
        }
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        let mut bytes = vec![kind, 0, 1];
        bytes.extend(size.to_be_bytes());
        bytes.extend(payload);
        bytes.push(206);
        bytes
    }

    /// `queue.declare` with a table in which one entry is an array of so many voids, of a byte each.
    fn voids(count: usize) -> Vec<u8> {
        let size = |size: usize| u32::try_from(size).unwrap().to_be_bytes();
        let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
        payload.extend(size(count + 7));
        payload.extend([1, b'k', b'A']);
        payload.extend(size(count));
        payload.extend(b"V".repeat(count));
        frame(1, &payload)
    }

    #[test]
    fn frames_of_a_burst_leave_no_room_behind() {
        let mut input = input();
        for frames in [8_192, 1, 1, 1, 1, 1] {
            receive(&mut input, &HEARTBEAT.repeat(frames));
            let mut decoded = 0;
            while input.is_undecoded() {
                input.decode();
                decoded += input.frames.len();
                input.frames.clear();
            }
            assert_eq!(decoded, frames);
        }
        assert!(input.frames.capacity() < 100);
        assert!(input.bytes.capacity() < 16 * 1024);
    }

    #[test]
    fn however_many_frames_one_read_brings_few_are_decoded_at_a_time() {
        let mut input = input();
        receive(&mut input, &HEARTBEAT.repeat(8_192));
        input.decode();
        assert_eq!(input.frames.len(), FRAMES_AHEAD);
        input.decode();
        assert_eq!(input.frames.len(), FRAMES_AHEAD, "these are to go first");
        assert!(input.frames.capacity() <= 2 * FRAMES_AHEAD);
        assert!(!input.is_undecoded());
        input.frames.clear();
        input.wanted = false;
        input.decode();
        assert!(input.frames.is_empty(), "nobody wants them");
        assert!(input.is_undecoded());
    }

    #[test]
    fn tables_are_decoded_a_few_bytes_at_a_time() {
        let mut input = input();
        let declare = voids(5_000);
        receive(&mut input, &declare.repeat(10));
        let mut batches = Vec::new();
        while input.is_undecoded() {
            input.decode();
            batches.push(input.frames.len());
            input.frames.clear();
        }
        assert_eq!(batches, [3, 3, 3, 1]);
        receive(
            &mut input,
            &[voids(5_000), voids(100_000), voids(5)].concat(),
        );
        for last in [false, false, true] {
            input.decode();
            assert_eq!(input.frames.len(), 1);
            input.frames.clear();
            assert_eq!(!input.is_undecoded(), last);
        }
    }

    #[test]
    fn before_the_handshake_is_done_a_buffer_stays_small() {
        let mut input = Input::new();
        let flood = [b'A'; 65_536];
        let mut rest = &flood[..];
        while !rest.is_empty() {
            rest = read(&mut input, rest);
            input.bytes.clear();
        }
        assert!(input.room <= 8 * 1024, "{}", input.room);
    }

    /// Such a body once kept the buffer of 64 KiB that it came in, and each the next one's.
    #[test]
    fn a_body_shares_no_buffer_that_is_more_than_twice_its_size() {
        for size in [16_384, 20_000, 32_000, 40_000, 65_000, 100_000, 131_064] {
            let mut input = input();
            let burst = HEARTBEAT.repeat(8_192);
            let body = frame(BODY, &vec![7; size]);
            let mut kept = Vec::new();
            for _ in 0..20 {
                let bytes = [&burst[..], &body, &HEARTBEAT].concat();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    rest = read(&mut input, rest);
                    let room = input.room;
                    while input.is_undecoded() {
                        input.decode();
                        let frames = std::mem::take(&mut input.frames);
                        kept.extend(frames.into_iter().filter_map(|(frame, _)| match frame {
                            Ok(Frame::Body(_, body)) => Some(body),
                            _ => None,
                        }));
                    }
                    let shares = kept.last().is_some_and(|body| !body.is_unique());
                    assert!(!shares || room <= 2 * size, "{size} of {room}");
                }
            }
            assert_eq!(kept.len(), 20, "{size}");
        }
    }
}
