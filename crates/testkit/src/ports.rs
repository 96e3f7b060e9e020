//! Ports for servers that must come back under the same number.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the range from which Linux takes the ports of outgoing connections and of `bind(0)`
/// (`net.ipv4.ip_local_port_range`): nobody gets one by chance while its owner is down.
const RANGE: Range<u16> = 20_000..32_000;

const TRIES: usize = 1_000;

/// A port of loopback that nobody listens on at this moment.
///
/// # Panics
///
/// When none is found.
pub(crate) fn free() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(RANGE))
        .take(TRIES)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("loopback has no free port between 20000 and 32000")
}
