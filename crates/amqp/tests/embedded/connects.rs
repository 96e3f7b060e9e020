//! Connections that are refused, or on which nobody answers.

use std::time::Duration;

use wharf_amqp::Publisher;
use wharf_testkit::wait::within;

use crate::{
    common::{SOON, publish_at_once},
    stage::Stage,
};

const LIMIT: Duration = Duration::from_millis(500);
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_until_connects_are_no_longer_refused() {
    let stage = Stage::new().await;
    let refused = stage.broker.faults().refuse_connects().times(7);
    first_hundred(&stage).await;
    assert_eq!(refused.count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_until_logins_are_no_longer_refused() {
    let stage = Stage::new().await;
    let closed = "CONNECTION_FORCED - scripted";
    let refused = stage.broker.faults().refuse_logins(320, closed).times(5);
    first_hundred(&stage).await;
    assert_eq!(refused.count(), 5);
}

/// The socket is open, and not a byte comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_stalls_is_given_up_for_the_next() {
    let stage = Stage::new().await;
    let stalled = stage.broker.faults().stall_connects(NEVER).times(2);
    first_hundred(&stage).await;
    assert_eq!(stalled.count(), 2);
}

/// Publishes on a cluster that has yet to connect.
async fn first_hundred(stage: &Stage) {
    let cluster = stage.cluster().connect_timeout(LIMIT);
    let cluster = cluster.connect_lazily().unwrap();
    let publisher = Publisher::builder(&cluster).deadline(3 * SOON);
    let publisher = publisher.build().await.unwrap();
    let publishing = publish_at_once(&publisher, &stage.checker, 0..100);
    within("every verdict", SOON, publishing).await.unwrap();
    let verdict = stage.verdict(&publisher).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.duplicates), (100, 0));
}
