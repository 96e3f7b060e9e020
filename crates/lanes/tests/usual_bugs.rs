//! What goes wrong in batching by key when it is written by hand.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use wharf_lanes::{Reason, WhenFull};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(20);

/// Two tasks see that there is no lane, both make one, and one of the two is lost with its items.
#[test]
fn threads_that_open_a_lane_at_once_share_it() {
    const THREADS: u32 = 4;
    const KEYS: u32 = 500;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = Desk::new(|_| Act::Handle);
    let builder = desk.builder().items(THREADS as usize).linger(HOUR);
    let lanes = builder.runtime(runtime.handle().clone()).build().unwrap();
    let start = Arc::new(Barrier::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (lanes, start) = (lanes.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                for key in 0..KEYS {
                    start.wait();
                    lanes.try_push(key, thread).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    runtime.block_on(async {
        within("all are handled", SOON, lanes.close())
            .await
            .unwrap();
    });
    let mut seen = desk.seen();
    seen.sort_by_key(|seen| seen.key);
    assert_eq!(seen.len(), KEYS as usize, "one batch a key");
    for (key, mut seen) in (0..KEYS).zip(seen) {
        seen.items.sort_unstable();
        assert_eq!((seen.key, seen.reason), (key, Reason::Items));
        assert_eq!(seen.items, (0..THREADS).collect::<Vec<_>>());
    }
}

/// The map is locked while a batch is handled, so a slow one keeps everybody out.
#[tokio::test(start_paused = true)]
async fn a_new_key_is_served_while_others_are_flushed_without_end() {
    let desk = Desk::new(|batch| {
        if *batch.key() == 0 {
            Act::Never
        } else {
            Act::Handle
        }
    });
    let lanes = desk
        .builder()
        .items(10)
        .linger(HOUR)
        .concurrency(2)
        .build()
        .unwrap();
    lanes.push(0, 0).await.unwrap();
    lanes.push(1, 0).await.unwrap();
    let everything = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.flush_all().await }
    });
    let one_key = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.flush(&0).await }
    });
    settle().await;
    for item in 0..10 {
        within("it is taken", SOON, lanes.push(7, item))
            .await
            .unwrap();
    }
    settle().await;
    assert_eq!(desk.items_of(7), (0..10).collect::<Vec<_>>());
    assert!(!everything.is_finished() && !one_key.is_finished());
}

/// The timer is set anew with every item, so a trickle puts the flush off for ever.
#[tokio::test(start_paused = true)]
async fn a_trickle_does_not_put_off_the_linger_of_the_first_item() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk
        .builder()
        .items(1000)
        .linger(Duration::from_secs(10))
        .build()
        .unwrap();
    for second in 0..35 {
        lanes.push(1, second).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let seen = desk.seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    for (n, seen) in (1..).zip(&seen) {
        assert_eq!(seen.reason, Reason::Linger);
        let first = Duration::from_secs(seen.items[0].into());
        let lingered = seen.at.checked_sub(first).unwrap();
        let ten = Duration::from_secs(10);
        assert!(
            lingered >= ten && lingered < ten + Duration::from_millis(50),
            "{n}: {lingered:?}"
        );
    }
}

/// The buffer lives in the future that is dropped, or the push had half happened.
#[tokio::test(start_paused = true)]
async fn whoever_is_cancelled_takes_nothing_along_but_the_own_item() {
    let desk = Desk::new(|_| Act::AtTheGate);
    let lanes = desk
        .builder()
        .items(10)
        .linger(HOUR)
        .max_items(3)
        .build()
        .unwrap();
    for item in 0..3 {
        lanes.push(1, item).await.unwrap();
    }
    // Waits for room, and is dropped.
    assert!(
        timeout(Duration::from_secs(1), lanes.push(1, 100))
            .await
            .is_err()
    );
    // Waits for room, and gives the item back.
    let mut push = lanes.push(1, 101);
    assert!(timeout(Duration::from_secs(1), &mut push).await.is_err());
    assert_eq!(push.cancel(), Some(101));
    // Was never polled.
    drop(lanes.push(1, 102));
    // Waits for a flush that is under way, and is dropped; and so is one of everything.
    assert!(
        timeout(Duration::from_secs(1), lanes.flush(&1))
            .await
            .is_err()
    );
    assert!(
        timeout(Duration::from_secs(1), lanes.flush_all())
            .await
            .is_err()
    );
    assert_eq!(lanes.status().waiting, 0, "nobody stands in line");
    desk.gate.add_permits(1);
    settle().await;
    assert_eq!(desk.batches(), [(1, vec![0, 1, 2])]);
    let status = lanes.status();
    assert_eq!((status.items, status.lanes, status.handled), (0, 0, 3));
}

