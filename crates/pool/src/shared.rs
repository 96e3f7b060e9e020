//! What all handles of a pool share, and the short ways in and out of it.

use std::{
    num::NonZero,
    panic::Location,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    caught::caught,
    config::{Config, nanos_or_never},
    core::{Look, Moment, Retirement, Shelf, Timed, flag, nanos},
    depot::Depot,
    error::Cause,
    host::Host,
    manager::Manager,
    observer::{Event, Observer},
    slots::{Held, NEVER, Stamps, Table},
    sync::Ordering,
    timings::TimingShards,
};

pub(crate) struct Shared<M: Manager> {
    pub(crate) depot: Depot<Cause<M::Error>>,
    pub(crate) table: Table<M::Resource>,
    pub(crate) manager: M,
    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "only metrics carry it")
    )]
    name: String,
    pub(crate) config: Config,
    pub(crate) spans: Spans,
    /// The keyed pool that this one is part of.
    pub(crate) host: Option<Box<dyn Host>>,
    /// Wakes upkeep. Apart, because upkeep waits for it without keeping the pool alive.
    pub(crate) alarm: Arc<Notify>,
    /// True once the pool is closed and everything in it destroyed.
    pub(crate) drained: watch::Sender<bool>,
    /// Slots that exist. Written under `resizing`.
    pub(crate) slots: AtomicU32,
    pub(crate) resizing: Mutex<()>,
    pub(crate) timings: TimingShards,
    observers: Vec<Box<dyn Observer>>,
    birth: Instant,
    pub(crate) home: Mutex<Option<Handle>>,
    /// Which upkeep is the pool's; an earlier one ends when it notices.
    pub(crate) tenancy: AtomicU64,
    /// There is no upkeep: no runtime has been seen yet, or it has shut down.
    pub(crate) homeless: AtomicBool,
    pub(crate) this: Weak<Self>,
}

/// The configured durations in nanoseconds, `NEVER` for none.
pub(crate) struct Spans {
    pub(crate) idle_timeout: u64,
    pub(crate) check_interval: u64,
    pub(crate) keep_alive: u64,
    pub(crate) warn_after: u64,
    pub(crate) epoch: u64,
    max_lifetime: u64,
}

/// What a look at the idle set finds.
pub(crate) enum Checkout {
    /// A resource fit for use.
    Fit(Held),
    /// A resource that must be checked first.
    Due(Held),
    /// None, or none for a newcomer.
    Nothing,
}

/// What is to be done with a resource that was found or handed over.
pub(crate) enum Vetted {
    Fit(Held),
    Due(Held),
    /// It was not fit, and is being destroyed.
    Unfit,
}

/// One lease in this many is timed.
const SAMPLED: u64 = 64;

impl<M: Manager> Shared<M> {
    pub(crate) fn new(
        name: String,
        manager: M,
        config: Config,
        runtime: Option<Handle>,
        observers: Vec<Box<dyn Observer>>,
        host: Option<Box<dyn Host>>,
    ) -> Arc<Self> {
        let limits = config.limits();
        let slots = limits.max_active;
        let table = Table::new(slots);
        let vacant = table.grow(0, slots);
        let spans = Spans {
            idle_timeout: nanos_or_never(config.idle_timeout),
            check_interval: nanos_or_never(config.check_interval),
            keep_alive: nanos_or_never(config.keep_alive),
            warn_after: nanos_or_never(config.warn_after),
            epoch: nanos(config.epoch()),
            max_lifetime: nanos_or_never(config.max_lifetime),
        };
        let timings = match &host {
            Some(host) => host.timings(),
            None => TimingShards::new(shards()),
        };
        // The pools of a keyed pool are many, and each is small.
        let near = if host.is_some() { 8 } else { 64 };
        let shelf = Shelf::new(slots, shards(), near);
        let shared = Arc::new_cyclic(|this| Self {
            depot: Depot::new(limits, vacant, shelf, fastrand::u64(..)),
            table,
            manager,
            name,
            config,
            spans,
            host,
            alarm: Arc::new(Notify::new()),
            drained: watch::Sender::new(false),
            slots: AtomicU32::new(slots),
            resizing: Mutex::new(()),
            timings,
            observers,
            birth: Instant::now(),
            home: Mutex::new(None),
            tenancy: AtomicU64::new(0),
            homeless: AtomicBool::new(true),
            this: Weak::clone(this),
        });
        if let Some(host) = &shared.host {
            let arrivals = host.arrivals();
            shared.command(|core, _, _| core.share(arrivals));
        }
        if let Some(runtime) = runtime.or_else(|| Handle::try_current().ok()) {
            shared.move_to(runtime);
        }
        shared
    }

