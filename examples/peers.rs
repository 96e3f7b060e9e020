//! Queues between processes, without a broker to run.
//!
//! Three peers send packets to each other by name. In the middle one of them dies without a word and
//! comes back at another address. Nobody loses anything: what was on its way to it is sent to its next
//! life, which may get some packets that the first one had handled and not yet answered.
//!
//! ```sh
//! cargo run --example peers
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::try_join_all;
use wharf_peers::{Bytes, Peer, Receipt, Restarted, SendError};

const NAMES: [&str; 3] = ["billing", "orders", "shipping"];
const MORTAL: &str = "billing";
/// Each sends so many to each other before one dies, so many to that one as it does, and so many after.
const PACKETS: u32 = 2_000;

/// What came from whom to whom, in order, in each life of the one to whom it came. The first may still
/// be busy with what it has when the next one begins.
type Ledgers = Arc<Mutex<BTreeMap<(String, &'static str), Lives>>>;
type Lives = BTreeMap<u32, Vec<u32>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ledgers = Ledgers::default();
    let mut peers = Vec::new();
    for name in NAMES {
        peers.push(start(name, 1, &ledgers).await?);
    }
    introduce(&peers).await?;
    let before = everybody_to_everybody(&peers, 0..PACKETS).await?;
    try_join_all(before).await?;

    let mut underway = Vec::new();
    let at = NAMES.iter().position(|name| *name == MORTAL);
    let mortal = peers.remove(at.ok_or("it is among them")?);
    for from in &peers {
        underway.extend(submit_all(from, MORTAL, PACKETS..2 * PACKETS).await?);
    }
    drop(mortal);
    println!("{MORTAL} dies");
    peers.push(start(MORTAL, 2, &ledgers).await?);
    introduce(&peers).await?;
    println!("{MORTAL} is back, at another address");
    try_join_all(underway).await?;

    let after = everybody_to_everybody(&peers, 2 * PACKETS..3 * PACKETS).await?;
    try_join_all(after).await?;
    for peer in &peers {
        peer.stop_within(Duration::from_secs(5)).await?;
    }
    settle(&ledgers.lock().unwrap())
}

/// A peer that notes what it is sent. Where the others are, it learns later.
async fn start(name: &'static str, life: u32, ledgers: &Ledgers) -> Result<Peer, Box<dyn Error>> {
    let ledgers = Arc::clone(ledgers);
    let handler = move |from: Arc<str>, packet: Bytes| {
        let number = <[u8; 4]>::try_from(&packet[..]).map(u32::from_be_bytes);
        if let Ok(number) = number {
            let mut ledgers = ledgers.lock().unwrap();
            let lives = ledgers.entry((from.to_string(), name)).or_default();
            lives.entry(life).or_default().push(number);
        }
        async move {
            number
                .map(drop)
                .map_err(|_| "four bytes are asked for".into())
        }
    };
    let mut builder = Peer::builder(name)
        .listen("127.0.0.1:0")
        .token("a secret that they share")
        .restarted(Restarted::Redeliver);
    for other in others(name) {
        builder = builder.peer(other, "127.0.0.1:1");
    }
    Ok(builder.start(handler).await?)
}

/// Tells each where the others are.
async fn introduce(peers: &[Peer]) -> Result<(), Box<dyn Error>> {
    for to in peers {
        let address = to.listening().await.ok_or("it does not listen")?;
        for from in peers.iter().filter(|from| from.name() != to.name()) {
            from.move_peer(to.name(), address.to_string())?;
        }
    }
    Ok(())
}

async fn everybody_to_everybody(
    peers: &[Peer],
    numbers: Range<u32>,
) -> Result<Vec<Receipt>, SendError> {
    let mut receipts = Vec::new();
    for from in peers {
        for to in others(from.name()) {
            receipts.extend(submit_all(from, to, numbers.clone()).await?);
        }
    }
    Ok(receipts)
}

/// Sends without waiting for the answers: a receipt is one.
async fn submit_all(from: &Peer, to: &str, numbers: Range<u32>) -> Result<Vec<Receipt>, SendError> {
    let mut receipts = Vec::new();
    for number in numbers {
        let packet = number.to_be_bytes().to_vec();
        receipts.push(from.submit(to, packet).await?);
    }
    Ok(receipts)
}

/// Everything has come, in order, and twice only what may have.
fn settle(ledgers: &BTreeMap<(String, &'static str), Lives>) -> Result<(), Box<dyn Error>> {
    println!(
        "{:<10} {:<10} {:>8} {:>6}",
        "from", "to", "packets", "again"
    );
    for ((from, to), lives) in ledgers {
        let distinct: BTreeSet<u32> = lives.values().flatten().copied().collect();
        let again = lives.values().map(Vec::len).sum::<usize>() - distinct.len();
        println!("{from:<10} {to:<10} {:>8} {again:>6}", distinct.len());
        let rounds = if *to == MORTAL { 3 } else { 2 };
        if distinct.len() as u32 != rounds * PACKETS {
            return Err(format!("{from} to {to}: packets are lost").into());
        }
        // A new life takes up where the old one was last heard of; each goes straight on.
        let ascend = |numbers: &Vec<u32>| numbers.is_sorted_by(|one, next| one < next);
        if !lives.values().all(ascend) {
            return Err(format!("{from} to {to}: packets are out of order").into());
        }
    }
    if ledgers.len() != NAMES.len() * (NAMES.len() - 1) {
        return Err("somebody has heard nothing".into());
    }
    Ok(())
}

fn others(name: &str) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |other| *other != name)
}
