//! Consumers with a topology: it is declared before they subscribe, and what belongs to a
//! connection is found again on the next.

mod common;

use std::time::Duration;

use lapin::types::FieldTable;
use wharf_amqp::{
    Consumer, Topology,
    consumer::{ConsumeError, ConsumerState},
    topology::{Entity, Exchange, Queue, TopologyError, TopologyErrorKind},
};
use wharf_testkit::wait::{eventually, within};

use common::{
    SOON,
    broker::Connection,
    consuming::{PATIENCE, Probe, Stage, publish, registered, until},
    is_routed, quick,
};

/// A topic exchange, a queue and a binding between them.
fn news(queue: Queue, name: &str) -> Topology {
    Topology::new()
        .exchange(Exchange::topic("news").durable())
        .queue(queue)
        .bind(name, "news", "eu.#")
}

/// Publishes to what [`news`] declares. Says whether that went into a queue.
async fn tell(stage: &Stage) -> bool {
    is_routed(&stage.cluster, "news", "eu.paid", FieldTable::default()).await
}

/// How many queues there are besides `q`.
async fn queues(stage: &Stage) -> usize {
    stage.vhost.queues().await - 1
}

/// The topology's error that ended a consumer.
async fn failure(consumer: &Consumer) -> TopologyError {
    until(consumer, "the end", ConsumerState::has_ended).await;
    match consumer.state() {
        ConsumerState::Failed(cause) => match &*cause {
            ConsumeError::Topology(error) => error.clone(),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A client that asked for its server-named queue under the old name was refused, connection and
/// all; or it had another queue, to which nothing was bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_the_broker_names_is_consumed_under_its_new_name_with_its_bindings() {
    let stage = Stage::new().await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.faulty, "mine")
        .topology(news(Queue::temporary("mine"), "mine"))
        .prefetch(7)
        .start(probe.clone())
        .await
        .unwrap();
    for round in 1..=4 {
        registered(&consumer, round).await;
        assert!(tell(&stage).await, "bound before it is said to run");
        probe.has_seen(usize::try_from(round).unwrap()).await;
        if round % 2 == 0 {
            stage.proxy.cut();
        } else {
            stage.proxy.reset();
        }
    }
    registered(&consumer, 5).await;
    eventually("the former ones are gone", SOON, async || {
        queues(&stage).await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_is_declared_and_consumed_again_after_a_cut() {
    let stage = Stage::new().await;
    let probe = Probe::open();
    let consumer = Consumer::builder(&stage.faulty, "only")
        .topology(news(Queue::exclusive("only"), "only"))
        .start(probe.clone())
        .await
        .unwrap();
    for round in 1..=3 {
        registered(&consumer, round).await;
        assert!(tell(&stage).await);
        probe.has_seen(usize::try_from(round).unwrap()).await;
        stage.proxy.cut();
    }
    registered(&consumer, 4).await;
}

/// Nobody else may be there to make it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_under_its_consumer_is_brought_back_by_it() {
    let stage = Stage::new().await;
    for (round, queue) in [Queue::durable("work"), Queue::temporary("work")]
        .into_iter()
        .enumerate()
    {
        let topology = news(queue, "work");
        let probe = Probe::open();
        let consumer = Consumer::builder(&stage.cluster, "work")
            .topology(topology.clone())
            .start(probe.clone())
            .await
            .unwrap();
        let declaration = topology.declare(&stage.cluster).await.unwrap();
        for times in 1..=2 {
            let name = declaration.queue_name("work");
            stage
                .vhost
                .delete_queue(name.as_deref().unwrap_or("work"))
                .await;
            until(&consumer, "another subscription", |_| {
                consumer.stats().registrations > times
            })
            .await;
            registered(&consumer, times + 1).await;
            assert!(tell(&stage).await, "its binding is back, too");
            probe.has_seen(usize::try_from(times).unwrap()).await;
        }
        assert_eq!(queues(&stage).await, 1, "round {round}");
        consumer.stop_within(SOON).await.unwrap();
        if round == 0 {
            stage.vhost.delete_queue("work").await;
        }
    }
}

/// Somebody declared the queue otherwise in an outage. A consumer that went on, or tried for ever,
/// would have told nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_otherwise_after_an_outage_ends_its_consumer_by_name_and_no_other() {
    let stage = Stage::new().await;
    let work = |queue: &str| Topology::new().queue(Queue::durable(queue));
    let start = async |queue: &str, topology: Option<Topology>| {
        let probe = Probe::open();
        let mut builder = Consumer::builder(&stage.faulty, queue);
        if let Some(topology) = topology {
            builder = builder.topology(topology);
        }
        (builder.start(probe.clone()).await.unwrap(), probe)
    };
    let (consumer, _) = start("work", Some(work("work"))).await;
    let (cousin, of_cousin) = start("other", Some(work("other"))).await;
    let (neighbour, of_neighbour) = start("q", None).await;

    stage.proxy.refuse().await;
    stage.proxy.cut();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    stage.vhost.delete_queue("work").await;
    let otherwise = Topology::new().queue(Queue::durable("work").max_length(1));
    drop(otherwise.declare(&stage.cluster).await.unwrap());
    stage.proxy.pass().await;

    let error = failure(&consumer).await;
    assert_eq!(*error.entity, Entity::Queue("work".into()));
    assert!(
        matches!(error.kind, TopologyErrorKind::Mismatch(_)),
        "{error}"
    );
    let said = ConsumeError::from(error).to_string();
    assert!(said.contains(r#"queue "work""#), "{said}");
    for (consumer, probe, queue) in [
        (&cousin, &of_cousin, "other"),
        (&neighbour, &of_neighbour, "q"),
    ] {
        registered(consumer, 2).await;
        publish(&stage.cluster, queue, [1]).await;
        probe.has_seen(1).await;
        assert_eq!(consumer.stats().registrations, 2, "{queue}: left alone");
    }
    assert_eq!(stage.vhost.consumers("work").await, 0);
}

/// An exchange of another service's, which starts later than this one does.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_binding_needs_is_waited_for_after_an_outage_and_not_at_the_start() {
    let stage = Stage::new().await;
    let theirs = Topology::new().exchange(Exchange::topic("news").durable());
    let topology = Topology::new()
        .queue(Queue::durable("work"))
        .bind("work", "news", "eu.#");
    let probe = Probe::open();
    let builder = || Consumer::builder(&stage.faulty, "work").topology(topology.clone());
    let began = std::time::Instant::now();
    let refused = builder().start(probe.clone()).await;
    assert!(
        matches!(&refused, Err(ConsumeError::Topology(error))
            if matches!(error.kind, TopologyErrorKind::Missing(_))),
        "{refused:?}"
    );
    assert!(began.elapsed() < PATIENCE);

    drop(theirs.declare(&stage.cluster).await.unwrap());
    let consumer = builder().start(probe.clone()).await.unwrap();
    stage.proxy.refuse().await;
    stage.proxy.cut();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    let channel = stage.cluster.channels().get().await.unwrap();
    let delete = channel.exchange_delete("news".into(), Default::default());
    delete.await.unwrap();
    stage.proxy.pass().await;
    until(&consumer, "attempts", |state| {
        matches!(state, ConsumerState::Recovering { cause, attempt: 2.. }
            if matches!(&**cause, ConsumeError::Topology(_)))
    })
    .await;
    drop(theirs.declare(&stage.cluster).await.unwrap());
    registered(&consumer, 2).await;
    assert!(tell(&stage).await);
    probe.has_seen(1).await;
}

/// Whoever declares a queue that the broker names for each of its consumers has several, and
/// messages in those that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_one_topology_share_its_queue_wherever_it_moves() {
    let stage = Stage::new().await;
    let cluster = quick(&[stage.vhost.url_via(stage.proxy.addr())]);
    let cluster = cluster.connections(2).connect().await.unwrap();
    let topology = news(Queue::temporary("mine"), "mine");
    let probe = Probe::open();
    let start = || {
        let builder = Consumer::builder(&cluster, "mine").topology(topology.clone());
        builder.start(probe.clone())
    };
    let (first, second, third) = tokio::join!(start(), start(), start());
    let consumers = [first.unwrap(), second.unwrap(), third.unwrap()];
    eventually("all connections", SOON, async || {
        let connections = stage.vhost.connections().await;
        let consuming = |each: &&Connection| each.name.ends_with("(consume)");
        connections.iter().filter(consuming).count() == 2
    })
    .await;
    let declaration = topology.declare(&cluster).await.unwrap();
    for round in 1..=3_u64 {
        for consumer in &consumers {
            registered(consumer, round).await;
        }
        let name = declaration.queue_name("mine").unwrap();
        eventually("the former one is gone", SOON, async || {
            queues(&stage).await == 1
        })
        .await;
        assert_eq!(stage.vhost.consumers(&name).await, 3, "round {round}");
        assert!(tell(&stage).await);
        probe.has_seen(usize::try_from(round).unwrap()).await;
        // Its connection alone, so that another one is there to take over.
        stage.vhost.close_owner(&name).await;
    }
    for consumer in &consumers {
        registered(consumer, 4).await;
        assert_eq!(consumer.stats().registrations, 4);
    }
    assert_eq!(probe.seen().len(), 3, "each was delivered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_makes_no_sense_or_is_not_so_stops_a_start() {
    let stage = Stage::new().await;
    let began = std::time::Instant::now();
    let start = async |topology: Topology| {
        let builder = Consumer::builder(&stage.cluster, "q").topology(topology);
        match builder.start(Probe::open()).await {
            Err(ConsumeError::Topology(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = start(Topology::new().queue(Queue::durable("amq.mine"))).await;
    assert!(
        matches!(error.kind, TopologyErrorKind::Invalid(_)),
        "{error}"
    );
    let error = start(Topology::new().queue(Queue::durable("q").max_length(1))).await;
    assert_eq!(*error.entity, Entity::Queue("q".into()));
    assert!(
        matches!(error.kind, TopologyErrorKind::Mismatch(_)),
        "{error}"
    );
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(stage.vhost.consumers("q").await, 0);
}

/// A queue of the topology that belongs to everybody may be consumed on any connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_in_an_outage_is_there_again_when_its_consumer_is() {
    let stage = Stage::new().await;
    let probe = Probe::open();
    let topology = news(Queue::durable("work"), "work").queue(Queue::temporary("besides"));
    let consumer = Consumer::builder(&stage.faulty, "work")
        .topology(topology)
        .start(probe.clone())
        .await
        .unwrap();
    stage.proxy.refuse().await;
    stage.proxy.cut();
    until(&consumer, "word of the loss", |state| !state.is_running()).await;
    stage.vhost.delete_queue("work").await;
    stage.proxy.pass().await;
    registered(&consumer, 2).await;
    assert!(tell(&stage).await);
    probe.has_seen(1).await;
    let stopped = within(
        "its end",
        SOON,
        consumer.stop_within(Duration::from_secs(10)),
    );
    stopped.await.unwrap();
}

/// Kinds of exchange that come and go.
mod rabbitmq_only {
    use super::*;

    /// The broker closes the whole connection over a kind of exchange that it does not know, as after
    /// a restart without a plug-in. Each consumer that declares it again costs its neighbours another.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_costs_the_connection_after_an_outage_is_not_tried_again_by_the_consumer() {
        let stage = Stage::new().await;
        let rabbit = stage.vhost.rabbit();
        let kind = format!("x-{}", stage.vhost.name());
        let registry = async |call: &str, more: &str| {
            let call = format!("rabbit_registry:{call}(exchange, <<\"{kind}\">>{more})");
            rabbit.eval(&call).await
        };
        let plug_in = ", rabbit_exchange_type_direct";
        registry("register", plug_in).await;
        let topology = Topology::new().exchange(Exchange::custom("odd", &*kind));
        let probe = Probe::open();
        let start = |topology| {
            let builder = Consumer::builder(&stage.faulty, "q").topology(topology);
            builder.start(probe.clone())
        };
        let consumer = start(topology).await.unwrap();
        let neighbour = start(Topology::new()).await.unwrap();

        stage.proxy.refuse().await;
        stage.proxy.cut();
        until(&consumer, "word of the loss", |state| !state.is_running()).await;
        registry("unregister", "").await;
        stage.proxy.pass().await;
        let error = failure(&consumer).await;
        assert_eq!(*error.entity, Entity::Exchange("odd".into()));
        assert!(
            matches!(error.kind, TopologyErrorKind::NotSupported(_)),
            "{error}"
        );
        registered(&neighbour, 2).await;
        stage.publish([1]).await;
        probe.has_seen(1).await;
        assert_eq!(neighbour.stats().registrations, 2, "it was left alone");
        let publishing = stage.faulty.confirm_channels().get();
        assert!(within("a channel", SOON, publishing).await.is_ok());
        // Two before the outage, one that the broker closed after it, and two that stayed.
        let dialled = stage.proxy.counts().accepted;
        assert!(dialled <= 5, "{dialled} connections");
        // The broker needs it to do away with the exchange.
        registry("register", plug_in).await;
    }
}
