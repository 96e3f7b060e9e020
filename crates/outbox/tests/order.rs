//! In which order messages are delivered, and how many at a time.

mod common;

use std::time::Duration;

use common::{Mode, Target, settle, within};

const TAKES: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn strictly_one_is_delivered_after_the_other() {
    let target = Target::slow(Mode::Up, TAKES);
    let outbox = target.outbox().build().unwrap();
    for message in 0..20 {
        outbox.post(message).await.unwrap();
    }
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), Vec::from_iter(0..20));
    assert_eq!(target.most_flying(), 1);
}

#[tokio::test(start_paused = true)]
async fn cut_again_and_again_during_the_drain_the_order_is_kept_and_ids_stay() {
    let target = Target::slow(Mode::Down, TAKES);
    let outbox = target.outbox().build().unwrap();
    let mut ids = Vec::new();
    for message in 0..30 {
        ids.push(outbox.post(message).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    while target.arrived().len() < 30 {
        target.cut_after(target.arrived().len() + 7);
        target.set(Mode::Up);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), Vec::from_iter(0..30));
    for begun in target.begun() {
        assert_eq!(begun.id, ids[begun.message as usize].get());
    }
    // The first, and then one each time it was cut.
    let totals = outbox.status().totals;
    assert_eq!((totals.delivered, totals.outages), (30, 5));
    assert!(totals.unknown >= 5);
}

#[tokio::test(start_paused = true)]
async fn pipelined_messages_begin_in_order_so_many_at_a_time() {
    let target = Target::slow(Mode::Up, TAKES);
    let outbox = target.outbox().pipelined(4).build().unwrap();
    for message in 0..20 {
        outbox.post(message).await.unwrap();
    }
    within("flush", outbox.flush()).await.unwrap();
    let begun: Vec<u32> = target.begun().iter().map(|begun| begun.message).collect();
    assert_eq!(begun, Vec::from_iter(0..20));
    assert_eq!(target.most_flying(), 4);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_one_message_goes_first_and_then_all_in_their_old_order() {
    let target = Target::slow(Mode::Down, TAKES);
    let outbox = target.outbox().pipelined(4).build().unwrap();
    for message in 0..8 {
        outbox.post(message).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = target.begun();
    // Four fell into the outage; from then on one tried for all.
    assert!(before[..4].iter().map(|begun| begun.message).eq(0..4));
    assert!(before[4..].iter().all(|begun| begun.message == 0));
    assert!(before.len() < 20, "a storm of {}", before.len());
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), Vec::from_iter(0..8));
}

#[tokio::test(start_paused = true)]
async fn of_each_key_one_is_in_flight_and_keys_do_not_wait_for_each_other() {
    let target = Target::slow(Mode::Up, TAKES);
    let outbox = target.outbox().per_key(3, |message| message % 10);
    let outbox = outbox.build().unwrap();
    // Nine of key 1, then one each of 2 and 3.
    for message in [1, 11, 21, 31, 41, 51, 61, 71, 81, 2, 3] {
        outbox.post(message).await.unwrap();
    }
    tokio::time::sleep(TAKES / 2).await;
    assert_eq!(target.flying(), [1, 2, 3]);
    within("flush", outbox.flush()).await.unwrap();
    let arrived = target.arrived();
    let of_key_1 = arrived.iter().filter(|message| **message % 10 == 1);
    assert!(of_key_1.eq(&[1, 11, 21, 31, 41, 51, 61, 71, 81]));
    assert_eq!(arrived.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_delivery_is_tried_again_keeps_its_order() {
    let target = Target::slow(Mode::Up, TAKES);
    let outbox = target.outbox().per_key(4, |message| message % 3);
    let outbox = outbox.build().unwrap();
    for message in 0..60 {
        outbox.post(message).await.unwrap();
    }
    for _ in 0..10 {
        target.cut_after(target.arrived().len() + 4);
        target.set(Mode::Up);
        tokio::time::sleep(Duration::from_secs(40)).await;
    }
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    for key in 0..3 {
        let arrived = target.arrived();
        let of_key = arrived.iter().copied().filter(|message| message % 3 == key);
        assert!(
            of_key.eq((0..60).filter(|message| message % 3 == key)),
            "key {key}"
        );
    }
    assert!(target.most_flying() == 3 && outbox.status().totals.unknown > 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_does_not_keep_the_others_of_a_pipeline() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().pipelined(3).build().unwrap();
    for message in 0..3 {
        outbox.post(message).await.unwrap();
    }
    settle().await;
    assert_eq!(target.flying(), [0, 1, 2]);
    outbox.post(3).await.unwrap();
    settle().await;
    assert_eq!(outbox.status().in_flight, 3);
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(outbox.status().totals.delivered, 4);
}
