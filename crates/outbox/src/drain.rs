//! The task that delivers.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    select,
    task::coop,
    time::{Instant, sleep_until},
};

use crate::{
    caught::caught_async,
    core::{Answered, Entry, NEVER, Nanos, Next},
    deliver::{BoxError, Deliver, Delivery, Outcome, Readiness},
    error::Undelivered,
    shared::{Effects, Parcel, Shared},
};

/// So many deliveries are reported at a time at most.
const AT_ONCE: usize = 64;

impl<T, D> Shared<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    /// Starts the drain if it does not run and there is a runtime. It runs on the runtime of the
    /// first who needs it, and if that ends, on that of the next.
    pub(crate) fn ensure_drain(self: &Arc<Self>) {
        if self.drain_runs.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.drain_runs.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(self);
            shared.begin_telling();
            runtime.spawn(Run { shared }.drain());
        }
    }
}

/// The drain, from before its task is spawned to its end, however that comes: a runtime that drops
/// the task unpolled is noticed.
struct Run<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: Arc<Shared<T, D>>,
}

/// A delivery that has come to its end.
struct Landed<T, D: Deliver<T>> {
    entry: Entry<Parcel<T, D>>,
    outcome: Outcome<D::Receipt, D::Rejection>,
    panicked: bool,
}

impl<T, D> Run<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    async fn drain(self) {
        let shared = &self.shared;
        shared.state.lock().core.drain_begins();
        // One at a time is polled in place; several have a place each on the heap.
        let mut solo = pin!(None);
        let mut flights = FuturesUnordered::new();
        let mut pause: Option<Pin<Box<dyn Future<Output = Readiness> + Send>>> = None;
        let mut alarm = pin!(sleep_until(Instant::now()));
        let mut turn = Turn::new(shared);
        loop {
            shared.tell_stored();
            let next = turn.take();
            if next.stopped {
                break;
            }
            if turn.begun.len() == 1 && solo.is_none() && flights.is_empty() {
                let entry = turn.begun.pop().expect("bug: there is one");
                solo.set(Some(fly(Aloft::new(shared, entry), turn.now)));
            }
            for entry in turn.begun.drain(..) {
                flights.push(fly(Aloft::new(shared, entry), turn.now));
            }
            if let Some(length) = next.pause {
                let shared = Arc::clone(shared);
                pause = Some(Box::pin(async move { recover(&shared, length).await }));
            }
            let at = shared.clock.instant(next.at);
            let at = shared.told.due(at, turn.is_busy);
            if let Some(at) = at {
                alarm.as_mut().reset(at);
            }
            // A destination that answers at once must not keep the thread to itself.
            coop::consume_budget().await;
            if let Some(flight) = solo.as_mut().as_pin_mut()
                && let Poll::Ready(landed) = poll_once(flight).await
            {
                solo.set(None);
                turn.landed.push(landed);
                shared.guard(|| shared.told.publish_if_due(|| shared.status()));
                continue;
            }
            select! {
                biased;
                landed = async { solo.as_mut().as_pin_mut().expect("bug: it flies").await },
                    if solo.is_some() =>
                {
                    solo.set(None);
                    turn.landed.push(landed);
                }
                landed = flights.next(), if !flights.is_empty() => {
                    turn.landed.extend(landed);
                    while turn.landed.len() < AT_ONCE
                        && let Some(Some(landed)) = flights.next().now_or_never()
                    {
                        turn.landed.push(landed);
                    }
                }
                () = shared.drain.notified() => {}
                () = alarm.as_mut(), if at.is_some() => {}
                ready = async { pause.as_mut().expect("bug: it pauses").await }, if pause.is_some() => {
                    pause = None;
                    match ready {
                        Readiness::Ready => shared.state.lock().core.resume(),
                        Readiness::Closed => shared.end_for_good(),
                    }
                }
            }
            shared.guard(|| shared.told.publish_if_due(|| shared.status()));
        }
    }
}

impl<T, D> Drop for Run<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.end_telling();
        shared.drain_runs.store(false, Ordering::Release);
        // The writer looks at this under the lock, and does not miss it.
        drop(shared.state.lock());
        shared.writer.notify_one();
        shared.one_ended();
        shared.guard(|| shared.told.publish(|| shared.status()));
    }
}

/// What goes in and out of the core at a time. The buffers are used again.
struct Turn<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: &'a Shared<T, D>,
    landed: Vec<Landed<T, D>>,
    begun: Vec<Entry<Parcel<T, D>>>,
    answered: Vec<(Parcel<T, D>, Answer<T, D>)>,
    effects: Effects<T, D>,
    /// Causes nobody will ask for.
    spent: Vec<BoxError>,
    /// Something happened, or is to happen.
    is_busy: bool,
    now: Nanos,
}

enum Answer<T, D: Deliver<T>> {
    Delivered(D::Receipt),
    Rejected(D::Rejection),
}

