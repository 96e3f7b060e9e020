//! The core behind its lock, and how its effects are carried out.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    sync::{Notify, futures::Notified, oneshot},
    time::Instant,
};

use crate::{
    caught::caught,
    config::Config,
    core::{
        Core, Effects, Flight, Job, Landed, Landing, Limits, Moment, NEVER, Place, Pushed, Queued,
    },
    handler::Key,
    home::Strand,
    lateness::Lateness,
};

/// Looks at a lock that is held, before a thread sleeps.
const LOOKS: u32 = 16;

/// Before each look the thread waits twice as long as before the last, this often; then as long, which is a
/// few microseconds.
const DOUBLINGS: u32 = 8;

/// Rings for whoever waits.
pub(crate) type Bell = oneshot::Sender<()>;

/// Says what an item weighs, in bytes.
pub(crate) type Weigher<K, T> = dyn Fn(&K, &T) -> usize + Send + Sync;

impl crate::core::Bell for Bell {
    fn is_unheard(&self) -> bool {
        self.is_closed()
    }
}

type Start<K, T> = dyn Fn(&Arc<Shared<K, T>>, Job<K, T>) + Send + Sync;

/// Lanes, without their face.
pub(crate) struct Shared<K: Key, T: Send + 'static> {
    /// Guards all that is decided. While it is held, of the user's code only `Eq` and `Clone` of
    /// keys run: no handler, destructor, hash, weigher or waker.
    core: Mutex<Core<K, T, Bell>>,
    pub(crate) config: Config,
    pub(crate) name: Arc<str>,
    pub(crate) runtime: Handle,
    pub(crate) panics: AtomicU64,
    born: Instant,
    hasher: RandomState,
    heaviest: u32,
    weigher: Option<Box<Weigher<K, T>>>,
    /// Tells the timer that something is due earlier, or that it is to end.
    alarm: Arc<Notify>,
    /// Batches in flight are to be interrupted.
    interrupted: AtomicBool,
    interrupt: Notify,
    start: Box<Start<K, T>>,
    strand: Arc<Strand<K, T>>,
    publish: fn(&Self),
    pub(crate) lateness: Lateness,
}

/// What [`Shared`] is made of.
pub(crate) struct Parts<K: Key, T: Send + 'static> {
    pub(crate) limits: Limits,
    pub(crate) config: Config,
    pub(crate) name: Arc<str>,
    pub(crate) runtime: Handle,
    pub(crate) weigher: Option<Box<Weigher<K, T>>>,
    pub(crate) start: Box<Start<K, T>>,
    pub(crate) strand: Arc<Strand<K, T>>,
    /// Tells the totals to whoever collects them.
    pub(crate) publish: fn(&Shared<K, T>),
}

/// An item before it is accepted, with all that the user's code says of it.
pub(crate) struct Newcomer<K, T> {
    hash: u32,
    key: K,
    weight: usize,
    pub(crate) item: T,
}

/// Why an item was not accepted.
pub(crate) enum Refusal<K, T> {
    Full(Newcomer<K, T>),
    Closed(T),
    TooLarge { item: T, weight: usize, most: usize },
}

