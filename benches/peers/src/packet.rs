//! What is sent, and who counts it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Bytes of a packet.
pub const SIZE: usize = 64;

/// Packets that are under way at most, where they have answers: what a peer has by default.
pub const WINDOW: usize = 4_096;

/// Whoever has not got everything by then never will.
const BOUND: Duration = Duration::from_secs(10);

/// A packet begins with its number.
pub fn packet(number: u64) -> [u8; SIZE] {
    let mut packet = [b'x'; SIZE];
    packet[..8].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The same for those who pass on what they are given.
pub fn owned(number: u64) -> Bytes {
    Bytes::copy_from_slice(&packet(number))
}

/// The number of a packet, if it is one.
pub fn number(packet: &[u8]) -> Option<u64> {
    let (number, rest) = packet.split_first_chunk()?;
    let is_whole = packet.len() == SIZE && rest.iter().all(|byte| *byte == b'x');
    is_whole.then(|| u64::from_be_bytes(*number))
}

/// What one receiver got. Only one packet is taken at a time.
#[derive(Default)]
pub struct Ledger {
    taken: AtomicU64,
    is_wrong: AtomicBool,
}

impl Ledger {
    /// Begins at zero.
    pub fn clear(&self) {
        self.taken.store(0, Ordering::Relaxed);
        self.is_wrong.store(false, Ordering::Relaxed);
    }

    /// Each packet once, in order, and as it was: or it is wrong for good.
    pub fn take(&self, packet: &[u8]) {
        let expected = self.taken.fetch_add(1, Ordering::AcqRel);
        if number(packet) != Some(expected) {
            self.is_wrong.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until so many were taken. True if all were right.
    pub fn has_all(&self, packets: u64) -> bool {
        let since = Instant::now();
        while self.taken.load(Ordering::Acquire) < packets && since.elapsed() < BOUND {
            sleep(Duration::from_micros(50));
        }
        self.taken.load(Ordering::Acquire) == packets && !self.is_wrong.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(numbers: &[u64]) -> Ledger {
        let ledger = Ledger::default();
        numbers.iter().for_each(|each| ledger.take(&packet(*each)));
        ledger
    }

    #[test]
    fn all_in_order_are_right() {
        assert!(taken(&[0, 1, 2]).has_all(3));
    }

    #[test]
    fn one_too_many_one_twice_one_out_of_order_and_one_that_is_changed_are_not() {
        assert!(!taken(&[0, 1, 2]).has_all(2));
        assert!(!taken(&[0, 1, 1]).has_all(3));
        assert!(!taken(&[0, 2, 1]).has_all(3));
        let ledger = Ledger::default();
        ledger.take(&packet(0)[1..]);
        assert!(!ledger.has_all(1));
        ledger.clear();
        ledger.take(&packet(0));
        assert!(ledger.has_all(1));
    }
}
