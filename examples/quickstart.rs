//! The main job: 64 tasks publish messages with confirms and consume them back, while the
//! connection is cut three times on the way. Nothing that was confirmed is lost.
//!
//! ```text
//! cargo run --release --example quickstart [messages]      100,000 unless told
//! ```
//!
//! The broker is inside the program, or the one that `AMQP_URL` names. Ends with 1 if a message was
//! lost.

mod broker;

use std::{
    error::Error,
    net::ToSocketAddrs,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::JoinSet, time::interval};
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Receipt, State, Topology,
    consumer::{Delivery, Outcome},
    lapin::{options::QueueDeleteOptions, uri::AMQPUri},
    topology::Queue,
};
use wharf_broker::{Frames, Step};
use wharf_testkit::{checker::Checker, proxy::Proxy};

use crate::broker::{Broker, broker};

const NAME: &str = "quickstart";
const TASKS: u64 = 64;
const CUTS: u64 = 3;
const LEAST: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let messages = match std::env::args().nth(1) {
        Some(number) => number.parse()?,
        None => 100_000,
    };
    if messages < LEAST {
        return Err(format!("there is nothing to cut in less than {LEAST} messages").into());
    }
    // Kept until the end: an embedded broker goes with it.
    let broker = broker().await?;
    let scissors = Scissors::at(&broker, messages).await?;
    let cluster = Cluster::builder([scissors.url(&broker)?])
        .name(NAME)
        .connect()
        .await?;
    let queue = format!("wharf-quickstart-{}", std::process::id());

    let course = Arc::new(Course::new(messages, scissors));
    // The queue is declared first, and again on every new connection.
    let consumer = Consumer::builder(&cluster, queue.as_str())
        .topology(Topology::new().queue(Queue::durable(&queue)))
        .prefetch(500)
        .start({
            let course = Arc::clone(&course);
            move |delivery: Delivery| {
                let course = Arc::clone(&course);
                async move { course.receive(&delivery) }
            }
        })
        .await?;
    let publisher = Publisher::builder(&cluster).build().await?;

    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (course, publisher) = (Arc::clone(&course), publisher.clone());
        let queue = queue.clone();
        tasks.spawn(async move { course.publish(task, &publisher, &queue).await });
    }
    let shown = tokio::spawn(show(Arc::clone(&course), cluster.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let published = began.elapsed();
    course.everything_came().await;
    shown.await?;
    consumer.stop_within(PATIENCE).await?;
    cluster
        .channels()
        .get()
        .await?
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    cluster.close_within(PATIENCE).await;
    Ok(course.sum_up(published))
}

/// What cuts the connections, the one that publishes and the one that consumes, in the course of so
/// many messages.
enum Scissors {
    /// A script of the embedded broker's cuts each, and the one that comes after it, behind as many
    /// frames as a part of the messages has.
    Script([Step; 2]),
    /// A proxy before any other broker cuts both after every part of the confirms.
    Proxy {
        proxy: Proxy,
        part: u64,
        cuts: AtomicU64,
    },
}

impl Scissors {
    async fn at(broker: &Broker, messages: u64) -> Result<Self, Box<dyn Error>> {
        let part = messages / (CUTS + 1);
        let Some(embedded) = &broker.embedded else {
            return Ok(Self::Proxy {
                proxy: Proxy::to(address(&broker.url)?).await,
                part,
                cuts: AtomicU64::new(0),
            });
        };
        // Each message is a method, its header and its body.
        let frames = Frames(3 * part);
        let of = |role| embedded.faults().named(format!("{NAME} ({role})"));
        Ok(Self::Script([
            of("publish").cut_after(frames.received()).times(CUTS),
            of("consume").cut_after(frames.sent()).times(CUTS),
        ]))
    }

    /// Where they can cut.
    fn url(&self, broker: &Broker) -> Result<String, Box<dyn Error>> {
        match self {
            Self::Script(_) => Ok(broker.url.clone()),
            Self::Proxy { proxy, .. } => through(proxy, &broker.url),
        }
    }

    /// So many are confirmed by now; told of every number.
    fn confirmed(&self, count: u64) {
        if let Self::Proxy { proxy, part, cuts } = self
            && count.is_multiple_of(*part)
            && count / part <= CUTS
        {
            proxy.cut();
            cuts.fetch_add(1, Relaxed);
        }
    }

    /// How often each connection was cut.
    fn cuts(&self) -> u64 {
        match self {
            Self::Script([published, consumed]) => published.count().min(consumed.count()),
            Self::Proxy { cuts, .. } => cuts.load(Relaxed),
        }
    }
}

fn address(url: &str) -> Result<std::net::SocketAddr, Box<dyn Error>> {
    let AMQPUri { authority, .. } = url.parse::<AMQPUri>()?;
    let mut addresses = (authority.host.as_str(), authority.port).to_socket_addrs()?;
    addresses
        .next()
        .ok_or_else(|| "the host has no address".into())
}

/// The same URL by way of the proxy that will cut the connection.
fn through(proxy: &Proxy, url: &str) -> Result<String, Box<dyn Error>> {
    let mut uri = url.parse::<AMQPUri>()?;
    uri.authority.host = proxy.addr().ip().to_string();
    uri.authority.port = proxy.addr().port();
    Ok(uri.to_string())
}

/// What has happened so far.
struct Course {
    messages: u64,
    scissors: Scissors,
    checker: Checker,
    published: AtomicU64,
    confirmed: AtomicU64,
    consumed: AtomicU64,
    republished: AtomicU64,
    is_over: AtomicBool,
    /// From publishing to confirmation, in microseconds.
    latencies: Mutex<Vec<u32>>,
}

impl Course {
    fn new(messages: u64, scissors: Scissors) -> Self {
        Self {
            messages,
            scissors,
            checker: Checker::default(),
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            republished: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            latencies: Mutex::new(Vec::with_capacity(messages as usize)),
        }
    }

    /// One task's share, one message after the other.
    async fn publish(&self, task: u64, publisher: &Publisher, queue: &str) {
        for id in (task..self.messages).step_by(TASKS as usize) {
            let message = Message::new(id.to_be_bytes()).to("", queue).persistent();
            self.checker.sent(id);
            self.published.fetch_add(1, Relaxed);
            let began = Instant::now();
            match publisher.publish(message).await {
                Ok(Receipt::Confirmed { republished, .. }) => {
                    self.checker.confirmed(id);
                    let count = self.confirmed.fetch_add(1, Relaxed) + 1;
                    self.scissors.confirmed(count);
                    self.republished.fetch_add(u64::from(republished), Relaxed);
                    let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
                    self.latencies.lock().expect("no task panics").push(micros);
                }
                Ok(_) => self.checker.unknown(id),
                Err(_) => self.checker.rejected(id),
            }
        }
    }

    fn receive(&self, delivery: &Delivery) -> Outcome {
        let Ok(id) = delivery.data.as_slice().try_into().map(u64::from_be_bytes) else {
            return Outcome::Reject;
        };
        self.checker.received(id);
        self.consumed.fetch_add(1, Relaxed);
        Outcome::Ack
    }

    /// Waits until what was confirmed has come, or nothing has for a while.
    async fn everything_came(&self) {
        let mut tick = interval(Duration::from_millis(50));
        let (mut seen, mut since) = (0, Instant::now());
        while !self.checker.verdict().lost.is_empty() && since.elapsed() < PATIENCE {
            tick.tick().await;
            let now = self.consumed.load(Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        self.is_over.store(true, Relaxed);
    }

    fn sum_up(&self, took: Duration) -> ExitCode {
        let verdict = self.checker.verdict();
        let mut latencies = self.latencies.lock().expect("no task panics");
        latencies.sort_unstable();
        let quantile = |of: f64| {
            let at = (latencies.len().saturating_sub(1)) as f64 * of;
            latencies.get(at as usize).copied().unwrap_or(0)
        };
        let (confirmed, cuts) = (self.confirmed.load(Relaxed), self.scissors.cuts());
        println!("{confirmed:>12}  confirmed of {}", self.messages);
        println!(
            "{:>12.0}  confirmed a second",
            confirmed as f64 / took.as_secs_f64()
        );
        println!("{:>12}  µs to the confirm, p50", quantile(0.5));
        println!("{:>12}  µs to the confirm, p99", quantile(0.99));
        println!("{cuts:>12}  times each connection was cut");
        println!("{:>12}  republished", self.republished.load(Relaxed));
        println!("{:>12}  duplicates", verdict.duplicates);
        println!("{:>12}  lost", verdict.lost.len());
        let missing = self.messages - confirmed;
        if !verdict.lost.is_empty() || !verdict.never_sent.is_empty() || missing > 0 {
            println!("{missing:>12}  not confirmed");
            return ExitCode::FAILURE;
        }
        // Whatever went well then was no feat.
        if cuts < CUTS {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

/// Shows how it goes.
async fn show(course: Arc<Course>, cluster: Cluster) {
    let bar = ProgressBar::new(course.messages);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} consumed  {msg}");
    bar.set_style(style.expect("a valid template"));
    let mut tick = interval(Duration::from_millis(100));
    let mut state = cluster.watch();
    let (mut reconnects, mut was_up) = (0, true);
    while course.consumed.load(Relaxed) < course.messages && !course.is_over.load(Relaxed) {
        tokio::select! {
            _ = tick.tick() => {}
            _ = state.changed() => {}
        }
        let is_up = matches!(*state.borrow_and_update(), State::Up);
        reconnects += u64::from(is_up && !was_up);
        was_up = is_up;
        let confirmed = course.confirmed.load(Relaxed);
        let published = course.published.load(Relaxed);
        let pool = cluster.confirm_channels().status();
        bar.set_position(course.consumed.load(Relaxed).min(course.messages));
        bar.set_message(format!(
            "published {published}, confirmed {confirmed}, in flight {}, channels {} ({} idle, {} \
             waiting), reconnects {reconnects}",
            published - confirmed,
            pool.active(),
            pool.idle,
            pool.waiting,
        ));
    }
    bar.finish();
}
