//! Workers: tasks that hand batches to the handler, one after the other, for as long as there are
//! some. There are as many as batches in flight, and none when nothing is to be done.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::{
    task::coop::{consume_budget, unconstrained},
    time::sleep,
};

use crate::{
    caught::caught,
    core::{Flight, Items, Job, Landing},
    handler::{Batch, Cause, Failed, Handler, Key, Sink},
    home::{Parcel, Slot},
    shared::Shared,
    telemetry::{self, Told},
};

/// What is the user's.
pub(crate) struct Crew<H, S> {
    pub(crate) handler: H,
    pub(crate) sink: S,
}

/// Starts a worker.
pub(crate) fn start<K, T, H, S>(crew: &Arc<Crew<H, S>>, shared: &Arc<Shared<K, T>>, job: Job<K, T>)
where
    K: Key,
    T: Send + 'static,
    H: Handler<K, T>,
    S: Sink<K, T, H::Error>,
{
    // Made before the task is spawned: a runtime that never polls it drops the guard.
    let mut charge = Charge::new(shared, job);
    let crew = Arc::clone(crew);
    shared
        .runtime
        .spawn(async move { while charge.see_to(&crew).await {} });
}

/// The batch in flight for which the worker answers, one after the other: however its task ends, the
/// core hears of it and the items are kept.
struct Charge<K: Key, T: Send + 'static> {
    shared: Arc<Shared<K, T>>,
    /// None once landed.
    flight: Option<Flight>,
    /// None while it is with the handler, or in the slot.
    parcel: Option<Parcel<K, T>>,
    slot: Arc<Slot<K, T>>,
}

/// How an attempt ended.
enum Ending<E> {
    Handled,
    Failed(Cause<E>),
    Interrupted,
}

impl<E> Ending<E> {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Failed(Cause::Error(_)) => "error",
            Self::Failed(Cause::Panicked(_)) => "panic",
            Self::Failed(Cause::TimedOut(_)) => "timeout",
            Self::Failed(Cause::Abandoned) | Self::Interrupted => "interrupted",
        }
    }
}

