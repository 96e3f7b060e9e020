//! All scripts of a broker, and who asks after them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    script::{Act, Admission, Scripts, now},
    tap::{Direction, Limit, Struck, Tap, Traffic},
};
use crate::engine::{ConnectionId, Engine, Peer, Release};

/// All scripts of a broker.
pub(crate) struct Faulty {
    /// Locked under the engine's lock or alone; nothing else is locked under it.
    pub(super) scripts: Mutex<Scripts>,
    /// Whether anything at all is scripted or withheld. What has nothing to ask asks no further.
    armed: AtomicBool,
    traffic: AtomicBool,
    orders: AtomicBool,
    /// Wakes the timekeeper, who carries out what is due.
    sooner: Arc<Notify>,
    /// Wakes those who wait until a step has happened.
    pub(super) progress: Notify,
}

impl Faulty {
    pub(crate) fn new(sooner: Arc<Notify>) -> Self {
        Self {
            scripts: Mutex::default(),
            armed: AtomicBool::new(false),
            traffic: AtomicBool::new(false),
            orders: AtomicBool::new(false),
            sooner,
            progress: Notify::new(),
        }
    }

    pub(crate) fn tap(self: &Arc<Self>, connection: ConnectionId) -> Tap {
        Tap::new(Arc::clone(self), connection)
    }

    pub(crate) fn watches_traffic(&self) -> bool {
        self.traffic.load(Ordering::Acquire)
    }

