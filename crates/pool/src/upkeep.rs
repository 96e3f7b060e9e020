//! The one background task of a pool. It keeps the coarse clock and the deadlines, probes an
//! outage, refills `min_idle`, retires what is idle or old, checks what must be kept alive, and
//! warns of leases that are out for too long.
//!
//! It sleeps until the first of these is due, holds the pool only while it works, and ends with
//! it. A resource is taken out of the idle set before upkeep touches it; whoever needs it in the
//! meantime waits in line like everybody, and is next when it is back.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout_at};

use crate::{
    core::{Core, Moment, Retirement},
    get::Custody,
    manager::Manager,
    observer::Event,
    shared::Shared,
    slots::{Held, NEVER},
    sync::Ordering,
};

pub(crate) fn run<M: Manager>(
    shared: Weak<Shared<M>>,
    alarm: Arc<Notify>,
    tenancy: u64,
) -> impl Future<Output = ()> + Send {
    // Made before the task is spawned: a runtime that never polls it drops the guard.
    let tenant = Tenant { shared, tenancy };
    async move {
        let mut rounds = Rounds::default();
        loop {
            let next = {
                let Some(shared) = tenant.shared.upgrade() else {
                    return;
                };
                if !shared.is_tenant(tenancy) {
                    return;
                }
                let next = rounds.make(&shared);
                shared.instant(next).filter(|_| next != NEVER)
            };
            match next {
                // The alarm or the clock, whichever is first: both mean another round.
                Some(next) => drop(timeout_at(next, alarm.notified()).await),
                None => alarm.notified().await,
            }
        }
    }
}

/// Upkeep's hold on its place. If the runtime drops it, the pool needs another.
struct Tenant<M: Manager> {
    shared: Weak<Shared<M>>,
    tenancy: u64,
}

impl<M: Manager> Drop for Tenant<M> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade()
            && shared.is_tenant(self.tenancy)
        {
            shared.lose_home();
        }
    }
}

/// What upkeep remembers from one round to the next.
#[derive(Default)]
struct Rounds {
    /// Nothing in the slots is due before this.
    look_at: Moment,
    /// A check was due but another one was going on.
    held_up: bool,
    /// For each slot, the lease that was last reported as overdue.
    reported: Vec<u64>,
}

impl Rounds {
    /// Does what is due, and says when something will be next.
    fn make<M: Manager>(&mut self, shared: &Arc<Shared<M>>) -> Moment {
        let next = self.look_around(shared);
        #[cfg(feature = "metrics")]
        if shared.host.is_none() {
            // The pools of a keyed pool have one name, and would overwrite each other's gauges.
            shared.publish_metrics();
        }
        next
    }

    fn look_around<M: Manager>(&mut self, shared: &Arc<Shared<M>>) -> Moment {
        let now = shared.now();
        let next = shared.command(|core, shelf, fx| core.tick(shelf, now, fx));
        let census = shared.depot.query(Core::census);
        if census.closed || census.idle + census.leased + census.reserved == 0 {
            return next;
        }
        if self.look_at <= now || (self.held_up && census.reserved == 0) {
            self.held_up = false;
            self.look_at = self.look_at_slots(shared, now);
        }
        next.min(self.look_at)
    }

    /// Looks at every slot; says before when nothing will be due in any, used or not.
    fn look_at_slots<M: Manager>(&mut self, shared: &Arc<Shared<M>>, now: Moment) -> Moment {
        let spans = &shared.spans;
        // What happens after this look cannot be due before the shortest of these has passed.
        let mut next = now.saturating_add(
            spans
                .idle_timeout
                .min(shared.shortest_life())
                .min(spans.keep_alive)
                .min(spans.warn_after),
        );
        let slots = shared.slots.load(Ordering::Acquire);
        self.reported.resize(slots as usize, 0);
        for slot in 0..slots {
            if shared.table.stamps(slot).born.load(Ordering::Relaxed) != NEVER {
                next = next.min(self.look_at_slot(shared, slot, now));
            }
        }
        next
    }

