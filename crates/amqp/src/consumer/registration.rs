//! One subscription: a channel of its own, what was delivered on it, and the task that tells the
//! broker what became of that. A delivery is settled on the channel it came by or not at all.

use std::{
    fmt,
    future::{self, Future},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    ConsumeError, Outcome, Stale,
    ledger::{Frame, Ledger, Next},
    source::Place,
    state::Counters,
};
use crate::{
    channels::Channel,
    link::{Health, Link},
};

/// How to subscribe, each time anew.
pub(super) struct Plan {
    pub(super) tag: ShortString,
    pub(super) prefetch: u16,
    pub(super) exclusive: bool,
    pub(super) arguments: FieldTable,
    /// For each call to the broker.
    pub(super) limit: Duration,
}

pub(super) struct Registration {
    channel: Channel,
    /// Held for a look or a change, never across an await.
    ledger: Mutex<Ledger>,
    /// Wakes [`acknowledge`](Self::acknowledge).
    wake: Notify,
    counters: Arc<Counters>,
    limit: Duration,
}

impl Registration {
    /// Subscribes on a new channel. The caller sets the bound.
    pub(super) async fn open(
        place: Place,
        plan: &Plan,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Self>, lapin::Consumer), ConsumeError> {
        let link = place.link;
        let (channel, berth) = link.open(false, plan.limit).await?;
        let channel = Channel::new(channel, berth);
        // Per consumer (RabbitMQ: consumer prefetch).
        let qos = BasicQosOptions { global: false };
        let qos = link.answer(channel.basic_qos(plan.prefetch, qos)).await;
        qos.map_err(ConsumeError::refusal)?;
        let options = BasicConsumeOptions {
            exclusive: plan.exclusive,
            ..BasicConsumeOptions::default()
        };
        let (tag, arguments) = (plan.tag.clone(), plan.arguments.clone());
        let consume = channel.basic_consume(place.queue, tag, options, arguments);
        let stream = link.answer(consume).await;
        let stream = stream.map_err(ConsumeError::refusal)?;
        let registration = Arc::new(Self {
            channel,
            ledger: Mutex::new(Ledger::new(plan.prefetch)),
            wake: Notify::new(),
            counters: Arc::clone(counters),
            limit: plan.limit,
        });
        Ok((registration, stream))
    }

    /// Takes note of deliveries, before anybody has a ticket for them.
    pub(super) fn deliver(&self, tags: impl Iterator<Item = u64>) {
        let mut ledger = self.ledger();
        tags.for_each(|tag| ledger.deliver(tag));
    }

    pub(super) fn ticket(self: &Arc<Self>, tag: u64) -> Ticket {
        Ticket {
            registration: Arc::clone(self),
            tag,
            settled: false,
        }
    }

    pub(super) fn link(&self) -> &Link {
        self.channel.link()
    }

    /// Has the broker deliver no more.
    pub(super) async fn cancel(&self, tag: ShortString) -> bool {
        let cancel = self
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        let cancelled = timeout(self.limit, self.link().answer(cancel)).await;
        matches!(cancelled, Ok(Ok(())))
    }

    /// There will be no more deliveries; the channel is closed when the last is settled.
    pub(super) fn retire(&self) {
        self.ledger().retire();
        self.wake.notify_one();
    }

    /// Takes no more verdicts: the channel is closed when the last is sent, and the broker gets
    /// back what is open.
    pub(super) fn close(&self) {
        self.ledger().close();
        self.wake.notify_one();
    }

    /// The channel is gone.
    pub(super) fn bury(&self) {
        let unsent = self.ledger().bury();
        Counters::add(&self.counters.stale, unsent);
        self.counters.told.stale(unsent);
        self.wake.notify_one();
    }

    /// Whether the channel is known to be gone, and with it what was not sent.
    pub(super) fn is_lost(&self) -> bool {
        self.ledger().is_dead() || self.link().is_lost()
    }

