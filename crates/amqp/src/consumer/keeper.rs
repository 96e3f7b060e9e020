//! The task of a consumer that subscribes, passes on what is delivered, and subscribes again after
//! any loss.

use std::{
    future,
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture, join_all},
};
use lapin::types::ShortString;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    ConsumeError, ConsumerState,
    inbox::Inbox,
    registration::{Plan, Registration, lost},
    source::Source,
    state::Counters,
};
use crate::{connections::Shared, telemetry};

/// A subscription that lived for so long was a success: the next attempt comes at once, and the
/// pauses begin anew.
const SUCCESS: Duration = Duration::from_secs(1);

/// So many deliveries at most are passed on at once: one by one, each would cost two locks that
/// whoever processes them needs, too.
const BATCH: usize = 64;

/// What the handles of a consumer, its keeper and its workers share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) inbox: Arc<Inbox>,
    pub(super) counters: Arc<Counters>,
    pub(super) state: watch::Sender<ConsumerState>,
    pub(super) order: watch::Sender<Order>,
}

/// What the keeper is to do. It only ever goes on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Keep,
    /// End the subscription; what is being processed may still be settled.
    Leave,
    /// Take no more verdicts.
    Close,
}

impl Core {
    pub(super) fn new(limit: Duration, told: telemetry::Consuming) -> Arc<Self> {
        // Nobody sees it before the first subscription, except to learn why there was none.
        let cause = Arc::new(ConsumeError::Timeout(limit));
        let state = ConsumerState::Recovering { cause, attempt: 0 };
        Arc::new(Self {
            inbox: Arc::default(),
            counters: Arc::new(Counters::new(told)),
            state: watch::Sender::new(state),
            order: watch::Sender::new(Order::Keep),
        })
    }

    /// Nothing more is given out, and what waits is handed back.
    pub(super) fn leave(&self) {
        self.inbox.shut();
        self.order(Order::Leave);
    }

    pub(super) fn order(&self, new: Order) {
        self.order.send_if_modified(|order| {
            let later = new > *order;
            *order = new.max(*order);
            later
        });
    }

    pub(super) fn pause(&self) {
        self.inbox.pause();
        self.state.send_if_modified(|state| {
            change(state, ConsumerState::is_running, ConsumerState::Paused)
        });
    }

    pub(super) fn resume(&self) {
        self.inbox.resume();
        let paused = |state: &ConsumerState| matches!(state, ConsumerState::Paused);
        self.state
            .send_if_modified(|state| change(state, paused, ConsumerState::Running));
    }

