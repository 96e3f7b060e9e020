//! lapin by hand, pipelined: one channel, on which one task publishes, and a window.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use wharf_race::lane::Trouble;

use crate::node;

use super::{Count, End, Load, Publishing};

/// A channel in confirm mode, and what is published on it.
#[derive(Clone)]
pub struct Courier {
    channel: Channel,
    exchange: ShortString,
    queue: ShortString,
    properties: BasicProperties,
    body: Arc<[u8]>,
    manner: Manner,
    _connection: Arc<Connection>,
}

/// How much a message says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As those of the adapter by default: mandatory, so that a confirm says that a queue has it,
    /// and with an id of its own.
    Careful,
    /// Only where it goes.
    Bare,
}

impl Courier {
    pub async fn open(load: &Load, manner: Manner) -> Result<Self, Trouble> {
        let connection = node::connect(&load.url).await?;
        let channel = connection.create_channel().await.map_err(Trouble::of)?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.map_err(Trouble::of)?;
        let mut properties = BasicProperties::default();
        if load.persistent {
            properties = properties.with_delivery_mode(2);
        }
        Ok(Self {
            channel,
            exchange: load.exchange.into(),
            queue: load.queue.into(),
            properties,
            body: vec![b'x'; load.body].into(),
            manner,
            _connection: Arc::new(connection),
        })
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Until the message has its verdict: 1 if it is confirmed.
    pub async fn publish(&self) -> Result<u64, Trouble> {
        let mut properties = self.properties.clone();
        if self.manner == Manner::Careful {
            properties = properties.with_message_id(fresh_id().into());
        }
        let options = BasicPublishOptions {
            mandatory: self.manner == Manner::Careful,
            immediate: false,
        };
        let (exchange, queue) = (self.exchange.clone(), self.queue.clone());
        let channel = &self.channel;
        let publish = channel.basic_publish(exchange, queue, options, &self.body, properties);
        let confirm = publish.await.map_err(Trouble::of)?;
        let verdict = confirm.await.map_err(Trouble::of)?;
        Ok(u64::from(verdict == Confirmation::Ack(None)))
    }
}

/// As long as those of the adapter.
fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}-{count:x}", u64::MAX)
}

/// Keeps the window full for as long as there are more. The first poll of a publish takes its
/// place on the channel; to wait for its write before the next would wait for the I/O thread each
/// time.
pub async fn pump(
    courier: &Courier,
    window: usize,
    mut more: impl FnMut() -> bool,
) -> Result<Count, Trouble> {
    let mut count = Count::default();
    let mut open = FuturesUnordered::new();
    loop {
        while open.len() < window && more() {
            count.published += 1;
            open.push(courier.publish());
        }
        match open.next().await {
            Some(verdict) => count.confirmed += verdict?,
            None => return Ok(count),
        }
    }
}

/// The task makes its messages itself, and nobody waits for a particular one.
pub struct Loop<const CAREFUL: bool> {
    courier: Courier,
    window: usize,
}

impl<const CAREFUL: bool> Publishing for Loop<CAREFUL> {
    async fn open(load: Load) -> Result<Self, Trouble> {
        let manner = if CAREFUL {
            Manner::Careful
        } else {
            Manner::Bare
        };
        Ok(Self {
            courier: Courier::open(&load, manner).await?,
            window: load.window,
        })
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        pump(&self.courier, self.window, || !end.has_come()).await
    }
}

/// Several such tasks, each with a connection and a window of its own.
pub struct Loops<const CAREFUL: bool>(Vec<Arc<Loop<CAREFUL>>>);

/// Enough that some connection always has something to do.
const CONNECTIONS: usize = 4;

impl<const CAREFUL: bool> Publishing for Loops<CAREFUL> {
    async fn open(load: Load) -> Result<Self, Trouble> {
        let mut loops = Vec::new();
        for _ in 0..CONNECTIONS {
            loops.push(Arc::new(Loop::open(load.clone()).await?));
        }
        Ok(Self(loops))
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        let task = |at: usize| Arc::clone(&self.0[at]).publish(end.clone());
        crew(CONNECTIONS, task).await
    }
}

/// Many tasks hand their messages to the one that publishes, and each waits for its verdict.
pub struct Crew {
    orders: mpsc::Sender<Order>,
    window: usize,
}

type Order = oneshot::Sender<Result<u64, Trouble>>;

impl Publishing for Crew {
    async fn open(load: Load) -> Result<Self, Trouble> {
        let courier = Courier::open(&load, Manner::Careful).await?;
        let (orders, inbox) = mpsc::channel(load.window);
        tokio::spawn(deliver(courier, load.window, inbox));
        Ok(Self {
            orders,
            window: load.window,
        })
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        let publish = async |orders: mpsc::Sender<Order>| {
            let (answer, verdict) = oneshot::channel();
            let gone = |_| Trouble::Failed("the publishing task is gone".into());
            orders.send(answer).await.map_err(|_| gone(()))?;
            verdict.await.map_err(|_| gone(()))?
        };
        let task = |_| {
            let (orders, end) = (self.orders.clone(), end.clone());
            async move {
                let mut count = Count::default();
                while !end.has_come() {
                    count.published += 1;
                    count.confirmed += publish(orders.clone()).await?;
                }
                Ok(count)
            }
        };
        crew(self.window, task).await
    }
}

async fn deliver(courier: Courier, window: usize, mut inbox: mpsc::Receiver<Order>) {
    let courier = &courier;
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = open.next() => {}
            order = inbox.recv(), if open.len() < window => {
                let Some(order) = order else { return };
                open.push(async move {
                    // Whoever left does not want to know.
                    let _ = order.send(courier.publish().await);
                });
            }
        }
    }
}

/// Runs so many tasks, and adds up what they did.
pub async fn crew<F>(tasks: usize, task: impl FnMut(usize) -> F) -> Result<Count, Trouble>
where
    F: Future<Output = Result<Count, Trouble>> + Send + 'static,
{
    let mut crew: JoinSet<_> = (0..tasks).map(task).collect();
    let mut sum = Count::default();
    while let Some(count) = crew.join_next().await {
        let count = count.map_err(Trouble::of)??;
        sum.published += count.published;
        sum.confirmed += count.confirmed;
    }
    Ok(sum)
}
