//! What becomes due, how fast deliveries begin, and what fails.

mod common;

use std::{num::NonZeroU32, time::Duration};

use common::{Mode, Target, settle, within};
use tokio::time::Instant;
use wharf_outbox::{Backoff, Envelope, Rate, Readiness, Undelivered};

#[tokio::test(start_paused = true)]
async fn what_has_waited_for_long_enough_is_not_delivered_and_its_ticket_knows_at_once() {
    let target = Target::new(Mode::Held);
    let outbox = target
        .outbox()
        .ttl(Duration::from_secs(10))
        .build()
        .unwrap();
    let first = outbox.enqueue(0).await.unwrap();
    settle().await;
    let start = Instant::now();
    let short = Envelope::new(1).ttl(Duration::from_secs(3));
    let short = outbox.enqueue(short).await.unwrap();
    let usual = outbox.enqueue(2).await.unwrap();
    let long = Envelope::new(3).ttl(Duration::from_secs(3600));
    let long = outbox.enqueue(long).await.unwrap();

    let fate = within("its end", short).await;
    assert!(matches!(
        fate,
        Err(Undelivered::Expired {
            message: 1,
            attempts: 0
        })
    ));
    assert_eq!(start.elapsed().as_secs(), 3);
    let fate = within("its end", usual).await;
    assert!(matches!(fate, Err(Undelivered::Expired { message: 2, .. })));
    assert_eq!(start.elapsed().as_secs(), 10);
    // What is in flight does not expire.
    assert_eq!(outbox.status().depth, 2);
    target.set(Mode::Up);
    first.await.unwrap();
    long.await.unwrap();
    assert_eq!(target.arrived(), [0, 3]);
    assert_eq!(outbox.status().totals.expired, 2);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_knows_how_long_its_message_may_wait_still() {
    let target = Target::slow(Mode::Up, Duration::from_secs(4));
    let outbox = target.outbox().ttl(Duration::from_secs(10));
    let outbox = outbox.build().unwrap();
    outbox.post(0).await.unwrap();
    outbox.post(1).await.unwrap();
    let forever = Envelope::new(2).ttl(Duration::MAX);
    outbox.post(forever).await.unwrap();
    within("flush", outbox.flush()).await.unwrap();
    let begun = target.begun();
    let left: Vec<_> = begun.iter().map(|begun| begun.expires_in).collect();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(left[0], seconds(10));
    assert!(left[1] <= seconds(6) && left[1] > seconds(5), "{left:?}");
    assert_eq!(left[2], None);
}

#[tokio::test(start_paused = true)]
async fn what_expires_makes_room() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_messages(2).build().unwrap();
    outbox.post(0).await.unwrap();
    settle().await;
    let short = Envelope::new(1).ttl(Duration::from_secs(5));
    outbox.post(short).await.unwrap();
    let start = Instant::now();
    within("room", outbox.post(2)).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_expires_during_its_delivery_is_not_tried_again() {
    let target = Target::slow(Mode::Down, Duration::from_secs(10));
    let outbox = target.outbox().ttl(Duration::from_secs(5)).build().unwrap();
    let ticket = outbox.enqueue(7).await.unwrap();
    let fate = within("its end", ticket).await;
    assert!(matches!(
        fate,
        Err(Undelivered::Expired {
            message: 7,
            attempts: 1
        })
    ));
    assert_eq!(target.begun().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_there_is_no_answer() {
    let target = Target::new(Mode::Down);
    let backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(4),
    };
    let outbox = target.outbox().backoff(backoff).build().unwrap();
    outbox.post(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let begun = target.begun();
    for (failures, two) in begun.windows(2).enumerate() {
        let whole = (backoff.min * (1 << failures.min(10))).min(backoff.max);
        let pause = two[1].at - two[0].at;
        let slack = Duration::from_millis(2);
        assert!(
            pause >= whole / 2 && pause <= whole + slack,
            "{failures}: {pause:?}"
        );
    }
    assert!((15..40).contains(&begun.len()), "{} attempts", begun.len());
    assert_eq!(begun.last().unwrap().attempt as usize, begun.len());
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_knows_says_when_to_go_on() {
    let target = Target::new(Mode::Down);
    let ready = target.says_when();
    let outbox = target.outbox().build().unwrap();
    outbox.post(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(target.begun().len(), 1, "it was tried without a word");
    target.set(Mode::Up);
    let start = Instant::now();
    ready.send_replace(Some(Readiness::Ready));
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(target.begun().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_a_word_from_the_destination_is_waited_out() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().build().unwrap();
    let ticket = outbox.enqueue(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(target.begun().len(), 1);
    target.set(Mode::Up);
    within("its receipt", ticket).await.unwrap();
    assert_eq!(outbox.status().totals.unknown, 0);
}

#[tokio::test(start_paused = true)]
async fn deliveries_begin_no_faster_than_the_rate_after_a_burst() {
    let target = Target::new(Mode::Up);
    let rate = Rate {
        per_second: NonZeroU32::new(10).unwrap(),
        burst: NonZeroU32::new(5).unwrap(),
    };
    let outbox = target.outbox().pipelined(100).rate(rate).build().unwrap();
    for message in 0..25 {
        outbox.post(message).await.unwrap();
    }
    within("flush", outbox.flush()).await.unwrap();
    let begun = target.begun();
    for (place, begun) in begun.iter().enumerate() {
        let due = Duration::from_millis(100) * (place.saturating_sub(4) as u32);
        let late = begun.at.checked_sub(due).expect("it began too early");
        assert!(late < Duration::from_millis(5), "{place} is {late:?} late");
    }
    assert_eq!(begun.len(), 25);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_an_attempt_and_nothing_else() {
    let target = Target::new(Mode::Panics);
    let outbox = target.outbox().build().unwrap();
    let tickets = [
        outbox.enqueue(0).await.unwrap(),
        outbox.enqueue(1).await.unwrap(),
    ];
    tokio::time::sleep(Duration::from_millis(150)).await;
    let status = outbox.status();
    assert!(status.totals.panics >= 1 && status.totals.panics == status.totals.unknown);
    let cause = status.outage.unwrap().cause.unwrap().to_string();
    assert!(cause.contains("the destination panics"), "{cause}");
    target.set(Mode::Up);
    for ticket in tickets {
        within("its receipt", ticket).await.unwrap();
    }
    assert_eq!(target.arrived(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_rejected_comes_back_and_is_not_tried_again() {
    let target = Target::new(Mode::Up);
    let outbox = target.outbox().build().unwrap();
    let bad = outbox.enqueue(1001).await.unwrap();
    let good = outbox.enqueue(1).await.unwrap();
    match within("its fate", bad).await {
        Err(Undelivered::Rejected { message, rejection }) => {
            assert_eq!((message, rejection), (1001, "too high"));
        }
        other => panic!("{other:?}"),
    }
    within("its receipt", good).await.unwrap();
    assert_eq!(target.begun().len(), 2);
    assert_eq!(outbox.status().totals.rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_often_enough_no_longer_keeps_the_others() {
    let target = Target::new(Mode::Down);
    let attempts = NonZeroU32::new(3).unwrap();
    let outbox = target.outbox().max_attempts(attempts).build().unwrap();
    let ticket = outbox.enqueue(0).await.unwrap();
    let fate = within("its end", ticket).await;
    assert!(matches!(
        fate,
        Err(Undelivered::GaveUp {
            message: 0,
            attempts: 3
        })
    ));
    target.set(Mode::Up);
    let next = outbox.enqueue(1).await.unwrap();
    within("its receipt", next).await.unwrap();
    assert_eq!(outbox.status().totals.gave_up, 1);
}
