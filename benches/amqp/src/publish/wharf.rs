//! Many tasks through one `Publisher`, with its defaults: every message mandatory, with an id and
//! a deadline.

use std::sync::Arc;

use bytes::Bytes;
use wharf_amqp::{Cluster, Message, Publisher};
use wharf_race::lane::Trouble;

use super::pipelined::crew;
use super::{Count, End, Load, Publishing};

pub struct Wharf {
    publisher: Publisher,
    load: Load,
}

impl Publishing for Wharf {
    async fn open(load: Load) -> Result<Self, Trouble> {
        let cluster = Cluster::builder([load.url.to_string()]).connect().await;
        let publisher = Publisher::builder(&cluster.map_err(Trouble::of)?)
            .window(u32::try_from(load.window).expect("bug: a large window"))
            .build()
            .await;
        Ok(Self {
            publisher: publisher.map_err(Trouble::of)?,
            load,
        })
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        let task = |_| work(self.publisher.clone(), self.load.clone(), end.clone());
        crew(self.load.window, task).await
    }
}

async fn work(publisher: Publisher, load: Load, end: End) -> Result<Count, Trouble> {
    let body = Bytes::from(vec![b'x'; load.body]);
    let mut count = Count::default();
    while !end.has_come() {
        let mut message = Message::of_bytes(body.clone()).to("", load.queue);
        if load.persistent {
            message = message.persistent();
        }
        count.published += 1;
        let receipt = publisher.publish(message).await.map_err(Trouble::of)?;
        count.confirmed += u64::from(receipt.is_confirmed());
    }
    Ok(count)
}