    // --- The short ways ------------------------------------------------------------------------

    /// Takes an idle resource from where this thread looks first, if nothing whatever stands in
    /// the way: a look at the gate, an atomic step in the idle set, a look at the stamps.
    #[inline]
    pub(crate) fn checkout_quickly(&self) -> Option<Held> {
        let shelf = &self.depot.shelf;
        let look = shelf.gate.look();
        if !look.is_open() {
            return None;
        }
        let held = shelf.idle.take_home()?;
        if self.is_timely(&held, look) {
            self.see_alive(held)
        } else {
            self.replace(held, look)
        }
    }

    /// Takes an idle resource from anywhere, and says what is to be done with it.
    pub(crate) fn checkout(&self) -> Checkout {
        let shelf = &self.depot.shelf;
        loop {
            if !shelf.gate.look().lends() {
                return Checkout::Nothing;
            }
            let Some(held) = shelf.idle.take() else {
                return Checkout::Nothing;
            };
            match self.vet(held) {
                Vetted::Fit(held) => return Checkout::Fit(held),
                Vetted::Due(held) => return Checkout::Due(held),
                Vetted::Unfit => {}
            }
        }
    }

    /// Takes a resource back from its user.
    #[inline]
    pub(crate) fn put(&self, mut held: Held) {
        let stamps = self.table.stamps(held.slot());
        if stamps.sampled.load(Ordering::Relaxed) != 0 {
            self.note_hold(stamps);
        }
        match caught(|| self.manager.reset(self.table.get_mut(&mut held))) {
            Ok(true) => self.shelve(held),
            Ok(false) => self.retire(held, Retirement::Reset),
            Err(message) => self.panicked(held, "reset", &message),
        }
    }

    /// Puts a resource that is fit for use where it belongs: into the idle set if nothing stands
    /// in the way, else to whomever the core says.
    #[inline]
    pub(crate) fn shelve(&self, held: Held) {
        let shelf = &self.depot.shelf;
        let look = shelf.gate.look();
        let now = shelf.coarse_now();
        let slot = held.slot();
        let stamps = self.table.stamps(slot);
        stamps
            .returned
            .store(now.saturating_add(self.spans.epoch), Ordering::Relaxed);
        if !look.is_open()
            || stamps.generation.load(Ordering::Relaxed) != look.generation()
            || stamps.expires.load(Ordering::Relaxed) <= now
        {
            return self.shelve_slowly(held, look);
        }
        shelf.idle.put(held);
        // The second look, after the bit is set: a waiter that shut the gate and did not see the
        // bit is seen here.
        if shelf.gate.look() != look || self.config.max_idle.is_some() {
            self.look_again(slot, look);
        }
    }

