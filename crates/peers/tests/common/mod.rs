//! Peers for tests.
#![allow(dead_code, reason = "each test program uses some of it")]

pub(crate) mod amqp;
#[cfg(feature = "rustls")]
pub(crate) mod certs;
pub(crate) mod tap;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;
use wharf::Backoff;
use wharf_peers::{Builder, Peer};

pub(crate) const TOKEN: &str = "secret";

/// Far more than anything takes, so that a test that hangs ends.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A peer that is quick to try again.
pub(crate) fn peer(name: &str) -> Builder {
    Peer::builder(name)
        .token(TOKEN)
        .reconnect(Backoff {
            min: Duration::from_millis(5),
            max: Duration::from_millis(50),
        })
        .listen_retry(Duration::from_millis(20))
}

/// What a handler was given, in order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Seen {
    pub(crate) fn note(&self, from: &str, packet: Bytes) {
        self.0.lock().push((from.to_owned(), packet));
    }

    pub(crate) fn all(&self) -> Vec<(String, Bytes)> {
        self.0.lock().clone()
    }

    /// How many packets came from this sender.
    pub(crate) fn count(&self, from: &str) -> usize {
        let seen = self.0.lock();
        seen.iter().filter(|(sender, _)| sender == from).count()
    }

    /// What this sender sent, as numbers.
    pub(crate) fn numbers(&self, from: &str) -> Vec<u64> {
        let seen = self.0.lock();
        let of = seen.iter().filter(|(sender, _)| sender == from);
        of.map(|(_, packet)| number(packet)).collect()
    }

    /// A peer that notes everything.
    pub(crate) async fn start(&self, builder: Builder) -> Peer {
        let seen = self.clone();
        let handler = move |from: Arc<str>, packet: Bytes| {
            seen.note(&from, packet);
            async { Ok(()) }
        };
        builder
            .start(handler)
            .await
            .expect("the settings make sense")
    }
}

/// One that handles nothing.
pub(crate) async fn sender(builder: Builder) -> Peer {
    let handler = |_, _| async { Err("this peer handles nothing".into()) };
    builder
        .start(handler)
        .await
        .expect("the settings make sense")
}

pub(crate) async fn address(peer: &Peer) -> String {
    let listening = timeout(LONG, peer.listening()).await;
    listening.expect("in time").expect("it listens").to_string()
}

pub(crate) async fn connected(peer: &Peer, to: &str) {
    let mut state = peer.watch(to).expect("there is such a peer");
    let up = state.wait_for(wharf_peers::PeerState::is_connected);
    timeout(LONG, up)
        .await
        .expect("in time")
        .expect("the peer is there");
}

pub(crate) fn packet(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

pub(crate) fn number(packet: &Bytes) -> u64 {
    u64::from_be_bytes(packet[..8].try_into().expect("eight bytes"))
}
