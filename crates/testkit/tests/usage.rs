//! What the own process holds is seen to grow and to shrink.
//!
//! One test alone in its program: others would allocate and start threads in between.

use std::sync::mpsc;
use std::thread;

use wharf_testkit::usage::{Allocations, COUNTING, CountingAllocator, rss, threads};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

#[test]
fn threads_memory_and_allocations_are_seen_to_come_and_go() {
    // Whoever started this test may still be busy with it the first time.
    let exact = (0..1_000).any(|_| {
        let before = Allocations::now();
        let kept = vec![0_u8; 1_000];
        let with_one = Allocations::now() - before;
        drop(kept);
        let without = Allocations::now() - before;
        (with_one.made, with_one.live_bytes) == (1, 1_000)
            && (without.made, without.live_bytes) == (1, 0)
    });
    assert!(exact, "a block is never counted as it is");

    let small = rss();
    let big = vec![1_u8; 64 * 1024 * 1024];
    assert!(rss() >= small + 60 * 1024 * 1024);
    drop(big);
    assert!(rss() < small + 32 * 1024 * 1024);

    let alone = threads();
    let (end, ended) = mpsc::channel::<()>();
    let other = thread::spawn(move || ended.recv());
    assert_eq!(threads(), alone + 1);
    drop(end);
    assert!(other.join().unwrap().is_err());
}
