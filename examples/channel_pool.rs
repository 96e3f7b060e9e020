//! Everything that lapin can do with a channel, on channels that are borrowed.
//!
//! Thirty-two tasks share four channels: each borrows one, publishes a message with a confirm and
//! fetches one from the same queue. In the end every message was confirmed and fetched, and there
//! were no more channels than that.
//!
//! ```sh
//! cargo run --example channel_pool
//! ```

mod broker;

use std::{error::Error, time::Duration};

use tokio::task::JoinSet;
use wharf_amqp::{
    Cluster,
    lapin::{
        BasicProperties,
        options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions},
    },
};

const TASKS: u64 = 32;
const ROUNDS: u64 = 50;
const CHANNELS: usize = 4;
const QUEUE: &str = "example.channel_pool";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let cluster = Cluster::builder([&*broker.url])
        .channels_per_connection(CHANNELS)
        .connect()
        .await?;
    declare(&cluster)
        .await
        .map_err(|error| error as Box<dyn Error>)?;

    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(work(cluster.clone()));
    }
    let (mut confirmed, mut fetched) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (more_confirmed, more_fetched) = done?.map_err(|error| error as Box<dyn Error>)?;
        confirmed += more_confirmed;
        fetched += more_fetched;
    }

    let pool = cluster.confirm_channels().status();
    println!("{TASKS} tasks: {confirmed} messages confirmed, {fetched} fetched");
    println!("channels opened: {}", pool.totals.created);
    if (confirmed, fetched) != (TASKS * ROUNDS, TASKS * ROUNDS) {
        return Err("messages are missing".into());
    }
    if pool.totals.created > CHANNELS as u64 {
        return Err("there were more channels than allowed".into());
    }
    let channel = cluster.channels().get().await?;
    channel
        .queue_delete(QUEUE.into(), Default::default())
        .await?;
    drop(channel);
    cluster.close_within(Duration::from_secs(5)).await;
    Ok(())
}

async fn declare(cluster: &Cluster) -> Outcome<()> {
    let channel = cluster.channels().get().await?;
    let queue = QueueDeclareOptions::default();
    channel
        .queue_declare(QUEUE.into(), queue, Default::default())
        .await?;
    channel
        .queue_purge(QUEUE.into(), Default::default())
        .await?;
    Ok(())
}

async fn work(cluster: Cluster) -> Outcome<(u64, u64)> {
    let (mut confirmed, mut fetched) = (0, 0);
    for _ in 0..ROUNDS {
        // The channel is this task's alone until the end of the round, so that the confirm that
        // comes is that of its own message.
        let channel = cluster.confirm_channels().get().await?;
        let sent = channel.basic_publish(
            "".into(),
            QUEUE.into(),
            BasicPublishOptions::default(),
            b"hello",
            BasicProperties::default(),
        );
        confirmed += u64::from(sent.await?.await?.is_ack());
        // There is one at least for everybody who has put one in.
        let message = channel.basic_get(QUEUE.into(), BasicGetOptions::default());
        if let Some(message) = message.await? {
            message.ack(BasicAckOptions::default()).await?;
            fetched += 1;
        }
    }
    Ok((confirmed, fetched))
}
