//! Handlers that fail, panic, or do not end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, task::coop::consume_budget, time::sleep};
use wharf_lanes::{Batch, Cause, Failed, Lanes, Retry};
use wharf_testkit::wait::within;

use common::{Act, Desk, Returned, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn steady(attempts: u32) -> Retry {
    Retry {
        attempts,
        pause: SECOND,
        longest: SECOND * 2,
        jitter: 0.0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_comes_again_before_what_is_behind_it_and_holds_up_nobody_else() {
    let desk = Desk::new(|batch| match (batch.key(), batch.attempt()) {
        (1, 1 | 2) => Act::Fail,
        _ => Act::Handle,
    });
    let builder = desk.builder().items(2).linger(HOUR).concurrency(1);
    let lanes = builder.retry(steady(3)).build().unwrap();
    for item in 0..6 {
        lanes.push(1, item).await.unwrap();
    }
    for item in 0..2 {
        lanes.push(2, item).await.unwrap();
    }
    settle().await;
    assert_eq!(
        desk.batches(),
        [(1, vec![0, 1]), (2, vec![0, 1])],
        "one worker for both"
    );
    assert_eq!((lanes.status().resting, lanes.status().in_flight), (1, 0));
    within("all is handled", SECOND * 10, lanes.flush(&1)).await;
    let of_one: Vec<_> = desk
        .seen()
        .into_iter()
        .filter(|seen| seen.key == 1)
        .collect();
    let attempts: Vec<_> = of_one
        .iter()
        .map(|seen| (seen.items[0], seen.attempt))
        .collect();
    assert_eq!(
        attempts,
        [
            (0, 1),
            (0, 2),
            (0, 3),
            (2, 1),
            (2, 2),
            (2, 3),
            (4, 1),
            (4, 2),
            (4, 3)
        ]
    );
    let at: Vec<u64> = of_one.iter().map(|seen| seen.at.as_secs()).collect();
    assert_eq!(at, [0, 1, 3, 3, 4, 6, 6, 7, 9], "the pauses double");
    let status = lanes.status();
    assert_eq!(
        (status.retries, status.failed_batches, status.handled),
        (6, 0, 8)
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_last_attempt_the_items_come_back_and_the_next_have_their_turn() {
    let desk = Desk::new(|batch| {
        if batch[0] == 0 {
            Act::Fail
        } else {
            Act::Handle
        }
    });
    let lanes = desk
        .builder()
        .items(2)
        .linger(HOUR)
        .retry(steady(2))
        .build()
        .unwrap();
    for item in 0..4 {
        lanes.push(1, item).await.unwrap();
    }
    within("both", SECOND * 5, lanes.flush(&1)).await;
    let returned = Returned {
        key: 1,
        items: vec![0, 1],
        cause: Cause::Error("no"),
        attempts: 2,
    };
    assert_eq!(desk.returned(), [returned]);
    let status = lanes.status();
    assert_eq!((status.failed_batches, status.failed_items), (1, 2));
    assert_eq!((status.handled, status.items, status.lanes), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_has_taken_out_does_not_come_again() {
    let desk = Desk::new(|batch| match batch.attempt() {
        1 => Act::FailAfter(2),
        2 => Act::FailAfter(1),
        _ => Act::Fail,
    });
    let builder = desk.builder().items(4).retry(steady(3));
    let builder = builder.weigher(|_, item| *item as usize);
    let lanes = builder.build().unwrap();
    for item in 1..5 {
        lanes.push(1, item).await.unwrap();
    }
    settle().await;
    assert_eq!(
        (lanes.status().items, lanes.status().bytes),
        (2, 7),
        "what is left"
    );
    lanes.flush(&1).await;
    assert_eq!(
        desk.batches()
            .into_iter()
            .map(|(_, items)| items)
            .collect::<Vec<_>>(),
        [vec![1, 2, 3, 4], vec![3, 4], vec![4]]
    );
    assert_eq!(desk.returned()[0].items, [4]);
    let status = lanes.status();
    assert_eq!(
        (status.handled, status.failed_items, status.bytes),
        (3, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_no_item_and_no_worker() {
    let desk = Desk::new(|batch| match (batch.key(), batch.attempt()) {
        (1, 1) | (2, _) => Act::Panic,
        _ => Act::Handle,
    });
    let builder = desk.builder().items(2).concurrency(1).retry(steady(2));
    let lanes = builder.build().unwrap();
    for key in 1..4 {
        for item in 0..2 {
            lanes.push(key, item).await.unwrap();
        }
    }
    within("all", SECOND * 5, lanes.close()).await.unwrap();
    assert_eq!(desk.items_of(1), [0, 1, 0, 1]);
    assert_eq!(desk.items_of(3), [0, 1]);
    let [returned] = &desk.returned()[..] else {
        panic!("{:?}", desk.returned())
    };
    assert_eq!((returned.key, &returned.items[..]), (2, &[0, 1][..]));
    assert!(matches!(&returned.cause, Cause::Panicked(text) if text.contains("as it was told")));
    assert_eq!(lanes.status().panics, 3);
}

/// The call itself may panic before there is a future, and an item's destructor afterwards.
#[tokio::test(start_paused = true)]
async fn a_panic_elsewhere_in_the_users_code_stops_nothing() {
    struct Bomb(bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0 || std::thread::panicking(), "a destructor panics");
        }
    }
    let (seen, mut handled) = mpsc::unbounded_channel();
    let lanes = Lanes::builder(
        move |batch: Batch<u32, Bomb>| {
            assert_ne!(*batch.key(), 0, "no future for this one");
            let seen = seen.clone();
            async move {
                seen.send(*batch.key()).unwrap();
                Ok::<_, ()>(())
            }
        },
        |failed: Failed<u32, Bomb, ()>| assert_ne!(failed.key, 0, "the sink panics, too"),
    )
    .items(1)
    .concurrency(1)
    .retry(Retry::never())
    .build()
    .unwrap();
    for (key, is_live) in [(0, false), (1, true), (2, false)] {
        lanes.push(key, Bomb(is_live)).await.unwrap();
    }
    within("all", SECOND, lanes.close()).await.unwrap();
    assert_eq!(
        (handled.recv().await, handled.recv().await),
        (Some(1), Some(2))
    );
    assert_eq!(lanes.status().failed_items, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_dropped_and_has_failed() {
    let desk = Desk::new(|batch| {
        if batch.attempt() == 1 {
            Act::Never
        } else {
            Act::Handle
        }
    });
    let builder = desk.builder().items(1).retry(steady(2));
    let lanes = builder.handler_timeout(SECOND * 3).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    within("the second attempt", SECOND * 5, lanes.flush(&1)).await;
    let at: Vec<u64> = desk.seen().iter().map(|seen| seen.at.as_secs()).collect();
    assert_eq!(at, [0, 4]);

    let desk = Desk::new(|_| Act::Never);
    let builder = desk.builder().items(1).retry(Retry::never());
    let lanes = builder.handler_timeout(SECOND * 3).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    within("the sink", SECOND * 5, lanes.flush(&1)).await;
    assert_eq!(desk.returned()[0].cause, Cause::TimedOut(SECOND * 3));
}

/// A handler may give the batch to a task of its own: then the flight lasts until that drops it.
#[tokio::test(start_paused = true)]
async fn a_flight_lasts_until_the_batch_is_dropped() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&starts);
    let lanes = Lanes::builder(
        move |batch: Batch<u32, u32>| {
            log.lock().unwrap().push(batch[0]);
            tokio::spawn(async move {
                sleep(SECOND).await;
                drop(batch);
            });
            async { Ok::<_, ()>(()) }
        },
        |_: Failed<u32, u32, ()>| {},
    )
    .items(1)
    .build()
    .unwrap();
    lanes.push(1, 0).await.unwrap();
    lanes.push(1, 1).await.unwrap();
    settle().await;
    assert_eq!(
        (starts.lock().unwrap().len(), lanes.status().in_flight),
        (1, 1)
    );
    within("both", SECOND * 3, lanes.close()).await.unwrap();
    assert_eq!(*starts.lock().unwrap(), [0, 1]);
    assert_eq!(
        (lanes.status().handled, lanes.status().failed_items),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_too_long() {
    let desk = Desk::new(|_| Act::After(HOUR * 1000));
    let builder = desk.builder().items(1).handler_timeout(Duration::MAX);
    let lanes = builder.build().unwrap();
    lanes.push(1, 1).await.unwrap();
    within("it is handled", HOUR * 1001, lanes.flush(&1)).await;
    lanes.push(1, 2).await.unwrap();
    lanes.close().await.unwrap();
    assert_eq!(desk.batches(), [(1, vec![1]), (1, vec![2])]);
}

/// It is always ready to go on and always has used up its turn, as a loop over a full channel.
#[tokio::test]
async fn a_handler_that_never_rests_is_dropped_in_time_as_well() {
    let (sink, mut causes) = mpsc::unbounded_channel();
    let lanes = Lanes::builder(
        async |_: Batch<u32, u32>| -> Result<(), ()> {
            loop {
                consume_budget().await;
            }
        },
        move |failed: Failed<u32, u32, ()>| sink.send(failed.cause).unwrap(),
    );
    let limit = Duration::from_millis(20);
    let lanes = lanes.items(1).retry(Retry::never()).handler_timeout(limit);
    let lanes = lanes.build().unwrap();
    lanes.push(1, 1).await.unwrap();
    let cause = within("its limit", SECOND * 20, causes.recv()).await;
    assert_eq!(cause, Some(Cause::TimedOut(limit)));
    drop(lanes);
}

/// Keys, errors and what is thrown in panics have destructors, too. The first runs just when the
/// worker has got the next batch.
#[tokio::test(start_paused = true)]
async fn no_destructor_that_panics_costs_a_batch() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Bomb(u32);
    impl Drop for Bomb {
        fn drop(&mut self) {
            let is_live = self.0 == 1 && !std::thread::panicking();
            assert!(!is_live, "a destructor panics");
        }
    }
    let (seen, mut handled) = mpsc::unbounded_channel();
    let lanes = Lanes::builder(
        move |batch: Batch<Bomb, u32>| {
            let seen = seen.clone();
            async move {
                match (batch[0], batch.attempt()) {
                    (2, 1) => return Err(Bomb(1)),
                    (3, 1) => std::panic::panic_any(Bomb(1)),
                    (item, _) => seen.send(item).unwrap(),
                }
                Ok(())
            }
        },
        |_: Failed<Bomb, u32, Bomb>| {},
    )
    .items(1)
    .concurrency(1)
    .retry(steady(2))
    .build()
    .unwrap();
    // The keys of the others are harmless.
    for item in 1..6 {
        lanes.push(Bomb(item), item).await.unwrap();
    }
    within("all", SECOND * 5, lanes.close()).await.unwrap();
    let mut all = Vec::new();
    while let Ok(item) = handled.try_recv() {
        all.push(item);
    }
    assert_eq!(all, [1, 4, 5, 2, 3]);
    assert_eq!((lanes.status().handled, lanes.status().in_flight), (5, 0));
}