    fn settle(&self, tag: u64, outcome: Outcome) -> Result<(), Stale> {
        if !self.channel.status().connected() || self.link().is_lost() {
            self.bury();
            return Err(Stale);
        }
        let wake = self.ledger().settle(tag, outcome, Instant::now());
        if wake.ok_or(Stale)? {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Tells the broker what became of the deliveries until none is left and no more come, and
    /// closes the channel. Says whether the broker has had it all.
    pub(super) async fn acknowledge(self: Arc<Self>) -> bool {
        let mut health = self.link().health();
        loop {
            let (frames, next) = self.ledger().due(Instant::now());
            if !self.send(&frames).await {
                self.bury();
            } else if next == Next::End {
                return self.leave().await;
            } else if frames.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = until(next) => {}
                    () = lost(&mut health) => self.bury(),
                }
            }
        }
    }

    async fn leave(&self) -> bool {
        // Its answer comes after everything sent before was read.
        let close = self.channel.leave();
        self.channel.is_open() && matches!(timeout(self.limit, close).await, Ok(Ok(())))
    }

    /// Writes the frames, in this order. Says whether all were written.
    async fn send(&self, frames: &[Frame]) -> bool {
        let mut writes = Vec::new();
        for frame in frames {
            let mut write = Box::pin(self.write(*frame));
            // The first poll puts the frame in its place on the channel.
            match future::poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => writes.push(write),
            }
        }
        let written = timeout(self.limit, join_all(writes)).await;
        written.is_ok_and(|writes| writes.iter().all(Result::is_ok))
    }

    async fn write(&self, frame: Frame) -> lapin::Result<()> {
        let written = match frame {
            Frame::Ack { tag, count } => {
                let multiple = count > 1;
                let ack = BasicAckOptions { multiple };
                self.channel.basic_ack(tag, ack).await
            }
            Frame::Nack { tag, requeue } => {
                let nack = BasicNackOptions {
                    multiple: false,
                    requeue,
                };
                self.channel.basic_nack(tag, nack).await
            }
        };
        self.count(frame, written.is_ok());
        written
    }

    fn count(&self, frame: Frame, written: bool) {
        let counters = &self.counters;
        let counter = match frame {
            _ if !written => &counters.stale,
            Frame::Ack { .. } => &counters.acked,
            Frame::Nack { requeue: true, .. } => &counters.requeued,
            Frame::Nack { requeue: false, .. } => &counters.rejected,
        };
        Counters::add(counter, frame.count());
        match frame {
            _ if !written => counters.told.stale(frame.count()),
            Frame::Ack { count, .. } => counters.told.acked(count),
            Frame::Nack { requeue, .. } => counters.told.refused(requeue),
        }
        if written && matches!(frame, Frame::Ack { .. }) {
            Counters::add(&counters.ack_frames, 1);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// Until the connection is lost.
pub(super) async fn lost(health: &mut watch::Receiver<Health>) {
    // Without a sender it is gone, too.
    let _ = health.wait_for(|health| *health == Health::Lost).await;
}

async fn until(next: Next) {
    match next {
        Next::At(time) => sleep_until(time).await,
        Next::WhenWoken | Next::End => future::pending().await,
    }
}

/// The right to settle one delivery, once. Dropped, it requeues.
#[derive(Debug)]
pub(super) struct Ticket {
    registration: Arc<Registration>,
    tag: u64,
    settled: bool,
}

impl Ticket {
    pub(super) fn settle(mut self, outcome: Outcome) -> Result<(), Stale> {
        self.settled = true;
        let settled = self.registration.settle(self.tag, outcome);
        if settled.is_err() {
            Counters::add(&self.registration.counters.stale, 1);
            self.registration.counters.told.stale(1);
        }
        settled
    }

    pub(super) fn is_stale(&self) -> bool {
        !self.registration.channel.is_open()
    }

    pub(super) fn is_of(&self, registration: &Arc<Registration>) -> bool {
        Arc::ptr_eq(&self.registration, registration)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registration.counters.told.done();
        if !self.settled {
            // If its channel is gone, the broker has it back already.
            let _ = self.registration.settle(self.tag, Outcome::Requeue);
        }
    }
}
