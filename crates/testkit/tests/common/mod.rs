//! A small AMQP client for the tests.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use wharf_testkit::rabbit::SHARED_NODE;
use wharf_testkit::wait::within;

/// Long for anything on loopback, also on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) async fn connect(url: &str) -> Connection {
    let properties = ConnectionProperties::default().with_connection_name("a test".into());
    let connected = within("a connection", BOUND, Connection::connect(url, properties)).await;
    connected.unwrap_or_else(|error| panic!("{url}: {error}"))
}

pub(crate) async fn declare_durable(client: &Connection, queue: &str) {
    declare(client, queue, FieldTable::default()).await;
}

pub(crate) async fn declare_quorum(client: &Connection, queue: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    declare(client, queue, arguments).await;
}

async fn declare(client: &Connection, queue: &str, arguments: FieldTable) {
    let channel = client.create_channel().await.unwrap();
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .unwrap();
}

/// Publishes persistent messages and waits until each is confirmed.
pub(crate) async fn publish(client: &Connection, queue: &str, count: u32) {
    let channel = client.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    for _ in 0..count {
        let publish = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            b"body",
            persistent.clone(),
        );
        let confirmed = within("a confirm", BOUND, async { publish.await?.await }).await;
        assert!(confirmed.unwrap().is_ack());
    }
}

pub(crate) async fn depth_seen_by_a_client(client: &Connection, queue: &str) -> u32 {
    let channel = client.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await;
    declared.unwrap().message_count()
}

/// A program that runs a node until its input ends, and the folder of that node.
pub(crate) fn owner_of_a_node() -> (Child, String) {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_wharf-rabbit"))
        .arg("run")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(owner.stdout.take().unwrap()).lines();
    let folder = said.find_map(|line| {
        let line = line.unwrap();
        Some(
            line.strip_prefix(SHARED_NODE)?
                .strip_prefix('=')?
                .to_owned(),
        )
    });
    (owner, folder.expect("the owner names its node's folder"))
}
