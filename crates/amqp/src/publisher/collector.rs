//! The task that publishes on one channel, and finds each message's verdict.
//!
//! It does both, because lapin (4.12) takes the delivery tag and queues the frames of a message under
//! different locks, so that messages have to go out one at a time; and because what a message takes is
//! then made and freed on one thread.

use std::{
    any::Any,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use lapin::{PublisherConfirm, options::BasicPublishOptions};
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, Sleep, sleep_until, timeout},
};
use wharf::OwnedLease;

use super::{
    again,
    entry::{Entry, Fate},
    ledger::{Founder, Ledger, Overdue, Sending},
};
use crate::{
    channels::{Channel, ChannelManager},
    io,
    message::{Packed, Wire},
};

/// A channel as old as this is left for another when a message on it is rejected. When a quorum queue
/// loses its leader, a channel that first publishes to it before there is another has everything
/// for that queue rejected for as long as it is open; a new one is served (RabbitMQ 3.10.8).
const RENEWAL: Duration = Duration::from_secs(1);

/// When to look for confirms that came in another order than the messages. To wake up for every write
/// costs about as much as to wake up for every confirm.
const LATE: Duration = Duration::from_millis(1);

/// After so many lots of verdicts the connection has a turn.
const LOTS: usize = 8;

/// The channel's end of its collector: the collector ends with it, when nothing is open.
pub(super) struct Collector(Arc<Desk>);

/// What a channel's holder and its collector share.
struct Desk {
    /// What is to be published next.
    submitted: Mutex<Vec<Box<Entry>>>,
    /// To be given back when that has been published: whoever has the channel next may use it.
    leases: Mutex<Vec<OwnedLease<ChannelManager>>>,
    /// The places of confirms that may have completed.
    rung: Mutex<Vec<usize>>,
    /// Something was submitted, or something has rung.
    call: Notify,
    /// Whether written frames are news.
    awaits_writes: AtomicBool,
    /// No more messages are to go out on this channel.
    retired: AtomicBool,
    /// The channel has no holder any more.
    orphaned: AtomicBool,
    began: Instant,
    /// The channel itself when it is retired, until nothing is open on it.
    kept: Mutex<Option<Channel>>,
}

/// To be made when no lock is held.
#[must_use]
pub(super) struct Call(Arc<Desk>);

impl Call {
    pub(super) fn make(self) {
        self.0.call.notify_one();
    }
}

/// The waker of all whose frames are not written yet.
struct WriteBell(Arc<Desk>);

/// The waker of the confirms at a place.
struct Bell {
    place: usize,
    desk: Arc<Desk>,
}

impl Collector {
    pub(super) fn of(channel: &Channel) -> &Collector {
        let new = || -> Box<dyn Any + Send + Sync> { Box::new(Self::start(channel)) };
        let extension = channel.extension().get_or_init(new);
        extension
            .downcast_ref()
            .expect("bug: another extension of a channel")
    }

    fn start(channel: &Channel) -> Self {
        let desk = Arc::new(Desk {
            submitted: Mutex::default(),
            leases: Mutex::default(),
            rung: Mutex::default(),
            call: Notify::new(),
            awaits_writes: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
            began: Instant::now(),
            kept: Mutex::default(),
        });
        let work = Work::new(Arc::clone(&desk), Arc::clone(channel.raw()));
        // It ends by itself.
        drop(channel.link().spawn(work.run()));
        Self(desk)
    }

    /// Nothing more is to be submitted: something was rejected on it or is overdue, or it is closed.
    pub(super) fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Relaxed)
    }

    /// Gives a channel back when what was submitted has been published. One that is retired is kept, and
    /// ends when nothing is open on it.
    pub(super) fn give_back(lease: OwnedLease<ChannelManager>) {
        let desk = Arc::clone(&Self::of(&lease).0);
        if desk.retired.load(Ordering::Relaxed) {
            *lock(&desk.kept) = Some(lease.detach());
        } else {
            lock(&desk.leases).push(lease);
        }
        desk.call.notify_one();
    }

    /// Has a message published; its verdict is the collector's business. The caller holds the channel,
    /// and calls the collector if it has to be called.
    pub(super) fn submit(&self, entry: Box<Entry>) -> Option<Call> {
        let mut submitted = lock(&self.0.submitted);
        let is_first = submitted.is_empty();
        submitted.push(entry);
        is_first.then(|| Call(Arc::clone(&self.0)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.orphaned.store(true, Ordering::Release);
        self.0.call.notify_one();
    }
}

impl Wake for WriteBell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.0.awaits_writes.load(Ordering::Relaxed) {
            self.0.call.notify_one();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut rung = lock(&self.desk.rung);
        let is_first = rung.is_empty();
        rung.push(self.place);
        drop(rung);
        if is_first {
            self.desk.call.notify_one();
        }
    }
}

/// The collector's own.
struct Work {
    desk: Arc<Desk>,
    channel: Arc<lapin::Channel>,
    ledger: Ledger,
    /// Emptied, for their room.
    waiting: Vec<Box<Entry>>,
    rung: Vec<usize>,
    /// A look at what may have been written was in vain.
    stalls: bool,
}

impl Work {
    fn new(desk: Arc<Desk>, channel: Arc<lapin::Channel>) -> Self {
        let of_writes = Waker::from(Arc::new(WriteBell(Arc::clone(&desk))));
        let of_place = {
            let desk = Arc::clone(&desk);
            move |place| {
                let desk = Arc::clone(&desk);
                Waker::from(Arc::new(Bell { place, desk }))
            }
        };
        Self {
            desk,
            channel,
            ledger: Ledger::new(Founder {
                of_place: Box::new(of_place),
                of_writes,
            }),
            waiting: Vec::new(),
            rung: Vec::new(),
            stalls: false,
        }
    }

