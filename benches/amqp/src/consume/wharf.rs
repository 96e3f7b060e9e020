//! A `Consumer`, with so many handlers at once.

use std::sync::Arc;
use std::time::Duration;

use wharf_amqp::Cluster;
use wharf_amqp::consumer::{Consumer, Delivery, Outcome};
use wharf_race::lane::Trouble;

use super::{Consuming, Progress, Supply};

pub struct Wharf<const HANDLERS: usize> {
    cluster: Cluster,
    supply: Supply,
}

impl<const HANDLERS: usize> Consuming for Wharf<HANDLERS> {
    async fn open(supply: Supply) -> Result<Self, Trouble> {
        let cluster = Cluster::builder([supply.url.to_string()]).connect().await;
        Ok(Self {
            cluster: cluster.map_err(Trouble::of)?,
            supply,
        })
    }

    async fn drain(self: Arc<Self>, progress: Arc<Progress>) -> Result<(), Trouble> {
        let handler = {
            let progress = Arc::clone(&progress);
            move |delivery: Delivery| {
                let progress = Arc::clone(&progress);
                async move {
                    progress.process(&delivery.data);
                    Outcome::Ack
                }
            }
        };
        let consumer = Consumer::builder(&self.cluster, self.supply.queue)
            .prefetch(self.supply.prefetch)
            .concurrency(HANDLERS)
            .start(handler)
            .await;
        let consumer = consumer.map_err(Trouble::of)?;
        progress.finished().await;
        let stopped = consumer.stop_within(Duration::from_secs(10)).await;
        stopped.map_err(Trouble::of)
    }
}
