//! Consuming: with a handler, and as a stream.
//!
//! Jobs wait in a queue while the consumer pauses. Then a handler does them: it acknowledges what it
//! has done, has every tenth delivered once more, and rejects what is no job, which ends up among the
//! dead letters. Those are taken from a stream. Ctrl-C ends it in order, and so does the last job.
//!
//! ```sh
//! cargo run --example consume
//! ```

mod broker;

use std::{
    collections::HashSet,
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::timeout};
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Topology,
    consumer::{Delivery, Outcome},
    topology::Queue,
};

const JOBS: &str = "example.consume";
const DEAD: &str = "example.consume.dead";
const COUNT: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Job {
    number: u32,
}

#[derive(Default)]
struct Work {
    done: Mutex<HashSet<u32>>,
    is_complete: Notify,
}

impl Work {
    /// Delivery is at least once: the same job may come again, and must do no harm then.
    fn handle(&self, delivery: &Delivery) -> Outcome {
        let Ok(Job { number }) = serde_json::from_slice(&delivery.data) else {
            // Nobody will ever understand it: to the dead letters.
            return Outcome::Reject;
        };
        if number % 10 == 0 && !delivery.redelivered {
            // As if what it takes were not there just now: again, here or at another consumer.
            return Outcome::Requeue;
        }
        let mut done = self.done.lock().expect("no handler panics");
        done.insert(number);
        if done.len() == COUNT as usize {
            self.is_complete.notify_one();
        }
        Outcome::Ack
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let cluster = Cluster::builder([&*broker.url]).connect().await?;
    // What an earlier run may have left.
    delete(&cluster, JOBS).await?;
    delete(&cluster, DEAD).await?;
    let topology = Topology::new()
        .queue(Queue::durable(JOBS).dead_letter_to("", Some(DEAD)))
        .queue(Queue::durable(DEAD));

    let work = Arc::new(Work::default());
    let handler = {
        let work = Arc::clone(&work);
        move |delivery: Delivery| {
            let work = Arc::clone(&work);
            async move { work.handle(&delivery) }
        }
    };
    // The topology is declared first, again on every new connection, and when its queue is deleted.
    let consumer = Consumer::builder(&cluster, JOBS)
        .topology(topology)
        .prefetch(50)
        .concurrency(4)
        .start(handler)
        .await?;

    // The subscription stays, but no handler begins.
    consumer.pause();
    publish(&cluster).await?;
    let early = work.done.lock().expect("no handler panics").len();
    println!("during the pause {early} jobs were done");
    consumer.resume();

    tokio::select! {
        () = work.is_complete.notified() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let stats = consumer.stats();
    let (again, rejected) = (stats.requeued, stats.rejected);
    println!(
        "{} deliveries, {again} handed back, {rejected} rejected",
        stats.delivered
    );
    // Whatever is being processed is seen through, and all that was done is acknowledged.
    consumer.stop_within(PATIENCE).await?;

    let mut dead = Consumer::builder(&cluster, DEAD).stream().await?;
    let letter = timeout(PATIENCE, dead.next()).await?;
    let letter = letter.ok_or("the stream ended")?;
    println!("dead: {:?}", String::from_utf8_lossy(&letter.data));
    letter.ack()?;
    dead.stop_within(PATIENCE).await?;

    let left = delete(&cluster, JOBS).await? + delete(&cluster, DEAD).await?;
    cluster.close_within(Duration::from_secs(5)).await;

    let done = work.done.lock().expect("no handler panics").len();
    println!("{done} jobs done, {left} messages left");
    if (early, done, left) != (0, COUNT as usize, 0) {
        return Err("it is not as it should be".into());
    }
    Ok(())
}

/// Jobs, and something among them that is none.
async fn publish(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let publisher = Publisher::builder(cluster).build().await?;
    let jobs = (0..COUNT).map(|number| Message::json(&Job { number }));
    let mut messages = jobs.collect::<Result<Vec<_>, _>>()?;
    messages.insert(COUNT as usize / 2, Message::new("what is this?"));
    for message in messages {
        let receipt = publisher.publish(message.to("", JOBS).persistent()).await?;
        if !receipt.is_confirmed() {
            return Err(format!("{receipt:?}").into());
        }
    }
    Ok(())
}

/// How many messages were in it.
async fn delete(cluster: &Cluster, queue: &str) -> Result<u32, Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let gone = channel.queue_delete(queue.into(), Default::default());
    Ok(gone.await?)
}
