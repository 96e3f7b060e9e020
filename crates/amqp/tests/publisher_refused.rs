//! Messages that the broker closes a channel for: their callers are told, and whoever published
//! besides does not feel it.

mod common;

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use wharf_amqp::{Message, PublishError, Publisher, Receipt, lapin};
use wharf_testkit::{
    checker::Checker,
    wait::{eventually, within},
};

use common::{
    SOON, Stage, assert_books, none_in_flight, numbered, publish, publish_at_once, quick,
    receive_all, tell, warm,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_costs_the_offender_alone() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Checker::default();
    let each = (0..500).map(|id| {
        let (publisher, checker) = (&publisher, &checker);
        async move {
            if id == 250 {
                checker.sent(id);
                let outcome = publisher.publish(numbered(id).to("missing", "q")).await;
                tell(checker, id, &outcome);
                let Err(PublishError::Refused { cause, .. }) = outcome else {
                    panic!("{outcome:?}");
                };
                assert!(cause.to_string().contains("'missing'"), "{cause}");
            } else {
                assert!(
                    publish(publisher, checker, id)
                        .await
                        .unwrap()
                        .is_confirmed()
                );
            }
        }
    });
    within("every verdict", SOON, join_all(each)).await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.rejected), (499, 1));
    assert_books(&publisher, &verdict).await;
}

/// Each of them costs a channel, with whatever is open on it, and lapin never uses a channel's
/// number again.
#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_missing_exchanges_in_a_row_leave_no_channel_behind() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Checker::default();
    for offence in 0..300 {
        let offender = publisher.publish(Message::new("x").to("missing", "q"));
        let neighbours = (0..5).map(|n| publish(&publisher, &checker, offence * 5 + n));
        let both = async { tokio::join!(offender, join_all(neighbours)) };
        let (offender, neighbours) = within("the verdicts", SOON, both).await;
        let refused = matches!(offender, Err(PublishError::Refused { .. }));
        assert!(refused, "{offender:?}");
        for neighbour in neighbours {
            assert!(neighbour.unwrap().is_confirmed());
        }
    }
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    let stats = publisher.stats();
    assert_eq!((stats.confirmed, stats.failed), (1500, 300), "{stats:?}");
    assert_eq!(stats.published, 1800, "{stats:?}");
    none_in_flight(&publisher).await;
    eventually("one connection with few channels", SOON, async || {
        let connections = stage.publishing().await;
        connections.len() == 1 && connections[0].channels <= 4
    })
    .await;
    warm(&publisher, &checker, 1500).await;
}

/// The broker names the one exchange that it closed the channel for, so everything else that was
/// open is beyond suspicion, however often that happens.
#[tokio::test(flavor = "multi_thread")]
async fn ten_missing_exchanges_at_once_leave_no_neighbour_in_doubt() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Checker::default();
    warm(&publisher, &checker, 0).await;
    let each = (1..501).map(|id| {
        let (publisher, checker) = (&publisher, &checker);
        async move {
            if id % 50 == 25 {
                let message = Message::new("x").to(format!("missing-{id}"), "q");
                let outcome = publisher.publish(message).await;
                // It was open when another's exchange was found missing.
                let doubtful = matches!(outcome, Ok(Receipt::Unknown { .. }));
                let refused = matches!(outcome, Err(PublishError::Refused { .. }));
                assert!(refused || doubtful, "{outcome:?}");
            } else {
                let outcome = publish(publisher, checker, id).await;
                assert!(
                    outcome.as_ref().unwrap().is_confirmed(),
                    "{id}: {outcome:?}"
                );
            }
        }
    });
    within("every verdict", SOON, join_all(each)).await;
    let verdict = stage.verdict(&checker).await;
    verdict.assert_all_resolved_once();
    assert_eq!(verdict.confirmed, 1 + 490);
    none_in_flight(&publisher).await;
}

