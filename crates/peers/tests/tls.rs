//! What peers say to each other over TLS.
#![cfg(feature = "rustls")]

mod common;

use std::fs;

use common::{LONG, Seen, address, certs::Files, connected, packet, peer, sender, tap::Tap};
use tokio::time::timeout;
use wharf_peers::{Builder, Cause, ListenerState, Peer, PeerState, Tls};

const SECRET: &str = "nobody else may read this";

/// A peer that listens and takes what "orders" sends.
async fn billing(seen: &Seen, tls: Option<Tls>) -> Peer {
    let billing = peer("billing").listen("127.0.0.1:0").caller("orders");
    seen.start(with(billing, tls)).await
}

async fn orders(to: &str, tls: Option<Tls>) -> Peer {
    sender(with(peer("orders").peer("billing", to), tls)).await
}

fn with(builder: Builder, tls: Option<Tls>) -> Builder {
    match tls {
        Some(tls) => builder.tls(tls),
        None => builder,
    }
}

/// Why it cannot connect.
async fn refusal(peer: &Peer) -> Cause {
    let mut states = peer.watch("billing").unwrap();
    let decided = states.wait_for(|state| match state {
        PeerState::Disconnected { cause } => !matches!(cause, Cause::NotYet),
        state => state.is_connected(),
    });
    let decided = timeout(LONG, decided).await.expect("in time").unwrap();
    match &*decided {
        PeerState::Disconnected { cause } => cause.clone(),
        state => panic!("{state:?}"),
    }
}

/// What a wire to a peer carries while a packet goes over it.
async fn overheard(tls: Option<(Tls, Tls)>) -> Vec<u8> {
    let (ours, theirs) = tls.unzip();
    let seen = Seen::default();
    let billing = billing(&seen, theirs).await;
    let tap = Tap::to(address(&billing).await.parse().unwrap()).await;
    let orders = orders(&tap.addr.to_string(), ours).await;
    orders.send("billing", SECRET).await.unwrap();
    assert_eq!(seen.all(), [("orders".to_owned(), SECRET.into())]);
    orders.stop_within(LONG).await.unwrap();
    billing.stop_within(LONG).await.unwrap();
    tap.to_server()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_on_the_way_reads_a_packet_or_the_token() {
    let has = |bytes: &[u8], text: &str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let open = overheard(None).await;
    assert!(
        has(&open, SECRET) && has(&open, common::TOKEN),
        "it listens in"
    );
    let files = Files::new();
    let closed = overheard(Some((files.trusting(), files.tls("ca.pem", "peer")))).await;
    assert!(!has(&closed, SECRET) && !has(&closed, common::TOKEN));
    assert!(closed.len() > SECRET.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_large_and_many_come_once_and_in_order_both_ways() {
    const PACKETS: u64 = 2_000;
    let files = Files::new();
    let tls = || files.tls("ca.pem", "peer");
    let (left, right) = (Seen::default(), Seen::default());
    let one = left
        .start(peer("one").listen("127.0.0.1:0").caller("two").tls(tls()))
        .await;
    let builder = peer("two")
        .listen("127.0.0.1:0")
        .peer("one", address(&one).await);
    let two = right.start(builder.caller("back").tls(tls())).await;
    let back = sender(peer("back").peer("two", address(&two).await).tls(tls())).await;
    let send = async |from: &Peer, to: &str| {
        let mut receipts = Vec::new();
        for number in 0..PACKETS {
            // Some are larger than any buffer between the two.
            let size = if number.is_multiple_of(100) {
                300_000
            } else {
                8
            };
            let mut bytes = packet(number).to_vec();
            bytes.resize(size, 0);
            receipts.push(from.submit(to, bytes).await.unwrap());
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
    };
    timeout(LONG, async {
        tokio::join!(send(&two, "one"), send(&back, "two"))
    })
    .await
    .expect("in time");
    let all: Vec<u64> = (0..PACKETS).collect();
    assert_eq!(left.numbers("two"), all);
    assert_eq!(right.numbers("back"), all);
    for peer in [back, two, one] {
        peer.stop_within(LONG).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_believed_by_its_certificate_for_its_host_alone() {
    let files = Files::new();
    for (shown, trusted) in [
        ("peer", "other-ca.pem"),
        ("stranger", "ca.pem"),
        ("elsewhere", "ca.pem"),
    ] {
        let seen = Seen::default();
        let billing = billing(&seen, Some(files.tls("ca.pem", shown))).await;
        let trusting = Tls::new().ca_file(files.at(trusted));
        let orders = orders(&address(&billing).await, Some(trusting)).await;
        let cause = refusal(&orders).await;
        assert!(matches!(cause, Cause::Unreachable(_)), "{shown}: {cause:?}");
        assert!(seen.all().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_demanded_a_token_is_not_enough() {
    let files = Files::new();
    let seen = Seen::default();
    let demanding = files.tls("ca.pem", "peer").client_certs(true);
    let billing = billing(&seen, Some(demanding)).await;
    let address = address(&billing).await;
    for tls in [files.trusting(), files.tls("ca.pem", "stranger")] {
        let orders = orders(&address, Some(tls)).await;
        let cause = refusal(&orders).await;
        assert!(matches!(cause, Cause::Unreachable(_)), "{cause:?}");
    }
    let orders = orders(&address, Some(files.tls("ca.pem", "elsewhere"))).await;
    connected(&orders, "billing").await;
    orders.send("billing", SECRET).await.unwrap();
    assert_eq!(seen.count("orders"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_tls_and_who_does_not_do_not_connect() {
    let files = Files::new();
    let seen = Seen::default();
    let secure = billing(&seen, Some(files.tls("ca.pem", "peer"))).await;
    let open = billing(&seen, None).await;
    for (to, tls) in [(&secure, None), (&open, Some(files.trusting()))] {
        let orders = orders(&address(to).await, tls).await;
        let cause = refusal(&orders).await;
        assert!(matches!(cause, Cause::Unreachable(_)), "{cause:?}");
    }
    assert!(seen.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_files_are_not_there_begins_when_they_are() {
    let files = Files::new();
    let seen = Seen::default();
    let (cert, kept) = (files.at("peer.pem"), files.at("kept.pem"));
    fs::rename(&cert, &kept).unwrap();
    let billing = billing(&seen, Some(files.tls("ca.pem", "peer"))).await;
    let mut listener = billing.listener();
    {
        let waits = listener.wait_for(|state| matches!(state, ListenerState::Waiting { .. }));
        let waits = timeout(LONG, waits).await.expect("in time").unwrap();
        let ListenerState::Waiting { cause } = &*waits else {
            unreachable!("it was waited for")
        };
        assert!(cause.to_string().contains("peer.pem"), "{cause}");
    }
    fs::rename(&kept, &cert).unwrap();
    let orders = orders(&address(&billing).await, Some(files.trusting())).await;
    orders.send("billing", SECRET).await.unwrap();
    assert_eq!(seen.count("orders"), 1);
}