    /// Passes on what is delivered, until there is no more, and says why. On the thread that reads
    /// it, where nothing comes in between, so that it does not go on without an end.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: what is taken in is passed on in the same poll.
    async fn pump(
        &self,
        registration: &Arc<Registration>,
        mut stream: lapin::Consumer,
    ) -> ConsumeError {
        let mut batch = Vec::new();
        loop {
            let end = take_in(&mut stream, &mut batch).await;
            self.pass_on(registration, &mut batch);
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn pass_on(&self, registration: &Arc<Registration>, batch: &mut Vec<lapin::message::Delivery>) {
        Counters::add(&self.counters.delivered, batch.len() as u64);
        self.counters.told.delivered(batch.len());
        registration.deliver(batch.iter().map(|message| message.delivery_tag));
        self.inbox.push(batch.drain(..).map(|message| {
            let ticket = registration.ticket(message.delivery_tag);
            (message.into(), ticket)
        }));
    }

    /// There is a subscription.
    fn registered(&self) {
        self.state.send_modify(|state| {
            *state = if self.inbox.is_paused() {
                ConsumerState::Paused
            } else {
                ConsumerState::Running
            };
        });
    }
}

fn change(
    state: &mut ConsumerState,
    from: impl Fn(&ConsumerState) -> bool,
    to: ConsumerState,
) -> bool {
    let applies = from(state);
    if applies {
        *state = to;
    }
    applies
}

/// Waits for deliveries, and takes as many as are there, up to [`BATCH`]. Says why there will be no
/// more.
///
/// # Cancel safety
///
/// Cancel-safe: nothing is taken while it waits.
async fn take_in(
    stream: &mut lapin::Consumer,
    batch: &mut Vec<lapin::message::Delivery>,
) -> Option<ConsumeError> {
    future::poll_fn(|context| {
        while batch.len() < BATCH {
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => batch.push(message),
                // Not polled again: after this it has nothing to say (lapin 4.12).
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(ConsumeError::Failed(error)));
                }
                Poll::Ready(None) => return Poll::Ready(Some(ConsumeError::Cancelled)),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(None)
    })
    .await
}

pub(super) type Begun = oneshot::Sender<Result<(), ConsumeError>>;

/// Keeps a subscription until it is told to leave, or cannot. Says whether the broker has had all
/// verdicts of the last one.
pub(super) async fn run(
    cluster: Arc<Shared>,
    core: Arc<Core>,
    source: Source,
    plan: Plan,
    begun: Begun,
) -> bool {
    let mut keeper = Keeper {
        orders: core.order.subscribe(),
        core,
        cluster,
        source,
        plan,
        begun: Some(begun),
        failures: 0,
        acknowledging: Vec::new(),
    };
    let last = keeper.keep().await;
    keeper.core.inbox.shut();
    if let ConsumerState::Failed(_) = last {
        // At once: what is still being processed may take its time.
        keeper.core.state.send_replace(last);
        keeper.see_off().await
    } else {
        let had_all = keeper.see_off().await;
        keeper.core.state.send_replace(last);
        had_all
    }
}

struct Keeper {
    cluster: Arc<Shared>,
    core: Arc<Core>,
    source: Source,
    plan: Plan,
    orders: watch::Receiver<Order>,
    /// Until the first subscription.
    begun: Option<Begun>,
    /// Attempts since the last success.
    failures: u32,
    acknowledging: Vec<Acknowledging>,
}

/// A registration that may still have something to tell the broker.
struct Acknowledging {
    registration: Weak<Registration>,
    /// Whether the broker has had all of it.
    ended: oneshot::Receiver<bool>,
}

impl Keeper {
    async fn keep(&mut self) -> ConsumerState {
        loop {
            let attempt = self.attempt().await;
            self.forget_lost();
            let Some(attempt) = attempt else {
                return ConsumerState::Stopped;
            };
            let cause = match attempt {
                Ok((registration, stream)) => {
                    let began = Instant::now();
                    self.begin(&registration);
                    let Some(cause) = self.receive(&registration, stream).await else {
                        return ConsumerState::Stopped;
                    };
                    if registration.link().is_live() {
                        self.source.doubt();
                    }
                    if began.elapsed() >= SUCCESS {
                        self.failures = 0;
                        self.recover(cause);
                        continue;
                    }
                    cause
                }
                Err(cause) if self.is_final(&cause) => return self.fail(cause),
                Err(cause) => {
                    self.source.doubt();
                    cause
                }
            };
            self.failures = self.failures.saturating_add(1);
            self.recover(cause);
            let pause = self.cluster.config.backoff.pause(self.failures);
            tokio::select! {
                () = told(&mut self.orders, Order::Leave) => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// One attempt to subscribe; none if it was told to leave.
    async fn attempt(
        &mut self,
    ) -> Option<Result<(Arc<Registration>, lapin::Consumer), ConsumeError>> {
        let opening = async {
            let place = self.source.find(&self.cluster).await?;
            Registration::open(place, &self.plan, &self.core.counters).await
        };
        tokio::select! {
            biased;
            () = told(&mut self.orders, Order::Leave) => None,
            opened = timeout(self.plan.limit, opening) => {
                Some(opened.unwrap_or(Err(ConsumeError::Timeout(self.plan.limit))))
            }
        }
    }

    fn begin(&mut self, registration: &Arc<Registration>) {
        let task = Arc::clone(registration).acknowledge();
        self.acknowledging.push(Acknowledging {
            registration: Arc::downgrade(registration),
            ended: registration.link().spawn(task),
        });
        Counters::add(&self.core.counters.registrations, 1);
        self.core.counters.told.subscribed();
        self.core.registered();
        if let Some(begun) = self.begun.take() {
            // Nobody waits if the start was given up; the order to leave follows.
            let _ = begun.send(Ok(()));
        }
    }

    /// Forgets the registrations that have ended, and those that were lost: that was before any stop
    /// to come, which is not to wait for their tasks, nor to fail with them.
    fn forget_lost(&mut self) {
        self.acknowledging.retain(|acknowledging| {
            let registration = acknowledging.registration.upgrade();
            registration.is_some_and(|registration| !registration.is_lost())
        });
    }

    /// Passes on what is delivered. Says why there is no more; none if it was told to leave.
    async fn receive(
        &mut self,
        registration: &Arc<Registration>,
        stream: lapin::Consumer,
    ) -> Option<ConsumeError> {
        let mut health = registration.link().health();
        let tag = stream.tag();
        let mut pump = Pump::start(&self.core, registration, stream);
        let cause = tokio::select! {
            biased;
            () = told(&mut self.orders, Order::Leave) => None,
            end = &mut pump.ended => Some(end.unwrap_or(ConsumeError::Lost)),
            () = lost(&mut health) => Some(ConsumeError::Lost),
        };
        let Some(cause) = cause else {
            self.leave(registration, tag, pump).await;
            return None;
        };
        // What it passed on afterwards would not be handed back.
        pump.stop().await;
        if matches!(cause, ConsumeError::Cancelled) {
            // The channel is open: what is being processed can be acknowledged.
            self.core.inbox.hand_back(registration);
            registration.retire();
        } else {
            registration.bury();
            self.core.inbox.hand_back(registration);
        }
        Some(cause)
    }

    /// Ends the subscription and hands back what nobody has begun to process.
    async fn leave(&self, registration: &Arc<Registration>, tag: ShortString, mut pump: Pump) {
        if registration.cancel(tag).await {
            // It is all there since the cancellation was answered. The inbox is shut, and hands it back.
            let _ = timeout(self.plan.limit, &mut pump.ended).await;
            pump.stop().await;
            registration.retire();
        } else {
            pump.stop().await;
            registration.bury();
        }
    }

    /// Waits for the last verdicts, for as long as they are taken.
    async fn see_off(&mut self) -> bool {
        let acknowledging = self.acknowledging.drain(..);
        let (registrations, ended): (Vec<_>, Vec<_>) =
            acknowledging.map(|it| (it.registration, it.ended)).unzip();
        let mut ended = pin!(join_all(ended));
        let all = tokio::select! {
            all = &mut ended => all,
            () = told(&mut self.orders, Order::Close) => {
                let open = registrations.iter().filter_map(Weak::upgrade);
                open.for_each(|registration| registration.close());
                ended.await
            }
        };
        all.into_iter().all(|had_all| had_all.unwrap_or(false))
    }

    fn recover(&mut self, cause: ConsumeError) {
        self.core.counters.told.lost(&cause, self.failures);
        self.core.state.send_replace(ConsumerState::Recovering {
            cause: Arc::new(cause),
            attempt: self.failures,
        });
    }

    fn fail(&mut self, cause: ConsumeError) -> ConsumerState {
        self.core.counters.told.failed(&cause);
        let shared = Arc::new(cause.clone());
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(Err(cause));
        }
        ConsumerState::Failed(shared)
    }

    fn is_final(&self, cause: &ConsumeError) -> bool {
        if self.begun.is_some() {
            cause.is_final_at_start()
        } else {
            cause.is_final()
        }
    }
}

/// What passes on deliveries, on the thread that reads them.
struct Pump {
    /// Dropped, it ends.
    go_on: oneshot::Sender<()>,
    /// Why there are no more deliveries. Fused, for it may be asked again.
    ended: Fuse<oneshot::Receiver<ConsumeError>>,
}

impl Pump {
    fn start(core: &Arc<Core>, registration: &Arc<Registration>, stream: lapin::Consumer) -> Self {
        let (go_on, stopped) = oneshot::channel();
        let (core, held) = (Arc::clone(core), Arc::clone(registration));
        let pump = async move {
            tokio::select! {
                biased;
                _ = stopped => ConsumeError::Lost,
                end = core.pump(&held, stream) => end,
            }
        };
        let ended = registration.link().spawn(pump).fuse();
        Self { go_on, ended }
    }

    /// Until it has ended, and passes on nothing more.
    async fn stop(self) {
        drop(self.go_on);
        if !self.ended.is_terminated() {
            let _ = self.ended.await;
        }
    }
}

/// Until the order is this, or a later one.
async fn told(orders: &mut watch::Receiver<Order>, order: Order) {
    // The sender is in the core, which the keeper has.
    let _ = orders.wait_for(|told| *told >= order).await;
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;
    use wharf_broker::Broker;
    use wharf_testkit::wait::within;

    use super::*;
    use crate::{Cluster, Topology, topology::Queue};

    const SOON: Duration = Duration::from_secs(20);

    /// A broker, and the keeper of a consumer of a queue there.
    async fn subscribing() -> (Broker, Keeper) {
        let broker = Broker::builder().user("u", "p").start().await.unwrap();
        let cluster = Cluster::builder([broker.url("u", "p")]);
        let cluster = cluster.connect_lazily().unwrap();
        let topology = Topology::new().queue(Queue::durable("q"));
        drop(topology.declare(&cluster).await.unwrap());
        let core = Core::new(SOON, telemetry::Consuming::new("test", "q"));
        let keeper = Keeper {
            orders: core.order.subscribe(),
            core,
            cluster: Arc::clone(cluster.shared()),
            source: Source::new("q".into(), None),
            plan: Plan {
                tag: "".into(),
                prefetch: 1,
                exclusive: false,
                arguments: FieldTable::default(),
                limit: SOON,
            },
            begun: None,
            failures: 0,
            acknowledging: Vec::new(),
        };
        (broker, keeper)
    }

    async fn subscription(keeper: &mut Keeper) -> (Arc<Registration>, lapin::Consumer) {
        let attempt = within("an attempt", SOON, keeper.attempt()).await;
        attempt.expect("nobody told it to leave").unwrap()
    }

    /// As if it was told during a pause.
    async fn stop(keeper: &mut Keeper) {
        keeper.core.leave();
        let last = within("the stop", SOON, keeper.keep()).await;
        assert!(matches!(last, ConsumerState::Stopped));
    }

    /// In place of a task that acknowledges, one that ends when the test says so.
    fn hold(keeper: &mut Keeper, registration: &Arc<Registration>) -> oneshot::Sender<bool> {
        let (end, ended) = oneshot::channel();
        keeper.acknowledging.push(Acknowledging {
            registration: Arc::downgrade(registration),
            ended,
        });
        end
    }

    /// Whether such a stop went well depended on whether the task of the lost channel had ended.
    #[tokio::test]
    async fn a_stop_during_a_recovery_does_not_ask_how_the_lost_channel_ended() {
        let (broker, mut keeper) = subscribing().await;
        let (registration, stream) = subscription(&mut keeper).await;
        let end = hold(&mut keeper, &registration);
        broker
            .faults()
            .close_channels(406, "PRECONDITION_FAILED - test");
        let loss = within("the loss", SOON, keeper.receive(&registration, stream)).await;
        assert!(loss.is_some());
        stop(&mut keeper).await;
        // Nobody may be waiting for it.
        let _ = end.send(false);
        assert!(within("the end", SOON, keeper.see_off()).await);
    }

    #[tokio::test]
    async fn nor_how_one_ended_that_was_lost_as_its_last_deliveries_were_processed() {
        let (_broker, mut keeper) = subscribing().await;
        let (registration, _stream) = subscription(&mut keeper).await;
        let end = hold(&mut keeper, &registration);
        registration.retire();
        registration.link().close(SOON).await;
        stop(&mut keeper).await;
        let _ = end.send(false);
        assert!(within("the end", SOON, keeper.see_off()).await);
    }

    #[tokio::test]
    async fn but_it_does_ask_how_one_ends_that_is_there() {
        let (_broker, mut keeper) = subscribing().await;
        let (registration, _stream) = subscription(&mut keeper).await;
        let end = hold(&mut keeper, &registration);
        registration.retire();
        stop(&mut keeper).await;
        end.send(false).expect("somebody waits for it");
        assert!(!within("the end", SOON, keeper.see_off()).await);
    }
}