    pub(crate) fn has_orders(&self) -> bool {
        self.orders.load(Ordering::Acquire)
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Changes the scripts, and lets everyone know what follows from it.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Scripts) -> R) -> R {
        let mut scripts = self.scripts.lock();
        let result = change(&mut scripts);
        let orders = self.settle(&mut scripts);
        drop(scripts);
        self.progress.notify_waiters();
        if orders || self.is_armed() {
            self.sooner.notify_one();
        }
        result
    }

    /// Begins the steps whose turn it is and notes what is to be asked from here on.
    fn settle(&self, scripts: &mut Scripts) -> bool {
        let now = now();
        let orders = scripts.begin_current(now);
        scripts.sort_out();
        let current = || scripts.current();
        self.traffic.store(
            current().any(|step| matches!(step.act, Act::Strike(..))),
            Ordering::Release,
        );
        self.orders.store(orders, Ordering::Release);
        self.armed.store(
            current().next().is_some() || scripts.withheld.next_deadline().is_some(),
            Ordering::Release,
        );
        orders
    }

    /// A new connection is here.
    pub(crate) fn admit(&self, connection: ConnectionId) -> Admission {
        let peer = Peer {
            connection,
            user: None,
            name: None,
        };
        let admission = self.once(&peer, |act| match act {
            Act::Admit(admission) => Some(*admission),
            _ => None,
        });
        admission.unwrap_or(Admission::Served)
    }

    /// The first current step about this peer for which `choose` has an answer. It has happened
    /// once more with that.
    pub(super) fn once<R>(&self, peer: &Peer, choose: impl FnMut(&Act) -> Option<R>) -> Option<R> {
        if !self.is_armed() {
            return None;
        }
        let mut scripts = self.scripts.lock();
        let chosen = scripts.once(peer, choose)?;
        self.settle(&mut scripts);
        drop(scripts);
        self.progress.notify_waiters();
        Some(chosen)
    }

    /// The blow that falls on a connection before its next frame, if one does. `reached` says of a
    /// limit, and of what had passed before the step began, how much of that frame still passes.
    pub(super) fn struck(
        &self,
        peer: &Peer,
        direction: Direction,
        reached: impl Fn(Limit, Traffic) -> Option<usize>,
        traffic: Traffic,
    ) -> Option<Struck> {
        let mut scripts = self.scripts.lock();
        let mut struck = None;
        let mut progress = false;
        while struck.is_none() {
            match scripts.strike(peer, direction, &reached, traffic) {
                None => break,
                Some((part, blow)) => {
                    progress = true;
                    struck = blow.map(|blow| Struck { blow, part });
                    self.settle(&mut scripts);
                }
            }
        }
        drop(scripts);
        if progress {
            self.progress.notify_waiters();
        }
        struck
    }

    /// Does to the engine what the scripts order, until none does.
    pub(crate) fn carry_out(&self, engine: &mut Engine, now: Instant) {
        while self.has_orders() {
            let mut scripts = self.scripts.lock();
            let orders = scripts.take_orders();
            self.settle(&mut scripts);
            drop(scripts);
            for (whom, order) in orders {
                order.carry_out(&whom, engine, now);
            }
            self.progress.notify_waiters();
        }
    }

    /// A wait is over, perhaps.
    pub(super) fn pass_time(&self, now: Instant) {
        let mut scripts = self.scripts.lock();
        if scripts.end_waits(now) {
            self.settle(&mut scripts);
            drop(scripts);
            self.progress.notify_waiters();
        }
    }

    /// Takes the confirms whose time has come.
    pub(super) fn release(&self, now: Instant, into: &mut Vec<Release>) {
        let mut scripts = self.scripts.lock();
        scripts.withheld.take_due(now, into);
        self.settle(&mut scripts);
    }

    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.scripts.lock().forget(connection);
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("armed", &self.is_armed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Bytes, Faults, Frames},
        *,
    };

    fn faulty() -> (Arc<Faulty>, Faults) {
        let faulty = Arc::new(Faulty::new(Arc::new(Notify::new())));
        let faults = Faults::new(Arc::clone(&faulty));
        (faulty, faults)
    }

    fn kept(faulty: &Faulty) -> (usize, usize) {
        let scripts = faulty.scripts.lock();
        (scripts.live.len(), scripts.ended.len())
    }

    /// The first frame of a connection passes.
    fn pass(faulty: &Arc<Faulty>, connection: u64) {
        let mut tap = faulty.tap(ConnectionId::of_test(connection));
        tap.pass(Direction::Received, true, 8);
        tap.struck(Direction::Received, Some(8), 0);
    }

    #[test]
    fn a_script_that_has_ended_is_kept_no_longer_than_a_step_of_it() {
        let (faulty, faults) = faulty();
        let always = faults.clone().refuse_logins(530, "NOT_ALLOWED");
        let asked = faults.clone().after(Frames(0));
        for _ in 0..100 {
            let _ = faults.clone().after(Frames(0));
        }
        assert_eq!(kept(&faulty), (102, 0));
        for _ in 0..102 {
            pass(&faulty, 1);
        }
        assert_eq!(kept(&faulty), (1, 1));
        assert_eq!(asked.count(), 1);
        drop(always);
        faults.clear();
        assert_eq!(kept(&faulty), (0, 1));
        drop(asked);
        faults.clone().after(Frames(0));
        faults.clear();
        assert_eq!(kept(&faulty), (0, 0));
    }

    #[test]
    fn a_script_that_has_ended_goes_on_when_somebody_writes_on() {
        let (faulty, faults) = faulty();
        let first = faults.after(Frames(0));
        pass(&faulty, 1);
        assert_eq!(kept(&faulty), (0, 1));
        let second = first.then().after(Frames(0));
        assert_eq!(kept(&faulty), (1, 0));
        pass(&faulty, 1);
        assert_eq!((first.count(), second.count()), (1, 1));
        let first = first.times(2);
        assert_eq!(kept(&faulty), (1, 0));
        pass(&faulty, 2);
        assert_eq!((first.count(), second.count()), (2, 1));
    }

    #[test]
    fn nothing_is_remembered_of_connections_that_are_gone() {
        let (faulty, faults) = faulty();
        let far = faults.clone().cut_after(Bytes(1_000));
        let near = faults.clone().nth(3).after(Frames(0));
        for connection in 1..=3 {
            pass(&faulty, connection);
        }
        let known = |step: &super::super::Step| {
            let scripts = faulty.scripts.lock();
            scripts.get(step.place()).1.known()
        };
        assert_eq!((far.count(), near.count()), (0, 1));
        assert_eq!((known(&far), known(&near)), (3, 0));
        faulty.forget(ConnectionId::of_test(1));
        assert_eq!(known(&far), 2);
    }

    /// They stayed if nothing was armed as their connection ended.
    #[test]
    fn confirms_that_wait_for_others_go_with_their_connection() {
        let (faulty, faults) = faulty();
        let release = Release {
            connection: ConnectionId::of_test(1),
            channel: 1,
            opened: 1,
            tag: 1,
        };
        let held = faulty.change(|scripts| {
            scripts.withheld.gather(release, 2, now());
            scripts.withheld.gathered()
        });
        assert_eq!((held, faulty.is_armed()), (1, false));
        faulty.forget(release.connection);
        faults.clear();
        assert_eq!(faulty.scripts.lock().withheld.next_deadline(), None);
    }
}
