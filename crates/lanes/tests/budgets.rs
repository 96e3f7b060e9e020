//! What happens where there is no room.

use std::{sync::Arc, sync::Mutex, time::Duration};

use tokio::time::{sleep, timeout};
use wharf_lanes::{PushError, Reason, WhenFull};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_push_is_refused_with_its_item_at_each_of_the_bounds() {
    let desk = Desk::new(|_| Act::Never);
    let builder = desk
        .builder()
        .items(100)
        .linger(HOUR)
        .when_full(WhenFull::Reject);
    let lanes = builder.max_items(3).build().unwrap();
    for item in 0..3 {
        lanes.push(item, item).await.unwrap();
    }
    assert_eq!(lanes.push(0, 7).await, Err(PushError::Full(7)), "items");
    assert_eq!(lanes.try_push(0, 8), Err(PushError::Full(8)));
    assert_eq!(lanes.status().rejected, 2);

    let builder = desk.builder().linger(HOUR).when_full(WhenFull::Reject);
    let lanes = builder.max_lanes(2).build().unwrap();
    lanes.push(1, 0).await.unwrap();
    lanes.push(2, 0).await.unwrap();
    assert_eq!(lanes.push(3, 7).await, Err(PushError::Full(7)), "lanes");
    lanes.push(2, 1).await.unwrap();

    let builder = desk.builder().linger(HOUR).when_full(WhenFull::Reject);
    let builder = builder.weigher(|_, item| *item as usize).max_bytes(10);
    let lanes = builder.build().unwrap();
    lanes.push(1, 6).await.unwrap();
    assert_eq!(lanes.push(2, 5).await, Err(PushError::Full(5)), "bytes");
    lanes.push(2, 4).await.unwrap();
    let heavy = lanes.push(2, 11).await.unwrap_err();
    assert!(
        matches!(heavy, PushError::TooLarge { .. }),
        "it would wait for ever"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_counts_until_it_has_landed() {
    let desk = Desk::new(|_| Act::AtTheGate);
    let builder = desk
        .builder()
        .items(2)
        .max_items(2)
        .when_full(WhenFull::Reject);
    let lanes = builder.build().unwrap();
    lanes.push(1, 0).await.unwrap();
    lanes.push(1, 1).await.unwrap();
    settle().await;
    assert_eq!(lanes.status().in_flight, 1);
    assert_eq!(lanes.push(1, 2).await, Err(PushError::Full(2)));
    desk.gate.add_permits(1);
    settle().await;
    lanes.push(1, 2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_let_in_in_the_order_in_which_they_came() {
    let desk = Desk::new(|_| Act::After(SECOND));
    let builder = desk.builder().items(1).concurrency(1);
    let lanes = builder
        .weigher(|_, item| *item as usize % 100)
        .max_bytes(10)
        .build()
        .unwrap();
    lanes.push(0, 10).await.unwrap();
    let accepted = Arc::new(Mutex::new(Vec::new()));
    // The first needs all the room there is, the others hardly any.
    for (place, weight) in [10, 1, 10, 1, 1].into_iter().enumerate() {
        let (lanes, accepted) = (lanes.clone(), Arc::clone(&accepted));
        tokio::spawn(async move {
            lanes.push(1, place as u32 * 100 + weight).await.unwrap();
            accepted.lock().unwrap().push(place);
        });
        settle().await;
    }
    assert_eq!(lanes.status().waiting, 5);
    // It would fit, but others were there before.
    assert!(lanes.try_push(2, 0).is_err());
    sleep(SECOND * 10).await;
    assert_eq!(*accepted.lock().unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(desk.items_of(1), [10, 101, 210, 301, 401]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_head_of_the_line_makes_way_for_those_behind() {
    let desk = Desk::new(|_| Act::Never);
    let builder = desk
        .builder()
        .linger(HOUR)
        .weigher(|_, item| *item as usize);
    let lanes = builder.max_bytes(10).build().unwrap();
    lanes.push(0, 6).await.unwrap();
    let behind = tokio::spawn({
        let lanes = lanes.clone();
        async move {
            sleep(Duration::from_millis(10)).await;
            lanes.push(1, 3).await
        }
    });
    // The head does not fit, and whoever is behind it waits although he would.
    assert!(timeout(SECOND, lanes.push(0, 5)).await.is_err());
    within("there is room", SECOND, behind)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lanes.status().bytes, 9);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_batch_makes_room_where_that_is_asked_for() {
    let desk = Desk::new(|_| Act::After(Duration::from_millis(10)));
    let builder = desk.builder().items(100).linger(HOUR).max_items(4);
    let lanes = builder.when_full(WhenFull::FlushOldest).build().unwrap();
    for (key, item) in [(1, 0), (2, 1), (2, 2), (3, 3)] {
        lanes.push(key, item).await.unwrap();
    }
    within("room", SECOND, lanes.push(4, 4)).await.unwrap();
    assert_eq!(desk.batches(), [(1, vec![0])]);
    within("room", SECOND, lanes.push(4, 5)).await.unwrap();
    assert_eq!(desk.batches(), [(1, vec![0]), (2, vec![1, 2])]);
    assert_eq!(lanes.status().flushed(Reason::Budget), 2);
    // There is room for one, then for none: who does not wait starts a flush all the same.
    lanes.try_push(4, 6).unwrap();
    assert!(lanes.try_push(4, 7).is_err());
    sleep(SECOND).await;
    lanes.try_push(4, 7).unwrap();
    assert_eq!(desk.items_of(3), [3]);
}

#[tokio::test(start_paused = true)]
async fn without_that_a_push_waits_for_the_linger() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = desk
        .builder()
        .linger(SECOND * 10)
        .max_items(1)
        .build()
        .unwrap();
    lanes.push(1, 0).await.unwrap();
    assert!(timeout(SECOND * 9, lanes.push(2, 1)).await.is_err());
    within("the linger is over", SECOND * 2, lanes.push(2, 1))
        .await
        .unwrap();
}

/// A handler that takes its time does not keep the others from making room.
#[tokio::test(start_paused = true)]
async fn the_oldest_batch_makes_room_though_another_is_handled_for_ever() {
    let desk = Desk::new(|batch| match batch.key() {
        0 => Act::Never,
        _ => Act::Handle,
    });
    let builder = desk.builder().items(2).linger(HOUR).max_items(4);
    let lanes = builder.when_full(WhenFull::FlushOldest).build().unwrap();
    for (key, item) in [(0, 0), (0, 1), (1, 2), (2, 3)] {
        lanes.push(key, item).await.unwrap();
    }
    settle().await;
    assert_eq!(lanes.status().in_flight, 1);
    assert_eq!(lanes.try_push(3, 4), Err(PushError::Full(4)));
    settle().await;
    assert_eq!(desk.batches(), [(0, vec![0, 1]), (1, vec![2])]);
    lanes.try_push(3, 4).unwrap();
}

/// One batch does not make room enough for a heavy item: the next oldest follows.
#[tokio::test(start_paused = true)]
async fn as_many_of_the_oldest_batches_make_room_as_it_takes() {
    let desk = Desk::new(|batch| match batch.key() {
        0 => Act::Never,
        _ => Act::Handle,
    });
    let builder = desk.builder().items(2).linger(HOUR).max_bytes(12);
    let builder = builder.weigher(|_, item| *item as usize);
    let lanes = builder.when_full(WhenFull::FlushOldest).build().unwrap();
    for (key, weight) in [(0, 0), (0, 0), (1, 3), (2, 3), (3, 3), (4, 3)] {
        lanes.push(key, weight).await.unwrap();
    }
    settle().await;
    assert_eq!(lanes.status().in_flight, 1);
    within("room", SECOND, lanes.push(5, 9)).await.unwrap();
    let flushed: Vec<u32> = desk.batches().iter().map(|(key, _)| *key).collect();
    assert_eq!(flushed, [0, 1, 2, 3], "and no more");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_too_heavy_is_refused_and_that_is_all() {
    let desk = Desk::new(|_| Act::Handle);
    let builder = desk.builder().items(100).linger(HOUR).max_bytes(10);
    let builder = builder.weigher(|_, item| *item as usize);
    let lanes = builder.when_full(WhenFull::FlushOldest).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    for _ in 0..3 {
        let heavy = lanes.push(2, 11).await;
        assert!(matches!(heavy, Err(PushError::TooLarge { item: 11, .. })));
    }
    settle().await;
    assert!(
        desk.seen().is_empty(),
        "nobody else's batch is flushed for it"
    );
    assert_eq!((lanes.status().rejected, lanes.status().items), (3, 1));
    lanes.close().await.unwrap();
    assert_eq!(lanes.push(2, 11).await, Err(PushError::Closed(11)));
    assert_eq!(lanes.status().rejected, 3);
}
