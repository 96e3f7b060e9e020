//! The broker closes a channel or a connection, or blocks, in the midst of messages.

use std::time::Duration;

use wharf_amqp::Publisher;
use wharf_broker::{Faults, Frames, Step};
use wharf_testkit::wait::within;

use crate::{
    common::{Load, SOON, publish_at_once},
    stage::{PUBLISHING, Stage},
};

/// Of five messages.
const FRAMES: u64 = 3 * 5;

/// Five messages, in the midst of which the script goes on to such a fault.
async fn closed_at_any_frame(fault: impl Fn(Faults) -> Step) {
    for frames in 0..FRAMES {
        let stage = Stage::new().await;
        let publisher = stage.publisher().await;
        let midst = stage.publishing().after(Frames(frames));
        let closed = fault(midst.then().named(PUBLISHING));
        let publishing = publish_at_once(&publisher, &stage.checker, 1..6);
        within("every verdict", SOON, publishing).await.unwrap();
        within("the fault", SOON, closed.happened()).await;
        let verdict = stage.verdict(&publisher).await;
        assert_eq!(verdict.confirmed, 6, "behind {frames} frames: {verdict}");
    }
}

/// The text names nothing that a message could be blamed for.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_closed_at_any_frame_loses_nothing() {
    let closed = |code, text: &'static str| move |faults: Faults| faults.close_channels(code, text);
    closed_at_any_frame(closed(406, "PRECONDITION_FAILED - scripted")).await;
    closed_at_any_frame(closed(404, "NOT_FOUND - scripted")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_at_any_frame_loses_nothing() {
    let closed =
        |code, text: &'static str| move |faults: Faults| faults.close_connections(code, text);
    closed_at_any_frame(closed(320, "CONNECTION_FORCED - scripted")).await;
    closed_at_any_frame(closed(541, "INTERNAL_ERROR - scripted")).await;
}

/// Of the message that the channel is closed for nobody knows, so it is sent again with the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_costs_the_channel_once_is_confirmed_by_the_next() {
    let stage = Stage::new().await;
    let publisher = stage.publisher().await;
    let closed = stage
        .publishing()
        .when(|publish| publish.body() == b"50")
        .close_channel(406, "PRECONDITION_FAILED - scripted");
    let publishing = publish_at_once(&publisher, &stage.checker, 1..101);
    within("every verdict", SOON, publishing).await.unwrap();
    assert_eq!(closed.count(), 1);
    let verdict = stage.verdict(&publisher).await;
    assert_eq!(verdict.confirmed, 101, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_in_midstream_holds_messages_up_and_loses_none() {
    let stage = Stage::new().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let load = Load::start(&publisher, &stage.checker, 50);
    for _ in 0..3 {
        let midst = stage.publishing().after(Frames(100));
        let blocked = midst.then().block("scripted");
        within("the block", SOON, blocked.happened()).await;
        let waited = blocked.then().wait(Duration::from_millis(300));
        let unblocked = waited.then().unblock();
        within("its end", SOON, unblocked.happened()).await;
        load.confirmed(&publisher, 100).await;
    }
    load.stop().await;
    let verdict = stage.verdict(&publisher).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, verdict.sent, "{verdict}");
    assert_eq!(verdict.duplicates, 0, "the connection was well: {verdict}");
}
