//! Connections that are cut at any moment: each packet is handled once, in order, and told as it was.

mod common;

use std::{
    cell::Cell,
    env,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{LONG, address, amqp, number, packet, peer, sender, tap::Tap};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use wharf::Backoff;
use wharf_peers::{Builder, Peer, SendError};
use wharf_testkit::{
    checker::Checker,
    proxy::{Direction, End, Proxy},
};

/// As many as a quick run has time for. `WHARF_PEERS_CUTS` says otherwise, as `cargo xtask cuts` does.
const CUTS: u64 = 2_000;
/// Pairs that are cut at the same time.
const PAIRS: u64 = 4;

/// Long enough for a connection to be cut as it is made, or somewhat later.
const BYTES: u64 = 2_000;

/// What every seventh packet comes to.
fn is_rejected(number: u64) -> bool {
    number % 7 == 3
}

/// A receiver that takes the numbers of each sender as they come, and no other.
struct Receiver {
    peer: Peer,
    handled: Arc<Mutex<Vec<u64>>>,
}

impl Receiver {
    async fn start(mut builder: Builder, senders: &[String], checker: &Arc<Checker>) -> Self {
        builder = builder.listen("127.0.0.1:0");
        for sender in senders {
            builder = builder.caller(sender);
        }
        let handled = Arc::new(Mutex::new(vec![0; senders.len()]));
        let due = Arc::clone(&handled);
        let checker = Arc::clone(checker);
        let handler = move |from: Arc<str>, packet: Bytes| {
            let from: usize = from.parse().expect("senders are numbers");
            let number = number(&packet);
            let expected = due.lock()[from];
            // A panic here is a rejection, which nobody expects.
            assert_eq!(number, expected, "out of order");
            due.lock()[from] += 1;
            checker.received(id(from as u64, number));
            async move {
                match is_rejected(number) {
                    true => Err("it is one of seven".into()),
                    false => Ok(()),
                }
            }
        };
        let peer = builder.start(handler).await.unwrap();
        Self { peer, handled }
    }

    async fn addr(&self) -> SocketAddr {
        address(&self.peer).await.parse().unwrap()
    }

    fn handled(&self, sender: u64) -> u64 {
        self.handled.lock()[sender as usize]
    }
}

/// Each sender has a range of its own.
fn id(sender: u64, number: u64) -> u64 {
    (sender << 40) + number
}

/// Whoever connects through the proxy comes back at once.
fn quick(name: &str, proxy: &Proxy) -> Builder {
    peer(name)
        .peer("receiver", proxy.addr().to_string())
        .send_timeout(LONG)
        .connect_timeout(LONG)
        .reconnect(Backoff {
            min: Duration::from_millis(1),
            max: Duration::from_millis(2),
        })
}

/// Sends the packets of these numbers at once, and looks at what each comes to.
async fn send(peer: &Peer, sender: u64, numbers: std::ops::Range<u64>, checker: &Checker) {
    let mut receipts = Vec::new();
    for number in numbers {
        checker.sent(id(sender, number));
        let receipt = peer.submit("receiver", packet(number)).await.unwrap();
        receipts.push(async move { (number, receipt.await) });
    }
    let outcomes = timeout(LONG, join_all(receipts)).await.expect("in time");
    for (number, outcome) in outcomes {
        match outcome {
            Ok(()) if !is_rejected(number) => {}
            Err(SendError::Rejected { reason }) if is_rejected(number) => {
                assert_eq!(reason, "it is one of seven");
            }
            wrong => panic!("{sender}: packet {number}: {wrong:?}"),
        }
        // It was handled, whatever the verdict.
        checker.confirmed(id(sender, number));
    }
}

fn check(checker: &Checker) {
    let verdict = checker.verdict();
    verdict.assert_exact();
    assert_eq!(verdict.duplicates, 0, "{verdict}");
    assert_eq!(verdict.sent, verdict.received, "{verdict}");
    println!("{verdict}");
}

/// What a short exchange says, in both directions.
async fn exchange(to: SocketAddr, checker: &Checker) -> (Vec<u8>, Vec<u8>) {
    let tap = Tap::to(to).await;
    let peer = sender(peer("0").peer("receiver", tap.addr.to_string())).await;
    send(&peer, 0, 0..5, checker).await;
    (tap.to_server(), tap.to_client())
}

#[tokio::test]
async fn cut_at_every_frame_of_an_exchange_nothing_is_lost_or_doubled() {
    let checker = Arc::new(Checker::default());
    let names: Vec<String> = (0..1_000).map(|name: u64| name.to_string()).collect();
    let receiver = Receiver::start(peer("receiver"), &names, &checker).await;
    let to = receiver.addr().await;
    let (there, back) = exchange(to, &checker).await;
    let mut next = 1;
    for (direction, said) in [(Direction::ToServer, there), (Direction::ToClient, back)] {
        let ends = amqp::ends(&said);
        assert!(ends.len() > 8, "{}", ends.len());
        for (nth, end) in ends.into_iter().enumerate() {
            // In the middle of the frame and after it.
            for bytes in [end.saturating_sub(3), end] {
                let how = [End::Cut, End::Reset][nth % 2];
                let proxy = Proxy::to(to).await;
                proxy.end_after(bytes as u64, direction, how);
                let peer = sender(quick(&names[next], &proxy)).await;
                send(&peer, next as u64, 0..5, &checker).await;
                assert_eq!(receiver.handled(next as u64), 5);
                next += 1;
            }
        }
    }
    println!("{next} exchanges");
    check(&checker);
}

#[tokio::test]
async fn cut_at_random_thousands_of_times_nothing_is_lost_or_doubled() {
    let cuts = env::var("WHARF_PEERS_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    cut_at_random(cuts, BYTES, |peer| peer).await;
}

/// A handshake takes some more bytes.
#[cfg(feature = "rustls")]
#[tokio::test]
async fn cut_at_random_under_tls_nothing_is_lost_or_doubled() {
    let files = common::certs::Files::new();
    let tls = files.tls("ca.pem", "peer");
    cut_at_random(CUTS / 10, 4 * BYTES, |peer| peer.tls(tls.clone())).await;
}

async fn cut_at_random(cuts: u64, bytes: u64, secured: impl Fn(Builder) -> Builder) {
    let checker = Arc::new(Checker::default());
    let names: Vec<String> = (0..PAIRS).map(|name| name.to_string()).collect();
    let receiver = Receiver::start(secured(peer("receiver")), &names, &checker).await;
    let to = receiver.addr().await;
    let began = Instant::now();
    let pairs = names.iter().map(|name| {
        let (checker, secured) = (Arc::clone(&checker), &secured);
        async move {
            let proxy = Proxy::to(to).await;
            let peer = sender(secured(quick(name, &proxy))).await;
            let cuts = cuts.div_ceil(PAIRS);
            be_cut(&peer, name, &proxy, (cuts, bytes), &checker).await
        }
    });
    let sent = join_all(pairs).await;
    for (sender, sent) in (0..).zip(sent) {
        assert_eq!(receiver.handled(sender), sent);
    }
    println!("{cuts} cuts in {:?}", began.elapsed());
    check(&checker);
}

/// Sends without end while the connection is cut so often, within so many bytes each time. Says how many packets there were.
async fn be_cut(
    peer: &Peer,
    name: &str,
    proxy: &Proxy,
    (cuts, bytes): (u64, u64),
    checker: &Checker,
) -> u64 {
    let number: u64 = name.parse().unwrap();
    let is_over = Cell::new(false);
    let cutting = async {
        for nth in 1..=cuts {
            proxy.wait_for_connections(nth).await;
            let direction = [Direction::ToServer, Direction::ToClient][fastrand::usize(..2)];
            let how = [End::Cut, End::Reset][fastrand::usize(..2)];
            proxy.end_after(fastrand::u64(..bytes), direction, how);
        }
        proxy.wait_for_connections(cuts + 1).await;
        is_over.set(true);
    };
    let sending = async {
        let mut sent = 0;
        while !is_over.get() {
            let next = sent + fastrand::u64(1..40);
            send(peer, number, sent..next, checker).await;
            sent = next;
        }
        sent
    };
    tokio::join!(cutting, sending).1
}
