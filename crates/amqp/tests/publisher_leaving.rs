//! Callers that leave before the verdict: nothing stays behind, and what was sent is counted.

mod common;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use wharf_amqp::{PublishError, Publisher, Receipt, State};
use wharf_testkit::{
    checker::Checker,
    proxy::Direction,
    wait::{eventually, within},
};

use common::{SOON, Stage, none_in_flight, numbered, publish, warm};

type Outcome = Result<Receipt, PublishError>;

/// Polls once, for a caller that leaves after that. There is no verdict yet.
fn begin(publisher: &Publisher, id: u64) -> Pin<Box<impl Future<Output = Outcome>>> {
    let (publish, polled) = poll_once(publisher, id);
    assert!(polled.is_pending(), "a verdict already: {polled:?}");
    publish
}

fn poll_once(
    publisher: &Publisher,
    id: u64,
) -> (Pin<Box<impl Future<Output = Outcome>>>, Poll<Outcome>) {
    let mut publish = Box::pin({
        let publisher = publisher.clone();
        async move { publisher.publish(numbered(id)).await }
    });
    let mut context = Context::from_waker(Waker::noop());
    let polled = publish.as_mut().poll(&mut context);
    (publish, polled)
}

/// lapin sends what was polled once; a client that forgets it leaks its place in the window, or
/// loses count.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_after_the_first_step_has_sent_and_leaves_nothing_behind() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(10);
    let publisher = publisher.build().await.unwrap();
    let checker = Checker::default();
    // A caller finds no channel at its first step while that of the one before is on its way back.
    let many_have_sent = async {
        for round in 0.. {
            warm(&publisher, &checker, round * 100).await;
            if publisher.stats().confirmed > round + 50 {
                return;
            }
            for id in 1..=20 {
                // On a busy machine the verdict may be there before this thread goes on.
                drop(poll_once(&publisher, round * 100 + id));
                tokio::task::yield_now().await;
            }
        }
    };
    within("many that leave have sent", SOON, many_have_sent).await;
    within("an end", SOON, publisher.close_within(SOON))
        .await
        .unwrap();
    let stats = publisher.stats();
    // Who left the line for a channel has sent nothing.
    assert_eq!(
        (stats.confirmed + stats.failed, stats.in_flight),
        (stats.published, 0),
        "{stats:?}"
    );
    assert_eq!(stage.vhost.queue_depth("q").await, stats.confirmed);
    let late = publisher.publish(numbered(u64::MAX)).await;
    assert!(matches!(late, Err(PublishError::Closed(_))), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_never_looked_has_sent_nothing() {
    let stage = Stage::on_the_shared_node().await;
    let publisher = Publisher::builder(&stage.direct).build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    drop(publisher.publish(numbered(1)));
    warm(&publisher, &checker, 2).await;
    assert_eq!(publisher.stats().published, 2);
    assert_eq!(stage.vhost.queue_depth("q").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_the_line_for_the_window_lets_the_next_one_in() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(2);
    let publisher = publisher.build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    stage.proxy.black_hole();
    let under_way = [begin(&publisher, 1), begin(&publisher, 2)];
    let [first, second] = [begin(&publisher, 3), begin(&publisher, 4)];
    assert_eq!(publisher.stats().published, 3);
    drop(first);
    stage.proxy.pass().await;
    let rest = under_way.into_iter().chain([second]);
    for outcome in within("every verdict", SOON, join_all(rest)).await {
        assert!(outcome.unwrap().is_confirmed());
    }
    within("an end", SOON, publisher.flush(SOON)).await.unwrap();
    let stats = publisher.stats();
    assert_eq!((stats.published, stats.confirmed), (4, 4), "{stats:?}");
    assert_eq!(stage.vhost.queue_depth("q").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_in_an_outage_has_sent_nothing() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(2);
    let publisher = publisher.build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    stage.proxy.refuse().await;
    stage.proxy.reset();
    let mut state = cluster.watch();
    let down = state.wait_for(|state| matches!(state, State::Down { .. }));
    within("the outage is seen", SOON, down).await.unwrap();
    for id in 1..=20 {
        let publish = begin(&publisher, id);
        assert_eq!(publisher.stats().in_flight, 1);
        drop(publish);
        assert_eq!(publisher.stats().in_flight, 0);
    }
    let stats = publisher.stats();
    assert_eq!((stats.published, stats.failed), (21, 20), "{stats:?}");
    stage.proxy.pass().await;
    warm(&publisher, &checker, 21).await;
    assert_eq!(stage.vhost.queue_depth("q").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_while_the_verdict_is_out_is_counted_when_it_comes() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    stage.proxy.black_hole_only(Direction::ToClient);
    // Who finds no channel at its first step has sent nothing: that of before is on its way back.
    let all_have_sent = async {
        for id in 1.. {
            drop(begin(&publisher, id));
            if publisher.stats().in_flight == 50 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within("as many as asked for have sent", SOON, all_have_sent).await;
    let stats = publisher.stats();
    assert_eq!(stats.published, 51 + stats.failed, "{stats:?}");
    stage.proxy.pass().await;
    none_in_flight(&publisher).await;
    assert_eq!(publisher.stats().confirmed, 51);
    assert_eq!(stage.vhost.queue_depth("q").await, 51);
}

/// Some stay to the end, and some leave at any moment, while the connection comes and goes.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_at_any_moment_leak_nothing() {
    const CALLERS: u64 = 2000;
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).window(50);
    let publisher = publisher.deadline(3 * SOON).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let mut stay = JoinSet::new();
    let mut leave = Vec::new();
    let (observer, mut confirmed) = (publisher.clone(), 0);
    for id in 0..CALLERS {
        let (publisher, checker) = (publisher.clone(), Arc::clone(&checker));
        let task = async move { drop(publish(&publisher, &checker, id).await) };
        if fastrand::bool() {
            stay.spawn(task);
        } else {
            leave.push(tokio::spawn(task));
        }
        if fastrand::u8(..4) == 0 && !leave.is_empty() {
            leave.swap_remove(fastrand::usize(..leave.len())).abort();
            tokio::task::yield_now().await;
        }
        if id % 500 == 250 {
            eventually("it works again", SOON, async || {
                observer.stats().confirmed > confirmed
            })
            .await;
            confirmed = observer.stats().confirmed;
            stage.proxy.reset();
            stage.proxy.wait_for_connections(2 + id / 500).await;
        }
    }
    leave.iter().for_each(tokio::task::JoinHandle::abort);
    within("those who stay", 3 * SOON, stay.join_all()).await;
    none_in_flight(&publisher).await;
    within("an end", SOON, publisher.close_within(SOON))
        .await
        .unwrap();
    let stats = publisher.stats();
    let ended = stats.confirmed + stats.unknown + stats.failed;
    assert_eq!((stats.published, stats.unknown), (ended, 0), "{stats:?}");
    let verdict = stage.verdict(&checker).await;
    verdict.assert_valid();
    assert!(verdict.confirmed <= stats.confirmed, "{stats:?}, {verdict}");
    assert!(stats.confirmed <= verdict.received, "{stats:?}, {verdict}");
}