impl<'a, T, D> Turn<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn new(shared: &'a Shared<T, D>) -> Self {
        Self {
            shared,
            landed: Vec::new(),
            begun: Vec::new(),
            answered: Vec::new(),
            effects: Vec::new(),
            spent: Vec::new(),
            is_busy: false,
            now: 0,
        }
    }

    /// Reports what has landed, and takes what is to fly.
    fn take(&mut self) -> Next {
        let shared = self.shared;
        let now = shared.clock.now();
        self.now = now;
        let mut cause: Option<BoxError> = None;
        let mut panics = 0;
        let mut state = shared.state.lock();
        let core = &mut state.core;
        let was_out = core.outage().is_some();
        self.is_busy = !self.landed.is_empty();
        for Landed {
            entry,
            outcome,
            panicked,
        } in self.landed.drain(..)
        {
            panics += u64::from(panicked);
            let number = entry.number;
            match outcome {
                Outcome::Delivered(receipt) => {
                    core.answered(now, number, Answered::Delivered, &mut self.effects);
                    self.answered
                        .push((entry.payload, Answer::Delivered(receipt)));
                }
                Outcome::Rejected(rejection) => {
                    core.answered(now, number, Answered::Rejected, &mut self.effects);
                    self.answered
                        .push((entry.payload, Answer::Rejected(rejection)));
                }
                Outcome::Unknown(error) => {
                    core.unanswered(now, entry, &mut self.effects);
                    // At most one of a turn's is kept; the others are dropped after it.
                    self.spent.extend(cause.replace(error));
                }
            }
        }
        let next = core.turn(now, &mut self.begun, &mut self.effects);
        let is_out = core.outage();
        self.is_busy |= !core.is_empty();
        state.panics += panics;
        let cause: Option<Arc<dyn std::error::Error + Send + Sync>> = cause.map(Arc::from);
        let old = match (&cause, is_out) {
            (Some(cause), _) => state.cause.replace(Arc::clone(cause)),
            (None, None) => state.cause.take(),
            (None, Some(_)) => None,
        };
        drop(state);
        shared.guard(|| drop(old));
        for error in self.spent.drain(..) {
            shared.guard(|| drop(error));
        }
        self.tell();
        shared.guard(|| {
            if panics > 0 {
                shared.told.panicked(panics);
            }
            match (next.pause, cause) {
                (Some(pause), Some(cause)) => shared.told.outage(&*cause, pause),
                _ if was_out && is_out.is_none() => shared.told.recovered(),
                _ => {}
            }
        });
        next
    }

    fn tell(&mut self) {
        for (parcel, answer) in self.answered.drain(..) {
            let fate = |message| match answer {
                Answer::Delivered(receipt) => Ok(receipt),
                Answer::Rejected(rejection) => Err(Undelivered::Rejected { message, rejection }),
            };
            self.shared.guard(|| parcel.end(fate));
        }
        self.shared.carry_out(&mut self.effects);
    }
}

/// If the drain ends in the middle of a turn, messages are in it.
impl<T, D> Drop for Turn<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        let landed = self.landed.drain(..).map(|landed| landed.entry);
        for entry in landed.chain(self.begun.drain(..)) {
            drop(Aloft::new(self.shared, entry));
        }
    }
}

/// One delivery. The message is not lost in it, whatever happens, nor if it is dropped unpolled.
async fn fly<T, D>(mut aloft: Aloft<'_, T, D>, now: Nanos) -> Landed<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    let outcome = {
        let entry = aloft.entry.as_ref().expect("bug: it is aloft");
        let age = now.saturating_sub(entry.accepted);
        let delivery = Delivery {
            message: &entry.payload.message,
            id: entry.payload.id,
            attempt: entry.attempts,
            age: Duration::from_nanos(age),
            expires_in: (entry.expires != NEVER)
                .then(|| Duration::from_nanos(entry.expires.saturating_sub(now))),
        };
        caught_async(|| aloft.shared.destination.deliver(delivery)).await
    };
    Landed {
        entry: aloft.entry.take().expect("bug: it is aloft"),
        panicked: outcome.is_err(),
        outcome: outcome.unwrap_or_else(Outcome::unknown),
    }
}

/// A message in flight. If the delivery is dropped, it goes back.
struct Aloft<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: &'a Shared<T, D>,
    entry: Option<Entry<Parcel<T, D>>>,
}

impl<'a, T, D> Aloft<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn new(shared: &'a Shared<T, D>, entry: Entry<Parcel<T, D>>) -> Self {
        Self {
            shared,
            entry: Some(entry),
        }
    }
}

impl<T, D> Drop for Aloft<'_, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared
                .command(|core, effects| core.abandoned(entry, effects));
        }
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

async fn recover<T, D>(shared: &Shared<T, D>, pause: Duration) -> Readiness
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    let ready = caught_async(|| shared.destination.ready(pause)).await;
    match ready {
        Ok(ready) => ready,
        Err(_) => {
            shared.guard(|| shared.told.panicked(1));
            tokio::time::sleep(pause).await;
            Readiness::Ready
        }
    }
}
