//! One fault, under load, and what comes after it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::sleep};
use wharf_amqp::{
    Cluster, Message, PublishError, Receipt, State,
    lapin::{options::QueueDeclareOptions, types::FieldTable},
};
use wharf_testkit::proxy::Proxy;

use crate::{
    deck::{Broker, Caller, Fault, Network, Side},
    ledger::FULL,
    load::{self, Consumers, Load},
    stage::{self, PATIENCE, Stage},
};

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Episode {
    pub(crate) took: Duration,
    /// From shutting the gates until everything was at rest.
    pub(crate) settled: Duration,
    /// The longest time in which no message was confirmed.
    pub(crate) gap: Duration,
    /// Of those who publish, and of those who consume.
    pub(crate) reconnects: [u64; 2],
    pub(crate) republished: u64,
    pub(crate) unknown: u64,
    pub(crate) failed: u64,
    pub(crate) confirmed: u64,
}

/// # Errors
///
/// What did not come back.
pub(crate) async fn play(stage: &mut Stage, fault: &Fault) -> Result<Episode, String> {
    let before = sum(stage);
    let losses = [
        Losses::count(&stage.publishing),
        Losses::count(&stage.consuming),
    ];
    stage.noisy = !stage.noisy;
    stage.loads.iter().for_each(|load| load.open(stage.noisy));
    let bursts = [&stage.patient, &stage.hasty].map(|publisher| {
        let published = publisher.stats().published;
        (load::burst(publisher, &stage.ledger), published)
    });
    stage::until("a burst is under way", || {
        stage.patient.stats().published > bursts[0].1 + 100
    })
    .await?;
    stage.ledger.watch_gaps();
    let began = Instant::now();
    match fault {
        Fault::Network(side, network, hold) => disturb(stage, *side, *network, *hold).await,
        Fault::Broker(broker, hold) => harm(stage, *broker, *hold).await,
        Fault::Caller(caller) => misuse(stage, *caller).await?,
    }
    stage.recover().await?;
    let (took, gap) = (began.elapsed(), stage.ledger.longest_gap());
    for (burst, _) in bursts {
        let ended = tokio::time::timeout(2 * PATIENCE, burst).await;
        let ended = ended.map_err(|_| "a burst does not end".to_owned())?;
        ended.map_err(|error| format!("publishing panicked: {error}"))?;
    }
    let settling = Instant::now();
    stage.settle().await?;
    let after = sum(stage);
    Ok(Episode {
        took,
        settled: settling.elapsed(),
        gap,
        reconnects: losses.each_ref().map(Losses::so_far),
        republished: after.republished - before.republished,
        unknown: after.unknown - before.unknown,
        failed: after.failed - before.failed,
        confirmed: after.confirmed - before.confirmed,
    })
}

/// Totals of all publishers.
fn sum(stage: &Stage) -> Episode {
    let mut sum = stage.past;
    for stats in [stage.patient.stats(), stage.hasty.stats()] {
        sum.republished += stats.republished;
        sum.unknown += stats.unknown;
        sum.failed += stats.failed;
        sum.confirmed += stats.confirmed;
    }
    sum
}

async fn disturb(stage: &Stage, side: Side, network: Network, hold: Duration) {
    let proxies: Vec<&Proxy> = match side {
        Side::Publishing => vec![&stage.to_publish],
        Side::Consuming => vec![&stage.to_consume],
        Side::Both => vec![&stage.to_publish, &stage.to_consume],
    };
    for proxy in &proxies {
        match network {
            Network::BlackHole => proxy.black_hole(),
            Network::OneWay(direction) => proxy.black_hole_only(direction),
            Network::Delay(latency) => proxy.delay(latency),
            Network::Throttle(bytes) => proxy.throttle(bytes),
            Network::Cut => proxy.cut(),
            Network::Reset => proxy.reset(),
            Network::EndAfter(bytes, direction, end) => proxy.end_after(bytes, direction, end),
            Network::Refuse => {
                proxy.refuse().await;
                proxy.cut();
            }
            Network::AcceptAndEnd(end) => {
                proxy.accept_and_end(end);
                proxy.reset();
            }
            Network::DropReplies => proxy.drop_replies(),
        }
    }
    sleep(hold).await;
    for proxy in proxies {
        proxy.pass().await;
    }
}

async fn harm(stage: &Stage, broker: Broker, hold: Duration) {
    let rabbit = &stage.rabbit;
    match broker {
        Broker::CloseConnections => rabbit.close_all_connections("the soak wants it").await,
        Broker::SuspendListeners => {
            rabbit.suspend_listeners().await;
            stage.to_publish.cut();
            sleep(hold).await;
            rabbit.resume_listeners().await;
        }
        Broker::MemoryAlarm => {
            rabbit.set_memory_alarm().await;
            sleep(hold).await;
            rabbit.clear_memory_alarm().await;
        }
        Broker::Pause => {
            rabbit.pause().await;
            sleep(hold).await;
            rabbit.resume().await;
        }
        Broker::Kill => {
            rabbit.kill().await;
            rabbit.restart().await;
        }
        Broker::StopApp => {
            rabbit.stop_app().await;
            sleep(hold).await;
            rabbit.start_app().await;
        }
    }
}

