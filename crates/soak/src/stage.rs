//! A broker, two proxies before it, and the clients.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use wharf_amqp::{Cluster, Message, Publisher, Receipt, Topology, topology::Queue};
use wharf_testkit::{proxy::Proxy, rabbit::Rabbit};

use crate::{
    episode::Episode,
    ledger::{FULL, Ledger, QUEUE},
    load::{Consumers, Load, Mood},
};

/// For everything that must happen when a fault is over, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than the longest back-off and all that is to be done after it.
const LONG: Duration = Duration::from_secs(8);

pub(crate) struct Stage {
    pub(crate) rabbit: Rabbit,
    pub(crate) to_publish: Proxy,
    pub(crate) to_consume: Proxy,
    pub(crate) publishing: Cluster,
    pub(crate) consuming: Cluster,
    /// Waits longer than any fault lasts.
    pub(crate) patient: Publisher,
    /// Gives up before most faults are over, so that the fate of its messages is unknown.
    pub(crate) hasty: Publisher,
    /// Of the publishers that were replaced.
    pub(crate) past: Episode,
    pub(crate) loads: [Load; 2],
    pub(crate) noisy: bool,
    pub(crate) consumers: Option<Consumers>,
    pub(crate) mood: Arc<Mood>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let rabbit = Rabbit::start().await;
        let to_publish = Proxy::to(rabbit.amqp_addr()).await;
        let to_consume = Proxy::to(rabbit.amqp_addr()).await;
        let publishing = client(&rabbit, &to_publish);
        let consuming = client(&rabbit, &to_consume);
        let patient = patient(&publishing).await;
        let hasty = Publisher::builder(&publishing)
            .deadline(Duration::from_secs(3))
            .build()
            .await
            .expect("a publisher is built");
        let first = patient.publish(Message::new("first").to("", FULL).persistent());
        let first = first
            .await
            .expect("a broker that has just started takes it");
        assert!(first.is_confirmed(), "{first:?}");
        let borrowed = publishing.channels().get().await;
        drop(borrowed.expect("channels are lent"));
        let (ledger, mood) = (Arc::new(Ledger::new()), Arc::default());
        let consumers = Consumers::start(&consuming, &ledger, &mood).await;
        rabbit.save_declarations().await;
        Self {
            loads: [Load::start(&patient, &ledger), Load::start(&hasty, &ledger)],
            noisy: false,
            consumers: Some(consumers.expect("consumers start")),
            rabbit,
            to_publish,
            to_consume,
            publishing,
            consuming,
            patient,
            hasty,
            past: Episode::default(),
            mood,
            ledger,
        }
    }

    /// Waits until messages published from now on are confirmed and consumed. Says how things are
    /// when that takes long.
    pub(crate) async fn recover(&self) -> Result<(), String> {
        let recovering = self.recover_at_all();
        tokio::pin!(recovering);
        tokio::select! {
            outcome = &mut recovering => return outcome,
            () = sleep(LONG) => println!("    after {LONG:?}: {}", self.describe().await),
        }
        recovering.await
    }

    async fn recover_at_all(&self) -> Result<(), String> {
        let (confirmed, consumed) = (&self.ledger.confirmed, &self.ledger.consumed);
        let (enough, enough_consumed) =
            (confirmed.load(Relaxed) + 100, consumed.load(Relaxed) + 100);
        until("messages are confirmed again", || {
            confirmed.load(Relaxed) >= enough
        })
        .await?;
        until("messages are consumed again", || {
            consumed.load(Relaxed) >= enough_consumed
        })
        .await?;
        let probe = self.ledger.message();
        let outcome = self.patient.publish(probe.1).await;
        self.ledger.tell(probe.0, &outcome);
        match outcome {
            Ok(Receipt::Confirmed { .. }) => Ok(()),
            other => Err(format!(
                "after the fault, a message came to this: {other:?}"
            )),
        }
    }

    /// Lets nobody publish until every window is free and all that was confirmed has come.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        self.loads.iter().for_each(Load::shut);
        until("every message has a verdict", || {
            self.loads.iter().all(Load::is_quiet)
        })
        .await?;
        until("every share of the windows is back", || {
            self.patient.stats().in_flight + self.hasty.stats().in_flight == 0
        })
        .await?;
        until("no channel is lent", || {
            self.publishing.confirm_channels().status().leased == 0
        })
        .await?;
        let deadline = Instant::now() + PATIENCE;
        while self.rabbit.queue_depth(QUEUE).await > 0 || self.unacknowledged().await != "0" {
            if Instant::now() > deadline {
                return Err("the queue is not consumed to its end".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        let verdict = self.ledger.checker.verdict();
        if !verdict.is_valid() || !verdict.unresolved.is_empty() {
            return Err(format!("at a quiet moment: {verdict}"));
        }
        Ok(())
    }

    pub(crate) async fn unacknowledged(&self) -> String {
        let root = self.rabbit.root();
        root.queue_info(QUEUE, "messages_unacknowledged").await
    }

    /// Closes everything; says what is wrong after it.
    pub(crate) async fn end(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(consumers) = self.consumers.take() {
            problems.extend(consumers.stop().await.err());
        }
        for publisher in [&self.patient, &self.hasty] {
            if let Err(error) = publisher.close_within(PATIENCE).await {
                problems.push(format!("closing a publisher: {error}"));
            }
        }
        self.publishing.close_within(PATIENCE).await;
        self.consuming.close_within(PATIENCE).await;
        let deadline = Instant::now() + PATIENCE;
        while !self.rabbit.connections().await.is_empty() {
            if Instant::now() > deadline {
                problems.push("connections are left after the end".into());
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let verdict = self.ledger.checker.verdict();
        println!("{verdict}");
        let exact = verdict.is_valid()
            && verdict.unresolved.is_empty()
            && verdict.reported_twice.is_empty()
            && verdict.rejected_received.is_empty()
            && verdict.returned_received.is_empty();
        if !exact {
            problems.push(verdict.to_string());
        }
        for (what, count) in [
            (
                "bodies that are not what was published",
                &self.ledger.spoilt,
            ),
            ("verdicts that nothing explains", &self.ledger.wrong),
        ] {
            let count = count.load(Relaxed);
            if count > 0 {
                problems.push(format!("{count} {what}"));
            }
        }
        problems
    }

    /// For whoever has to find out why.
    pub(crate) async fn describe(&self) -> String {
        let handling = self.consumers.as_ref().map(|consumers| &consumers.handling);
        let mut text = format!(
            "publishing: {:?} {:?}\n  {:?}\n  {:?}\n  {:?}\nconsuming: {:?} {:?}\n  {handling:?}\n",
            self.publishing.state(),
            self.to_publish.counts(),
            self.publishing.confirm_channels().status(),
            self.patient.stats(),
            self.hasty.stats(),
            self.consuming.state(),
            self.to_consume.counts(),
        );
        // It may be the broker that does not answer.
        let asking = async {
            let connections = self.rabbit.connections().await;
            format!(
                "{connections:?}\n{} ready",
                self.rabbit.queue_depth(QUEUE).await
            )
        };
        match tokio::time::timeout(PATIENCE / 6, asking).await {
            Ok(answer) => text.push_str(&answer),
            Err(_) => text.push_str("the broker does not answer"),
        }
        text
    }
}

pub(crate) async fn patient(cluster: &Cluster) -> Publisher {
    let topology = Topology::new()
        .queue(Queue::durable(QUEUE))
        .queue(Queue::durable(FULL).max_length(1).reject_publish());
    Publisher::builder(cluster)
        .deadline(PATIENCE)
        .topology(topology)
        .build()
        .await
        .expect("a publisher is built")
}

fn client(rabbit: &Rabbit, proxy: &Proxy) -> Cluster {
    let uri = rabbit.root().url_via(proxy.addr());
    Cluster::builder([uri])
        .name("soak")
        .heartbeat(2)
        .frame_max(16_384)
        .connect_timeout(Duration::from_secs(3))
        // So that one does not publish, and has no connection for that.
        .connect_lazily()
        .expect("the settings make sense")
}

/// Waits for a condition; says which it was if it does not come.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return Err(format!("not within {:?}: {what}", 2 * PATIENCE));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