impl<K: Key, T: Send + 'static> Charge<K, T> {
    fn new(shared: &Arc<Shared<K, T>>, job: Job<K, T>) -> Self {
        let mut parcel = Parcel::new(None, Items::None);
        Self {
            shared: Arc::clone(shared),
            flight: Some(parcel.load(job)),
            parcel: Some(parcel),
            slot: Slot::new(shared.strand()),
        }
    }

    /// Handles it, and takes the next over; false if there is none.
    async fn see_to<H, S>(&mut self, crew: &Crew<H, S>) -> bool
    where
        H: Handler<K, T>,
        S: Sink<K, T, H::Error>,
    {
        // A handler that never waits must not keep others from the thread.
        consume_budget().await;
        let ending = self.attempt(&crew.handler).await;
        // The batch may be elsewhere still, if the handler gave it away.
        let parcel = match self.parcel.take() {
            Some(parcel) => parcel,
            None => poll_fn(|cx| self.slot.poll_take(cx)).await,
        };
        self.settle(parcel, ending, &crew.sink)
    }

    async fn attempt<H: Handler<K, T>>(&mut self, handler: &H) -> Ending<H::Error> {
        if self.shared.is_interrupted() {
            return Ending::Interrupted;
        }
        let Some(parcel) = self.parcel.take() else {
            return Ending::Interrupted;
        };
        let batch = Batch::from(parcel.return_to(&self.slot));
        let timer = telemetry::Stopwatch::start();
        let mut interrupt = pin!(None);
        let limit = self.shared.config.handler_timeout;
        // A handler that has always used up what it may do in a turn leaves nothing of that to a
        // timer, and the limit is for just such a one.
        let mut deadline = pin!(limit.map(|limit| unconstrained(sleep(limit))));
        let mut handling = pin!(Some(async { handler.handle(batch).await }));
        let ending = poll_fn(|cx| {
            let Some(handling) = handling.as_mut().as_pin_mut() else {
                return Poll::Ready(Ending::Interrupted);
            };
            match caught(|| handling.poll(cx)) {
                Ok(Poll::Ready(Ok(()))) => return Poll::Ready(Ending::Handled),
                Ok(Poll::Ready(Err(error))) => {
                    return Poll::Ready(Ending::Failed(Cause::Error(error)));
                }
                Err(message) => return Poll::Ready(Ending::Failed(Cause::Panicked(message))),
                Ok(Poll::Pending) => {}
            }
            // Most handlers of little never wait, and need no ear.
            if interrupt.is_none() {
                interrupt.set(self.shared.next_interrupt());
            }
            let interrupt = interrupt.as_mut().as_pin_mut();
            if interrupt.is_none_or(|interrupt| interrupt.poll(cx).is_ready()) {
                return Poll::Ready(Ending::Interrupted);
            }
            match deadline
                .as_mut()
                .as_pin_mut()
                .map(|deadline| deadline.poll(cx))
            {
                Some(Poll::Ready(())) => {
                    let limit = limit.unwrap_or(Duration::MAX);
                    Poll::Ready(Ending::Failed(Cause::TimedOut(limit)))
                }
                _ => Poll::Pending,
            }
        })
        .await;
        let dropped = caught(|| handling.set(None));
        timer.stop(&self.shared.name);
        match (dropped, ending) {
            // It had not said yet that it was done.
            (Err(message), Ending::Failed(cause)) => {
                discard(cause);
                Ending::Failed(Cause::Panicked(message))
            }
            (_, ending) => ending,
        }
    }

    fn settle<S, E>(&mut self, mut parcel: Parcel<K, T>, ending: Ending<E>, sink: &S) -> bool
    where
        S: Sink<K, T, E>,
    {
        let Some(flight) = self.flight.take() else {
            return false;
        };
        let (mut key, items) = (parcel.key.take(), parcel.items.take());
        let shared = &self.shared;
        let attempt = flight.attempt;
        let is_last = attempt >= shared.config.retry.attempts;
        let told = Told {
            outcome: ending.outcome(),
            left: items.len(),
            is_given_up: is_last && !items.is_empty() && matches!(ending, Ending::Failed(_)),
        };
        telemetry::ended(&shared.name, &flight, told);
        if let Ending::Failed(Cause::Panicked(_)) = &ending {
            shared.panics.fetch_add(1, Ordering::Relaxed);
        }
        let mut landing = Landing::Done;
        match ending {
            Ending::Handled => discard((key.take(), items)),
            Ending::Failed(cause) if items.is_empty() => discard(cause),
            Ending::Failed(cause) if is_last => {
                landing = Landing::GivenUp { items: items.len() };
                give_up(sink, key.take(), items, cause, attempt);
            }
            Ending::Failed(cause) => {
                discard(cause);
                let bytes = key
                    .as_ref()
                    .map_or(0, |key| shared.weigh(key, items.as_slice(), &flight));
                let pause = shared.config.retry.pause(attempt, fastrand::f64());
                let at = shared.now().saturating_add(crate::config::nanos(pause));
                landing = Landing::Again { items, bytes, at };
            }
            Ending::Interrupted => {
                let bytes = key
                    .as_ref()
                    .map_or(0, |key| shared.weigh(key, items.as_slice(), &flight));
                landing = Landing::Interrupted { items, bytes };
            }
        }
        let landed = shared.land(flight, landing);
        discard(landed.key);
        if !landed.homeless.is_empty() {
            give_up(sink, key, landed.homeless, Cause::Abandoned, attempt);
        } else {
            discard(key);
        }
        let Some(job) = landed.next else {
            return false;
        };
        self.flight = Some(parcel.load(job));
        self.parcel = Some(parcel);
        true
    }
}

/// Drops what is the user's. A panic in it must cost nobody anything: least of all the worker, which
/// has the next batch already.
fn discard<V>(yours: V) {
    let _ = caught(|| drop(yours));
}

fn give_up<K, T, E>(
    sink: &impl Sink<K, T, E>,
    key: Option<K>,
    items: Items<T>,
    cause: Cause<E>,
    attempts: u32,
) {
    if let Some(key) = key {
        let _ = caught(|| {
            sink.failed(Failed {
                key,
                items: items.into_vec(),
                cause,
                attempts,
            });
        });
    }
}

impl<K: Key, T: Send + 'static> Drop for Charge<K, T> {
    /// Its task is dropped: the runtime ends. The items go back to where they came from.
    fn drop(&mut self) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        self.shared.lose_home();
        let attempt = flight.attempt;
        let Some(mut parcel) = self.parcel.take().or_else(|| self.slot.leave()) else {
            // Somebody else has the batch. When they drop it, it goes to the sink.
            let items = flight.items;
            drop(self.shared.land(flight, Landing::GivenUp { items }));
            return;
        };
        let Some(key) = parcel.key.take() else { return };
        let items = parcel.items.take();
        let bytes = self.shared.weigh(&key, items.as_slice(), &flight);
        let landing = Landing::Interrupted { items, bytes };
        let landed = self.shared.land(flight, landing);
        discard(landed.key);
        if !landed.homeless.is_empty() {
            (self.shared.strand())(key, landed.homeless.into_vec(), attempt);
        }
    }
}
