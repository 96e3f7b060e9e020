//! A destination that does what a test says, and writes down what it is asked.

#![allow(
    dead_code,
    reason = "each file of tests uses what it needs of this one"
)]

pub(crate) mod book;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use wharf_outbox::{Builder, Deliver, Delivery, Outbox, Outcome, Readiness, Ticket};

pub(crate) type Box32 = Outbox<u32, Target>;
pub(crate) type Ticket32 = Ticket<u32, usize, &'static str>;

/// How the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything is delivered, after a time.
    Up,
    /// Nothing comes to an answer.
    Down,
    /// Deliveries are under way and stay so until the mode changes.
    Held,
    /// It panics.
    Panics,
}

#[derive(Clone)]
pub(crate) struct Target {
    inner: Arc<Inner>,
}

struct Inner {
    mode: watch::Sender<Mode>,
    takes: Duration,
    begun: Mutex<Vec<Begun>>,
    arrived: Mutex<Vec<u32>>,
    flying: Mutex<Vec<u32>>,
    most_flying: Mutex<usize>,
    /// After so many deliveries it goes down by itself.
    cut_after: Mutex<Option<usize>>,
    start: Instant,
    ready: Mutex<Option<watch::Receiver<Option<Readiness>>>>,
}

/// A delivery that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) message: u32,
    pub(crate) attempt: u32,
    pub(crate) id: u128,
    /// Since the destination was made.
    pub(crate) at: Duration,
    pub(crate) expires_in: Option<Duration>,
}

impl Target {
    pub(crate) fn new(mode: Mode) -> Self {
        Self::slow(mode, Duration::ZERO)
    }

    /// A delivery takes so long.
    pub(crate) fn slow(mode: Mode, takes: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                mode: watch::channel(mode).0,
                takes,
                begun: Mutex::default(),
                arrived: Mutex::default(),
                flying: Mutex::default(),
                most_flying: Mutex::default(),
                cut_after: Mutex::default(),
                start: Instant::now(),
                ready: Mutex::default(),
            }),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.inner.mode.send_replace(mode);
    }

    pub(crate) fn cut_after(&self, deliveries: usize) {
        *self.inner.cut_after.lock().unwrap() = Some(deliveries);
    }

    /// Says itself when it is ready again, and does not care for pauses.
    pub(crate) fn says_when(&self) -> watch::Sender<Option<Readiness>> {
        let (say, hear) = watch::channel(None);
        *self.inner.ready.lock().unwrap() = Some(hear);
        say
    }

    pub(crate) fn begun(&self) -> Vec<Begun> {
        self.inner.begun.lock().unwrap().clone()
    }

    pub(crate) fn arrived(&self) -> Vec<u32> {
        self.inner.arrived.lock().unwrap().clone()
    }

    /// Under way now.
    pub(crate) fn flying(&self) -> Vec<u32> {
        self.inner.flying.lock().unwrap().clone()
    }

    pub(crate) fn most_flying(&self) -> usize {
        *self.inner.most_flying.lock().unwrap()
    }

    pub(crate) fn outbox(&self) -> Builder<u32, Target> {
        Outbox::builder(self.clone())
    }
}

/// Under way, for as long as it lives.
struct Flying<'a>(&'a Inner, u32);

impl<'a> Flying<'a> {
    fn new(inner: &'a Inner, message: u32) -> Self {
        let mut flying = inner.flying.lock().unwrap();
        flying.push(message);
        let mut most = inner.most_flying.lock().unwrap();
        *most = (*most).max(flying.len());
        Self(inner, message)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        let mut flying = self.0.flying.lock().unwrap();
        let at = flying.iter().position(|message| *message == self.1);
        flying.remove(at.unwrap());
    }
}

impl Deliver<u32> for Target {
    /// How many arrived before.
    type Receipt = usize;
    type Rejection = &'static str;

    async fn deliver(&self, delivery: Delivery<'_, u32>) -> Outcome<usize, &'static str> {
        let inner = &*self.inner;
        let message = *delivery.message;
        inner.begun.lock().unwrap().push(Begun {
            message,
            attempt: delivery.attempt,
            id: delivery.id.get(),
            at: inner.start.elapsed(),
            expires_in: delivery.expires_in,
        });
        let _flying = Flying::new(inner, message);
        if !inner.takes.is_zero() {
            tokio::time::sleep(inner.takes).await;
        }
        let mut mode = inner.mode.subscribe();
        let mode = *mode.wait_for(|mode| *mode != Mode::Held).await.unwrap();
        match mode {
            Mode::Down => return Outcome::unknown("down"),
            Mode::Panics => panic!("the destination panics"),
            Mode::Up | Mode::Held => {}
        }
        // Messages from a thousand on are not to its taste.
        if message >= 1000 {
            return Outcome::Rejected("too high");
        }
        let mut arrived = inner.arrived.lock().unwrap();
        arrived.push(message);
        let cut = *inner.cut_after.lock().unwrap();
        if cut.is_some_and(|cut| arrived.len() >= cut) {
            *inner.cut_after.lock().unwrap() = None;
            inner.mode.send_replace(Mode::Down);
        }
        Outcome::Delivered(arrived.len() - 1)
    }

    async fn ready(&self, pause: Duration) -> Readiness {
        let ready = self.inner.ready.lock().unwrap().clone();
        match ready {
            Some(mut ready) => ready.wait_for(Option::is_some).await.unwrap().unwrap(),
            None => {
                tokio::time::sleep(pause).await;
                Readiness::Ready
            }
        }
    }
}

/// Lets everything happen that needs no time.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Long enough for anything in virtual time, so that a test that hangs says so.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(3600), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within an hour: {what}"),
    }
}
