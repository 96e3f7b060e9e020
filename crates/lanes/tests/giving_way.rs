//! What a push does while batches are late: it lets the workers go first.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{advance, sleep},
};
use wharf_lanes::{Lanes, Push, Reason};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const LINGER: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

/// Lanes with one item each that are late, of which the first has been started. Items and keys are
/// the numbers below.
async fn late(desk: &Arc<Desk>, lanes: u32) -> Lanes<u32, u32> {
    let builder = desk.builder().concurrency(1).linger(LINGER);
    let late = builder.build().unwrap();
    for key in 0..lanes {
        late.push(key, key).await.unwrap();
    }
    advance(2 * LINGER).await;
    // Whatever begins a batch looks for what is due.
    late.try_push(lanes, lanes).unwrap();
    assert_eq!(late.status().in_flight, 1, "it has begun");
    late
}

fn poll(push: Pin<&mut Push<'_, u32, u32>>) -> Poll<()> {
    let polled = push.poll(&mut Context::from_waker(Waker::noop()));
    polled.map(|pushed| pushed.expect("open"))
}

/// Between two turns of the workers whoever pushes may do more than they can make up for.
#[tokio::test(start_paused = true)]
async fn input_that_never_pauses_does_not_keep_late_batches_from_the_workers() {
    const LATE: u32 = 3000;
    let desk = Desk::new(|_| Act::Handle);
    let lanes = late(&desk, LATE).await;
    let mut pushed = 0;
    while lanes.status().flushed(Reason::Linger) < u64::from(LATE) {
        lanes.push(LATE + 1 + pushed, 0).await.unwrap();
        pushed += 1;
    }
    assert!(pushed < LATE / 20, "{pushed} pushes went first");
    within("all are handled", SOON, lanes.close())
        .await
        .unwrap();
    assert_eq!(lanes.status().handled, u64::from(LATE + 1 + pushed));
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_push_gives_way_is_nowhere_else() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = late(&desk, 1000).await;
    let accepted = lanes.status().accepted;
    let mut dropped = Box::pin(lanes.push(7, 1));
    assert!(poll(dropped.as_mut()).is_pending());
    drop(dropped);
    let mut cancelled = lanes.push(7, 2);
    assert!(poll(Pin::new(&mut cancelled)).is_pending());
    assert_eq!(cancelled.cancel(), Some(2));
    assert_eq!(lanes.status().accepted, accepted);

    let mut push = pin!(lanes.push(7, 3));
    assert!(poll(push.as_mut()).is_pending());
    // The worker has its turn.
    yield_now().await;
    yield_now().await;
    assert!(poll(push.as_mut()).is_ready());
    assert_eq!(lanes.status().accepted, accepted + 1);
    within("all are handled", SOON, lanes.close())
        .await
        .unwrap();
    assert_eq!(desk.items_of(7), [7, 3]);
}

/// A turn that nobody can take costs those who push, and helps nobody.
#[tokio::test(start_paused = true)]
async fn pushes_do_not_give_way_to_handlers_that_wait() {
    let desk = Desk::new(|_| Act::AtTheGate);
    let lanes = late(&desk, 1000).await;
    within("it is accepted", SOON, lanes.push(7, 1))
        .await
        .unwrap();
    // A task may do so much in a turn, whatever it does.
    yield_now().await;
    for item in 2..50 {
        assert!(poll(pin!(lanes.push(7, item))).is_ready(), "item {item}");
    }
    desk.gate.add_permits(2000);
    within("all are handled", SOON, lanes.close())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_gives_way_any_more_once_batches_are_in_time() {
    let desk = Desk::new(|_| Act::Handle);
    let lanes = late(&desk, 1000).await;
    assert!(poll(pin!(lanes.push(7, 1))).is_pending());
    sleep(3 * LINGER).await;
    assert_eq!(lanes.status().lanes, 0, "all have been handled");
    // This one takes no notice, so that only a batch that is in time can.
    lanes.try_push(7, 2).unwrap();
    sleep(LINGER).await;
    settle().await;
    assert_eq!(desk.items_of(7), [7, 2], "in time");
    assert!(poll(pin!(lanes.push(7, 3))).is_ready());
}
