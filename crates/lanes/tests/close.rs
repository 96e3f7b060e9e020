//! The ends of lanes: closed, dropped, or with their runtime.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};
use wharf_lanes::{Batch, BuildError, Cause, Failed, Lanes, PushError, Reason, Retry, Unfinished};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// Of real time, where threads are at work.
const SOON: Duration = Duration::from_secs(20);

static_assertions::assert_impl_all!(Lanes<u32, std::cell::Cell<u32>>: Send, Sync, Unpin);
static_assertions::assert_impl_all!(wharf_lanes::Push<'static, u32, u32>: Send, Unpin);
static_assertions::assert_impl_all!(wharf_lanes::KeyGuard<u32, u32>: Send, Sync);

#[tokio::test(start_paused = true)]
async fn close_returns_when_everything_is_handled_and_takes_nothing_more() {
    let desk = Desk::new(|_| Act::After(SECOND));
    let lanes = desk.builder().linger(HOUR).max_items(2000).build().unwrap();
    for item in 0..2000 {
        lanes.push(item % 700, item).await.unwrap();
    }
    let waits = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.push(0, 7777).await }
    });
    settle().await;
    assert_eq!(lanes.status().waiting, 1);
    within("all", SECOND * 100, lanes.close()).await.unwrap();
    assert_eq!(waits.await.unwrap(), Err(PushError::Closed(7777)));
    assert_eq!(lanes.push(0, 1).await, Err(PushError::Closed(1)));
    assert_eq!(lanes.try_push(0, 2), Err(PushError::Closed(2)));
    let status = lanes.status();
    assert_eq!((status.lanes, status.items, status.handled), (0, 0, 2000));
    assert_eq!(status.flushed(Reason::Closed), 700);
    assert_eq!((status.waiting, status.is_closed), (0, true));
    within("twice", SECOND, lanes.close()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_handled_in_time_comes_back_in_order() {
    let desk = Desk::new(|batch| match batch.key() {
        1 => Act::Never,
        2 => Act::Fail,
        3 => Act::FailAfter(1),
        _ => Act::Handle,
    });
    let slow = Retry {
        pause: HOUR,
        longest: HOUR,
        ..Retry::default()
    };
    let lanes = desk
        .builder()
        .items(2)
        .linger(HOUR)
        .retry(slow)
        .build()
        .unwrap();
    for item in 0..5 {
        for key in 1..5 {
            lanes.push(key, item).await.unwrap();
        }
    }
    let closed = within(
        "the limit holds",
        SECOND * 11,
        lanes.close_within(SECOND * 10),
    )
    .await;
    let Unfinished {
        mut left, stuck, ..
    } = closed.unwrap_err();
    left.sort();
    assert_eq!(
        left,
        [
            (1, vec![0, 1, 2, 3, 4]),
            (2, vec![0, 1, 2, 3, 4]),
            (3, vec![1, 2, 3, 4])
        ]
    );
    assert_eq!(stuck, 0);
    assert_eq!(desk.items_of(4), [0, 1, 2, 3, 4], "the others were handled");
    assert!(desk.returned().is_empty());
    let status = lanes.status();
    assert_eq!(
        (status.lanes, status.items, status.in_flight, status.resting),
        (0, 0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_in_time_hands_nothing_back() {
    let desk = Desk::new(|_| Act::After(SECOND));
    let lanes = desk.builder().linger(HOUR).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    within("in time", SECOND * 2, lanes.close_within(SECOND * 10))
        .await
        .unwrap();
    assert_eq!(desk.items_of(1), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_cancelled_is_taken_up_by_the_next() {
    let desk = Desk::new(|_| Act::AtTheGate);
    let lanes = desk.builder().linger(HOUR).build().unwrap();
    lanes.push(1, 1).await.unwrap();
    assert!(timeout(SECOND, lanes.close()).await.is_err());
    desk.gate.add_permits(1);
    within("the next", SECOND, lanes.close()).await.unwrap();
    assert_eq!(desk.items_of(1), [1]);
}

/// A batch that was given to somebody else cannot be interrupted.
#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_come_back_is_counted_and_goes_to_the_sink_when_it_does() {
    let kept = Arc::new(Mutex::new(None));
    let returned = Arc::new(Mutex::new(Vec::new()));
    let (keep, tray) = (Arc::clone(&kept), Arc::clone(&returned));
    let lanes = Lanes::builder(
        move |batch: Batch<u32, u32>| {
            *keep.lock().unwrap() = Some(batch);
            std::future::pending::<Result<(), ()>>()
        },
        move |failed: Failed<u32, u32, ()>| tray.lock().unwrap().push(failed),
    )
    .items(2)
    .build()
    .unwrap();
    for item in 0..3 {
        lanes.push(1, item).await.unwrap();
    }
    settle().await;
    let Unfinished { left, stuck, .. } = lanes.close_within(SECOND).await.unwrap_err();
    assert_eq!((left, stuck), (vec![(1, vec![2])], 2));
    drop(kept.lock().unwrap().take());
    settle().await;
    let returned = returned.lock().unwrap();
    assert_eq!((returned[0].key, &returned[0].items[..]), (1, &[0, 1][..]));
    assert_eq!(returned[0].cause, Cause::Abandoned);
    assert_eq!((lanes.status().items, lanes.status().lanes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_there_when_the_last_handle_goes_is_handled_retries_included() {
    let desk = Desk::new(|batch| {
        if batch.attempt() == 1 {
            Act::Fail
        } else {
            Act::Handle
        }
    });
    let lanes = desk.builder().linger(HOUR).build().unwrap();
    let guard = lanes.guard(2);
    for key in 1..4 {
        lanes.push(key, 0).await.unwrap();
    }
    drop(lanes);
    settle().await;
    assert!(desk.seen().is_empty(), "a guard is a handle, too");
    drop(guard);
    sleep(SECOND).await;
    let reasons: Vec<_> = desk
        .seen()
        .iter()
        .map(|seen| (seen.reason, seen.attempt))
        .collect();
    assert_eq!(
        reasons.iter().filter(|(_, attempt)| *attempt == 2).count(),
        3,
        "{reasons:?}"
    );
    // The desk is here, in the handler and in the sink; those end with the lanes.
    assert_eq!(
        Arc::strong_count(&desk),
        1,
        "the lanes and their tasks are gone"
    );
}

#[test]
fn what_a_runtime_leaves_behind_goes_to_the_sink() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let desk = runtime.block_on(async { Desk::new(|_| Act::Never) });
    let builder = desk.builder().items(2).linger(HOUR).concurrency(2);
    let lanes = builder.runtime(runtime.handle().clone()).build().unwrap();
    for item in 0..5 {
        for key in 0..4 {
            lanes.try_push(key, item).unwrap();
        }
    }
    runtime.shutdown_timeout(SOON);
    assert_eq!(lanes.try_push(9, 9), Err(PushError::Closed(9)));
    assert!(desk.returned().is_empty());
    drop(lanes);
    let mut returned = desk.returned();
    returned.sort_by_key(|returned| returned.key);
    assert_eq!(returned.len(), 4);
    for (key, returned) in (0..).zip(returned) {
        assert_eq!(
            (returned.key, &returned.items[..]),
            (key, &[0, 1, 2, 3, 4][..])
        );
        assert_eq!(returned.cause, Cause::Abandoned);
    }
}

#[test]
fn lanes_whose_runtime_has_ended_hand_out_what_they_have() {
    let first = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let second = Builder::new_current_thread().enable_all().build().unwrap();
    let desk = second.block_on(async { Desk::new(|_| Act::Handle) });
    let lanes = desk
        .builder()
        .runtime(first.handle().clone())
        .linger(HOUR)
        .build()
        .unwrap();
    lanes.try_push(1, 1).unwrap();
    first.shutdown_timeout(SOON);
    second.block_on(async {
        within("a flush that nobody will end", SOON, lanes.flush(&1)).await;
        let closed = within("a close without a runtime", SOON, lanes.close()).await;
        assert_eq!(closed.unwrap_err().left, [(1, vec![1])]);
    });
    drop(lanes);
    assert!(desk.returned().is_empty(), "it was handed out");
}

#[test]
fn lanes_need_a_runtime_to_be_made_and_none_to_be_pushed_to() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let desk = runtime.block_on(async { Desk::new(|_| Act::Handle) });
    assert_eq!(desk.builder().build().unwrap_err(), BuildError::NoRuntime);
    let lanes = desk
        .builder()
        .runtime(runtime.handle().clone())
        .items(1)
        .build()
        .unwrap();
    let lanes = thread::spawn(move || {
        lanes.try_push(1, 1).unwrap();
        drop(lanes.guard(1));
        lanes
    });
    let lanes = lanes.join().unwrap();
    runtime.block_on(async { within("all", SOON, lanes.close()).await.unwrap() });
    assert_eq!(desk.items_of(1), [1]);
}

/// A handler that has given its batch away is not interrupted at once: the grace begins.
async fn with_a_batch_elsewhere() -> (Lanes<u32, u32>, Arc<Mutex<Option<Batch<u32, u32>>>>) {
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let lanes = Lanes::builder(
        move |batch: Batch<u32, u32>| {
            *keep.lock().unwrap() = Some(batch);
            std::future::pending::<Result<(), ()>>()
        },
        |_: Failed<u32, u32, ()>| {},
    );
    let lanes = lanes.items(2).linger(HOUR).build().unwrap();
    for item in 0..3 {
        lanes.push(1, item).await.unwrap();
    }
    settle().await;
    (lanes, kept)
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_beside_a_close_that_was_dropped_in_its_grace() {
    let (lanes, _kept) = with_a_batch_elsewhere().await;
    let spawn = |flush: fn(Lanes<u32, u32>) -> BoxFuture| tokio::spawn(flush(lanes.clone()));
    let all = spawn(|lanes| Box::pin(async move { lanes.flush_all().await }));
    let one = spawn(|lanes| Box::pin(async move { lanes.flush(&1).await }));
    let closer = lanes.clone();
    let closing = tokio::spawn(async move { closer.close().await });
    settle().await;
    let grace = SECOND * 10 + Duration::from_millis(500);
    let dropped = timeout(grace, lanes.close_within(SECOND * 10)).await;
    assert!(dropped.is_err(), "it is in its grace");
    within("the flush of everything", SECOND, all)
        .await
        .unwrap();
    within("the flush of the key", SECOND, one).await.unwrap();
    let closed = within("the close", SECOND * 2, closing).await.unwrap();
    let Unfinished { left, stuck, .. } = closed.unwrap_err();
    assert_eq!((left, stuck), (vec![(1, vec![2])], 2));
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[tokio::test(start_paused = true)]
async fn of_two_closes_one_gets_what_is_left_and_neither_says_that_all_was_handled() {
    let desk = Desk::new(|_| Act::Never);
    let lanes = desk.builder().items(2).linger(HOUR).build().unwrap();
    for item in 0..5 {
        lanes.push(1, item).await.unwrap();
    }
    let patient = lanes.clone();
    let patient = tokio::spawn(async move { patient.close().await });
    settle().await;
    let hasty = within("its limit", SECOND * 3, lanes.close_within(SECOND)).await;
    let patient = within("nothing to wait for", SECOND * 2, patient).await;
    let mut left = hasty.unwrap_err().left;
    left.extend(patient.unwrap().unwrap_err().left);
    assert_eq!(
        left,
        [(1, vec![0, 1, 2, 3, 4])],
        "once, with what was in flight"
    );
    assert!(desk.returned().is_empty());
    assert!(
        lanes.close().await.is_err(),
        "nor does one that comes later"
    );
    assert_eq!((lanes.status().abandoned, lanes.status().items), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_taken_everything_leaves_nothing_when_it_is_interrupted() {
    let desk = Desk::new(|_| Act::TakeAndNever);
    let lanes = desk.builder().items(3).build().unwrap();
    for item in 0..3 {
        lanes.push(1, item).await.unwrap();
    }
    settle().await;
    within("the limit", SECOND * 3, lanes.close_within(SECOND))
        .await
        .unwrap();
    let status = lanes.status();
    assert_eq!((status.handled, status.lanes, status.abandoned), (3, 0, 0));
}

#[test]
fn the_sink_is_not_called_for_nothing_when_a_runtime_ends() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let desk = runtime.block_on(async { Desk::new(|_| Act::TakeAndNever) });
    let builder = desk.builder().items(2).linger(HOUR);
    let lanes = builder.runtime(runtime.handle().clone()).build().unwrap();
    for (key, item) in [(1, 0), (1, 1), (2, 2)] {
        lanes.try_push(key, item).unwrap();
    }
    runtime.block_on(async { settle().await });
    assert_eq!(desk.items_of(1), [0, 1]);
    drop(runtime);
    drop(lanes);
    let returned: Vec<_> = desk.returned().into_iter().map(|back| back.items).collect();
    assert_eq!(returned, [[2]]);
}

#[test]
fn a_batch_that_outlives_the_runtime_goes_to_the_sink() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (keep, kept) = std::sync::mpsc::channel();
    let (sink, returned) = std::sync::mpsc::channel();
    let lanes = Lanes::builder(
        move |batch: Batch<u32, u32>| {
            keep.send(batch).unwrap();
            std::future::pending::<Result<(), ()>>()
        },
        move |failed: Failed<u32, u32, ()>| {
            sink.send((failed.items, failed.cause, failed.attempts))
                .unwrap();
        },
    );
    let lanes = lanes.items(2).linger(HOUR);
    let lanes = lanes.runtime(runtime.handle().clone()).build().unwrap();
    for item in 0..3 {
        lanes.try_push(1, item).unwrap();
    }
    runtime.block_on(async { settle().await });
    let batch = kept.try_recv().unwrap();
    drop(runtime);
    assert!(returned.try_recv().is_err());
    drop(batch);
    assert_eq!(returned.try_recv(), Ok((vec![0, 1], Cause::Abandoned, 1)));
    drop(lanes);
    assert_eq!(returned.try_recv(), Ok((vec![2], Cause::Abandoned, 0)));
}

#[test]
#[should_panic(expected = "timer")]
fn a_runtime_without_timers_is_refused_where_the_lanes_are_made() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let sink = |_: Failed<u32, u32, ()>| {};
    let lanes = Lanes::builder(async |_: Batch<u32, u32>| Ok::<_, ()>(()), sink);
    let _ = lanes.runtime(runtime.handle().clone()).build();
}