    /// Marks the beginning of a lease.
    #[inline]
    pub(crate) fn lend(&self, held: &Held, at: &'static Location<'static>) {
        let stamps = self.table.stamps(held.slot());
        let leases = stamps.leases.load(Ordering::Relaxed) + 1;
        stamps.leases.store(leases, Ordering::Relaxed);
        let latest = self
            .depot
            .shelf
            .coarse_now()
            .saturating_add(self.spans.epoch);
        stamps.leased.store(latest, Ordering::Relaxed);
        stamps.set_leased_from(at);
        if leases.is_multiple_of(SAMPLED) {
            stamps.sampled.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    #[inline]
    fn is_timely(&self, held: &Held, look: Look) -> bool {
        let stamps = self.table.stamps(held.slot());
        let now = self.depot.shelf.coarse_now();
        let stale = stamps
            .returned
            .load(Ordering::Relaxed)
            .saturating_add(self.spans.idle_timeout);
        now < stamps.look.load(Ordering::Relaxed)
            && now < stale
            && stamps.generation.load(Ordering::Relaxed) == look.generation()
    }

    // --- The long ways -------------------------------------------------------------------------

    #[cold]
    fn shelve_slowly(&self, held: Held, look: Look) {
        let stamps = self.table.stamps(held.slot());
        let now = self.now();
        if stamps.generation.load(Ordering::Relaxed) != look.generation() {
            return self.retire(held, Retirement::Invalidated);
        }
        if stamps.expires.load(Ordering::Relaxed) <= now {
            return self.retire(held, Retirement::Lifetime);
        }
        stamps.returned.store(now, Ordering::Relaxed);
        stamps.leased.store(NEVER, Ordering::Relaxed);
        if look.has(flag::PRESSED) && self.is_claimed() {
            return self.retire(held, Retirement::Evicted);
        }
        self.command(|core, shelf, fx| core.returned(shelf, held, now, fx));
    }

    /// Whether another key of the keyed pool needs a resource more than this one's waiters do.
    fn is_claimed(&self) -> bool {
        let oldest = self.depot.query(|core, _| core.oldest_arrival());
        self.host.as_ref().is_some_and(|host| host.claims(oldest))
    }

    /// Destroys a resource for another key's sake, unless it was used since it was looked at.
    pub(crate) fn evict(&self, slot: u32, returned: Moment) -> bool {
        if self.table.stamps(slot).returned.load(Ordering::Relaxed) == returned
            && let Some(held) = self.depot.shelf.idle.take_this(slot)
        {
            self.retire(held, Retirement::Evicted);
            return true;
        }
        false
    }

    #[cold]
    fn look_again(&self, slot: u32, before: Look) {
        let shelf = &self.depot.shelf;
        let look = shelf.gate.look();
        if look.generation() != before.generation()
            && let Some(held) = shelf.idle.take_this(slot)
        {
            return self.shelve_slowly(held, look);
        }
        if !look.is_open() {
            self.command(|core, shelf, fx| core.look_again(shelf, self.now(), fx));
        }
        if let Some(max_idle) = self.config.max_idle
            && shelf.idle.len() > max_idle
        {
            self.command(|core, shelf, fx| core.trim(shelf, self.now(), fx));
        }
    }

    /// Looks at a resource that was found or handed over, and sorts out what is not fit.
    pub(crate) fn vet(&self, held: Held) -> Vetted {
        let stamps = self.table.stamps(held.slot());
        let now = self.depot.shelf.coarse_now();
        let stale = stamps
            .returned
            .load(Ordering::Relaxed)
            .saturating_add(self.spans.idle_timeout);
        let generation = self.depot.shelf.gate.look().generation();
        if stamps.generation.load(Ordering::Relaxed) != generation {
            self.retire(held, Retirement::Invalidated);
            return Vetted::Unfit;
        }
        if stamps.expires.load(Ordering::Relaxed) <= now {
            self.retire(held, Retirement::Lifetime);
            return Vetted::Unfit;
        }
        // What is kept for `min_idle` is there to be lent, however long it was idle.
        if stale <= now && self.depot.shelf.idle.len() >= self.config.min_idle {
            self.retire(held, Retirement::Idle);
            return Vetted::Unfit;
        }
        match self.see_alive(held) {
            Some(held) if stamps.look.load(Ordering::Relaxed) <= now => Vetted::Due(held),
            Some(held) => Vetted::Fit(held),
            None => Vetted::Unfit,
        }
    }

    #[inline]
    fn see_alive(&self, held: Held) -> Option<Held> {
        let alive = caught(|| self.manager.is_alive(self.table.get(&held)));
        if let Ok(true) = alive {
            Some(held)
        } else {
            self.not_alive(held, alive.err())
        }
    }

    #[cold]
    fn not_alive(&self, held: Held, panicked: Option<Arc<str>>) -> Option<Held> {
        match panicked {
            None => self.retire(held, Retirement::Dead),
            Some(message) => self.panicked(held, "is_alive", &message),
        }
        None
    }

    /// Puts back, untouched, what was taken too quickly.
    #[cold]
    fn replace(&self, held: Held, before: Look) -> Option<Held> {
        let (shelf, slot) = (&self.depot.shelf, held.slot());
        shelf.idle.put(held);
        if shelf.gate.look() != before {
            self.look_again(slot, before);
        }
        None
    }

    /// Sends a resource to its destruction.
    #[cold]
    pub(crate) fn retire(&self, held: Held, why: Retirement) {
        self.command(|core, shelf, fx| core.retire(shelf, held, why, self.now(), fx));
    }

    #[cold]
    pub(crate) fn panicked(&self, held: Held, method: &'static str, message: &str) {
        self.emit(&Event::Panicked { method, message });
        self.retire(held, Retirement::Panicked);
    }

    #[cold]
    fn note_hold(&self, stamps: &Stamps) {
        let held = self
            .now()
            .saturating_sub(stamps.sampled.load(Ordering::Relaxed));
        stamps.sampled.store(0, Ordering::Relaxed);
        self.timings.record(Timed::Held, held);
    }

    /// The shortest time in which a new resource can reach the end of its life.
    pub(crate) fn shortest_life(&self) -> u64 {
        (self.spans.max_lifetime as f64 * (1.0 - self.config.lifetime_jitter)) as u64
    }

    /// Puts a new resource into its slot.
    pub(crate) fn bear(&self, held: &mut Held, resource: M::Resource, generation: u64) {
        let now = self.now();
        let shortened = 1.0 - self.config.lifetime_jitter * fastrand::f64();
        let lifetime = (self.spans.max_lifetime as f64 * shortened) as u64;
        let stamps = self.table.stamps(held.slot());
        stamps
            .expires
            .store(now.saturating_add(lifetime), Ordering::Relaxed);
        stamps.returned.store(now, Ordering::Relaxed);
        stamps.sampled.store(0, Ordering::Relaxed);
        stamps.generation.store(generation, Ordering::Relaxed);
        self.note_good(stamps, now);
        self.table.fill(held, resource);
        stamps.born.store(now, Ordering::Relaxed);
    }

    /// Notes that a resource has just shown that it works.
    pub(crate) fn note_good(&self, stamps: &Stamps, now: Moment) {
        let due = now.saturating_add(self.spans.check_interval);
        stamps.checked.store(now, Ordering::Relaxed);
        stamps.look.store(
            due.min(stamps.expires.load(Ordering::Relaxed)),
            Ordering::Relaxed,
        );
    }

    // --- Time, and word of what happens --------------------------------------------------------

    pub(crate) fn now(&self) -> Moment {
        nanos(self.birth.elapsed())
    }

    /// The instant of a moment; none for one that never comes.
    pub(crate) fn instant(&self, moment: Moment) -> Option<Instant> {
        self.birth.checked_add(Duration::from_nanos(moment))
    }

    pub(crate) fn moment(&self, instant: Instant) -> Moment {
        nanos(instant.saturating_duration_since(self.birth))
    }

    /// The pool's name in traces and metrics.
    #[cfg(feature = "metrics")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        for observer in &self.observers {
            // An observer that panics has nobody to tell.
            let _ = caught(|| observer.on_event(event));
        }
    }

    pub(crate) fn this(&self) -> Arc<Self> {
        self.this
            .upgrade()
            .expect("bug: a shared reference without an owner")
    }
}

impl<M: Manager> Drop for Shared<M> {
    fn drop(&mut self) {
        // Upkeep finds nothing to keep up, and ends.
        self.alarm.notify_one();
    }
}

/// Words in the idle set: more than threads, so that most threads have one to themselves.
pub(crate) fn shards() -> u32 {
    if cfg!(wharf_loom) {
        // Loom's threads are one thread to `thread_local`, and must all look in the same word.
        return 1;
    }
    // Asked once: it reads files, and a keyed pool makes pools all the time.
    static THREADS: OnceLock<usize> = OnceLock::new();
    let threads =
        *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    (threads.min(64) as u32 * 2).next_power_of_two()
}