/// Somebody who has been let in, and did not hear of it, is told so.
#[tokio::test(start_paused = true)]
async fn a_push_that_is_cancelled_after_it_was_accepted_says_so() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk
        .builder()
        .items(1)
        .max_items(1)
        .concurrency(1)
        .build()
        .unwrap();
    lanes.try_push(1, 0).unwrap();
    let mut push = lanes.push(1, 1);
    let poll = std::future::poll_fn(|cx| {
        let poll = std::pin::Pin::new(&mut push).poll(cx);
        std::task::Poll::Ready(poll.is_pending())
    });
    assert!(poll.await, "it waits");
    // There is room, but nobody polls the push.
    settle().await;
    assert_eq!(push.cancel(), None);
    assert_eq!(desk.items_of(1), [0, 1]);
}

/// Entries of the map are never removed.
#[tokio::test(start_paused = true)]
async fn lanes_of_keys_that_are_gone_are_gone() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk.builder().items(10).linger(HOUR).build().unwrap();
    let guards: Vec<_> = (0..10_000).map(|key| lanes.guard(key)).collect();
    assert_eq!(
        lanes.status().lanes,
        0,
        "a lane without an item does not exist"
    );
    for guard in &guards {
        guard.push(*guard.key()).await.unwrap();
    }
    assert_eq!(lanes.status().lanes, 10_000);
    drop(guards);
    settle().await;
    let status = lanes.status();
    assert_eq!((status.lanes, status.items), (0, 0));
    assert_eq!(status.flushed(Reason::KeyClosed), 10_000);
}

/// One task an item, or one task a flush: they overtake each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_key_stay_in_order() {
    const KEYS: u32 = 40;
    const ITEMS: u32 = 500;
    let desk = Desk::new(|batch| match batch[0] % 3 {
        0 => Act::After(Duration::from_micros(u64::from(batch[0] % 7) * 100)),
        _ => Act::Handle,
    });
    let builder = desk
        .builder()
        .items(7)
        .linger(Duration::from_millis(2))
        .concurrency(5);
    let lanes = builder
        .max_items(300)
        .when_full(WhenFull::FlushOldest)
        .build()
        .unwrap();
    let pushers: Vec<_> = (0..KEYS)
        .map(|key| {
            let lanes = lanes.clone();
            tokio::spawn(async move {
                for item in 0..ITEMS {
                    lanes.push(key, item).await.unwrap();
                }
            })
        })
        .collect();
    for pusher in pushers {
        within("all is pushed", SOON, pusher).await.unwrap();
    }
    within("all is handled", SOON, lanes.close()).await.unwrap();
    for key in 0..KEYS {
        assert_eq!(
            desk.items_of(key),
            (0..ITEMS).collect::<Vec<_>>(),
            "key {key}"
        );
    }
    assert!(desk.seen().iter().all(|seen| seen.items.len() <= 7));
}

/// A `select` loop looks at the timer only when there is no input.
#[tokio::test(flavor = "current_thread")]
async fn a_lane_that_is_due_is_served_while_input_never_pauses() {
    let linger = Duration::from_millis(5);
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk.builder().items(10).linger(linger).build().unwrap();
    lanes.push(0, 0).await.unwrap();
    let start = Instant::now();
    let mut item = 0;
    // One thread, which never sleeps.
    while desk.items_of(0).is_empty() {
        for _ in 0..100 {
            item += 1;
            lanes.push(1, item).await.unwrap();
        }
        assert!(start.elapsed() < SOON, "not served after {item} items");
        // At the bound of a million a push has to wait, and everybody is served.
        assert!(item < 900_000, "not served in time");
    }
    let served = desk.seen().into_iter().find(|seen| seen.key == 0).unwrap();
    assert_eq!(served.reason, Reason::Linger);
}
