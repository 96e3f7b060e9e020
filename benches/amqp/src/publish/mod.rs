//! Those who publish: anything that gets messages confirmed until it is told to stop.

mod channel_each;
mod one_by_one;
mod pipelined;
mod wharf;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wharf_race::lane::{self, Trouble};
use wharf_race::quiet::processor_time;
use wharf_race::runtime::Arena;

pub use pipelined::{Courier, Loop, Loops, Manner, pump};

pub const WHARF: &str = "wharf";
pub const LOOP: &str = "lapin, one loop";
pub const CREW: &str = "lapin, many tasks";
pub const BARE: &str = "lapin, one loop, bare messages";
pub const ONE_BY_ONE: &str = "lapin, one by one";
pub const CHANNEL_EACH: &str = "deadpool-lapin, a channel each";

/// What is published.
#[derive(Clone)]
pub struct Load {
    pub url: Arc<str>,
    pub exchange: &'static str,
    /// Where the default exchange leads, and the routing key with any other.
    pub queue: &'static str,
    /// Bytes.
    pub body: usize,
    pub persistent: bool,
    /// Messages without a verdict, at most; as many tasks publish, where there are many.
    pub window: usize,
}

/// Who gets messages confirmed.
pub trait Publishing: Sized + Send + Sync + 'static {
    fn open(load: Load) -> impl Future<Output = Result<Self, Trouble>> + Send;

    /// Publishes until it is over, and waits for every verdict.
    fn publish(self: Arc<Self>, end: End) -> impl Future<Output = Result<Count, Trouble>> + Send;
}

#[derive(Clone, Copy, Default)]
pub struct Count {
    pub published: u64,
    pub confirmed: u64,
}

/// Tells when it is over.
#[derive(Clone, Default)]
pub struct End(Arc<AtomicBool>);

impl End {
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    async fn after(self, time: Duration) {
        tokio::time::sleep(time).await;
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one got done in a slice.
pub struct Burst {
    pub messages: f64,
    pub elapsed: Duration,
    /// Processor time.
    pub client: Duration,
    pub broker: Duration,
}

impl Burst {
    pub fn per_second(&self) -> f64 {
        self.messages / self.elapsed.as_secs_f64()
    }

    pub fn client_micros(&self) -> f64 {
        self.client.as_secs_f64() * 1e6 / self.messages
    }

    pub fn broker_micros(&self) -> f64 {
        self.broker.as_secs_f64() * 1e6 / self.messages
    }
}

/// Counts processor time from its start on.
pub struct Meter {
    server: String,
    client: Option<Duration>,
    broker: Option<Duration>,
}

impl Meter {
    pub fn start(broker: u32) -> Self {
        let server = broker.to_string();
        Self {
            client: processor_time("self"),
            broker: processor_time(&server),
            server,
        }
    }

    pub fn burst(self, messages: u64, elapsed: Duration) -> Burst {
        // Nothing where the system does not tell.
        let spent = |before: Option<Duration>, process: &str| {
            let both = before.zip(processor_time(process));
            both.map_or(Duration::ZERO, |(before, now)| now.saturating_sub(before))
        };
        Burst {
            messages: messages as f64,
            elapsed,
            client: spent(self.client, "self"),
            broker: spent(self.broker, &self.server),
        }
    }
}

/// A contender that is connected, its type forgotten.
pub trait Bursts {
    fn burst(&self, arena: &Arena, broker: u32, time: Duration) -> Result<Burst, Trouble>;
}

pub type Lane<'a> = lane::Lane<'a, Box<dyn Bursts>>;

pub fn lane<'a>(name: &'static str, arena: &'a Arena, load: &Load) -> Lane<'a> {
    let load = load.clone();
    match name {
        WHARF => of::<wharf::Wharf>(name, arena, load),
        LOOP => of::<pipelined::Loop<true>>(name, arena, load),
        CREW => of::<pipelined::Crew>(name, arena, load),
        BARE => of::<pipelined::Loop<false>>(name, arena, load),
        ONE_BY_ONE => of::<one_by_one::OneByOne>(name, arena, load),
        CHANNEL_EACH => of::<channel_each::ChannelEach>(name, arena, load),
        _ => unreachable!("bug: nobody is called {name}"),
    }
}

/// A lane in which such a one publishes, under any name.
pub fn of<'a, P: Publishing>(name: &'static str, arena: &'a Arena, load: Load) -> Lane<'a> {
    Lane::new(name, move || {
        let opening = P::open(load.clone());
        let publishing = arena.run(opening)?;
        Ok(Box::new(Opened(Arc::new(publishing))))
    })
}

struct Opened<P>(Arc<P>);

impl<P: Publishing> Bursts for Opened<P> {
    fn burst(&self, arena: &Arena, broker: u32, time: Duration) -> Result<Burst, Trouble> {
        let publishing = Arc::clone(&self.0);
        arena.run(async move {
            let end = End::default();
            tokio::spawn(end.clone().after(time));
            let meter = Meter::start(broker);
            let start = Instant::now();
            let count = publishing.publish(end).await?;
            let elapsed = start.elapsed();
            if count.confirmed != count.published {
                let Count {
                    published,
                    confirmed,
                } = count;
                let reason = format!("{confirmed} of {published} messages were confirmed");
                return Err(Trouble::Failed(reason));
            }
            Ok(meter.burst(count.confirmed, elapsed))
        })
    }
}