    fn look_at_slot<M: Manager>(
        &mut self,
        shared: &Arc<Shared<M>>,
        slot: u32,
        now: Moment,
    ) -> Moment {
        let shelf = &shared.depot.shelf;
        let stamps = shared.table.stamps(slot);
        if !shelf.idle.contains(slot) {
            return self.look_at_lease(shared, slot, now);
        }
        let expires = stamps.expires.load(Ordering::Relaxed);
        if expires <= now {
            self.retire_if(shared, slot, Retirement::Lifetime, |_| true);
            return NEVER;
        }
        let returned = stamps.returned.load(Ordering::Relaxed);
        let stale = returned.saturating_add(shared.spans.idle_timeout);
        if stale <= now && shelf.idle.len() > shared.config.min_idle {
            self.retire_if(shared, slot, Retirement::Idle, |returned_now| {
                returned_now == returned
            });
            return NEVER;
        }
        let good = returned.max(stamps.checked.load(Ordering::Relaxed));
        let check = good.saturating_add(shared.spans.keep_alive);
        if check <= now && !self.keep_alive(shared, slot) {
            self.held_up = true;
        }
        [expires, stale, check]
            .into_iter()
            .filter(|due| *due > now)
            .min()
            .unwrap_or(NEVER)
    }

    fn look_at_lease<M: Manager>(&mut self, shared: &Shared<M>, slot: u32, now: Moment) -> Moment {
        let stamps = shared.table.stamps(slot);
        let lease = stamps.leases.load(Ordering::Relaxed);
        let taken = stamps.leased.load(Ordering::Relaxed);
        let overdue = taken.saturating_add(shared.spans.warn_after);
        let reported = &mut self.reported[slot as usize];
        if overdue > now || *reported == lease {
            return if *reported == lease { NEVER } else { overdue };
        }
        *reported = lease;
        if let Some(taken_at) = stamps.leased_from() {
            let held = Duration::from_nanos(now.saturating_sub(taken));
            shared.emit(&Event::Overdue { held, taken_at });
        }
        NEVER
    }

    /// Retires an idle resource, unless it was used since it was looked at.
    fn retire_if<M: Manager>(
        &self,
        shared: &Shared<M>,
        slot: u32,
        why: Retirement,
        still: impl FnOnce(Moment) -> bool,
    ) {
        let Some(held) = shared.depot.shelf.idle.take_this(slot) else {
            return;
        };
        if still(shared.table.stamps(slot).returned.load(Ordering::Relaxed)) {
            shared.retire(held, why);
        } else {
            shared.shelve(held);
        }
    }

    /// Begins to check an idle resource; false if another one is being checked.
    fn keep_alive<M: Manager>(&self, shared: &Arc<Shared<M>>, slot: u32) -> bool {
        if shared
            .depot
            .query(|core, shelf| core.census(shelf).reserved)
            > 0
        {
            return false;
        }
        if let Some(held) = shared.depot.shelf.idle.take_this(slot) {
            shared.spawn(check(Reserved::new(Arc::clone(shared), held)));
        }
        true
    }
}

/// Checks a resource that upkeep has taken out of the idle set.
async fn check<M: Manager>(mut reserved: Reserved<M>) {
    let shared = Arc::clone(&reserved.shared);
    let mut custody = Custody::new(&shared, reserved.take());
    // Moved, so that it is dropped first: it is a resource like any other again before it goes on.
    let reserved = reserved;
    let passed = shared.run_check(custody.held_mut(), NEVER).await.is_ok();
    drop(reserved);
    if passed {
        shared.shelve(custody.release());
    }
}

/// A resource that upkeep holds. The core counts it, and upkeep looks again when it is done.
struct Reserved<M: Manager> {
    shared: Arc<Shared<M>>,
    held: Option<Held>,
}

impl<M: Manager> Reserved<M> {
    fn new(shared: Arc<Shared<M>>, held: Held) -> Self {
        shared.command(|core, _, _| core.reserve(true));
        Self {
            shared,
            held: Some(held),
        }
    }

    fn take(&mut self) -> Held {
        self.held.take().expect("bug: taken twice")
    }
}

impl<M: Manager> Drop for Reserved<M> {
    fn drop(&mut self) {
        self.shared.command(|core, _, _| core.reserve(false));
        if let Some(held) = self.held.take() {
            // Never run: the resource was not touched.
            self.shared.shelve(held);
        }
        self.shared.alarm.notify_one();
    }
}
