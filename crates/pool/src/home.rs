//! The runtime that a pool lives on: where its tasks run and its time is kept.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{caught::caught, manager::Manager, shared::Shared, sync::Ordering, upkeep};

impl<M: Manager> Shared<M> {
    /// Makes sure that there is a runtime to create and to keep time on. Called by every `get`
    /// that has to wait.
    ///
    /// # Panics
    ///
    /// Panics if there is none and the caller is not on one either, or on one without timers.
    pub(crate) fn settle_in(&self) {
        if self.homeless.load(Ordering::Acquire) {
            self.move_to(Handle::current());
        }
    }

    pub(crate) fn settle_in_if_possible(&self) {
        if self.homeless.load(Ordering::Acquire)
            && let Ok(runtime) = Handle::try_current()
            && has_timers(&runtime)
        {
            self.move_to(runtime);
        }
    }

    #[cold]
    pub(crate) fn move_to(&self, runtime: Handle) {
        {
            // Panics, and says why, where timers are disabled: better here than in every task.
            touch_timers(&runtime);
        }
        let tenancy = {
            let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.homeless.swap(false, Ordering::AcqRel) {
                return;
            }
            *home = Some(runtime);
            self.tenancy.fetch_add(1, Ordering::AcqRel) + 1
        };
        self.spawn(upkeep::run(
            Weak::clone(&self.this),
            Arc::clone(&self.alarm),
            tenancy,
        ));
    }

    /// Whether an upkeep is the pool's own.
    pub(crate) fn is_tenant(&self, tenancy: u64) -> bool {
        self.tenancy.load(Ordering::Acquire) == tenancy && !self.homeless.load(Ordering::Acquire)
    }

    /// The runtime has dropped a task of the pool's: it is shutting down. Whoever waits moves the
    /// pool to where it runs itself.
    pub(crate) fn lose_home(&self) {
        self.homeless.store(true, Ordering::Release);
        self.command(|core, _, fx| core.nudge(fx));
    }

    /// Runs a task on the pool's runtime. Without one it is dropped, and says so by its drop.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.home() {
            drop(runtime.spawn(task));
        }
    }

    pub(crate) fn home(&self) -> Option<Handle> {
        self.home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn touch_timers(runtime: &Handle) {
    let _context = runtime.enter();
    drop(tokio::time::sleep(Duration::ZERO));
}

/// Whether a pool can live there. There is nothing else to ask than the panic.
fn has_timers(runtime: &Handle) -> bool {
    caught(|| touch_timers(runtime)).is_ok()
}
