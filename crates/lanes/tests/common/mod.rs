//! A handler that does as it is told and remembers what it saw.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use wharf_lanes::{Batch, Builder, Cause, Failed, Handler, Lanes, Reason, Sink};

/// What is done with a batch.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    Handle,
    /// It is handled when the gate lets it through.
    AtTheGate,
    After(Duration),
    Fail,
    /// So many items are taken out before it fails.
    FailAfter(usize),
    Panic,
    Never,
    /// All items are taken out, and then it never ends.
    TakeAndNever,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub key: u32,
    pub items: Vec<u32>,
    pub reason: Reason,
    pub attempt: u32,
    /// Since the desk was opened.
    pub at: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    pub key: u32,
    pub items: Vec<u32>,
    pub cause: Cause<&'static str>,
    pub attempts: u32,
}

type Script = dyn Fn(&Batch<u32, u32>) -> Act + Send + Sync;

pub struct Desk {
    act: Box<Script>,
    pub gate: Semaphore,
    opened: Instant,
    seen: Mutex<Vec<Seen>>,
    returned: Mutex<Vec<Returned>>,
    busy: Mutex<BTreeMap<u32, usize>>,
    /// Keys of which two batches were handled at a time.
    doubled: Mutex<Vec<u32>>,
    pub most_at_once: AtomicUsize,
}

pub struct Clerk(Arc<Desk>);

pub struct Tray(Arc<Desk>);

impl Desk {
    pub fn new(act: impl Fn(&Batch<u32, u32>) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            act: Box::new(act),
            gate: Semaphore::new(0),
            opened: Instant::now(),
            seen: Mutex::default(),
            returned: Mutex::default(),
            busy: Mutex::default(),
            doubled: Mutex::default(),
            most_at_once: AtomicUsize::new(0),
        })
    }

    pub fn builder(self: &Arc<Self>) -> Builder<u32, u32, Clerk, Tray> {
        Lanes::builder(Clerk(Arc::clone(self)), Tray(Arc::clone(self)))
    }

    /// Every attempt, as it began.
    pub fn seen(&self) -> Vec<Seen> {
        self.check();
        self.seen.lock().unwrap().clone()
    }

    /// Key and items of every attempt.
    pub fn batches(&self) -> Vec<(u32, Vec<u32>)> {
        let seen = self.seen().into_iter();
        seen.map(|seen| (seen.key, seen.items)).collect()
    }

    /// All items of a key, in the order in which they came.
    pub fn items_of(&self, key: u32) -> Vec<u32> {
        let seen = self.seen().into_iter();
        let of_key = seen.filter(|seen| seen.key == key);
        of_key.flat_map(|seen| seen.items).collect()
    }

    pub fn returned(&self) -> Vec<Returned> {
        self.check();
        self.returned.lock().unwrap().clone()
    }

    /// Within a handler the lanes would catch this panic.
    fn check(&self) {
        let doubled = self.doubled.lock().unwrap();
        assert!(
            doubled.is_empty(),
            "two batches of a key at a time: {doubled:?}"
        );
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

impl Handler<u32, u32> for Clerk {
    type Error = &'static str;

    async fn handle(&self, mut batch: Batch<u32, u32>) -> Result<(), &'static str> {
        let desk = &self.0;
        let _turn = Turn::take(desk, *batch.key());
        let act = (desk.act)(&batch);
        desk.seen.lock().unwrap().push(Seen {
            key: *batch.key(),
            items: batch.to_vec(),
            reason: batch.reason(),
            attempt: batch.attempt(),
            at: desk.opened.elapsed(),
        });
        match act {
            Act::Handle => {}
            Act::AtTheGate => desk.gate.acquire().await.unwrap().forget(),
            Act::After(pause) => sleep(pause).await,
            Act::Fail => return Err("no"),
            Act::FailAfter(items) => {
                batch.drain(..items);
                return Err("no more");
            }
            Act::Panic => panic!("the handler panics, as it was told"),
            Act::Never => pending().await,
            Act::TakeAndNever => {
                let _items = batch.take();
                pending::<()>().await;
            }
        }
        Ok(())
    }
}

impl Sink<u32, u32, &'static str> for Tray {
    fn failed(&self, failed: Failed<u32, u32, &'static str>) {
        self.0.returned.lock().unwrap().push(Returned {
            key: failed.key,
            items: failed.items,
            cause: failed.cause,
            attempts: failed.attempts,
        });
    }
}

/// Sees whether a key is handled twice at a time.
struct Turn<'a>(&'a Desk, u32);

impl<'a> Turn<'a> {
    fn take(desk: &'a Desk, key: u32) -> Self {
        let mut busy = desk.busy.lock().unwrap();
        let of_key = busy.entry(key).or_default();
        *of_key += 1;
        if *of_key > 1 {
            desk.doubled.lock().unwrap().push(key);
        }
        let at_once = busy.values().sum();
        drop(busy);
        desk.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        Self(desk, key)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.busy.lock().unwrap().get_mut(&self.1).unwrap() -= 1;
    }
}

/// Lets all tasks run until none has anything to do.
pub async fn settle() {
    sleep(Duration::from_millis(1)).await;
}
