//! A message in a journal.
//!
//! ```text
//! 0       1         5      21        29       37
//! version checksum  id     accepted  expires  the message, as the codec wrote it
//! u8      u32       u128   u64       u64
//! ```
//!
//! Numbers are little-endian, moments are nanoseconds since 1970, and the checksum (CRC-32, as in
//! IEEE 802.3) is of everything after it and of the record's number.

use thiserror::Error;

use crate::{core::Nanos, id::MessageId};

const VERSION: u8 = 1;
pub(crate) const HEADER: usize = 37;

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents<'a> {
    pub(crate) id: MessageId,
    pub(crate) accepted: Nanos,
    pub(crate) expires: Nanos,
    pub(crate) message: &'a [u8],
}

/// Why there is nothing to be had from a record.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Unreadable {
    #[error("it is too short")]
    Short,
    #[error("it is of version {0}")]
    Version(u8),
    #[error("its checksum is wrong")]
    Checksum,
}

/// Room for the header; the codec writes behind it.
pub(crate) fn begin() -> Vec<u8> {
    vec![0; HEADER]
}

/// Fills the header in.
pub(crate) fn finish(
    record: &mut [u8],
    number: u64,
    id: MessageId,
    accepted: Nanos,
    expires: Nanos,
) {
    record[0] = VERSION;
    record[5..21].copy_from_slice(&id.get().to_le_bytes());
    record[21..29].copy_from_slice(&accepted.to_le_bytes());
    record[29..37].copy_from_slice(&expires.to_le_bytes());
    let sum = checksum(number, &record[5..]);
    record[1..5].copy_from_slice(&sum.to_le_bytes());
}

pub(crate) fn read(number: u64, record: &[u8]) -> Result<Contents<'_>, Unreadable> {
    let header: &[u8; HEADER] = record.first_chunk().ok_or(Unreadable::Short)?;
    if header[0] != VERSION {
        return Err(Unreadable::Version(header[0]));
    }
    if u32::from_le_bytes(part(header, 1)) != checksum(number, &record[5..]) {
        return Err(Unreadable::Checksum);
    }
    Ok(Contents {
        id: u128::from_le_bytes(part(header, 5)).into(),
        accepted: u64::from_le_bytes(part(header, 21)),
        expires: u64::from_le_bytes(part(header, 29)),
        message: &record[HEADER..],
    })
}

fn part<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    *header[at..]
        .first_chunk()
        .expect("bug: it is in the header")
}

fn checksum(number: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut record = begin();
        record.extend_from_slice(b"hello");
        finish(&mut record, 7, MessageId::from(9), 11, 13);
        record
    }

    #[test]
    fn a_record_reads_back() {
        let contents = Contents {
            id: MessageId::from(9),
            accepted: 11,
            expires: 13,
            message: b"hello",
        };
        assert_eq!(read(7, &written()), Ok(contents));
    }

    #[test]
    fn no_changed_bit_no_lost_byte_and_no_other_number_gets_through() {
        let good = written();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(read(7, &bad).is_err(), "bit {at}");
        }
        for length in 0..good.len() {
            assert!(read(7, &good[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(read(8, &good), Err(Unreadable::Checksum));
    }
}
