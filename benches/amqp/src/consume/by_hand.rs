//! lapin by hand: one stream, and one acknowledgement for many messages.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::time::timeout;
use wharf_race::lane::Trouble;

use crate::node;

use super::{Consuming, Progress, Supply};

/// What has been processed is acknowledged after this time without a message, however little it
/// is.
const IDLE: Duration = Duration::from_millis(2);

pub struct ByHand<const BATCH: u16> {
    connection: Connection,
    supply: Supply,
}

pub type Fifty = ByHand<50>;

/// Half the prefetch, at most.
pub type Half = ByHand<{ u16::MAX }>;

impl<const BATCH: u16> Consuming for ByHand<BATCH> {
    async fn open(supply: Supply) -> Result<Self, Trouble> {
        Ok(Self {
            connection: node::connect(&supply.url).await?,
            supply,
        })
    }

    async fn drain(self: Arc<Self>, progress: Arc<Progress>) -> Result<(), Trouble> {
        let drained = self.drain_through(&progress).await;
        drained.map_err(Trouble::of)
    }
}

impl<const BATCH: u16> ByHand<BATCH> {
    async fn drain_through(&self, progress: &Progress) -> lapin::Result<()> {
        let Supply {
            queue, prefetch, ..
        } = self.supply;
        let channel = self.connection.create_channel().await?;
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let options = BasicConsumeOptions::default();
        let consume =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let mut deliveries = consume.await?;
        let batch = u64::from(BATCH.min(prefetch / 2));
        let (mut last, mut acked) = (0, 0);
        loop {
            // A timer for each message would cost more than the message.
            let next = match deliveries.next().now_or_never() {
                Some(next) => next,
                None if last == acked => deliveries.next().await,
                None => match timeout(IDLE, deliveries.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        ack_up_to(&channel, last).await?;
                        acked = last;
                        continue;
                    }
                },
            };
            // The count tells of one that ended early.
            let Some(delivery) = next else { break };
            let delivery = delivery?;
            last = delivery.delivery_tag;
            let is_done = progress.process(&delivery.data);
            if is_done || last - acked >= batch {
                ack_up_to(&channel, last).await?;
                acked = last;
            }
            if is_done {
                break;
            }
        }
        channel.close(200, "OK".into()).await
    }
}

async fn ack_up_to(channel: &Channel, tag: u64) -> lapin::Result<()> {
    let options = BasicAckOptions { multiple: true };
    channel.basic_ack(tag, options).await
}
