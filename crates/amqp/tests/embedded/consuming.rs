//! A connection that consumes is lost at each frame there is, and messages come twice.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use wharf_amqp::{
    Consumer,
    consumer::{Delivery, Outcome},
};
use wharf_broker::{Amount, Faults, Frames, Step};
use wharf_testkit::wait::{eventually, within};

use crate::{
    common::{
        SOON,
        consuming::{Probe, id, publish, registered},
    },
    stage::{Stage, all},
};

const MESSAGES: u64 = 4;
/// A method, a header and a body for each.
const SENT: u64 = 3 * MESSAGES;

/// Half of the messages are processed, the others stay in their handlers while such a fault strikes,
/// if it does.
///
/// An acknowledgement sent too early, for others that came before it, or on the channel that took the
/// place of the lost one, takes messages out of the queue that nobody has processed.
async fn struck(fault: impl FnOnce(Faults) -> Step, is_sure: bool) {
    let stage = Stage::new().await;
    let cluster = stage.cluster().heartbeat(3).connect().await.unwrap();
    let probe = Probe::closed();
    let consumer = Consumer::builder(&cluster, "q")
        .prefetch(10)
        .concurrency(10)
        .start(probe.clone())
        .await
        .unwrap();
    let step = fault(stage.consuming());
    // Whoever is first, before the fault or after it.
    probe.let_some(2);
    publish(&stage.direct, "q", 0..MESSAGES).await;
    if is_sure {
        within("the fault", SOON, step.happened()).await;
        registered(&consumer, 2).await;
    }
    let left = || {
        let (ready, open) = stage.depth();
        // Looked at after the depth: what the broker has been told was done before.
        let done: HashSet<u64> = probe.done().into_iter().collect();
        let settled = MESSAGES as usize - (ready + open);
        assert!(settled <= done.len(), "{settled} settled, {done:?} done");
        ready + open
    };
    eventually("two are settled, or come again", SOON, async || {
        left() == 2 || consumer.stats().registrations > 1
    })
    .await;
    left();
    probe.let_all();
    stage.is_drained().await;
    let done: HashSet<u64> = probe.done().into_iter().collect();
    assert_eq!(done, (0..MESSAGES).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_frame_of_a_delivery_loses_nothing() {
    for frames in 0..SENT {
        struck(|faults| faults.cut_after(Frames(frames).sent()), true).await;
    }
}

/// How many frames the acknowledgements are is the consumer's affair: it may send one for several.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_frame_of_an_acknowledgement_loses_nothing() {
    for frames in 0..MESSAGES {
        let cut = |faults: Faults| faults.cut_after(Frames(frames).received());
        struck(cut, frames == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_at_any_frame_loses_nothing() {
    let received = (0..MESSAGES).map(|frames| (Frames(frames).received(), frames == 0));
    let sent = (0..SENT).map(|frames| (Frames(frames).sent(), true));
    let silent = |(amount, is_sure): (Amount, bool)| {
        struck(move |faults| faults.fall_silent_after(amount), is_sure)
    };
    all(received.chain(sent).map(silent)).await;
}

/// Each connection ends in the midst of deliveries. Each message is processed, and every one that is
/// processed again came again by the broker's own doing.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_one_after_the_other_lose_nothing() {
    let stage = Stage::new().await;
    publish(&stage.direct, "q", 0..2000).await;
    let cuts = stage.consuming().cut_after(Frames(500).sent()).times(10);
    let seen = Seen::default();
    let cluster = stage.cluster().connect().await.unwrap();
    let consumer = Consumer::builder(&cluster, "q").prefetch(50).concurrency(8);
    let consumer = consumer.start(seen.clone().handler()).await.unwrap();
    within("each cut", 3 * SOON, cuts.happened()).await;
    stage.is_drained().await;
    let seen = seen.0.lock().unwrap();
    assert_eq!(seen.len(), 2000);
    let again: u64 = seen.values().map(|times| times - 1).sum();
    // What is open at a cut, and no more than that.
    assert!(again <= 10 * 50, "{again} were processed again");
    assert!(consumer.stats().registrations >= 10);
}

/// A publisher that sends again what it has no word of puts them there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_there_twice_is_delivered_and_acknowledged_twice() {
    let stage = Stage::new().await;
    stage.broker.faults().always().duplicate();
    let seen = Seen::default();
    let cluster = stage.cluster().connect().await.unwrap();
    let consumer = Consumer::builder(&cluster, "q").concurrency(8);
    let consumer = consumer.start(seen.clone().handler()).await.unwrap();
    publish(&stage.direct, "q", 0..100).await;
    eventually("they are acknowledged", SOON, async || {
        consumer.stats().acked == 200
    })
    .await;
    stage.is_drained().await;
    let seen = seen.0.lock().unwrap();
    assert_eq!(*seen, (0..100).map(|id| (id, 2)).collect());
}

/// How often each message was processed.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Seen {
    fn handler(self) -> impl Fn(Delivery) -> std::future::Ready<Outcome> {
        move |delivery| {
            *self.0.lock().unwrap().entry(id(&delivery)).or_default() += 1;
            std::future::ready(Outcome::Ack)
        }
    }
}
