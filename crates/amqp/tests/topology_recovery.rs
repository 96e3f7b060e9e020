//! Topologies over losses: declared before anything else uses a new connection.

mod common;

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use wharf_amqp::{
    Topology,
    topology::{Entity, Exchange, Queue, TopologyErrorKind, TopologyState},
};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, eventually_some, within},
};

use common::{SOON, broker::Node, connect, is_routed, watchful};

/// Messages published right after a reconnection were unroutable, because the queue that was
/// deleted meanwhile came back only later.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_in_an_outage_is_there_again_before_a_channel_is_lent() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = connect(vhost.url_via(proxy.addr())).await;
    drop(cluster.channels().get().await.unwrap());
    let topology = Topology::new()
        .exchange(Exchange::direct("e").durable())
        .queue(Queue::durable("q"))
        .bind("q", "e", "k");
    let _declaration = topology.declare(&cluster).await.unwrap();
    for _ in 0..5 {
        let held = [
            cluster.channels().get().await.unwrap(),
            cluster.confirm_channels().get().await.unwrap(),
        ];
        proxy.refuse().await;
        proxy.reset();
        eventually("the channels notice", SOON, async || {
            held.iter().all(|channel| !channel.is_open())
        })
        .await;
        drop(held);
        vhost.delete_queue("q").await;
        assert!(!vhost.has_queue("q").await);
        proxy.pass().await;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = cluster.channels().get().await.unwrap();
        let look = channel.queue_declare("q".into(), passive, Default::default());
        look.await.expect("the queue is there");
        assert!(is_routed(&cluster, "e", "k", FieldTable::default()).await);
    }
}

/// A recovered server-named queue under its old name bounced the connection (the broker refuses
/// names that begin with `amq.`), or its bindings were lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_queue_gets_another_name_after_a_cut_and_its_bindings_again() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = connect(vhost.url_via(proxy.addr())).await;
    let topology = Topology::new()
        .exchange(Exchange::topic("news").durable())
        .queue(Queue::temporary("mine"))
        .queue(Queue::temporary("other"))
        .bind("mine", "news", "eu.#");
    let declaration = topology.declare(&cluster).await.unwrap();
    let again = topology.declare(&cluster).await.unwrap();
    let mut name = declaration.watch_queue_name("mine").unwrap();
    assert!(declaration.watch_queue_name("nobody's").is_none());
    for _ in 0..3 {
        let old = declaration.queue_name("mine").unwrap();
        assert_eq!(again.queue_name("mine").unwrap(), old);
        assert_ne!(declaration.queue_name("other").unwrap(), old);
        name.borrow_and_update();
        let held = cluster.confirm_channels().get().await.unwrap();
        proxy.cut();
        eventually("the channel notices", SOON, async || !held.is_open()).await;
        drop(held);
        let new = within(
            "another name",
            SOON,
            name.wait_for(|name| name.as_ref().is_some_and(|name| *name != old)),
        );
        let new = new.await.unwrap().clone().unwrap();
        let mut state = declaration.watch();
        within(
            "all is declared",
            SOON,
            state.wait_for(TopologyState::is_declared),
        )
        .await
        .unwrap();
        assert!(vhost.has_queue(&new).await);
        assert!(is_routed(&cluster, "news", "eu.paid", FieldTable::default()).await);
        assert_eq!(vhost.queue_depth(&new).await, 1);
        eventually("the old one is gone", SOON, async || {
            !vhost.has_queue(&old).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topologies_built_apart_have_temporary_queues_of_their_own_on_several_connections() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = watchful(vhost.url())
        .connections(3)
        .connect()
        .await
        .unwrap();
    let topology = || Topology::new().queue(Queue::temporary("mine"));
    let (a, b) = (topology(), topology());
    let (first, second) = tokio::join!(a.declare(&cluster), b.declare(&cluster));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.queue_name("mine"), second.queue_name("mine"));
    eventually("all connections", SOON, async || {
        vhost.connections().await.len() == 6
    })
    .await;
    // Each exists once, however many connections could have declared it.
    assert_eq!(vhost.queues().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_connection_takes_over_what_belonged_to_one_that_is_lost() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = watchful(vhost.url_via(proxy.addr())).connections(2);
    let cluster = cluster.connect().await.unwrap();
    let topology = Topology::new().queue(Queue::temporary("mine"));
    let declaration = topology.declare(&cluster).await.unwrap();
    // Connections are made one after the other, and that for channels last: all others are there.
    drop(cluster.channels().get().await.unwrap());
    let mut name = declaration.watch_queue_name("mine").unwrap();
    let old = declaration.queue_name("mine").unwrap();
    // Nobody comes in any more, so that it must be one that is there.
    proxy.refuse().await;
    vhost.close_owner(&old).await;
    let new = name.wait_for(|name| name.as_ref().is_some_and(|name| *name != old));
    let new = within("another name", SOON, new).await.unwrap().clone();
    assert!(vhost.has_queue(&new.unwrap()).await);
}

/// A queue that somebody declared otherwise during an outage: nobody was told, and publishes went
/// on into something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_at_recovery_makes_itself_known_and_so_does_its_end() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = connect(vhost.url_via(proxy.addr())).await;
    let topology = Topology::new()
        .queue(Queue::durable("q"))
        .queue(Queue::durable("next"));
    let declaration = topology.declare(&cluster).await.unwrap();
    let mut state = declaration.watch();
    state.borrow_and_update();

    proxy.refuse().await;
    proxy.cut();
    vhost.delete_queue("q").await;
    vhost.delete_queue("next").await;
    let elsewhere = connect(vhost.url()).await;
    let other = Topology::new().queue(Queue::durable("q").max_length(1));
    drop(other.declare(&elsewhere).await.unwrap());
    proxy.pass().await;
    let failed = within(
        "word of it",
        SOON,
        state.wait_for(|state| state.failure().is_some()),
    );
    let error = failed.await.unwrap().failure().unwrap().clone();
    assert_eq!(*error.entity, Entity::Queue("q".into()));
    assert!(error.is_final());
    // The rest is there, and so is the service.
    eventually("the neighbour", SOON, async || {
        vhost.has_queue("next").await
    })
    .await;
    let channel = within("a channel", SOON, cluster.channels().get()).await;
    assert!(channel.is_ok());

    vhost.delete_queue("q").await;
    vhost.close_all_connections("test").await;
    within(
        "all is well",
        SOON,
        state.wait_for(TopologyState::is_declared),
    )
    .await
    .unwrap();
}

/// The broker closes the connection over a kind of exchange that it does not know; declared again
/// on every connection, it would let none live.
#[tokio::test(flavor = "multi_thread")]
async fn what_costs_a_connection_costs_one_only() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    proxy.refuse().await;
    let cluster = watchful(vhost.url_via(proxy.addr()))
        .connect_lazily()
        .unwrap();
    let good = Topology::new().queue(Queue::durable("good"));
    let bad = Topology::new().exchange(Exchange::custom("odd", "x-no-such-kind"));
    let (bad, good) = (bad.declare(&cluster), good.declare(&cluster));
    let pass = async {
        tokio::task::yield_now().await;
        proxy.pass().await;
    };
    let (bad, good, ()) =
        within("answers", SOON * 2, async { tokio::join!(bad, good, pass) }).await;
    let error = bad.unwrap_err();
    assert_eq!(*error.entity, Entity::Exchange("odd".into()));
    let kind = &error.kind;
    assert!(
        matches!(kind, TopologyErrorKind::NotSupported(_)),
        "{error}"
    );
    assert!(error.is_final());
    // Whoever used the connection then may have to try again, but gets there.
    if let Err(error) = good {
        assert!(!error.is_final(), "{error}");
    }
    let channel = within("a channel", SOON, cluster.channels().get()).await;
    assert!(channel.is_ok());
    // One for each time it was declared, and two that stayed.
    let dialled = proxy.counts().accepted;
    assert!(dialled <= 5, "{dialled} connections");
}

