//! Those who publish and consume all the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Receipt,
    consumer::{ConsumeError, Delivery, Outcome, StopError},
};

use crate::{
    ledger::{FULL, Ledger, QUEUE},
    stage::PATIENCE,
};

/// Tasks that publish one message after the other, through each publisher.
const TASKS: usize = 16;

/// Between two messages of a task.
const PACE: Duration = Duration::from_millis(10);

/// What one that is published at once with many others has in its way.
const BURST: usize = 500;

const PANIC: &str = "the soak wants this panic";

/// The handler's panics are part of the run, and need no page in its output.
pub(crate) fn silence_wanted_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&PANIC) {
            usual(info);
        }
    }));
}

/// Publishes while its gate is open, and not only what goes well.
pub(crate) struct Load {
    gate: watch::Sender<bool>,
    /// Whether some of it goes to a full queue, or nowhere. Only in some episodes: a channel on
    /// which a message is rejected does not grow old.
    noisy: Arc<AtomicBool>,
    busy: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Its gate is shut.
    pub(crate) fn start(publisher: &Publisher, ledger: &Arc<Ledger>) -> Self {
        let mut load = Self {
            gate: watch::Sender::new(false),
            noisy: Arc::default(),
            busy: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..TASKS {
            let (publisher, ledger) = (publisher.clone(), Arc::clone(ledger));
            let (mut gate, busy) = (load.gate.subscribe(), Arc::clone(&load.busy));
            let noisy = Arc::clone(&load.noisy);
            load.tasks.push(tokio::spawn(async move {
                for turn in 0_u64.. {
                    if gate.wait_for(|open| *open).await.is_err() {
                        return;
                    }
                    busy.fetch_add(1, Relaxed);
                    match turn % 32 {
                        5 => leave(&publisher, &ledger).await,
                        16 if noisy.load(Relaxed) => nowhere(&publisher, &ledger).await,
                        27 if noisy.load(Relaxed) => full(&publisher, &ledger).await,
                        _ => publish(&publisher, &ledger).await,
                    }
                    busy.fetch_sub(1, Relaxed);
                    sleep(PACE).await;
                }
            }));
        }
        load
    }

    pub(crate) fn open(&self, noisy: bool) {
        self.noisy.store(noisy, Relaxed);
        self.gate.send_replace(true);
    }

    pub(crate) fn shut(&self) {
        self.gate.send_replace(false);
    }

    /// Whether every message has its verdict.
    pub(crate) fn is_quiet(&self) -> bool {
        self.busy.load(Relaxed) == 0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn publish(publisher: &Publisher, ledger: &Ledger) {
    let (id, message) = ledger.message();
    let outcome = publisher.publish(message).await;
    ledger.tell(id, &outcome);
}

/// A caller that does not wait for the verdict.
async fn leave(publisher: &Publisher, ledger: &Ledger) {
    let (id, message) = ledger.message();
    let patience = Duration::from_millis(fastrand::u64(0..20));
    match timeout(patience, publisher.publish(message)).await {
        Ok(outcome) => ledger.tell(id, &outcome),
        Err(_) => ledger.left(id),
    }
}

/// To no queue: that is told, or nothing is known.
async fn nowhere(publisher: &Publisher, ledger: &Ledger) {
    match publisher.publish(Message::new("x").to("", "nowhere")).await {
        Ok(Receipt::Returned { code: 312, .. } | Receipt::Unknown { .. }) | Err(_) => {}
        other => ledger.wrong(&format!("to nowhere: {other:?}")),
    }
}

/// To a full queue: it is refused, or nothing is known.
async fn full(publisher: &Publisher, ledger: &Ledger) {
    match publisher.publish(Message::new("x").to("", FULL)).await {
        Ok(Receipt::Rejected { .. } | Receipt::Unknown { .. }) | Err(_) => {}
        other => ledger.wrong(&format!("to a full queue: {other:?}")),
    }
}

/// Many at once, so that many are open when a fault comes.
pub(crate) fn burst(publisher: &Publisher, ledger: &Arc<Ledger>) -> JoinHandle<()> {
    let (publisher, ledger) = (publisher.clone(), Arc::clone(ledger));
    tokio::spawn(async move {
        join_all((0..BURST).map(|_| publish(&publisher, &ledger))).await;
    })
}

/// How those who consume behave.
#[derive(Default)]
pub(crate) struct Mood {
    pub(crate) panics: AtomicBool,
    pub(crate) requeues: AtomicBool,
    pub(crate) bad: AtomicU64,
}

/// A consumer with a handler, and one that takes deliveries.
pub(crate) struct Consumers {
    pub(crate) handling: Consumer,
    streaming: JoinHandle<Result<(), StopError>>,
    leave: watch::Sender<bool>,
}

impl Consumers {
    pub(crate) async fn start(
        cluster: &Cluster,
        ledger: &Arc<Ledger>,
        mood: &Arc<Mood>,
    ) -> Result<Self, ConsumeError> {
        let (books, feelings) = (Arc::clone(ledger), Arc::clone(mood));
        let handling = Consumer::builder(cluster, QUEUE)
            .prefetch(200)
            .concurrency(8)
            .start(move |delivery: Delivery| {
                let (ledger, mood) = (Arc::clone(&books), Arc::clone(&feelings));
                async move { mood.handle(&ledger, &delivery).await }
            })
            .await?;
        let mut deliveries = Consumer::builder(cluster, QUEUE)
            .prefetch(20)
            .stream()
            .await?;
        let (leave, mut left) = watch::channel(false);
        let (ledger, mood) = (Arc::clone(ledger), Arc::clone(mood));
        let streaming = tokio::spawn(async move {
            loop {
                let delivery = tokio::select! {
                    _ = left.wait_for(|left| *left) => break,
                    delivery = deliveries.next() => delivery,
                };
                let Some(delivery) = delivery else { break };
                if mood.is_bad() {
                    // Dropped: it comes again.
                    continue;
                }
                ledger.received(&delivery);
                // A stale one comes again.
                let _ = delivery.ack();
            }
            deliveries.stop_within(PATIENCE).await
        });
        Ok(Self {
            handling,
            streaming,
            leave,
        })
    }

    /// Stops both, under way as they are.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.leave.send_replace(true);
        let (handling, streaming) =
            tokio::join!(self.handling.stop_within(PATIENCE), self.streaming);
        handling.map_err(|error| format!("stopping a consumer: {error}"))?;
        let streaming = streaming.map_err(|error| format!("a consumer panicked: {error}"))?;
        streaming.map_err(|error| format!("stopping deliveries: {error}"))
    }
}

impl Mood {
    async fn handle(&self, ledger: &Ledger, delivery: &Delivery) -> Outcome {
        tokio::task::yield_now().await;
        if self.is_bad() {
            // Not a redelivery: that would be rejected, and gone.
            if self.panics.load(Relaxed) && !delivery.redelivered {
                std::panic::panic_any(PANIC);
            }
            return Outcome::Requeue;
        }
        ledger.received(delivery);
        Outcome::Ack
    }

    /// Every fourth delivery, when the mood is bad.
    fn is_bad(&self) -> bool {
        let bad = self.panics.load(Relaxed) || self.requeues.load(Relaxed);
        bad && self.bad.fetch_add(1, Relaxed).is_multiple_of(4)
    }
}
