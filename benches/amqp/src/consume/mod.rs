//! Those who consume: anything that processes so many messages and acknowledges them.

mod by_hand;
mod wharf;

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wharf_race::lane::{self, Trouble};
use wharf_race::runtime::Arena;

use crate::node;
use crate::publish::{Burst, Courier, Load, Manner, Meter, pump};

pub use by_hand::{Fifty, Half};

pub const WHARF: &str = "wharf, one handler";
pub const WHARF_8: &str = "wharf, eight handlers";
pub const FIFTY: &str = "lapin, an ack every 50";
pub const HALF: &str = "lapin, an ack every half prefetch";

/// What is consumed.
#[derive(Clone)]
pub struct Supply {
    pub url: Arc<str>,
    pub queue: &'static str,
    pub prefetch: u16,
    /// Messages in the queue at the start.
    pub messages: u64,
}

/// Who processes messages.
pub trait Consuming: Sized + Send + Sync + 'static {
    fn open(supply: Supply) -> impl Future<Output = Result<Self, Trouble>> + Send;

    /// Processes what is in the queue, has it all acknowledged, and unsubscribes.
    fn drain(
        self: Arc<Self>,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// How far the processing is.
pub struct Progress {
    wanted: u64,
    done: AtomicU64,
    first: OnceLock<Instant>,
    last: OnceLock<Instant>,
    all: Notify,
}

impl Progress {
    fn of(wanted: u64) -> Self {
        Self {
            wanted,
            done: AtomicU64::new(0),
            first: OnceLock::new(),
            last: OnceLock::new(),
            all: Notify::new(),
        }
    }

    /// What the handlers do. Says whether this was the last.
    fn process(&self, body: &[u8]) -> bool {
        black_box(body);
        let done = 1 + self.done.fetch_add(1, Ordering::Relaxed);
        if done == 1 {
            let _ = self.first.set(Instant::now());
        }
        let is_last = done == self.wanted;
        if is_last {
            let _ = self.last.set(Instant::now());
            self.all.notify_one();
        }
        is_last
    }

    async fn finished(&self) {
        self.all.notified().await;
    }

    fn elapsed(&self) -> Option<Duration> {
        Some(self.last.get()?.duration_since(*self.first.get()?))
    }
}

/// A contender that is connected, its type forgotten.
pub trait Drains {
    /// Fills the queue and says how long its processing took, from the first message to the last.
    fn drain(&self, arena: &Arena, broker: u32, filler: &Courier) -> Result<Burst, Trouble>;
}

pub type Lane<'a> = lane::Lane<'a, Box<dyn Drains>>;

pub fn lane<'a>(name: &'static str, arena: &'a Arena, supply: &Supply) -> Lane<'a> {
    let supply = supply.clone();
    match name {
        WHARF => of::<wharf::Wharf<1>>(name, arena, supply),
        WHARF_8 => of::<wharf::Wharf<8>>(name, arena, supply),
        FIFTY => of::<by_hand::Fifty>(name, arena, supply),
        HALF => of::<by_hand::Half>(name, arena, supply),
        _ => unreachable!("bug: nobody is called {name}"),
    }
}

/// A lane in which such a one consumes, under any name.
pub fn of<'a, C: Consuming>(name: &'static str, arena: &'a Arena, supply: Supply) -> Lane<'a> {
    Lane::new(name, move || {
        let consuming = arena.run(C::open(supply.clone()))?;
        Ok(Box::new(Opened {
            consuming: Arc::new(consuming),
            supply: supply.clone(),
        }))
    })
}

/// Whoever fills a queue.
pub async fn filler(url: &Arc<str>, queue: &'static str) -> Result<Courier, Trouble> {
    let load = Load {
        url: Arc::clone(url),
        exchange: "",
        queue,
        body: 256,
        persistent: false,
        window: 0,
    };
    let courier = Courier::open(&load, Manner::Careful).await?;
    node::declare(courier.channel(), queue, false, node::Keeping::All).await?;
    Ok(courier)
}

struct Opened<C> {
    consuming: Arc<C>,
    supply: Supply,
}

impl<C: Consuming> Drains for Opened<C> {
    fn drain(&self, arena: &Arena, broker: u32, filler: &Courier) -> Result<Burst, Trouble> {
        let (consuming, filler) = (Arc::clone(&self.consuming), filler.clone());
        let Supply {
            queue, messages, ..
        } = self.supply;
        arena.run(async move {
            let mut left = messages;
            let more = || {
                let more = left > 0;
                left = left.saturating_sub(1);
                more
            };
            let filled = pump(&filler, 1_000, more).await?;
            let there = node::depth(filler.channel(), queue).await?;
            if filled.confirmed != messages || u64::from(there) != messages {
                let reason = format!("{there} messages instead of {messages} were in the queue");
                return Err(Trouble::Failed(reason));
            }
            let progress = Arc::new(Progress::of(messages));
            let meter = Meter::start(broker);
            consuming.drain(Arc::clone(&progress)).await?;
            let elapsed = progress.elapsed().unwrap_or(Duration::ZERO);
            let burst = meter.burst(messages, elapsed);
            let left = node::depth(filler.channel(), queue).await?;
            let processed = progress.done.load(Ordering::Relaxed);
            if left > 0 || processed != messages {
                let reason = format!("{processed} of {messages} processed, {left} came back");
                return Err(Trouble::Failed(reason));
            }
            Ok(burst)
        })
    }
}
