//! What happens to messages for which there is room, and to those for which there is none.

mod common;

use std::time::Duration;

use common::{Mode, Target, settle, within};
use wharf_outbox::{EnqueueError, Policy, Undelivered};

const POLICIES: [Policy; 4] = [
    Policy::Wait,
    Policy::Reject,
    Policy::DropOldest,
    Policy::DropNewest,
];

#[tokio::test(start_paused = true)]
async fn an_outage_below_the_bound_loses_nothing_under_any_policy() {
    for policy in POLICIES {
        let target = Target::new(Mode::Down);
        let outbox = target.outbox().max_messages(10).policy(policy).build();
        let outbox = outbox.unwrap();
        let mut tickets = Vec::new();
        for message in 0..10 {
            tickets.push(outbox.try_enqueue(message).await.unwrap());
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        let status = outbox.status();
        assert_eq!((status.depth, target.arrived().len()), (10, 0));
        let age = status.age.unwrap();
        assert!(age >= Duration::from_secs(60) && age < Duration::from_secs(61));
        let outage = status.outage.unwrap();
        assert_eq!(outage.cause.unwrap().to_string(), "down");
        assert!(outage.lasted > Duration::from_secs(59) && outage.failures > 3);

        target.set(Mode::Up);
        within("flush", outbox.flush()).await.unwrap();
        assert_eq!(target.arrived(), Vec::from_iter(0..10), "{policy:?}");
        for (place, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.await.unwrap(), place);
        }
        let status = outbox.status();
        assert_eq!((status.depth, status.bytes), (0, 0));
        assert_eq!((status.totals.delivered, status.totals.outages), (10, 1));
        assert!(status.outage.is_none() && status.age.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn above_the_bound_who_waits_is_served_when_the_outage_ends_in_order() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_messages(3).build().unwrap();
    let mut senders = Vec::new();
    for message in 0..8 {
        let outbox = outbox.clone();
        senders.push(tokio::spawn(async move { outbox.enqueue(message).await }));
        settle().await;
    }
    let status = outbox.status();
    assert_eq!((status.depth, status.in_flight, status.waiting), (3, 1, 5));
    // Nobody overtakes those who wait.
    let full = outbox.try_enqueue(99).await;
    assert!(matches!(full, Err(EnqueueError::Full(99))));
    target.set(Mode::Up);
    for sender in senders {
        let ticket = within("room", sender).await.unwrap().unwrap();
        within("the delivery", ticket).await.unwrap();
    }
    assert_eq!(target.arrived(), Vec::from_iter(0..8));
    assert_eq!(outbox.status().totals.refused, 1);
}

#[tokio::test(start_paused = true)]
async fn above_the_bound_messages_are_given_back_if_the_policy_says_so() {
    let target = Target::new(Mode::Down);
    let outbox = target.outbox().max_messages(3).policy(Policy::Reject);
    let outbox = outbox.build().unwrap();
    for message in 0..5 {
        let put = outbox.enqueue(message).await;
        match put {
            Ok(_) => assert!(message < 3),
            Err(error) => {
                assert!(matches!(error, EnqueueError::Full(_)) && message >= 3);
                assert_eq!(error.into_message(), message);
            }
        }
    }
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), [0, 1, 2]);
    assert_eq!(outbox.status().totals.refused, 2);
}

#[tokio::test(start_paused = true)]
async fn above_the_bound_the_oldest_go_but_never_one_in_flight() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_messages(3).policy(Policy::DropOldest);
    let outbox = outbox.build().unwrap();
    let mut tickets = Vec::new();
    for message in 0..6 {
        tickets.push(outbox.enqueue(message).await.unwrap());
        settle().await;
    }
    assert_eq!(target.flying(), [0]);
    target.set(Mode::Up);
    let mut dropped = Vec::new();
    for ticket in tickets {
        match within("its fate", ticket).await {
            Ok(_) => {}
            Err(Undelivered::Dropped { message }) => dropped.push(message),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(dropped, [1, 2, 3]);
    assert_eq!(target.arrived(), [0, 4, 5]);
    assert_eq!(outbox.status().totals.dropped_oldest, 3);
}

#[tokio::test(start_paused = true)]
async fn if_everything_is_in_flight_nothing_is_dropped_for_a_newcomer() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_messages(2).policy(Policy::DropOldest);
    let outbox = outbox.pipelined(2).build().unwrap();
    for message in 0..2 {
        outbox.post(message).await.unwrap();
        settle().await;
    }
    let put = outbox.enqueue(2).await;
    assert!(matches!(put, Err(EnqueueError::Full(2))));
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    let mut arrived = target.arrived();
    arrived.sort_unstable();
    assert_eq!(arrived, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn above_the_bound_the_newest_goes_and_its_ticket_says_so() {
    let target = Target::new(Mode::Down);
    let outbox = target.outbox().max_messages(2).policy(Policy::DropNewest);
    let outbox = outbox.build().unwrap();
    for message in 0..2 {
        outbox.post(message).await.unwrap();
    }
    let ticket = outbox.enqueue(2).await.unwrap();
    let fate = within("its fate", ticket).await;
    assert!(matches!(fate, Err(Undelivered::Dropped { message: 2 })));
    let totals = outbox.status().totals;
    assert_eq!((totals.accepted, totals.dropped_newest), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_as_well_as_messages() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_bytes(100).weigh(|size| *size as usize);
    let outbox = outbox.policy(Policy::Reject).build().unwrap();
    let too_large = outbox.enqueue(101).await.unwrap_err();
    let EnqueueError::TooLarge { bytes, bound, .. } = too_large else {
        panic!("{too_large:?}");
    };
    assert_eq!((bytes, bound), (101, 100));
    outbox.post(60).await.unwrap();
    assert!(outbox.enqueue(41).await.is_err());
    outbox.post(40).await.unwrap();
    assert_eq!(outbox.status().bytes, 100);
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(outbox.status().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_takes_its_message_and_nobody_elses_place() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_messages(1).build().unwrap();
    outbox.post(0).await.unwrap();
    let mut senders = Vec::new();
    for message in 1..5 {
        let outbox = outbox.clone();
        senders.push(tokio::spawn(async move { outbox.post(message).await }));
        settle().await;
    }
    senders[0].abort();
    senders[2].abort();
    settle().await;
    assert_eq!(outbox.status().waiting, 2);
    target.set(Mode::Up);
    settle().await;
    assert_eq!(target.arrived(), [0, 2, 4]);
    assert_eq!(outbox.status().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_message_behind_a_large_one_goes_in_when_that_gives_up() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().max_bytes(10).weigh(|size| *size as usize);
    let outbox = outbox.build().unwrap();
    outbox.post(8).await.unwrap();
    let large = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.post(5).await }
    });
    settle().await;
    let small = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.post(2).await }
    });
    settle().await;
    assert_eq!(outbox.status().waiting, 2);
    large.abort();
    within("room", small).await.unwrap().unwrap();
    assert_eq!(outbox.status().depth, 2);
}

#[tokio::test(start_paused = true)]
async fn a_setting_that_makes_no_sense_is_named() {
    let target = || Target::new(Mode::Up).outbox();
    for (built, field) in [
        (target().max_messages(0).build(), "max_messages"),
        (target().max_bytes(0).build(), "max_bytes"),
        (target().pipelined(0).build(), "in_flight"),
        (
            target().group_commit(0, Duration::ZERO).build(),
            "group_commit",
        ),
        (target().window(0).build(), "window"),
    ] {
        assert!(built.unwrap_err().to_string().contains(field), "{field}");
    }
}
