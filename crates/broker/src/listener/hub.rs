//! Where the tasks of a broker meet.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{sync::Notify, time::Instant};

use crate::{
    engine::{ConnectionId, Engine, Farewell, Settings},
    faults::Faulty,
};

/// Shared by the tasks of a broker.
pub(crate) struct Hub {
    /// Locked once for a batch of frames and never across an await. Neither parsing nor encoding
    /// nor a system call happens under it, and wakers are called after it. Work that has no bound of
    /// its own is done in portions, and the lock is let go in between.
    core: Mutex<Core>,
    /// Tells the timekeeper that something is due earlier than it knows.
    pub(super) sooner: Arc<Notify>,
    pub(super) faults: Arc<Faulty>,
}

#[derive(Debug)]
struct Core {
    engine: Engine,
    /// Who is told that there is something to write, or that the connection may read again.
    kicks: HashMap<ConnectionId, Arc<Kick>>,
    /// What the timekeeper sleeps until.
    armed: Option<std::time::Instant>,
}

/// What a connection's task does when it is woken, for others to do.
pub(super) trait Desk: fmt::Debug + Send + Sync {
    /// False if it has to be done by the task after all, or if there is more that it has to know of.
    fn go_on_for_task(&self) -> bool;
}

/// Wakes a connection's task.
#[derive(Debug, Default)]
pub(crate) struct Kick {
    task: Notify,
    desk: OnceLock<Weak<dyn Desk>>,
}

impl Kick {
    pub(crate) async fn kicked(&self) {
        self.task.notified().await;
    }

    /// What the task would do can be done here from now on.
    pub(super) fn leads_to(&self, desk: Weak<dyn Desk>) {
        let _ = self.desk.set(desk);
    }
}

/// Those to be told, when no lock is held.
#[must_use]
pub(crate) struct Kicks(SmallVec<[Arc<Kick>; 4]>);

impl Kicks {
    fn wake(self) {
        for kick in self.0 {
            kick.task.notify_one();
        }
    }

    /// What there is for one connection alone is written here and now, which saves its task's being
    /// woken for it.
    pub(crate) fn serve(self) {
        if let [kick] = &*self.0
            && let Some(desk) = kick.desk.get().and_then(Weak::upgrade)
            && desk.go_on_for_task()
        {
            return;
        }
        self.wake();
    }
}

impl Hub {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut engine = Engine::new(settings, Instant::now().into_std());
        let sooner = Arc::new(Notify::new());
        let faults = Arc::new(Faulty::new(Arc::clone(&sooner)));
        engine.interfere(Box::new(Arc::clone(&faults)));
        Self {
            core: Mutex::new(Core {
                engine,
                kicks: HashMap::new(),
                armed: None,
            }),
            sooner,
            faults,
        }
    }

    pub(crate) fn faults(&self) -> &Arc<Faulty> {
        &self.faults
    }

    /// Lets `work` have the engine, then wakes whoever that concerns.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Engine, std::time::Instant) -> R) -> R {
        self.with_but(None, work)
    }

    /// As [`with`](Self::with), for the task of a connection that need not be woken: it looks at
    /// its own output next.
    pub(crate) fn with_own<R>(
        &self,
        own: ConnectionId,
        work: impl FnOnce(&mut Engine, std::time::Instant) -> R,
    ) -> R {
        self.with_but(Some(own), work)
    }

    fn with_but<R>(
        &self,
        own: Option<ConnectionId>,
        work: impl FnOnce(&mut Engine, std::time::Instant) -> R,
    ) -> R {
        let (result, kicks) = self.leaving_kicks(own, work);
        kicks.wake();
        result
    }

    /// As [`with`](Self::with), but whoever it concerns is still to be told; `own` need not be.
    pub(crate) fn leaving_kicks<R>(
        &self,
        own: Option<ConnectionId>,
        work: impl FnOnce(&mut Engine, std::time::Instant) -> R,
    ) -> (R, Kicks) {
        let mut core = self.core.lock();
        let (result, kicks) = self.work(&mut core, own, work);
        let sooner = core.rearm();
        drop(core);
        if sooner {
            self.sooner.notify_one();
        }
        (result, kicks)
    }

    /// Does what is due and says when to come again. For the timekeeper, who need not be woken.
    pub(super) fn advance(&self) -> Option<Instant> {
        let mut core = self.core.lock();
        let ((), kicks) = self.work(&mut core, None, Engine::advance);
        core.armed = core.engine.next_deadline();
        let due = core.armed;
        drop(core);
        kicks.wake();
        due.map(Instant::from_std)
    }

    fn work<R>(
        &self,
        core: &mut Core,
        own: Option<ConnectionId>,
        work: impl FnOnce(&mut Engine, std::time::Instant) -> R,
    ) -> (R, Kicks) {
        let now = Instant::now().into_std();
        let result = work(&mut core.engine, now);
        let mut kicks = core.kicks(own);
        if self.faults.has_orders() {
            self.faults.carry_out(&mut core.engine, now);
            // Whoever has just looked at its output has not seen what these have added.
            kicks.0.extend(core.kicks(None).0);
        }
        (result, kicks)
    }

    /// A socket was accepted.
    pub(super) fn connect(&self) -> (ConnectionId, Arc<Kick>) {
        let (id, kick, ()) = self.admit(|engine, now| (engine.connect(now), ()));
        (id, kick)
    }

    /// A client in the process is here.
    pub(crate) fn attach(
        &self,
        user: &str,
        name: &str,
    ) -> (ConnectionId, Arc<Kick>, Arc<Farewell>) {
        self.admit(|engine, now| engine.attach(user, name, now))
    }

    fn admit<R>(
        &self,
        admit: impl FnOnce(&mut Engine, std::time::Instant) -> (ConnectionId, R),
    ) -> (ConnectionId, Arc<Kick>, R) {
        let kick = Arc::<Kick>::default();
        let mut core = self.core.lock();
        let (id, admitted) = admit(&mut core.engine, Instant::now().into_std());
        core.kicks.insert(id, Arc::clone(&kick));
        let sooner = core.rearm();
        drop(core);
        if sooner {
            self.sooner.notify_one();
        }
        (id, kick, admitted)
    }

    pub(crate) fn disconnect(&self, id: ConnectionId) {
        self.core.lock().kicks.remove(&id);
        self.with(|engine, now| engine.disconnect(id, now));
        self.faults.forget(id);
    }
}

/// Without what clients publish.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Core {
    fn kicks(&mut self, own: Option<ConnectionId>) -> Kicks {
        let kicks = &self.kicks;
        let touched = self.engine.touched().filter(|id| Some(*id) != own);
        Kicks(touched.filter_map(|id| kicks.get(&id).cloned()).collect())
    }

    /// Whether something is due before the timekeeper wakes, who is told once.
    fn rearm(&mut self) -> bool {
        let Some(next) = self.engine.next_deadline() else {
            return false;
        };
        if self.armed.is_some_and(|armed| armed <= next) {
            return false;
        }
        self.armed.replace(next) != Some(next)
    }
}
