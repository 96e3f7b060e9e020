//! Many packets in one body.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Epoch, Malformed, PACKETS, VERSION};

/// Stands for the length of a packet that was given up after it had a number.
const VOID: u32 = u32::MAX;

/// The bytes of a length.
const LENGTH: usize = 4;

/// More than the header of any body takes.
const HEADER: usize = 64;

#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    epoch: Epoch,
    base: u64,
    first: u64,
}

/// Packets with consecutive numbers, as they came.
#[derive(Clone, Debug)]
pub(crate) struct Packets {
    pub(crate) epoch: Epoch,
    /// Everything below this number is settled, as the sender knows.
    pub(crate) base: u64,
    /// The number of the first.
    pub(crate) first: u64,
    /// Not empty.
    count: u32,
    body: Bytes,
}

impl Packets {
    /// Looks at every length, so that what follows cannot fail.
    pub(super) fn read(body: &Bytes) -> Result<Self, Malformed> {
        let (header, rest): (Header, &[u8]) =
            postcard::take_from_bytes(body).map_err(|_| Malformed::Unintelligible)?;
        let count = count(rest).ok_or(Malformed::Unintelligible)?;
        // Numbers must not run out in the middle.
        let fits = header.base <= header.first && header.first.checked_add(count.into()).is_some();
        if count == 0 || !fits {
            return Err(Malformed::Unintelligible);
        }
        let start = body.len() - rest.len();
        Ok(Self {
            epoch: header.epoch,
            base: header.base,
            first: header.first,
            count,
            body: body.slice(start..),
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// The size of the largest.
    pub(crate) fn largest(&self) -> usize {
        self.sizes().max().unwrap_or(0)
    }

    /// The sizes of all, those given up as nothing.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        Sizes(&self.body).map(|size| size.expect("bug: every length was looked at"))
    }
}

/// The packets; none for one that was given up.
impl Iterator for Packets {
    type Item = Option<Bytes>;

    fn next(&mut self) -> Option<Option<Bytes>> {
        let (length, _) = self.body.split_first_chunk::<LENGTH>()?;
        let length = u32::from_be_bytes(*length);
        let _ = self.body.split_to(LENGTH);
        self.count -= 1;
        self.first += 1;
        Some((length != VOID).then(|| self.body.split_to(length as usize)))
    }
}

/// How many packets there are, or nothing if the last one is cut off.
fn count(rest: &[u8]) -> Option<u32> {
    Sizes(rest).try_fold(0_u32, |count, size| size.and(count.checked_add(1)))
}

/// The sizes of packets, those given up as nothing; nothing in place of one that is cut off, which is
/// the last.
struct Sizes<'a>(&'a [u8]);

impl Iterator for Sizes<'_> {
    type Item = Option<usize>;

    fn next(&mut self) -> Option<Option<usize>> {
        if self.0.is_empty() {
            return None;
        }
        let size = self.size();
        if size.is_none() {
            self.0 = &[];
        }
        Some(size)
    }
}

impl Sizes<'_> {
    fn size(&mut self) -> Option<usize> {
        let (length, behind) = self.0.split_first_chunk::<LENGTH>()?;
        let size = match u32::from_be_bytes(*length) {
            VOID => 0,
            length => length as usize,
        };
        self.0 = behind.get(size..)?;
        Some(size)
    }
}

/// Packs packets with consecutive numbers into a body.
#[derive(Debug)]
pub(crate) struct Packer {
    pub(super) body: BytesMut,
    count: u32,
}

/// A body that is full, or the last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) body: Bytes,
    pub(crate) count: u32,
}

impl Packer {
    pub(crate) fn new(epoch: Epoch, base: u64, first: u64, room: usize) -> Self {
        let header = Header { epoch, base, first };
        let mut body = BytesMut::with_capacity(room);
        body.put_slice(&[VERSION, PACKETS]);
        let mut written = [0; HEADER];
        let written = postcard::to_slice(&header, &mut written);
        body.put_slice(written.expect("bug: three numbers fit"));
        Self { body, count: 0 }
    }

    /// What the body would be with this packet in it, in bytes.
    pub(crate) fn size_with(&self, packet: usize) -> usize {
        self.body.len() + Self::size_of(packet)
    }

    /// What a packet of this size takes of a body, in bytes.
    pub(crate) fn size_of(packet: usize) -> usize {
        LENGTH + packet
    }

    /// # Panics
    ///
    /// If the packet is larger than a length can say.
    pub(crate) fn push(&mut self, packet: Option<&[u8]>) {
        match packet {
            None => self.body.put_u32(VOID),
            Some(packet) => {
                let length = u32::try_from(packet.len()).ok().filter(|&len| len != VOID);
                self.body.put_u32(length.expect("bug: packets are bounded"));
                self.body.put_slice(packet);
            }
        }
        self.count += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn finish(self) -> Packed {
        Packed {
            body: self.body.freeze(),
            count: self.count,
        }
    }
}

/// The largest body that a packet of this size makes, alone.
pub(crate) fn largest_body(packet: usize) -> usize {
    2 + HEADER + LENGTH + packet
}
