//! When a batch is flushed, what is in it, and whose turn it is.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::sleep;
use wharf_lanes::{PushError, Reason};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_defaults_are_ten_items_or_ten_seconds() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk.builder().build().unwrap();
    for item in 0..23 {
        lanes.push(1, item).await.unwrap();
    }
    sleep(SECOND * 9).await;
    let batches = desk.batches();
    assert_eq!(batches, [(1, (0..10).collect()), (1, (10..20).collect())]);
    sleep(SECOND * 2).await;
    let last = desk.seen().pop().unwrap();
    assert_eq!(
        (last.items, last.reason),
        (vec![20, 21, 22], Reason::Linger)
    );
    let status = lanes.status();
    assert_eq!(status.flushed(Reason::Items), 2);
    assert_eq!(status.flushed(Reason::Linger), 1);
    assert_eq!((status.lanes, status.items, status.handled), (0, 0, 23));
}

#[tokio::test(start_paused = true)]
async fn no_batch_weighs_more_than_it_may() {
    let desk = Desk::new(|_| Act::Handle);
    let builder = desk.builder().items(100).bytes(10).linger(HOUR);
    let lanes = builder.weigher(|_, item| *item as usize).build().unwrap();
    for item in [4, 4, 4, 6, 10, 1, 9] {
        lanes.push(1, item).await.unwrap();
    }
    settle().await;
    let expected = [vec![4, 4], vec![4, 6], vec![10], vec![1, 9]];
    assert_eq!(desk.batches(), expected.map(|items| (1, items)));
    assert_eq!(lanes.status().flushed(Reason::Bytes), 4);
    match lanes.push(1, 11).await {
        Err(PushError::TooLarge {
            item: 11,
            weight: 11,
            most: 10,
        }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(lanes.status().rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn what_comes_during_a_flight_collects_in_the_next_batches() {
    let desk = Desk::new(|_| Act::AtTheGate);
    let lanes = desk.builder().items(3).linger(SECOND).build().unwrap();
    for item in 0..8 {
        lanes.push(1, item).await.unwrap();
    }
    sleep(SECOND * 5).await;
    assert_eq!(desk.batches(), [(1, vec![0, 1, 2])], "one at a time");
    // Due for long, and yet it takes what there is room for.
    lanes.push(1, 8).await.unwrap();
    lanes.push(1, 9).await.unwrap();
    desk.gate.add_permits(10);
    sleep(SECOND * 2).await;
    let expected = [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8], vec![9]];
    assert_eq!(desk.batches(), expected.map(|items| (1, items)));
    assert_eq!(lanes.status().lanes, 0);
}

#[tokio::test(start_paused = true)]
async fn keys_take_turns_however_much_one_of_them_has() {
    let desk = Desk::new(|_| Act::After(Duration::from_millis(10)));
    let lanes = desk
        .builder()
        .items(10)
        .linger(HOUR)
        .concurrency(1)
        .build()
        .unwrap();
    for item in 0..1000 {
        lanes.push(0, item).await.unwrap();
    }
    for key in 1..4 {
        for item in 0..20 {
            lanes.push(key, item).await.unwrap();
        }
    }
    lanes.flush_all().await;
    let order: Vec<u32> = desk.seen().iter().map(|seen| seen.key).collect();
    // Ninety-nine batches of the hot key were there before the first of the others.
    assert_eq!(order[..11], [0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0]);
    assert_eq!(desk.most_at_once.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn so_many_batches_are_handled_at_once_and_no_more() {
    let desk = Desk::new(|_| Act::After(SECOND));
    let lanes = desk.builder().items(1).concurrency(3).build().unwrap();
    for key in 0..9 {
        lanes.push(key, 0).await.unwrap();
    }
    settle().await;
    assert_eq!(lanes.status().in_flight, 3);
    lanes.close().await.unwrap();
    assert_eq!(desk.most_at_once.load(Ordering::Relaxed), 3);
    let last = desk.seen().pop().unwrap();
    assert_eq!(last.at.as_secs(), 2, "three rounds");
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_the_key_has_and_for_nothing_else() {
    let desk = Desk::new(|batch| match batch.key() {
        1 => Act::After(SECOND),
        _ => Act::Never,
    });
    let lanes = desk.builder().items(2).linger(HOUR).build().unwrap();
    lanes.push(2, 0).await.unwrap();
    lanes.push(2, 1).await.unwrap();
    for item in 0..5 {
        lanes.push(1, item).await.unwrap();
    }
    within("three batches", SECOND * 4, lanes.flush(&1)).await;
    assert_eq!(desk.items_of(1), [0, 1, 2, 3, 4]);
    let last = desk.seen().pop().unwrap();
    assert_eq!((last.reason, last.at.as_secs()), (Reason::Flush, 2));
    assert_eq!(lanes.status().in_flight, 1, "the other key's");
    within("nothing to flush", SECOND, lanes.flush(&99)).await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_everything_does_not_wait_for_what_comes_later() {
    let desk = Desk::new(|batch| {
        if *batch.key() < 5000 {
            Act::Handle
        } else {
            Act::Never
        }
    });
    let lanes = desk.builder().items(1000).linger(HOUR).build().unwrap();
    for key in 0..3000 {
        lanes.push(key, 0).await.unwrap();
    }
    let flush = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.flush_all().await }
    });
    tokio::task::yield_now().await;
    lanes.push(5000, 0).await.unwrap();
    within("the flush", SECOND, flush).await.unwrap();
    assert_eq!(lanes.status().handled, 3000);
    assert_eq!(
        (lanes.status().lanes, lanes.status().in_flight),
        (1, 0),
        "it lingers"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_closed_can_be_used_again() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk.builder().linger(HOUR).build().unwrap();
    for item in 0..3 {
        lanes.push(1, item).await.unwrap();
        within("it is handled", SECOND, lanes.close_key(&1)).await;
        assert_eq!(lanes.status().lanes, 0);
    }
    assert_eq!(desk.items_of(1), [0, 1, 2]);
    assert_eq!(lanes.status().flushed(Reason::KeyClosed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_linger_of_nothing_flushes_at_once() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk.builder().linger(Duration::ZERO).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    settle().await;
    assert_eq!(desk.batches(), [(1, vec![1])]);
}
