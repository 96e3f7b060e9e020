//! What strangers cost who never come to an end of their first message in TLS. Memory is counted for the
//! whole process, so this is the only test in it.

#[path = "tls/files.rs"]
mod files;
mod wire;

use files::Files;
use futures_util::future::join_all;
use wharf_testkit::{
    usage::{Allocations, COUNTING, CountingAllocator},
    wait::eventually,
};
use wire::{BOUND, Wire, builder};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

#[tokio::test]
async fn hellos_of_tls_that_are_never_finished_cost_no_more_than_one_may_have() {
    const CLIENTS: isize = 100;
    let files = Files::new();
    let broker = builder().tls(files.tls()).start().await.unwrap();
    let before = Allocations::now();
    let held = || (Allocations::now() - before).live_bytes / CLIENTS;
    // A handshake message may have 65,535 bytes; this one says that it has 65,000.
    let record = |payload: &[u8]| [&[22, 3, 1, 0x17, 0x70], payload].concat();
    let mut hello = record(&[&[1, 0, 0xfd, 0xe8], &[0; 5_996][..]].concat());
    hello.extend(record(&[0; 6_000]).repeat(9));
    let clients = join_all((0..CLIENTS).map(async |_| {
        let mut client = Wire::connect(&broker).await;
        client.send_bytes(&hello).await;
        client
    }));
    let clients = clients.await;
    eventually("nearly all of it is held", BOUND, async || held() > 60_000).await;
    assert!(held() < 80_000, "{} bytes for each", held());
    drop(clients);
    eventually("it is given back", BOUND, async || held() < 5_000).await;
}
