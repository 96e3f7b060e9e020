//! Publishing, and what becomes of each message.
//!
//! Orders go out all at once. Europe's are confirmed. There is little room for America's, so that
//! most of those are rejected. Nobody takes the one from Mars, so that it comes back. In the end the
//! queues hold exactly what was confirmed.
//!
//! ```sh
//! cargo run --example publish
//! ```

mod broker;

use std::{error::Error, time::Duration};

use serde::Serialize;
use tokio::task::JoinSet;
use wharf_amqp::{
    Cluster, Message, PublishError, Publisher, Receipt, Topology,
    lapin::options::QueueDeleteOptions,
    topology::{Exchange, Queue},
};

const EXCHANGE: &str = "example.publish";
const EUROPE: &str = "example.publish.eu";
const AMERICA: &str = "example.publish.us";
const ORDERS: u32 = 200;
const ROOM: u32 = 10;

#[derive(Serialize)]
struct Order {
    number: u32,
    place: &'static str,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let cluster = Cluster::builder([&*broker.url]).connect().await?;
    // What an earlier run may have left.
    delete(&cluster, EUROPE).await?;
    delete(&cluster, AMERICA).await?;
    let topology = Topology::new()
        .exchange(Exchange::topic(EXCHANGE).durable())
        .queue(Queue::durable(EUROPE))
        .queue(
            Queue::durable(AMERICA)
                .max_length(u64::from(ROOM))
                .reject_publish(),
        )
        .bind(EUROPE, EXCHANGE, "order.eu")
        .bind(AMERICA, EXCHANGE, "order.us");
    // It is declared first, and again on every new connection.
    let publisher = Publisher::builder(&cluster)
        .topology(topology)
        .deadline(Duration::from_secs(20))
        .build()
        .await?;

    let europe = (0..ORDERS).map(|number| (number, "eu"));
    let america = (0..ORDERS).map(|number| (number, "us"));
    let orders = europe.chain(america).chain([(0, "mars")]);
    let mut tasks = JoinSet::new();
    for (number, place) in orders {
        // As many as there are: the publisher's window says how many are under way at a time.
        tasks.spawn(publish(publisher.clone(), Order { number, place }));
    }
    let (mut confirmed, mut returned, mut rejected) = (0, 0, 0);
    while let Some(outcome) = tasks.join_next().await {
        match outcome? {
            // The broker has it: RabbitMQ on disk, as the queues are durable and the messages
            // persistent; the embedded one for as long as it lives.
            Ok(Receipt::Confirmed { .. }) => confirmed += 1,
            // No binding fits. It is in no queue, and would not be on a second try.
            Ok(Receipt::Returned { text, .. }) => {
                println!("came back: {text}");
                returned += 1;
            }
            // A queue that it was routed to is full. There may be room later.
            Ok(Receipt::Rejected { .. }) => rejected += 1,
            // Its deadline passed without a verdict: it may have arrived. Published again under the
            // same id, it may be there twice, which consumers can tell by that id.
            Ok(Receipt::Unknown { id, .. }) => return Err(format!("no verdict for {id}").into()),
            Ok(other) => return Err(format!("{other:?}").into()),
            // No queue has it, and why is in the error; `Closed` and `WindowFull` give it back.
            Err(error) => return Err(error.into()),
        }
    }
    publisher.close_within(Duration::from_secs(5)).await?;
    println!("{confirmed} confirmed, {rejected} rejected, {returned} returned");

    let there = delete(&cluster, EUROPE).await? + delete(&cluster, AMERICA).await?;
    let channel = cluster.channels().get().await?;
    let gone = channel.exchange_delete(EXCHANGE.into(), Default::default());
    gone.await?;
    drop(channel);
    cluster.close_within(Duration::from_secs(5)).await;
    println!("{there} were in the queues");
    if (confirmed, rejected, returned) != (ORDERS + ROOM, ORDERS - ROOM, 1) || there != confirmed {
        return Err("it is not as it should be".into());
    }
    Ok(())
}

async fn publish(publisher: Publisher, order: Order) -> Result<Receipt, PublishError> {
    let message = Message::json(&order)?
        .to(EXCHANGE, format!("order.{}", order.place))
        .id(format!("{}-{}", order.place, order.number))
        .persistent();
    publisher.publish(message).await
}

/// How many messages were in it.
async fn delete(cluster: &Cluster, queue: &str) -> Result<u32, Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let delete = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    Ok(delete.await?)
}
