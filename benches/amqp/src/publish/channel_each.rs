//! deadpool-lapin, which pools connections: many tasks, each with a new channel for each message.

use std::sync::Arc;

use deadpool_lapin::{Config, Pool, Runtime};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, ConnectionProperties};
use wharf_race::lane::Trouble;

use super::pipelined::crew;
use super::{Count, End, Load, Publishing};

/// More only wait for longer: the pool has a few connections, and lends each to one at a time.
const TASKS: usize = 64;

pub struct ChannelEach {
    pool: Pool,
    load: Load,
}

impl Publishing for ChannelEach {
    async fn open(load: Load) -> Result<Self, Trouble> {
        let config = Config {
            url: Some(load.url.to_string()),
            ..Config::default()
        };
        let pool = config.create_pool(ConnectionProperties::default, Runtime::Tokio1);
        Ok(Self {
            pool: pool.map_err(Trouble::of)?,
            load,
        })
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        let task = |_| {
            let (this, end) = (Arc::clone(&self), end.clone());
            async move { this.work(end).await }
        };
        crew(TASKS, task).await
    }
}

impl ChannelEach {
    async fn work(&self, end: End) -> Result<Count, Trouble> {
        let body = vec![b'x'; self.load.body];
        let mut count = Count::default();
        loop {
            let connection = self.pool.get().await.map_err(Trouble::of)?;
            if end.has_come() {
                return Ok(count);
            }
            count.published += 1;
            let confirmed = self.publish_once(&connection, &body).await;
            count.confirmed += confirmed.map_err(Trouble::of)?;
        }
    }

    async fn publish_once(
        &self,
        connection: &lapin::Connection,
        body: &[u8],
    ) -> lapin::Result<u64> {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut properties = BasicProperties::default();
        if self.load.persistent {
            properties = properties.with_delivery_mode(2);
        }
        let options = BasicPublishOptions::default();
        let queue = self.load.queue.into();
        let publish = channel.basic_publish("".into(), queue, options, body, properties);
        let verdict = publish.await?.await?;
        channel.close(200, "OK".into()).await?;
        Ok(u64::from(verdict == Confirmation::Ack(None)))
    }
}