/// The good one has more to declare, so that it would be at it as the broker closes the connection
/// over the bad one.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_declared_at_once_only_the_one_that_costs_the_connection_is_condemned() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = watchful(vhost.url_via(proxy.addr()))
        .connect()
        .await
        .unwrap();
    proxy.delay(Duration::from_millis(300));
    let bad = Topology::new().exchange(Exchange::custom("odd", "x-no-such-kind"));
    let queues = (0..4).map(|number| Queue::durable(format!("good.{number}")));
    let good = queues.fold(Topology::new(), Topology::queue);
    let both = async { tokio::join!(bad.declare(&cluster), good.declare(&cluster)) };
    let (bad, good) = within("answers", SOON * 2, both).await;
    assert!(bad.unwrap_err().is_final());
    if let Err(error) = good {
        assert!(!error.is_final(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_without_a_broker_ends_in_time_and_names_what_it_was_about() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    proxy.refuse().await;
    let limit = Duration::from_secs(1);
    let cluster = watchful(vhost.url_via(proxy.addr()))
        .operation_timeout(limit)
        .connect_lazily()
        .unwrap();
    let topology = Topology::new().queue(Queue::durable("q"));
    let error = within("an end", SOON, topology.declare(&cluster))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, TopologyErrorKind::Timeout(_)),
        "{error}"
    );
    assert!(!error.is_final() && error.to_string().contains("q"));
    proxy.pass().await;
    let declared = eventually_some("a broker", SOON, async || {
        topology.declare(&cluster).await.ok()
    });
    let _declared = declared.await;

    // A broker that listens and says nothing.
    proxy.black_hole();
    let error = within("an end", SOON, topology.declare(&cluster))
        .await
        .unwrap_err();
    assert!(!error.is_final(), "{error}");
    cluster.close_within(limit).await;
    let error = within("an end", SOON, topology.declare(&cluster))
        .await
        .unwrap_err();
    assert!(error.is_final(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_is_dropped_is_not_repeated() {
    let vhost = Node::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let topology = Topology::new().queue(Queue::durable("q"));
    drop(topology.declare(&cluster).await.unwrap());
    let held = cluster.channels().get().await.unwrap();
    vhost.delete_queue("q").await;
    vhost.close_all_connections("test").await;
    eventually("the channel notices", SOON, async || !held.is_open()).await;
    let channel = within("a channel", SOON, cluster.channels().get()).await;
    assert!(channel.is_ok());
    assert!(!vhost.has_queue("q").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_broker_takes_declarations() {
    let node = Node::start().await;
    let vhost = node.vhost().await;
    let cluster = connect(vhost.url()).await;
    node.set_memory_alarm().await;
    let channel = cluster.confirm_channels().get().await.unwrap();
    let sent = channel.basic_publish(
        "".into(),
        "q".into(),
        BasicPublishOptions::default(),
        b"x",
        BasicProperties::default(),
    );
    let _unconfirmed = sent.await;
    let mut state = cluster.watch();
    let blocked = state.wait_for(|state| matches!(state, wharf_amqp::State::Blocked { .. }));
    within("word of the block", SOON, blocked).await.unwrap();
    let topology = Topology::new().queue(Queue::durable("q"));
    let declared = within("an answer", SOON, topology.declare(&cluster)).await;
    assert!(declared.unwrap().state().is_declared());
    node.clear_memory_alarm().await;
}
