//! The node that tests share: each has a vhost for itself, and nobody can break it for the others.

mod common;

use common::{BOUND, connect, declare_durable, publish};
use lapin::options::{BasicConsumeOptions, BasicGetOptions};
use lapin::types::FieldTable;
use wharf_testkit::rabbit::Rabbit;
use wharf_testkit::wait::eventually;

#[tokio::test]
async fn all_tests_of_a_process_get_the_same_node() {
    let (one, other) = tokio::join!(Rabbit::shared(), Rabbit::shared());
    assert_eq!(one.pid(), other.pid());
    assert!(one.pid().is_some());
}

#[tokio::test]
async fn a_shared_node_refuses_faults_that_others_would_feel() {
    let rabbit = Rabbit::shared().await;
    let killing = tokio::spawn(async move { rabbit.kill().await });
    let refusal = killing.await.unwrap_err().into_panic();
    let refusal = refusal.downcast_ref::<String>().unwrap();
    assert!(refusal.contains("use `Rabbit::start`"), "{refusal}");
}

#[tokio::test]
async fn a_value_comes_back_as_erlang_prints_it() {
    let rabbit = Rabbit::shared().await;
    assert_eq!(rabbit.eval("1 + 1").await, "2");
    assert_eq!(
        rabbit.eval(r#"{ok, [<<"a\"b">>, [228, 246]]}"#).await,
        r#"{ok,[<<"a\"b">>,"äö"]}"#
    );
    assert_eq!(rabbit.eval("[]").await, "[]");
    let long = rabbit.eval("lists:duplicate(200000, $a)").await;
    assert_eq!(long.replace(['"', '\n', ' '], "").len(), 200_000);
}

#[tokio::test]
async fn an_expression_that_fails_is_shown_with_its_reason() {
    let rabbit = Rabbit::shared().await;
    for (expression, reason) in [
        ("no:such()", "undef"),
        ("1 = 2", "badmatch"),
        ("(", "syntax"),
    ] {
        let rabbit = rabbit.clone();
        let failing = tokio::spawn(async move { rabbit.eval(expression).await });
        let panic = failing.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains(expression) && message.contains(reason),
            "{message}"
        );
    }
}

#[tokio::test]
async fn vhosts_do_not_see_each_other() {
    let rabbit = Rabbit::shared().await;
    let (one, other) = tokio::join!(rabbit.vhost(), rabbit.vhost());
    let (client, neighbour) = (connect(&one.url()).await, connect(&other.url()).await);
    declare_durable(&client, "q").await;
    publish(&client, "q", 3).await;

    assert_eq!(one.queue_depth("q").await, 3);
    assert!(one.has_queue("q").await);
    assert!(!other.has_queue("q").await);
    assert_eq!(other.connections().await.len(), 1);

    // A fault of one is not felt in the other.
    one.close_all_connections("a test").await;
    eventually("the client knows", BOUND, async || {
        !client.status().connected()
    })
    .await;
    declare_durable(&neighbour, "theirs").await;
}

#[tokio::test]
async fn a_vhost_is_gone_when_its_test_is_done() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let name = vhost.name().to_owned();
    let client = connect(&vhost.url()).await;
    let exists = format!("rabbit_vhost:exists(<<\"{name}\">>)");
    assert_eq!(rabbit.eval(&exists).await, "true");

    drop(vhost);

    eventually("the vhost is gone", BOUND, async || {
        rabbit.eval(&exists).await == "false"
    })
    .await;
    eventually("its client knows", BOUND, async || {
        !client.status().connected()
    })
    .await;
}

#[tokio::test]
async fn queues_tell_what_they_hold_and_who_consumes() {
    let vhost = Rabbit::shared().await.vhost().await;
    let client = connect(&vhost.url()).await;
    declare_durable(&client, "q").await;
    publish(&client, "q", 5).await;
    let channel = client.create_channel().await.unwrap();
    let got = channel
        .basic_get("q".into(), BasicGetOptions::default())
        .await
        .unwrap();
    assert!(got.is_some());

    assert_eq!(vhost.queue_depth("q").await, 4);
    assert_eq!(vhost.queue_info("q", "messages_unacknowledged").await, "1");
    assert_eq!(vhost.consumers("q").await, 0);
    assert_eq!(vhost.leader("q").await, "rabbit@localhost");

    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume("q".into(), "me".into(), options, FieldTable::default());
    let _consumer = consuming.await.unwrap();
    assert_eq!(vhost.consumers("q").await, 1);

    vhost.delete_queue("q").await;
    assert!(!vhost.has_queue("q").await);
}

#[tokio::test]
async fn connections_are_told_by_name_address_and_channels() {
    let vhost = Rabbit::shared().await.vhost().await;
    assert_eq!(vhost.connections().await, []);
    let client = connect(&vhost.url()).await;
    let _channels = (client.create_channel().await, client.create_channel().await);

    let connections = vhost.connections().await;
    let [connection] = &connections[..] else {
        panic!("{connections:?}");
    };
    assert_eq!(connection.name, "a test");
    assert_eq!(connection.channels, 2);
    assert_eq!(connection.state, "running");
    assert!(connection.peer.ip().is_loopback());
}

#[tokio::test]
async fn a_user_may_enter_where_permitted_until_deleted() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    rabbit.add_user("alice", "secret").await;
    let url = vhost.url_of("alice", "secret", rabbit.amqp_addr());
    assert!(attempt(&url).await.is_err());

    vhost.permit("alice").await;
    attempt(&url).await.unwrap();

    rabbit.delete_user("alice").await;
    assert!(attempt(&url).await.is_err());
}

async fn attempt(url: &str) -> lapin::Result<lapin::Connection> {
    lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await
}
