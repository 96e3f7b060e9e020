//! Topologies: declared before anything else uses a connection, and what is refused says its name.

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use wharf_amqp::{
    Cluster, Topology,
    topology::{Binding, Entity, Exchange, Queue, TopologyErrorKind, TopologyState},
};
use wharf_testkit::{
    proxy::Proxy,
    rabbit::{Rabbit, Vhost},
    wait::{eventually, eventually_some, within},
};

const SOON: Duration = Duration::from_secs(20);

fn builder(uri: String) -> wharf_amqp::Builder {
    Cluster::builder([uri])
        .connect_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(15))
        .heartbeat(2)
}

async fn connect(uri: String) -> Cluster {
    builder(uri).connect().await.unwrap()
}

/// The node's own words on the exchanges and bindings of a virtual host.
async fn tell(vhost: &Vhost, module: &str) -> String {
    let vhost_name = vhost.name();
    let list = format!("{module}:list(<<\"{vhost_name}\">>)");
    vhost.rabbit().eval(&list).await
}

/// Publishes through a plain channel, with confirms, and says whether it was routed.
async fn is_routed(cluster: &Cluster, exchange: &str, key: &str, headers: FieldTable) -> bool {
    let channel = cluster.confirm_channels().get().await.unwrap();
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let properties = BasicProperties::default().with_headers(headers);
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"x", properties);
    let confirm = within("a confirm", SOON, sent.await.unwrap())
        .await
        .unwrap();
    confirm.is_ack() && confirm.take_message().is_none()
}

fn header(name: &str, value: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(value.into()));
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_thing_is_declared_as_it_was_said() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let topology = Topology::new()
        .exchange(Exchange::topic("orders").durable().alternate("lost"))
        .exchange(Exchange::fanout("lost").auto_delete())
        .exchange(Exchange::headers("parts"))
        .exchange(Exchange::direct("inner").internal())
        .queue(
            Queue::durable("orders.eu")
                .quorum()
                .dead_letter_to("lost", Some("dead"))
                .max_length(1000)
                .reject_publish()
                .delivery_limit(3),
        )
        .queue(
            Queue::transient("parts.red")
                .message_ttl(Duration::from_secs(60))
                .expires(Duration::from_secs(600))
                .max_length_bytes(1 << 20)
                .max_priority(5)
                .single_active_consumer(),
        )
        .queue(Queue::durable("inner.q"))
        .queue(Queue::exclusive("mine"))
        .queue(Queue::temporary("any"))
        .bind("orders.eu", "orders", "eu.#")
        .bind_exchange("inner", "orders", "in.*")
        .bind("inner.q", "inner", "in.side")
        .binding(
            Binding::new("parts.red", "parts")
                .argument("x-match", "all")
                .argument("colour", "red"),
        )
        .bind("any", "orders", "any")
        .bind("mine", "amq.topic", "mine");
    let declaration = topology.declare(&cluster).await.unwrap();
    assert!(declaration.state().is_declared());

    let arguments = vhost.queue_info("orders.eu", "arguments").await;
    for said in [
        "quorum",
        "lost",
        "dead",
        "1000",
        "reject-publish",
        "delivery-limit",
    ] {
        assert!(arguments.contains(said), "{said}: {arguments}");
    }
    let arguments = vhost.queue_info("parts.red", "arguments").await;
    for said in [
        "60000",
        "600000",
        "1048576",
        "max-priority",
        "single-active",
    ] {
        assert!(arguments.contains(said), "{said}: {arguments}");
    }
    assert_eq!(vhost.queue_info("orders.eu", "durable").await, "true");
    assert_eq!(vhost.queue_info("parts.red", "durable").await, "false");
    assert_ne!(vhost.queue_info("mine", "exclusive_consumer_pid").await, "");
    let any = declaration.queue_name("any").unwrap();
    assert!(any.starts_with("amq.gen-") && vhost.has_queue(&any).await);
    let exchanges = tell(&vhost, "rabbit_exchange").await;
    assert!(exchanges.contains("alternate-exchange"), "{exchanges}");

    let none = FieldTable::default;
    assert!(is_routed(&cluster, "orders", "eu.paid", none()).await);
    assert!(is_routed(&cluster, "orders", "in.side", none()).await);
    assert!(is_routed(&cluster, "orders", "any", none()).await);
    assert!(!is_routed(&cluster, "orders", "us.paid", none()).await);
    assert!(is_routed(&cluster, "parts", "", header("colour", "red")).await);
    assert!(!is_routed(&cluster, "parts", "", header("colour", "blue")).await);
    assert!(is_routed(&cluster, "amq.topic", "mine", none()).await);
    assert_eq!(vhost.queue_depth("inner.q").await, 1);
    // All the channels were throw-away ones.
    eventually("no channel is left", SOON, async || {
        let connections = vhost.connections().await;
        connections.iter().map(|each| each.channels).sum::<u64>() <= 1
    })
    .await;
}

