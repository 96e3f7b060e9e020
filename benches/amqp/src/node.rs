//! The RabbitMQ node that everybody is measured on, and the queues they use.

use std::sync::Arc;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use wharf_race::lane::Trouble;
use wharf_race::runtime::Arena;
use wharf_testkit::rabbit::Rabbit;

/// The same for everybody: the adapter's defaults.
pub(crate) const TUNING: &str = "frame_max=131072&heartbeat=10";

/// A queue that is only published to keeps so many messages, and drops the oldest.
const KEPT: i32 = 1_000;

/// It ends with this.
pub struct Node {
    pub url: Arc<str>,
    pub pid: u32,
    _rabbit: Rabbit,
}

impl Node {
    pub fn start(arena: &Arena) -> Result<Self, Trouble> {
        let rabbit = arena.prepare(Rabbit::try_start()).map_err(Trouble::of)?;
        Ok(Self {
            url: format!("{}?{TUNING}", rabbit.url()).into(),
            pid: rabbit.pid().expect("bug: it was started here"),
            _rabbit: rabbit,
        })
    }
}

/// Connects by hand.
pub async fn connect(url: &str) -> Result<Connection, Trouble> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    connecting.await.map_err(Trouble::of)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// All of it: somebody will consume it.
    All,
    /// The newest.
    Newest,
}

/// Declares a queue anew: a transient classic one, or a durable one.
pub async fn declare(
    channel: &Channel,
    queue: &str,
    durable: bool,
    keeping: Keeping,
) -> Result<(), Trouble> {
    let delete = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    delete.await.map_err(Trouble::of)?;
    let mut arguments = FieldTable::default();
    if keeping == Keeping::Newest {
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(KEPT));
    }
    let options = QueueDeclareOptions {
        durable,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(queue.into(), options, arguments);
    declare.await.map(|_| ()).map_err(Trouble::of)
}

/// How many messages are ready in a queue.
pub async fn depth(channel: &Channel, queue: &str) -> Result<u32, Trouble> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    Ok(look.await.map_err(Trouble::of)?.message_count())
}
