//! What a broker holds beside what is measured.

use std::sync::Arc;

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};
use wharf_amqp_compare::node::connect;
use wharf_race::lane::Trouble;

/// The exchange whose bindings are counted.
pub const EXCHANGE: &str = "crowd";

/// Channels of one connection.
const CHANNELS: usize = 1_000;

/// Requests under way.
const AT_ONCE: usize = 100;

/// So many idle things of a kind.
#[derive(Clone, Copy)]
pub enum Crowd {
    Queues(usize),
    Bindings(usize),
    Channels(usize),
    Connections(usize),
}

/// They live as long as this.
#[derive(Default)]
pub struct Held {
    _connections: Vec<Connection>,
    _channels: Vec<Channel>,
}

impl Crowd {
    /// Makes them. `queue` is there, and is the one that is published to.
    pub async fn gather(self, url: Arc<str>, queue: &'static str) -> Result<Held, Trouble> {
        match self {
            Self::Queues(count) => {
                let connection = connect(&url).await?;
                let channel = connection.create_channel().await.map_err(Trouble::of)?;
                declare(&channel, count).await?;
                Ok(Held::default())
            }
            Self::Bindings(count) => {
                let connection = connect(&url).await?;
                let channel = connection.create_channel().await.map_err(Trouble::of)?;
                bind(&channel, queue, count).await?;
                Ok(Held::default())
            }
            Self::Channels(count) => open(&url, count.div_ceil(CHANNELS), CHANNELS).await,
            Self::Connections(count) => open(&url, count, 1).await,
        }
    }
}

async fn declare(channel: &Channel, count: usize) -> Result<(), Trouble> {
    let declaring = iter(0..count).map(|number| async move {
        let name = format!("crowd-{number}");
        let options = QueueDeclareOptions::default();
        let declare = channel.queue_declare(name.into(), options, FieldTable::default());
        declare.await.map(|_| ())
    });
    let declared = declaring.buffer_unordered(AT_ONCE).try_collect::<()>();
    declared.await.map_err(Trouble::of)
}

/// Binds the queue by its name, and by so many patterns that its name does not match.
async fn bind(channel: &Channel, queue: &'static str, count: usize) -> Result<(), Trouble> {
    let options = ExchangeDeclareOptions::default();
    let table = FieldTable::default;
    let declare = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, table());
    declare.await.map_err(Trouble::of)?;
    let patterns = (0..count).map(|number| format!("crowd.{number}.*"));
    let keys = patterns.chain([queue.to_owned()]);
    let binding = iter(keys).map(|key| {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), EXCHANGE.into(), key.into(), options, table())
    });
    let bound = binding.buffer_unordered(AT_ONCE).try_collect::<()>();
    bound.await.map_err(Trouble::of)
}

async fn open(url: &str, connections: usize, channels: usize) -> Result<Held, Trouble> {
    let (mut all, mut of_all) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let connection = connect(url).await?;
        for _ in 0..channels {
            of_all.push(connection.create_channel().await.map_err(Trouble::of)?);
        }
        all.push(connection);
    }
    Ok(Held {
        _connections: all,
        _channels: of_all,
    })
}
