//! Consumers of a node that is in trouble itself.

mod common;

use lapin::types::FieldTable;
use wharf_amqp::consumer::Consumer;
use wharf_testkit::wait::{eventually, within};

use common::{
    SOON,
    broker::Node,
    connect,
    consuming::{Probe, publish, registered, until},
    declare,
};

/// A connection that both publishes and consumes is stopped as a whole when the broker is short of
/// memory: acknowledgements hang behind the publish, and nothing gets better.
#[tokio::test(flavor = "multi_thread")]
async fn while_publishers_are_blocked_deliveries_and_acknowledgements_go_on() {
    let node = Node::start().await;
    let vhost = node.vhost().await;
    let cluster = connect(vhost.url()).await;
    declare(&cluster, "q", FieldTable::default()).await;
    publish(&cluster, "q", 0..500).await;
    let probe = Probe::closed();
    let consumer = Consumer::builder(&cluster, "q")
        .prefetch(20)
        .concurrency(2)
        .start(probe.clone())
        .await
        .unwrap();
    node.set_memory_alarm().await;
    let blocked = tokio::spawn({
        let cluster = cluster.clone();
        async move { publish(&cluster, "q", 500..600).await }
    });
    let mut state = cluster.watch();
    let is_blocked = |state: &wharf_amqp::State| matches!(state, wharf_amqp::State::Blocked { .. });
    within("the block", SOON, state.wait_for(is_blocked))
        .await
        .unwrap();
    probe.let_all();
    eventually("all are acknowledged", SOON, async || {
        consumer.stats().acked >= 500 && vhost.count("q").await == (0, 0)
    })
    .await;
    assert!(!blocked.is_finished());
    // One that starts now is served, too.
    let second = Consumer::builder(&cluster, "q")
        .start(Probe::open())
        .await
        .unwrap();
    within("its end", SOON, second.stop_within(SOON))
        .await
        .unwrap();
    node.clear_memory_alarm().await;
    within("the publisher", SOON, blocked).await.unwrap();
    eventually("the rest", SOON, async || consumer.stats().acked == 600).await;
    assert_eq!(consumer.stats().registrations, 1);
}

/// Nodes that stand still.
mod rabbitmq_only {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stopped_broker_is_noticed_by_its_heartbeats_and_consumed_from_again() {
        let node = Node::start().await;
        let (rabbit, vhost) = (node.rabbit(), node.vhost().await);
        let cluster = connect(vhost.url()).await;
        declare(&cluster, "q", FieldTable::default()).await;
        let probe = Probe::open();
        let consumer = Consumer::builder(&cluster, "q")
            .start(probe.clone())
            .await
            .unwrap();
        rabbit.pause().await;
        // Nobody says a word, so that only heartbeats tell.
        until(&consumer, "word of the loss", |state| !state.is_running()).await;
        rabbit.resume().await;
        registered(&consumer, 2).await;
        publish(&cluster, "q", [1]).await;
        probe.has_seen(1).await;
    }
}
