//! Publishing to a node that is killed, stopped or short of memory. The tests take turns on one
//! node of their own.

mod common;

use std::{ops::Deref, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard};
use wharf_amqp::{Message, PublishError, Publisher, Receipt, State};
use wharf_testkit::{
    checker::Checker,
    rabbit::{Connection, Rabbit},
    wait::{eventually, within},
};

use common::{
    Load, SOON, Stage, assert_books, broker::Node, none_in_flight, numbered, publish,
    publish_at_once, published, warm,
};

/// Long enough for what is to be confirmed, whatever the machine does besides.
const DEADLINE: Duration = Duration::from_secs(5);

/// The node, for one test at a time. A test that fails takes it down, with what it has done to it.
struct Turn {
    rabbit: Option<Rabbit>,
    node: MutexGuard<'static, Option<Rabbit>>,
}

impl Turn {
    async fn take() -> Self {
        static NODE: Mutex<Option<Rabbit>> = Mutex::const_new(None);
        let mut node = NODE.lock().await;
        let rabbit = match node.take() {
            Some(rabbit) => rabbit,
            None => Node::start().await.rabbit().clone(),
        };
        Self {
            rabbit: Some(rabbit),
            node,
        }
    }
}

impl Deref for Turn {
    type Target = Rabbit;

    fn deref(&self) -> &Rabbit {
        self.rabbit.as_ref().expect("it is there until the end")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            *self.node = self.rabbit.take();
        }
    }
}

/// The connections that publish, as RabbitMQ describes them.
async fn publishing(stage: &Stage) -> Vec<Connection> {
    let mut connections = stage.vhost.of_rabbitmq().connections().await;
    connections.retain(|connection| connection.name.ends_with("(publish)"));
    connections
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_loses_nothing_that_it_confirmed() {
    let node = Turn::take().await;
    let stage = Stage::on(&Node::RabbitMq(node.clone())).await;
    node.save_declarations().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).deadline(4 * SOON);
    let publisher = publisher.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    let load = Load::start(&publisher, &checker, 200);
    load.confirmed(&publisher, 2000).await;
    node.kill().await;
    node.restart().await;
    load.confirmed(&publisher, 2000).await;
    load.stop().await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, verdict.sent);
    // 200 tasks had one under way, and only what the broker had confirmed by then was settled.
    assert!(publisher.stats().republished > 0, "{publisher:?}");
    assert_books(&publisher, &verdict).await;
}

/// A broker that is short of memory reads nothing from who publishes: lapin's calls hang without
/// an end, and a client that takes that for a broken connection dials again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_blocks_is_waited_for_and_not_dialled() {
    let node = Turn::take().await;
    let stage = Stage::on(&Node::RabbitMq(node.clone())).await;
    let cluster = stage.cluster().connect().await.unwrap();
    let hasty = Publisher::builder(&cluster).deadline(DEADLINE);
    let hasty = hasty.build().await.unwrap();
    let patient = Publisher::builder(&cluster).deadline(2 * SOON);
    let patient = patient.build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&hasty, &checker, 0).await;
    // More channels, so that those who come after the first do not wait only for want of one.
    let spare = (0..3).map(|_| cluster.confirm_channels().get());
    drop(within("channels", SOON, join_all(spare)).await);
    let before = publishing(&stage).await;
    assert_eq!(before.len(), 1);
    node.set_memory_alarm().await;
    eventually("the alarm has reached the connection", SOON, async || {
        publishing(&stage).await[0].state == "blocking"
    })
    .await;

    // It is the first to notice, and cannot be taken back.
    let handed_over = within("a verdict", SOON, publish(&hasty, &checker, 1)).await;
    assert!(
        matches!(handed_over, Ok(Receipt::Unknown { .. })),
        "{handed_over:?}"
    );
    let mut state = cluster.watch();
    let blocked = state.wait_for(|state| matches!(state, State::Blocked { .. }));
    within("the block is seen", SOON, blocked).await.unwrap();
    let waiting = publish_at_once(&patient, &checker, 100..200);
    published(&patient, 100).await;
    // The others know that it makes no sense to hand anything over.
    publish_at_once(&hasty, &checker, 2..10).await.unwrap();
    let stats = hasty.stats();
    assert_eq!((stats.unknown, stats.failed), (1, 8), "{stats:?}");
    let not_sent = within("an error", SOON, publish(&hasty, &checker, 10)).await;
    assert!(
        matches!(not_sent, Err(PublishError::TimedOut { .. })),
        "{not_sent:?}"
    );

    let leaving = Publisher::builder(&cluster).deadline(DEADLINE);
    let leaving = leaving.build().await.unwrap();
    let left = publish_at_once(&leaving, &checker, 20..25);
    published(&leaving, 5).await;
    let unresolved = leaving.close_within(Duration::ZERO).await;
    assert_eq!(unresolved.unwrap_err().count, 5);
    within("the callers' errors", SOON, left).await.unwrap();
    assert_eq!((leaving.stats().failed, leaving.stats().in_flight), (5, 0));

    assert!(!waiting.is_finished());
    assert!(matches!(cluster.state(), State::Blocked { .. }));
    let peers = |connections: &[Connection]| -> Vec<_> {
        connections
            .iter()
            .map(|connection| connection.peer)
            .collect()
    };
    assert_eq!(peers(&publishing(&stage).await), peers(&before));
    assert_eq!(stage.proxy.counts().accepted, 1, "nothing was dialled");

    node.clear_memory_alarm().await;
    within("every verdict", SOON, waiting).await.unwrap();
    none_in_flight(&hasty).await;
    warm(&hasty, &checker, 11).await;
    let mut state = cluster.watch();
    within("it is up again", SOON, state.wait_for(State::is_up))
        .await
        .unwrap();
    assert_eq!(stage.proxy.counts().accepted, 1, "nothing was dialled");
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.duplicates), (2 + 100, 0));
    assert_eq!((verdict.unknown_received, verdict.rejected), (1, 9 + 5));
    assert_eq!(patient.stats().confirmed, 100);
    let stats = hasty.stats();
    assert_eq!(
        (stats.confirmed, stats.unknown, stats.failed),
        (2, 1, 9),
        "{stats:?}"
    );
}

