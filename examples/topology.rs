//! Exchanges, queues and bindings that are there whenever a connection is used.
//!
//! A topology is declared, a queue of it is deleted behind its back, and declaring once more brings
//! that one back and leaves the others as they are. Then the same queue is asked for with another
//! property, and the error says which it was.
//!
//! ```sh
//! cargo run --example topology
//! ```

mod broker;

use std::{error::Error, time::Duration};

use wharf_amqp::{
    Cluster, Topology,
    lapin::options::{QueueDeclareOptions, QueueDeleteOptions},
    topology::{Exchange, Queue, TopologyErrorKind},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let cluster = Cluster::builder([&*broker.url]).connect().await?;

    let topology = Topology::new()
        .exchange(Exchange::topic("example.orders").durable())
        .exchange(Exchange::fanout("example.dead").durable())
        .queue(
            Queue::durable("example.orders.eu")
                .dead_letter_to("example.dead", None)
                .message_ttl(Duration::from_secs(3600))
                .max_length(100_000)
                .reject_publish(),
        )
        .queue(Queue::temporary("audit"))
        .bind("example.orders.eu", "example.orders", "eu.#")
        .bind("audit", "example.orders", "#");
    let declaration = cluster.declare(&topology).await?;
    let first = declaration
        .queue_name("audit")
        .ok_or("no temporary queue")?;
    println!("declared; the broker calls the temporary queue {first}");

    delete(&cluster, "example.orders.eu").await?;
    println!("deleted example.orders.eu; declaring once more brings it back");
    declaration.declare().await?;
    let messages = look(&cluster, "example.orders.eu").await?;
    println!("example.orders.eu is there, with {messages} messages");
    let kept = declaration.queue_name("audit");
    if kept.as_deref() != Some(&*first) {
        return Err("the temporary queue was not kept".into());
    }

    let other = Topology::new().queue(Queue::durable("example.orders.eu").max_length(5));
    match cluster.declare(&other).await {
        Err(error) if matches!(error.kind, TopologyErrorKind::Mismatch(_)) => {
            println!("as it should, this fails: {error}");
        }
        other => return Err(format!("a mismatch went unnoticed: {other:?}").into()),
    }

    delete(&cluster, "example.orders.eu").await?;
    let channel = cluster.channels().get().await?;
    for exchange in ["example.orders", "example.dead"] {
        channel
            .exchange_delete(exchange.into(), Default::default())
            .await?;
    }
    drop(channel);
    cluster.close_within(Duration::from_secs(5)).await;
    Ok(())
}

async fn delete(cluster: &Cluster, queue: &str) -> Result<(), Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}

/// How many messages are in a queue; an error if there is no such queue.
async fn look(cluster: &Cluster, queue: &str) -> Result<u32, Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let queue = channel
        .queue_declare(queue.into(), passive, Default::default())
        .await?;
    Ok(queue.message_count())
}
