//! Ports for servers that must come back under the same number.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which Linux takes the ports of outgoing connections and of `bind(0)`
/// (`net.ipv4.ip_local_port_range`): nobody gets one by chance while its owner is down.
const RANGE: Range<u16> = 20_000..32_000;

/// Ports between the first ones that two processes in a row try.
const STRIDE: u32 = 61;

/// A port of loopback that nobody listens on at this moment, and that this process gives out only
/// once: a server takes seconds to open it, and until then it looks free.
///
/// Processes begin at different places, so that those at work at the same time rarely meet.
///
/// # Panics
///
/// When none is found.
#[must_use]
pub fn free() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let start = process::id().wrapping_mul(STRIDE);
    RANGE
        .map(|_| nth(start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed))))
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("loopback has no free port between 20000 and 32000")
}

fn nth(number: u32) -> u16 {
    let count = RANGE.len() as u32;
    RANGE.start + u16::try_from(number % count).expect("bug: the remainder is within the range")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_is_in_the_range() {
        let ports: Vec<u16> = std::iter::repeat_with(free).take(200).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)));
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given_out() {
        // The next ones of this process, whichever they are.
        let ahead = 50;
        let first = free();
        let listening: Vec<_> = (first..first.saturating_add(ahead).min(RANGE.end))
            .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .collect();
        let held: HashSet<u16> = listening
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        let given: Vec<u16> = std::iter::repeat_with(free).take(10).collect();
        assert!(given.iter().all(|port| !held.contains(port)), "{given:?}");
    }
}