/// A declaration that the broker refuses closes its channel, and with it every confirm that is open
/// on it: half of a neighbour's confirms were lost to one wrong exchange.
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_names_the_entity_and_costs_no_neighbour_its_channel() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let neighbours = [
        cluster.confirm_channels().get().await.unwrap(),
        cluster.channels().get().await.unwrap(),
    ];
    let _there = Topology::new()
        .exchange(Exchange::direct("e").durable())
        .queue(Queue::durable("q"))
        .declare(&cluster)
        .await
        .unwrap();
    let other = Topology::new()
        .exchange(Exchange::direct("e").durable())
        .queue(Queue::durable("q").max_length(1))
        .queue(Queue::durable("next"));
    let error = cluster.declare(&other).await.unwrap_err();
    assert_eq!(*error.entity, Entity::Queue("q".into()));
    assert!(
        matches!(error.kind, TopologyErrorKind::Mismatch(_)),
        "{error}"
    );
    assert!(error.is_final());
    assert!(error.to_string().contains(r#"queue "q""#), "{error}");
    assert!(vhost.has_queue("next").await, "what could be declared was");

    let other = Topology::new().exchange(Exchange::fanout("e").durable());
    let error = cluster.declare(&other).await.unwrap_err();
    assert_eq!(*error.entity, Entity::Exchange("e".into()));
    assert!(
        matches!(error.kind, TopologyErrorKind::Mismatch(_)),
        "{error}"
    );
    for neighbour in &neighbours {
        let declare = neighbour.queue_declare("n".into(), Default::default(), Default::default());
        declare.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_to_an_exchange_that_is_not_there_says_which() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let topology = Topology::new()
        .queue(Queue::durable("q"))
        .bind("q", "nowhere", "k");
    let error = topology.declare(&cluster).await.unwrap_err();
    let Entity::Binding { source, .. } = &*error.entity else {
        panic!("{error}")
    };
    assert_eq!(source, "nowhere");
    assert!(
        matches!(error.kind, TopologyErrorKind::Missing(_)),
        "{error}"
    );
    assert!(error.is_final());
    // Somebody makes it.
    let _its = Topology::new()
        .exchange(Exchange::direct("nowhere").durable())
        .declare(&cluster)
        .await
        .unwrap();
    let declaration = topology.declare(&cluster).await.unwrap();
    assert!(declaration.state().is_declared());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_configure_is_refused_by_name() {
    let vhost = Rabbit::shared().await.vhost().await;
    let rabbit = vhost.rabbit();
    let user = format!("reader-{}", vhost.name());
    rabbit.add_user(&user, "sesame").await;
    let grant = format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"{}\">>, <<\"\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)",
        vhost.name()
    );
    rabbit.eval(&grant).await;
    let cluster = connect(vhost.url_of(&user, "sesame", rabbit.amqp_addr())).await;
    let topology = Topology::new().queue(Queue::durable("q"));
    let error = topology.declare(&cluster).await.unwrap_err();
    assert_eq!(*error.entity, Entity::Queue("q".into()));
    assert!(
        matches!(error.kind, TopologyErrorKind::Refused(_)),
        "{error}"
    );
    assert!(error.is_final() && !vhost.has_queue("q").await);
    rabbit.delete_user(&user).await;
}

/// Messages published right after a reconnection were unroutable, because the queue that was
/// deleted meanwhile came back only later.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_in_an_outage_is_there_again_before_a_channel_is_lent() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    let cluster = connect(vhost.url_via(proxy.addr())).await;
    drop(cluster.channels().get().await.unwrap());
    let topology = Topology::new()
        .exchange(Exchange::direct("e").durable())
        .queue(Queue::durable("q"))
        .bind("q", "e", "k");
    let _declaration = topology.declare(&cluster).await.unwrap();
    for _ in 0..5 {
        let held = cluster.channels().get().await.unwrap();
        proxy.refuse().await;
        proxy.reset();
        eventually("the channel notices", SOON, async || !held.is_open()).await;
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
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
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
        proxy.cut();
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
async fn a_temporary_queue_that_was_deleted_is_replaced_and_one_that_is_there_is_kept() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let topology = Topology::new()
        .queue(Queue::temporary("mine"))
        .bind("mine", "amq.direct", "k");
    let declaration = topology.declare(&cluster).await.unwrap();
    let first = declaration.queue_name("mine").unwrap();
    declaration.declare().await.unwrap();
    assert_eq!(declaration.queue_name("mine").unwrap(), first);
    // As when its last consumer has gone.
    vhost.delete_queue(&first).await;
    declaration.declare().await.unwrap();
    let second = declaration.queue_name("mine").unwrap();
    assert_ne!(second, first);
    assert!(is_routed(&cluster, "amq.direct", "k", FieldTable::default()).await);
    assert_eq!(vhost.queue_depth(&second).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn topologies_built_apart_have_temporary_queues_of_their_own_on_several_connections() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = builder(vhost.url()).connections(3).connect().await.unwrap();
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
    let list = format!("length(rabbit_amqqueue:list(<<\"{}\">>))", vhost.name());
    assert_eq!(vhost.rabbit().eval(&list).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_connection_takes_over_what_belonged_to_one_that_is_lost() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    let cluster = builder(vhost.url_via(proxy.addr())).connections(2);
    let cluster = cluster.connect().await.unwrap();
    let topology = Topology::new().queue(Queue::temporary("mine"));
    let declaration = topology.declare(&cluster).await.unwrap();
    let all = "all connections";
    eventually(all, SOON, async || vhost.connections().await.len() == 4).await;
    let mut name = declaration.watch_queue_name("mine").unwrap();
    let old = declaration.queue_name("mine").unwrap();
    // Nobody comes in any more, so that it must be one that is there.
    proxy.refuse().await;
    let close = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"{old}\">>)), \
         rabbit_networking:close_connection(amqqueue:get_exclusive_owner(Q), \"test\")",
        vhost.name()
    );
    rabbit.eval(&close).await;
    let new = name.wait_for(|name| name.as_ref().is_some_and(|name| *name != old));
    let new = within("another name", SOON, new).await.unwrap().clone();
    assert!(vhost.has_queue(&new.unwrap()).await);
}

/// A queue that somebody declared otherwise during an outage: nobody was told, and publishes went
/// on into something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_at_recovery_makes_itself_known_and_so_does_its_end() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_that_another_has_is_taken_when_it_is_free() {
    let vhost = Rabbit::shared().await.vhost().await;
    let first = connect(vhost.url()).await;
    let second = connect(vhost.url()).await;
    let topology = Topology::new().queue(Queue::exclusive("only"));
    let held = topology.declare(&first).await.unwrap();
    let waiting = topology.clone();
    let error = waiting.declare(&second).await.unwrap_err();
    assert!(
        matches!(error.kind, TopologyErrorKind::Locked(_)),
        "{error}"
    );
    assert!(!error.is_final());
    drop(held);
    first.close_within(SOON).await;
    let declared = eventually_some("the queue", SOON, async || {
        waiting.declare(&second).await.ok()
    });
    assert!(declared.await.state().is_declared());
}

/// The broker closes the connection over a kind of exchange that it does not know; declared again
/// on every connection, it would let none live.
#[tokio::test(flavor = "multi_thread")]
async fn what_costs_a_connection_costs_one_only() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    proxy.refuse().await;
    let cluster = builder(vhost.url_via(proxy.addr()))
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

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_without_a_broker_ends_in_time_and_names_what_it_was_about() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    proxy.refuse().await;
    let limit = Duration::from_secs(1);
    let cluster = builder(vhost.url_via(proxy.addr()))
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
async fn a_blocked_broker_takes_declarations() {
    let rabbit = Rabbit::start().await;
    let cluster = connect(rabbit.url()).await;
    rabbit.set_memory_alarm().await;
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
    rabbit.clear_memory_alarm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_found_by_name_before_anything_is_sent() {
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = connect(vhost.url()).await;
    let long = "n".repeat(256);
    let q = || {
        Topology::new()
            .queue(Queue::durable("first"))
            .queue(Queue::durable("q"))
    };
    let queue = |queue| Topology::new().queue(Queue::durable("first")).queue(queue);
    let mut nested = AMQPValue::Boolean(true);
    for _ in 0..100 {
        nested = AMQPValue::FieldArray(vec![nested].into());
    }
    let cases = [
        (queue(Queue::durable("amq.mine")), r#"queue "amq.mine""#),
        (queue(Queue::durable(&*long)), "256 bytes"),
        (queue(Queue::durable("")), "a temporary one"),
        (queue(Queue::temporary("")), "label"),
        (
            queue(Queue::transient("t").quorum()),
            r#"queue "t": a quorum"#,
        ),
        (queue(Queue::durable("first")), "twice"),
        (
            queue(Queue::durable("q").argument(&*long, 1)),
            "argument has 256",
        ),
        (
            queue(Queue::durable("q").max_length(u64::MAX)),
            r#""x-max-length""#,
        ),
        (
            queue(Queue::durable("q").message_ttl(Duration::MAX)),
            "49 days",
        ),
        (
            queue(Queue::durable("q").argument("s", AMQPValue::ShortString("x".into()))),
            r#""s""#,
        ),
        (
            queue(Queue::durable("q").argument("deep", nested)),
            "within each other",
        ),
        (
            queue(Queue::durable("q").argument("fat", "x".repeat(70_000))),
            "bytes, more than",
        ),
        (q().exchange(Exchange::direct("")), "default exchange"),
        (q().exchange(Exchange::direct("amq.direct")), "reserved"),
        (q().exchange(Exchange::custom("e", &*long)), "its kind"),
        (q().bind("q", "", "k"), "default exchange"),
        (q().bind_exchange("", "amq.direct", "k"), "default exchange"),
        (q().bind("", "amq.direct", "k"), "needs a queue"),
        (q().bind("q", "amq.direct", &*long), "its key"),
        (
            q().bind("late", "amq.direct", "k")
                .queue(Queue::temporary("late")),
            "comes before",
        ),
    ];
    for (topology, word) in cases {
        let error = cluster.declare(&topology).await.unwrap_err();
        assert!(
            matches!(error.kind, TopologyErrorKind::Invalid(_)),
            "{error}"
        );
        assert!(error.is_final());
        let text = error.to_string();
        assert!(text.contains(word), "{word}: {text}");
        assert!(text.len() < 300, "{text}");
    }
    assert!(!vhost.has_queue("first").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_is_dropped_is_not_repeated() {
    let vhost = Rabbit::shared().await.vhost().await;
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
