//! Runtimes that end, and messages that panic: they take nothing else with them.

mod common;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{Mode, Target, settle};
use futures_util::FutureExt;
use tokio::runtime::Runtime;
use wharf_outbox::{Deliver, Delivery, Outbox, Outcome, Undelivered};

fn runtime() -> Runtime {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Real time: there are several runtimes.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within a minute: {what}"),
    }
}

/// The pause after a failure is the drain's to wait. Nobody else knows of it.
#[test]
fn a_runtime_that_ends_during_a_pause_does_not_leave_the_outbox_paused() {
    let target = Target::new(Mode::Down);
    let outbox = target.outbox().pipelined(2).build().unwrap();
    let first = runtime();
    first.block_on(async {
        for message in 0..4 {
            outbox.post(message).await.unwrap();
        }
        settle().await;
    });
    assert!(outbox.status().outage.is_some());
    drop(first);
    target.set(Mode::Up);
    runtime().block_on(async { within("flush", outbox.flush()).await.unwrap() });
    let mut arrived = target.arrived();
    arrived.sort_unstable();
    assert_eq!(arrived, [0, 1, 2, 3]);
    assert!(outbox.status().outage.is_none());
}

/// Between two polls a message may be on its way to a delivery that has not been polled.
#[test]
fn a_runtime_that_ends_between_any_two_polls_takes_no_message_with_it() {
    for polls in 0..40 {
        let target = Target::new(Mode::Up);
        let outbox = target.outbox().build().unwrap();
        runtime().block_on(async {
            for message in 0..900 {
                outbox.post(message).await.unwrap();
            }
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        });
        let so_far = target.arrived().len();
        runtime().block_on(async { within("flush", outbox.flush()).await.unwrap() });
        let arrived = target.arrived();
        assert_eq!(arrived, Vec::from_iter(0..900), "after {so_far}");
    }
}

#[test]
fn who_flushes_or_waits_for_room_goes_on_with_the_drain_when_its_runtime_ends() {
    type Wait = fn(Outbox<u32, Target>) -> Pin<Box<dyn Future<Output = ()>>>;
    let waits: [(&str, Wait); 3] = [
        ("room", |outbox| {
            Box::pin(async move { assert!(outbox.post(2).await.is_ok()) })
        }),
        ("flush", |outbox| {
            Box::pin(async move { outbox.flush().await.unwrap() })
        }),
        ("the end", |outbox| {
            Box::pin(async move { outbox.close().await })
        }),
    ];
    for (what, wait) in waits {
        let target = Target::new(Mode::Held);
        let first = runtime();
        let outbox = first.block_on(async {
            let outbox = target.outbox().max_messages(2).build().unwrap();
            for message in 0..2 {
                outbox.post(message).await.unwrap();
            }
            settle().await;
            outbox
        });
        assert_eq!(target.flying(), [0]);
        let (begun, hear) = mpsc::channel();
        let waiter = thread::spawn({
            let outbox = outbox.clone();
            move || {
                runtime().block_on(async {
                    let mut wait = wait(outbox);
                    assert!((&mut wait).now_or_never().is_none(), "{what}");
                    begun.send(()).unwrap();
                    within(what, wait).await;
                });
            }
        });
        hear.recv().unwrap();
        // The drain goes with its runtime, and nobody but the waiter has another.
        drop(first);
        target.set(Mode::Up);
        waiter.join().unwrap();
    }
}

/// Panics as it is dropped, if it is the first to come to it.
struct Fuse(u32, Arc<AtomicBool>);

impl Drop for Fuse {
    fn drop(&mut self) {
        let is_lit = self.1.swap(false, Ordering::Relaxed);
        assert!(!is_lit, "a message panics as it is dropped");
    }
}

#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<u32>>>);

impl Deliver<Fuse> for Arrivals {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, delivery: Delivery<'_, Fuse>) -> Outcome<(), ()> {
        self.0.lock().unwrap().push(delivery.message.0);
        Outcome::Delivered(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_panics_as_it_is_dropped_takes_no_other_with_it() {
    let arrivals = Arrivals::default();
    let lit = Arc::new(AtomicBool::new(true));
    for pipelined in [1, 3] {
        lit.store(true, Ordering::Relaxed);
        let outbox = Outbox::builder(arrivals.clone()).pipelined(pipelined);
        let outbox = outbox.build().unwrap();
        for number in 0..3 {
            let fuse = Fuse(number, Arc::clone(&lit));
            outbox.post(fuse).await.unwrap();
        }
        within("flush", outbox.flush()).await.unwrap();
        assert!(!lit.load(Ordering::Relaxed), "it did not panic");
        outbox.post(Fuse(3, Arc::clone(&lit))).await.unwrap();
        within("the end", outbox.close()).await;
        assert_eq!(
            std::mem::take(&mut *arrivals.0.lock().unwrap()),
            [0, 1, 2, 3]
        );
    }
}

/// Holds its thread, not only its task.
struct Blocking(Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);

impl Deliver<u32> for Blocking {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, _: Delivery<'_, u32>) -> Outcome<(), ()> {
        self.1.send(()).unwrap();
        let _ = self.0.lock().unwrap().recv();
        Outcome::unknown("never mind")
    }
}

#[test]
fn closing_within_a_time_does_not_wait_for_a_delivery_that_blocks_its_thread() {
    let (release, held) = mpsc::channel();
    let (begun, hear) = mpsc::channel();
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    let first = builder.worker_threads(1).enable_all().build().unwrap();
    let (outbox, tickets) = first.block_on(async {
        let outbox = Outbox::builder(Blocking(Mutex::new(held), begun)).build();
        let outbox = outbox.unwrap();
        let tickets = [
            outbox.enqueue(0).await.unwrap(),
            outbox.enqueue(1).await.unwrap(),
        ];
        (outbox, tickets)
    });
    hear.recv().unwrap();
    let [stuck, left] = tickets;
    runtime().block_on(async {
        let closing = outbox.close_within(Duration::ZERO);
        let closed = within("the end", closing).await;
        assert_eq!((closed.messages.len(), closed.stuck), (1, 1));
        assert_eq!(closed.messages[0].message, 1);
        assert!(!closed.is_empty());
        let fate = within("its fate", left).await;
        assert!(matches!(fate, Err(Undelivered::Closed { message: None })));
        drop(release);
        drop(outbox);
        let fate = within("its fate", stuck).await.unwrap_err();
        assert_eq!(fate.into_message(), Some(0));
    });
}
