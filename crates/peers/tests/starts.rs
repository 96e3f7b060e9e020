//! The first peers of a process.

mod common;

use std::{
    sync::{Arc, Barrier},
    thread,
};

use common::{LONG, peer, sender};

/// Of two that made the runtime of all peers at once, one dropped its own, which panics in a task.
/// There is one first time in a process, so this test is alone.
#[test]
fn the_first_peers_may_start_at_once() {
    let count = 8;
    let barrier = Arc::new(Barrier::new(count));
    let starts: Vec<_> = (0..count)
        .map(|nth| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(async {
                    barrier.wait();
                    let first = sender(peer(&nth.to_string())).await;
                    first.stop_within(LONG).await.unwrap();
                });
            })
        })
        .collect();
    starts
        .into_iter()
        .for_each(|start| start.join().expect("it starts"));
}