async fn misuse(stage: &mut Stage, caller: Caller) -> Result<(), String> {
    match caller {
        Caller::Leaves => leave(stage).await,
        Caller::MissingExchange => {
            // One at a time: what is open beside several may have to be given up.
            for _ in 0..20 {
                expect(stage, ("missing", "x"), 1, |outcome| {
                    matches!(outcome, Err(PublishError::Refused { .. }))
                })
                .await;
            }
        }
        Caller::Unroutable => {
            expect(stage, ("", "nowhere"), 200, |outcome| {
                matches!(outcome, Ok(Receipt::Returned { code: 312, .. }))
            })
            .await;
        }
        Caller::FullQueue => {
            expect(stage, ("", FULL), 200, |outcome| {
                matches!(outcome, Ok(Receipt::Rejected { .. }))
            })
            .await;
        }
        Caller::BreaksChannels => {
            let all = (0..100).map(|_| break_a_channel(stage));
            join_all(all).await;
        }
        Caller::PausesConsumer => {
            let consumers = stage.consumers.as_ref().expect("there are consumers");
            consumers.handling.pause();
            sleep(Duration::from_secs(1)).await;
            consumers.handling.resume();
        }
        Caller::Panics => in_a_mood(&stage.mood.panics).await,
        Caller::Requeues => in_a_mood(&stage.mood.requeues).await,
        Caller::ReplacesConsumers => {
            let old = stage.consumers.take().expect("there are consumers");
            old.stop().await?;
            let new = Consumers::start(&stage.consuming, &stage.ledger, &stage.mood).await;
            stage.consumers = Some(new.map_err(|error| format!("a new consumer: {error}"))?);
        }
        Caller::ReplacesPublisher => replace_publisher(stage).await?,
    }
    Ok(())
}

async fn in_a_mood(mood: &AtomicBool) {
    mood.store(true, Relaxed);
    sleep(Duration::from_secs(1)).await;
    mood.store(false, Relaxed);
}

/// Callers that leave, at all sorts of moments, without waiting for a verdict.
async fn leave(stage: &Stage) {
    for round in 0..300 {
        let (id, message) = stage.ledger.message();
        let mut publishing = Box::pin(stage.patient.publish(message));
        let mut done = false;
        for _ in 0..round % 4 {
            let waker = Waker::noop();
            if let std::task::Poll::Ready(outcome) =
                publishing.as_mut().poll(&mut Context::from_waker(waker))
            {
                stage.ledger.tell(id, &outcome);
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(publishing);
        if !done {
            stage.ledger.left(id);
        }
    }
}

/// Has the broker close a borrowed channel.
async fn break_a_channel(stage: &Stage) {
    let channel = match stage.publishing.channels().get().await {
        Ok(channel) => channel,
        Err(error) => return stage.ledger.wrong(&format!("borrowing a channel: {error}")),
    };
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let missing = channel.queue_declare("missing".into(), passive, FieldTable::default());
    match tokio::time::timeout(PATIENCE, missing).await {
        Ok(Err(error)) if error.to_string().contains("NOT_FOUND") => {}
        other => stage.ledger.wrong(&format!("a missing queue: {other:?}")),
    }
}

/// Publishes messages that have an outcome of their own, among those that have none.
async fn expect(
    stage: &Stage,
    to: (&str, &str),
    count: usize,
    is_right: impl Fn(&Result<Receipt, PublishError>) -> bool,
) {
    let each = (0..count).map(|_| stage.patient.publish(Message::new("x").to(to.0, to.1)));
    for outcome in join_all(each).await {
        if !is_right(&outcome) {
            stage.ledger.wrong(&format!("to {to:?}: {outcome:?}"));
        }
    }
}

/// Closes a publisher under load, and goes on with another.
async fn replace_publisher(stage: &mut Stage) -> Result<(), String> {
    let new = stage::patient(&stage.publishing).await;
    let old = std::mem::replace(&mut stage.patient, new);
    let closed = old.close_within(PATIENCE).await;
    closed.map_err(|error| format!("closing a publisher under load: {error}"))?;
    let stats = old.stats();
    let past = &mut stage.past;
    past.republished += stats.republished;
    past.unknown += stats.unknown;
    past.failed += stats.failed;
    past.confirmed += stats.confirmed;
    stage.loads[0].shut();
    stage::until("the callers of a closed publisher leave", || {
        stage.loads[0].is_quiet()
    })
    .await?;
    stage.loads[0] = Load::start(&stage.patient, &stage.ledger);
    stage.loads[0].open(stage.noisy);
    Ok(())
}

/// How often a cluster loses its connection.
struct Losses {
    count: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Losses {
    fn count(cluster: &Cluster) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let (counter, mut state) = (Arc::clone(&count), cluster.watch());
        let is_down = |state: &State| matches!(state, State::Down { .. });
        let task = tokio::spawn(async move {
            while state.wait_for(State::is_up).await.is_ok()
                && state.wait_for(is_down).await.is_ok()
            {
                counter.fetch_add(1, Relaxed);
            }
        });
        Self { count, task }
    }

    fn so_far(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Drop for Losses {
    fn drop(&mut self) {
        self.task.abort();
    }
}