    async fn run(mut self) {
        let mut alarm = Alarm::new();
        let mut lots = 0_usize;
        loop {
            self.publish();
            // To the end: a return may hang on any confirm that has completed.
            while self.collect() {}
            self.give_back();
            if self.decide() {
                lots += 1;
                if lots.is_multiple_of(LOTS) {
                    yield_now().await;
                }
                continue;
            }
            self.expire();
            if self.ledger.is_empty() {
                // The last handle: the broker's side ends with it.
                let kept = lock(&self.desk.kept).take();
                drop(kept);
                if self.is_over() {
                    return;
                }
            }
            if self.may_rest() {
                let desk = Arc::clone(&self.desk);
                tokio::select! {
                    biased;
                    () = desk.call.notified() => {}
                    () = alarm.rings(self.next_look()) => self.stalls = true,
                }
            }
        }
    }

    /// Whether nothing is to be done until something rings.
    fn may_rest(&mut self) -> bool {
        let awaits_writes = self.ledger.is_sending() && !self.may_be_late();
        let desk = &self.desk;
        desk.awaits_writes.store(awaits_writes, Ordering::Relaxed);
        // What was written before that rang for nobody. What is not rings later: lapin's lock, under
        // which both sides look at it, orders that behind the store.
        !(awaits_writes && self.ledger.take_in_written())
    }

    /// Whether what is written may go unnoticed for a moment.
    fn may_be_late(&self) -> bool {
        self.ledger.is_in_flow() && !self.stalls
    }

    fn next_look(&self) -> Option<Instant> {
        let late = self.may_be_late().then(|| Instant::now() + LATE);
        let alarm = self.ledger.alarm();
        late.into_iter().chain(alarm).min()
    }

    fn is_over(&self) -> bool {
        self.desk.orphaned.load(Ordering::Acquire) && lock(&self.desk.submitted).is_empty()
    }

    /// What was submitted under these leases was there before they were given back.
    fn give_back(&mut self) {
        let leases = mem::take(&mut *lock(&self.desk.leases));
        if !leases.is_empty() {
            self.publish();
        }
        drop(leases);
    }

    /// Publishes what has come.
    fn publish(&mut self) {
        mem::swap(&mut *lock(&self.desk.submitted), &mut self.waiting);
        if self.waiting.is_empty() {
            return;
        }
        if self.channel.status().connected() {
            for mut entry in self.waiting.drain(..) {
                let Some(message) = entry.message.clone() else {
                    continue;
                };
                entry.handed = true;
                let wire = entry.wire.take().unwrap_or_else(|| message.wire());
                let send = send(Arc::clone(&self.channel), message, wire);
                let sending = match self.ledger.spare() {
                    Some(mut spare) => {
                        spare.set(send);
                        spare
                    }
                    None => Sending::new(send),
                };
                self.ledger.admit(entry, sending);
            }
        } else {
            self.desk.retired.store(true, Ordering::Relaxed);
            again::place_elsewhere(mem::take(&mut self.waiting));
        }
    }

    /// Takes in what has completed. Says whether anything may have.
    fn collect(&mut self) -> bool {
        mem::swap(&mut *lock(&self.desk.rung), &mut self.rung);
        let written = self.ledger.take_in_written();
        self.stalls &= !written;
        let any = written || !self.rung.is_empty();
        for place in self.rung.drain(..) {
            self.ledger.poll(place);
        }
        any
    }

    /// Says whether there is more to decide.
    fn decide(&mut self) -> bool {
        let (desk, mut lost) = (&self.desk, Vec::new());
        let more = self.ledger.decide(|mut entry, fate| {
            let Some(fate) = fate else {
                return lost.push(entry);
            };
            if matches!(fate, Fate::Rejected) && desk.is_old() {
                entry.home.told.channel_left();
            }
            entry.settle(fate);
        });
        if !lost.is_empty() {
            again::publish(lost);
        }
        more
    }

    fn expire(&mut self) {
        match self.ledger.expire(Instant::now()) {
            Overdue::None => {}
            Overdue::Some => self.desk.retired.store(true, Ordering::Relaxed),
            Overdue::Hopeless => {
                self.desk.retired.store(true, Ordering::Relaxed);
                // Its open confirms end with it, and their places in the window are free.
                let channel = Arc::clone(&self.channel);
                io::spawn(async move {
                    let farewell = channel.close(200, "confirms are overdue".into());
                    let _ = timeout(Duration::from_secs(30), farewell).await;
                });
            }
        }
    }
}

impl Desk {
    /// Something was rejected on this channel: whether it is left for that, and was not before.
    fn is_old(&self) -> bool {
        self.began.elapsed() >= RENEWAL && !self.retired.swap(true, Ordering::Relaxed)
    }
}

async fn send(
    channel: Arc<lapin::Channel>,
    message: Arc<Packed>,
    wire: Wire,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        immediate: false,
    };
    let sent = channel.basic_publish(
        wire.exchange,
        wire.routing_key,
        options,
        message.body(),
        wire.properties,
    );
    sent.await
}

/// A timer that is set anew only when it has to ring at another time.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    fn new() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now())),
            at: None,
        }
    }

    /// Never, without a time.
    async fn rings(&mut self, at: Option<Instant>) {
        let Some(time) = at else {
            return std::future::pending().await;
        };
        if self.at != at {
            self.at = at;
            self.sleep.as_mut().reset(time);
        }
        self.sleep.as_mut().await;
        self.at = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
