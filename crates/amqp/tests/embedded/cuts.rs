//! A connection that publishes is lost, or falls silent, at each frame there is.

use wharf_amqp::{Message, Publisher};
use wharf_broker::{Amount, Bytes, Faults, Frames, Step};
use wharf_testkit::wait::within;

use crate::{
    common::{SOON, publish, publish_at_once, tell},
    stage::{Stage, all},
};

/// What the client sends of [`exchange`]: a method, a header and a body for each message.
const RECEIVED: u64 = 3 * 4;
/// What the broker sends of it: three confirms, and one message back with its confirm.
const SENT: u64 = 3 + 4;

/// Three messages for the queue, and between them one that no queue takes. Each is confirmed by a
/// frame of its own.
async fn exchange(stage: &Stage, publisher: &Publisher) {
    stage.publishing().reorder_confirms(1);
    let checker = &stage.checker;
    let returned = async {
        checker.sent(3);
        let message = Message::new("3").to("", "nowhere").mandatory(true);
        tell(checker, 3, &publisher.publish(message).await);
    };
    let ordinary = |id| async move {
        let _ = publish(publisher, checker, id).await;
    };
    let all = async { tokio::join!(ordinary(1), ordinary(2), returned, ordinary(4)) };
    within("every outcome", 3 * SOON, all).await;
}

/// An exchange that is struck by such a fault, and its checker's word. The fault must have happened.
async fn struck(fault: impl FnOnce(Faults) -> Step) {
    let stage = Stage::new().await;
    let cluster = stage.cluster().heartbeat(3).connect().await.unwrap();
    let publisher = stage.publisher_of(&cluster, 3 * SOON).await;
    let step = fault(stage.publishing());
    exchange(&stage, &publisher).await;
    within("the fault", SOON, step.happened()).await;
    let verdict = stage.verdict(&publisher).await;
    // The one for nowhere came back; or it is not known whether its first copy did.
    assert_eq!(verdict.confirmed, 4, "{verdict}");
    assert_eq!(verdict.returned + verdict.unknown, 1, "{verdict}");
    assert_eq!(verdict.unknown_received, 0, "{verdict}");
}

/// Behind the last frame a cut falls on an idle connection, which is no part of an exchange.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_frame_that_is_published_loses_nothing() {
    for frames in 0..RECEIVED {
        struck(|faults| faults.cut_after(Frames(frames).received())).await;
    }
}

/// The broker has the messages, and the connection is lost with what it had to say of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_frame_of_a_confirm_loses_nothing() {
    for frames in 0..SENT {
        struck(|faults| faults.cut_after(Frames(frames).sent())).await;
    }
}

/// Nobody is told of a peer that is gone without a word, so all of it is up to heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn silence_at_any_frame_loses_nothing() {
    let received = (0..RECEIVED).map(|frames| Frames(frames).received());
    let sent = (0..SENT).map(|frames| Frames(frames).sent());
    let silent = |amount: Amount| struck(move |faults| faults.fall_silent_after(amount));
    all(received.chain(sent).map(silent)).await;
}

/// Not the exchange alone: every frame from the first of the handshake to the confirm.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_frame_of_a_first_publish_loses_nothing() {
    let received = until_it_is_past(|frames| Frames(frames).received()).await;
    // The greeting's answer, the tuning's and the opening, the channel, its mode, the message.
    assert!(received >= 8, "{received} frames");
    let sent = until_it_is_past(|frames| Frames(frames).sent()).await;
    assert!(sent >= 6, "{sent} frames");
}

/// Returns behind how many frames at most there was a cut before all was said.
async fn until_it_is_past(amount: impl Fn(u64) -> Amount) -> u64 {
    for frames in 0.. {
        let stage = Stage::new().await;
        let cluster = stage.cluster().connect_lazily().unwrap();
        let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
        let publisher = publisher.build().await.unwrap();
        // Nobody has a name before the login; the other connection says nothing meanwhile.
        let cut = stage.broker.faults().cut_after(amount(frames));
        let outcome = within("an outcome", SOON, publish(&publisher, &stage.checker, 0));
        assert!(outcome.await.unwrap().is_confirmed(), "{frames} frames");
        let past = cut.count() == 0;
        stage.broker.faults().clear();
        stage.verdict(&publisher).await;
        if past {
            return frames;
        }
    }
    unreachable!("it ends with the first that is past")
}

/// Bytes are cut where they are, not where frames end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_the_middle_of_a_frame_loses_nothing() {
    for bytes in 0..16 {
        struck(|faults| faults.cut_after(Bytes(19 * bytes).received())).await;
        struck(|faults| faults.cut_after(Bytes(7 * bytes).sent())).await;
    }
}

/// Most of what is open has been sent on one connection after the other before it is confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_one_after_the_other_lose_nothing() {
    let stage = Stage::new().await;
    let publisher = stage.publisher().await;
    let cuts = stage.publishing().cut_after(Frames(400)).times(20);
    let publishing = publish_at_once(&publisher, &stage.checker, 1..2001);
    within("every verdict", 3 * SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&publisher).await;
    assert_eq!(verdict.confirmed, 2001, "{verdict}");
    // Not more than 133 messages pass between two of them.
    assert!(cuts.count() >= 15, "{} cuts", cuts.count());
}
