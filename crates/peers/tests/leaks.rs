//! Peers that come and go leave nothing behind: no thread, no task, no socket, no memory.

mod common;

use std::{cell::Cell, fs};

use common::{LONG, Seen, address, packet, peer, sender};
use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use wharf_testkit::{
    usage::{Allocations, COUNTING, CountingAllocator, threads},
    wait::{eventually, within},
};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

const AT_ONCE: usize = 8;
const CYCLES: usize = 1_000;

/// The lives of two peers, one of which ends in one of several ways.
async fn live(nth: usize) {
    let seen = Seen::default();
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let sender = sender(
        peer("sender")
            .peer("receiver", address(&receiver).await)
            .peer("nobody", "127.0.0.1:1"),
    )
    .await;
    let unsent = sender.submit("nobody", packet(0)).await.unwrap();
    let sent = sender.send("receiver", packet(0));
    within("the answer", LONG, sent).await.unwrap();
    drop(unsent);
    match nth % 4 {
        0 => {
            sender.stop_within(LONG).await.unwrap();
            receiver.stop_within(LONG).await.unwrap();
        }
        1 => {
            receiver.stop_within(LONG).await.unwrap();
            sender.stop_within(LONG).await.unwrap();
        }
        2 => drop((sender, receiver)),
        // Stopped half-way, as by a caller that leaves.
        _ => {
            drop(sender);
            let stop = receiver.stop_within(LONG);
            let _ = futures_util::future::select(Box::pin(stop), std::future::ready(())).await;
        }
    }
}

fn sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").expect("Linux shows them");
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets
        .filter(|to| to.to_string_lossy().starts_with("socket:"))
        .count()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// What is held when all that was going on has come to its end.
async fn at_rest() -> Allocations {
    let last = Cell::new((Allocations::now(), 0));
    let rests = async || {
        let (before, looks) = last.get();
        let now = Allocations::now();
        let is_same = now.live_bytes == before.live_bytes;
        last.set((now, if is_same { looks + 1 } else { 0 }));
        // Each runtime has a pair of sockets for itself.
        looks > 100 && sockets() < 10 && tasks() == 0
    };
    eventually("all is quiet", LONG, rests).await;
    last.get().0
}

#[tokio::test]
async fn a_thousand_peers_that_came_and_went_leave_nothing() {
    // What is made once for all.
    stream::iter(0..100)
        .for_each_concurrent(AT_ONCE, live)
        .await;
    let before = at_rest().await;
    let (few_threads, few_sockets) = (threads(), sockets());
    let lives = stream::iter(0..CYCLES).for_each_concurrent(AT_ONCE, live);
    lives.await;
    let nothing_left = async || {
        let grown = (Allocations::now() - before).live_bytes;
        let now = (threads(), sockets(), tasks());
        // Less than a hundred bytes of each.
        grown < 100 * CYCLES as isize && now.0 <= few_threads && now.1 <= few_sockets && now.2 == 0
    };
    eventually("the last are gone", LONG, nothing_left).await;
}
