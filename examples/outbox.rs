//! Messages that are accepted while nobody is there to take them.
//!
//! The broker cannot be reached. A service accepts orders all the same, in a journal on disk, and
//! stops. Started again, it finds them, accepts more, and when the broker can be reached everything
//! is delivered: in order, and each under the id that it had from the beginning.
//!
//! ```sh
//! cargo run --example outbox
//! ```

mod broker;

use std::{error::Error, net::SocketAddr, path::Path, time::Duration};

use wharf_amqp::{
    Cluster, Message, MessageCodec, Publisher,
    lapin::{
        options::{BasicGetOptions, QueueDeleteOptions},
        uri::AMQPUri,
    },
    outbox::journal::Disk,
    topology::{Queue, Topology},
};
use wharf_testkit::proxy::Proxy;

const QUEUE: &str = "example.outbox";
const ORDERS: u32 = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let direct = Cluster::builder([&*broker.url]).connect().await?;
    delete(&direct).await?;
    let mut uri: AMQPUri = broker.url.parse()?;
    let address = (uri.authority.host.clone(), uri.authority.port);
    let address = tokio::net::lookup_host(address).await?.next();
    let proxy = Proxy::to(address.ok_or("the broker has no address")?).await;
    (uri.authority.host, uri.authority.port) = of(proxy.addr());
    proxy.refuse().await;

    let folder = tempfile::tempdir()?;
    let journal = folder.path().join("orders.outbox");

    let first = service(&uri.to_string(), &journal)?;
    for number in 0..ORDERS / 2 {
        // Accepted means that it is on disk. Nobody waits for word of it here, so no ticket is asked for.
        first.outbox().post(order(number)?).await?;
    }
    let left = first.outbox().close_within(Duration::ZERO).await;
    println!(
        "the first process ends, with {} orders on disk",
        left.stored
    );
    // The file is another's to open now, also if the disk took its time.
    first.outbox().close().await;
    drop(first);

    let second = service(&uri.to_string(), &journal)?;
    let found = second.outbox().status().totals.found;
    println!("the second one finds {found}");
    let mut tickets = Vec::new();
    for number in ORDERS / 2..ORDERS {
        tickets.push(second.enqueue(order(number)?).await?);
    }
    println!(
        "{} wait, the broker is away",
        second.outbox().status().depth
    );

    proxy.pass().await;
    for ticket in tickets {
        // Only a receipt that says that the broker has it.
        ticket.await?;
    }
    // Also those that nobody has a ticket for.
    second.outbox().close().await;
    second.close_within(Duration::from_secs(5)).await?;

    let arrived = take(&direct).await?;
    delete(&direct).await?;
    println!("{} orders arrived, in order", arrived.len());
    if !arrived.into_iter().eq(0..ORDERS) {
        return Err("it is not as it should be".into());
    }
    Ok(())
}

/// What a process has: a publisher whose outbox is on disk. It does not wait for the broker.
fn service(url: &str, journal: &Path) -> Result<Publisher, Box<dyn Error>> {
    let cluster = Cluster::builder([url]).connect_lazily()?;
    let topology = Topology::new().queue(Queue::durable(QUEUE));
    let publisher = Publisher::builder(&cluster)
        .topology(topology)
        .build_lazily()?;
    let journal = Disk::open(journal)?;
    Ok(publisher.with_outbox(|outbox| outbox.journal(journal, MessageCodec))?)
}

fn order(number: u32) -> Result<Message, Box<dyn Error>> {
    Ok(Message::json(&number)?.to("", QUEUE).persistent())
}

/// The numbers in the queue, without the copies that consumers know by their ids.
async fn take(cluster: &Cluster) -> Result<Vec<u32>, Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let (mut numbers, mut seen) = (Vec::new(), std::collections::HashSet::new());
    loop {
        let options = BasicGetOptions { no_ack: true };
        let Some(got) = channel.basic_get(QUEUE.into(), options).await? else {
            return Ok(numbers);
        };
        if seen.insert(got.delivery.properties.message_id().clone()) {
            numbers.push(serde_json::from_slice(&got.delivery.data)?);
        }
    }
}

/// With whatever an earlier run may have left.
async fn delete(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let deleted = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    deleted.await?;
    Ok(())
}

fn of(addr: SocketAddr) -> (String, u16) {
    (addr.ip().to_string(), addr.port())
}