/// A broker that stands still swallows what it is sent, and its word comes when nobody waits any
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stands_still_leaves_nobody_waiting_beyond_the_deadline() {
    let node = Turn::take().await;
    let stage = Stage::on(&Node::RabbitMq(node.clone())).await;
    let cluster = stage.cluster().heartbeat(60).connect().await.unwrap();
    let publisher = Publisher::builder(&cluster)
        .deadline(DEADLINE)
        .window(100)
        .build()
        .await
        .unwrap();
    let checker = Arc::new(Checker::default());
    let load = Load::start(&publisher, &checker, 200);
    load.confirmed(&publisher, 1000).await;
    node.pause().await;
    // Half of the tasks have one under way, and the others wait for the window.
    eventually("every deadline has passed", SOON, async || {
        publisher.stats().unknown == 100 && checker.verdict().rejected >= 100
    })
    .await;
    within("the rest", SOON, load.stop()).await;
    let during = publisher.stats();
    assert_eq!(during.in_flight, 100, "{during:?}");
    node.resume().await;
    none_in_flight(&publisher).await;
    warm(&publisher, &checker, u64::MAX / 2).await;
    let after = publisher.stats();
    assert_eq!(
        (after.unknown, after.confirmed),
        (during.unknown, during.confirmed + 1)
    );
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.duplicates, 0, "nothing was published twice");
    assert_eq!(verdict.unknown, after.unknown);
    assert_eq!(verdict.confirmed, after.confirmed);
    assert_eq!(
        after.published,
        after.confirmed + after.unknown + after.failed
    );
}

/// The broker closes the channel over a message that is too large for it, and names the size only.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_for_the_broker_costs_the_offender_alone() {
    let node = Turn::take().await;
    let default = "{ok, Most} = application:get_env(rabbit, max_message_size), Most";
    let default = node.eval(default).await;
    let set = |most: String| {
        let node = &node;
        async move {
            let set = format!("application:set_env(rabbit, max_message_size, {most})");
            node.eval(&set).await;
        }
    };
    set("65536".to_owned()).await;
    let stage = Stage::on(&Node::RabbitMq(node.clone())).await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    let offender = publisher.publish(Message::new(vec![b'x'; 65_537]).to("", "q"));
    let before = (1..51).map(|id| publish(&publisher, &checker, id));
    let after = (51..101).map(|id| publish(&publisher, &checker, id));
    let all = async { tokio::join!(join_all(before), offender, join_all(after)) };
    let (before, offender, after) = within("every verdict", SOON, all).await;
    set(default).await;
    let Err(PublishError::Refused { message, .. }) = offender else {
        panic!("{offender:?}");
    };
    assert_eq!(message.body().len(), 65_537);
    for neighbour in before.into_iter().chain(after) {
        assert!(neighbour.as_ref().unwrap().is_confirmed(), "{neighbour:?}");
    }
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, 101);
    assert_eq!(publisher.stats().failed, 1);
    none_in_flight(&publisher).await;
}

/// The broker has the last word about the size of frames, and closes the connection, with whatever
/// is open on it, over headers in a larger one.
#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_the_frames_of_the_broker_cost_the_offender_alone() {
    let node = Turn::take().await;
    let default = "{ok, Most} = application:get_env(rabbit, frame_max), Most";
    let default = node.eval(default).await;
    let set = |most: String| {
        let node = &node;
        async move {
            let set = format!("application:set_env(rabbit, frame_max, {most})");
            node.eval(&set).await;
        }
    };
    set("8192".to_owned()).await;
    let stage = Stage::on(&Node::RabbitMq(node.clone())).await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster)
        .deadline(SOON)
        .build()
        .await
        .unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    let large = numbered(1).header("large", "x".repeat(10_000));
    let offender = publisher.publish(large);
    let neighbours = (2..102).map(|id| publish(&publisher, &checker, id));
    let all = async { tokio::join!(offender, join_all(neighbours)) };
    let (offender, neighbours) = within("every verdict", 2 * SOON, all).await;
    set(default).await;
    for neighbour in neighbours {
        assert!(neighbour.as_ref().unwrap().is_confirmed(), "{neighbour:?}");
    }
    assert!(
        matches!(offender, Err(PublishError::Invalid(_))),
        "{offender:?}"
    );
    assert_eq!(stage.proxy.counts().accepted, 1, "no connection was lost");
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!(verdict.confirmed, 101);
}