impl<K: Key, T: Send + 'static> Shared<K, T> {
    pub(crate) fn new(parts: Parts<K, T>) -> Self {
        Self {
            heaviest: parts.limits.bytes,
            core: Mutex::new(Core::new(parts.limits)),
            config: parts.config,
            name: parts.name,
            runtime: parts.runtime,
            panics: AtomicU64::new(0),
            born: Instant::now(),
            hasher: RandomState::new(),
            weigher: parts.weigher,
            alarm: Arc::new(Notify::new()),
            interrupted: AtomicBool::new(false),
            interrupt: Notify::new(),
            start: parts.start,
            strand: parts.strand,
            publish: parts.publish,
            lateness: Lateness::default(),
        }
    }

    pub(crate) fn newcomer(&self, key: K, item: T) -> Newcomer<K, T> {
        Newcomer {
            hash: self.hash(&key),
            weight: self.weigher.as_ref().map_or(0, |weigh| weigh(&key, &item)),
            key,
            item,
        }
    }

    /// Takes an item in, if there is room.
    pub(crate) fn push(self: &Arc<Self>, newcomer: Newcomer<K, T>) -> Result<(), Refusal<K, T>> {
        let Newcomer {
            hash,
            key,
            weight,
            item,
        } = newcomer;
        let most = self.heaviest;
        let Some(light) = u32::try_from(weight).ok().filter(|weight| *weight <= most) else {
            if !self.command(|core, _| core.refuse()) {
                return Err(Refusal::Closed(item));
            }
            let most = most as usize;
            return Err(Refusal::TooLarge { item, weight, most });
        };
        match self.command(|core, fx| core.push(|| self.now(), (hash, key), (light, item), fx)) {
            Pushed::Accepted(_) => Ok(()),
            Pushed::Closed(_, item) => Err(Refusal::Closed(item)),
            Pushed::Full(key, item) => Err(Refusal::Full(Newcomer {
                hash,
                key,
                weight,
                item,
            })),
        }
    }

    /// Stands in line with an item that was refused for lack of room.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        newcomer: Newcomer<K, T>,
    ) -> Result<Option<(Place, oneshot::Receiver<()>)>, T> {
        let (bell, rung) = oneshot::channel();
        let Newcomer {
            hash,
            key,
            weight,
            item,
        } = newcomer;
        // It has been in `push`, which lets none pass that is heavier.
        let weighed = (weight as u32, item);
        match self.command(|core, fx| core.enqueue(|| self.now(), (hash, key), weighed, bell, fx)) {
            Queued::Accepted(_) => Ok(None),
            Queued::Waiting(place) => Ok(Some((place, rung))),
            Queued::Closed(_, item) => Err(item),
        }
    }

    /// Leaves the line; none if the item has been accepted.
    pub(crate) fn cancel(self: &Arc<Self>, place: Place) -> Option<T> {
        let now = self.now();
        let waiter = self.command(|core, fx| core.cancel(now, place, fx));
        waiter.map(|(_, item, _)| item)
    }

    /// An item that was refused for lack of room does not wait.
    pub(crate) fn reject(self: &Arc<Self>) {
        self.command(Core::reject);
    }

    /// Ends a flight, and carries out what comes of it for others.
    pub(crate) fn land(self: &Arc<Self>, flight: Flight, landing: Landing<T>) -> Landed<K, T> {
        let mut fx = Effects::default();
        let landed = self.lock().land(|| self.now(), flight, landing, &mut fx);
        self.carry_out(fx);
        landed
    }

    /// Flushes a key; rings when that is over.
    pub(crate) fn flush(self: &Arc<Self>, key: &K, reason: crate::Reason, bell: Option<Bell>) {
        let hash = self.hash(key);
        self.command(|core, fx| core.flush((hash, key), reason, bell, fx));
    }

    /// Looks after what is due; tells when the next look is due.
    pub(crate) fn tick(self: &Arc<Self>, portion: usize) -> Option<Instant> {
        let now = self.now();
        let next = self.command(|core, fx| core.tick(now, portion, fx));
        (next != NEVER).then(|| self.born + Duration::from_nanos(next))
    }

    /// A command, and then its effects.
    pub(crate) fn command<R>(
        self: &Arc<Self>,
        command: impl FnOnce(&mut Core<K, T, Bell>, &mut Effects<K, T, Bell>) -> R,
    ) -> R {
        let mut fx = Effects::default();
        let result = command(&mut self.lock(), &mut fx);
        if !fx.is_nothing() {
            self.carry_out(fx);
        }
        result
    }

    pub(crate) fn query<R>(&self, query: impl FnOnce(&Core<K, T, Bell>) -> R) -> R {
        query(&self.lock())
    }

    /// The runtime has ended. What is here stays until someone closes the lanes or drops them.
    pub(crate) fn lose_home(self: &Arc<Self>) {
        self.command(Core::halt);
    }

    /// Ends all handling as soon as may be.
    pub(crate) fn interrupt(self: &Arc<Self>) {
        self.command(Core::halt);
        self.interrupted.store(true, Ordering::SeqCst);
        self.interrupt.notify_waiters();
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Completes at an interrupt that comes after this call; `None` if there has been one.
    pub(crate) fn next_interrupt(&self) -> Option<Notified<'_>> {
        // First the ear, then the look: whatever comes in between is heard.
        let next = self.interrupt.notified();
        (!self.is_interrupted()).then_some(next)
    }

    /// Brings metrics up to date.
    pub(crate) fn publish(&self) {
        (self.publish)(self);
    }

    pub(crate) fn strand(&self) -> &Arc<Strand<K, T>> {
        &self.strand
    }

    pub(crate) fn alarm(&self) -> &Arc<Notify> {
        &self.alarm
    }

    pub(crate) fn now(&self) -> Moment {
        crate::config::nanos(self.born.elapsed())
    }

    /// What is left of a batch weighs as much, and no more than it did.
    pub(crate) fn weigh(&self, key: &K, items: &[T], flight: &Flight) -> u32 {
        let Some(weigh) = &self.weigher else { return 0 };
        if items.len() == flight.items {
            return flight.bytes;
        }
        let sum = caught(|| items.iter().map(|item| weigh(key, item)).sum::<usize>());
        let sum = sum.ok().and_then(|sum| u32::try_from(sum).ok());
        sum.map_or(flight.bytes, |sum| sum.min(flight.bytes))
    }

    /// A command takes well under a microsecond, and a thread that goes to sleep gives its processor
    /// to whoever else wants it, for milliseconds. So it looks for a while before it does; and the
    /// longer it is turned away, the longer it stays away, for whoever has the lock several times in
    /// a row has everything in its own cache.
    fn lock(&self) -> MutexGuard<'_, Core<K, T, Bell>> {
        if let Some(core) = self.core.try_lock() {
            return core;
        }
        for look in 0..LOOKS {
            for _ in 0..1 << look.min(DOUBLINGS) {
                std::hint::spin_loop();
            }
            // Looking costs the thread that has it less than trying would.
            if !self.core.is_locked()
                && let Some(core) = self.core.try_lock()
            {
                return core;
            }
        }
        self.core.lock()
    }

    fn hash(&self, key: &K) -> u32 {
        let hash = self.hasher.hash_one(key);
        (hash ^ hash >> 32) as u32
    }

    /// Runs without the lock. No panic of the user's comes out of it: it may be in the middle of a
    /// landing, which has taken the next batch along.
    fn carry_out(self: &Arc<Self>, fx: Effects<K, T, Bell>) {
        // Nothing will be due for long, so the timer would not look, and not tell that all is over.
        if fx.rearm || (fx.is_idle && cfg!(feature = "metrics")) {
            self.alarm.notify_one();
        }
        if let Some(number) = fx.lateness {
            self.lateness.tell(number);
        }
        for job in fx.jobs {
            (self.start)(self, job);
        }
        for bell in fx.rung {
            // Whoever gave up waiting is not there to hear it.
            let _ = caught(|| bell.send(()));
        }
        for key in fx.keys {
            let _ = caught(|| drop(key));
        }
    }
}

impl<K: Key, T: Send + 'static> Drop for Shared<K, T> {
    fn drop(&mut self) {
        // The timer holds nothing but the alarm now, and ends.
        self.alarm.notify_one();
        let core = self.core.get_mut();
        core.halt(&mut Effects::default());
        for (key, items) in core.abandon() {
            (self.strand)(key, items, 0);
        }
        (self.publish)(self);
    }
}
