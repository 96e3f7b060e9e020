//! Topologies: everything is declared as it was said, and what is refused says its name.

mod common;

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use wharf_amqp::{
    Topology,
    topology::{Binding, Entity, Exchange, Queue, TopologyErrorKind},
};
use wharf_testkit::wait::{eventually, eventually_some};

use common::{
    SOON,
    broker::{Node, Vhost},
    connect, is_routed,
};

fn header(name: &str, value: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(value.into()));
    table
}

/// A declaration that the broker refuses closes its channel, and with it every confirm that is open
/// on it: half of a neighbour's confirms were lost to one wrong exchange.
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_names_the_entity_and_costs_no_neighbour_its_channel() {
    let vhost = Node::shared().await.vhost().await;
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
    let vhost = Node::shared().await.vhost().await;
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
async fn a_temporary_queue_that_was_deleted_is_replaced_and_one_that_is_there_is_kept() {
    let vhost = Node::shared().await.vhost().await;
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
async fn an_exclusive_queue_that_another_has_is_taken_when_it_is_free() {
    let vhost = Node::shared().await.vhost().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_found_by_name_before_anything_is_sent() {
    let vhost = Node::shared().await.vhost().await;
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

/// Quorum queues, permissions, and the node's own words on what there is.
mod rabbitmq_only {
    use super::*;

    /// The node's own words on the exchanges and bindings of a virtual host.
    async fn tell(vhost: &Vhost, module: &str) -> String {
        let vhost_name = vhost.name();
        let list = format!("{module}:list(<<\"{vhost_name}\">>)");
        vhost.rabbit().eval(&list).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_kind_of_thing_is_declared_as_it_was_said() {
        let vhost = Node::shared().await.vhost().await;
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

        let rabbit_vhost = vhost.of_rabbitmq();
        let arguments = rabbit_vhost.queue_info("orders.eu", "arguments").await;
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
        let arguments = rabbit_vhost.queue_info("parts.red", "arguments").await;
        for said in [
            "60000",
            "600000",
            "1048576",
            "max-priority",
            "single-active",
        ] {
            assert!(arguments.contains(said), "{said}: {arguments}");
        }
        assert_eq!(
            rabbit_vhost.queue_info("orders.eu", "durable").await,
            "true"
        );
        assert_eq!(
            rabbit_vhost.queue_info("parts.red", "durable").await,
            "false"
        );
        assert_ne!(
            rabbit_vhost
                .queue_info("mine", "exclusive_consumer_pid")
                .await,
            ""
        );
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

    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_who_may_not_configure_is_refused_by_name() {
        let vhost = Node::shared().await.vhost().await;
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
}