/// The broker cuts what it says at 255 bytes, so a long name is not in it whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_with_a_long_name_costs_the_offender_alone() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    for length in [216, 217, 218, 227, 228, 255] {
        let offender = publisher.publish(Message::new("x").to("n".repeat(length), "q"));
        let neighbours = (0..20).map(|id| publisher.publish(numbered(id)));
        let both = async { tokio::join!(offender, join_all(neighbours)) };
        let (offender, neighbours) = within("the verdicts", SOON, both).await;
        let refused = matches!(offender, Err(PublishError::Refused { .. }));
        assert!(refused, "{length}: {offender:?}");
        for neighbour in neighbours {
            assert!(neighbour.unwrap().is_confirmed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_exchange_takes_nothing_from_a_publisher() {
    let stage = Stage::on_the_shared_node().await;
    let channel = stage.direct.channels().get().await.unwrap();
    let internal = ExchangeDeclareOptions {
        internal: true,
        ..Default::default()
    };
    let kind = ExchangeKind::Fanout;
    let declared = channel.exchange_declare("inner".into(), kind, internal, FieldTable::default());
    declared.await.unwrap();
    let publisher = Publisher::builder(&stage.direct).build().await.unwrap();
    let message = Message::new("x").to("inner", "q");
    let refused = within("a verdict", SOON, publisher.publish(message)).await;
    assert!(
        matches!(refused, Err(PublishError::Refused { .. })),
        "{refused:?}"
    );
}

/// A copy that cannot be routed any more says nothing of the one before, which was consumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_back_after_the_first_was_received() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let checker = Arc::new(Checker::default());
    warm(&publisher, &checker, 0).await;
    stage.proxy.drop_replies();
    let publishing = publish_at_once(&publisher, &checker, 1..2);
    eventually("there", SOON, async || {
        stage.vhost.queue_depth("q").await == 2
    })
    .await;
    receive_all(&stage.direct, "q", &checker).await;
    stage.vhost.delete_queue("q").await;
    // It may not have been confirmed yet.
    stage.proxy.reset();
    stage.proxy.pass().await;
    within("verdict", SOON, publishing).await.unwrap();
    checker.verdict().assert_exact();
    assert_eq!(
        (publisher.stats().returned, publisher.stats().unknown),
        (0, 1)
    );
}

/// Permissions.
mod rabbitmq_only {
    use super::*;

    /// The default exchange is `amq.default` to whoever hands out permissions.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_exchange_that_may_not_be_used_costs_the_offender_alone() {
        let stage = Stage::on_the_shared_node().await;
        let (rabbit, vhost) = (stage.vhost.rabbit(), stage.vhost.name());
        // A name that no other run has.
        let user = vhost;
        rabbit.add_user(user, "secret").await;
        rabbit
        .eval(&format!(
            "rabbit_auth_backend_internal:set_permissions(\
             <<\"{user}\">>, <<\"{vhost}\">>, <<\"\">>, <<\"^amq.topic$\">>, <<\"\">>, <<\"test\">>)"
        ))
        .await;
        let url = stage.vhost.url_of(user, "secret", rabbit.amqp_addr());
        let cluster = quick(&[url]).connect().await.unwrap();
        let publisher = Publisher::builder(&cluster).build().await.unwrap();
        for exchange in ["amq.direct", ""] {
            let forbidden = publisher.publish(Message::new("x").to(exchange, "q"));
            let neighbours = (0..20).map(|_| {
                let message = Message::new("x").to("amq.topic", "q").mandatory(false);
                publisher.publish(message)
            });
            let both = async { tokio::join!(forbidden, join_all(neighbours)) };
            let (forbidden, neighbours) = within("the verdicts", SOON, both).await;
            for neighbour in neighbours {
                assert!(neighbour.as_ref().unwrap().is_confirmed(), "{neighbour:?}");
            }
            let Err(PublishError::Refused { cause, .. }) = forbidden else {
                panic!("'{exchange}': {forbidden:?}");
            };
            assert!(cause.to_string().contains("refused"), "{cause}");
        }
        rabbit.delete_user(user).await;
    }

    /// The broker names the topic and its exchange; whoever publishes to the same exchange with another
    /// key has done nothing wrong.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_may_not_be_used_costs_the_offender_alone() {
        let stage = Stage::on_the_shared_node().await;
        let (rabbit, vhost) = (stage.vhost.rabbit(), stage.vhost.name());
        // A name that no other run has.
        let user = vhost;
        stage.vhost.add_user(user, "secret").await;
        rabbit
        .eval(&format!(
            "rabbit_auth_backend_internal:set_topic_permissions(\
             <<\"{user}\">>, <<\"{vhost}\">>, <<\"amq.topic\">>, <<\"^mine\">>, <<\"\">>, <<\"test\">>)"
        ))
        .await;
        let url = stage.vhost.url_of(user, "secret", rabbit.amqp_addr());
        let cluster = quick(&[url]).connect().await.unwrap();
        let publisher = Publisher::builder(&cluster).build().await.unwrap();
        let to = |key: &str| {
            let message = Message::new("x").to("amq.topic", key).mandatory(false);
            publisher.publish(message)
        };
        let before = (0..20).map(|_| to("mine.1"));
        let after = (0..20).map(|_| to("mine.2"));
        let all = async { tokio::join!(join_all(before), to("yours"), join_all(after)) };
        let (before, forbidden, after) = within("the verdicts", SOON, all).await;
        for neighbour in before.into_iter().chain(after) {
            assert!(neighbour.as_ref().unwrap().is_confirmed(), "{neighbour:?}");
        }
        let refused = matches!(forbidden, Err(PublishError::Refused { .. }));
        assert!(refused, "{forbidden:?}");
        rabbit.delete_user(user).await;
    }
}
