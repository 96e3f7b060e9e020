//! The core behind its lock, beside what is reached without it. This is the part of the pool
//! that several threads meet in, and so the part that loom explores (`loom_tests`).

use crossbeam_utils::CachePadded;

use crate::{
    core::{Core, Effects, Limits, Shelf},
    slots::Held,
    sync::{Mutex, MutexGuard, lock},
};

pub(crate) struct Depot<C> {
    pub(crate) shelf: Shelf,
    /// Guards every decision. Held for the length of one command, in which nothing of the user's
    /// runs: no manager, destructor, waker, predicate or observer. Those are effects, carried out
    /// once the lock is released. Nothing else is locked while it is held.
    core: CachePadded<Mutex<Core<C>>>,
}

impl<C: Clone> Depot<C> {
    pub(crate) fn new(
        limits: Limits,
        vacant: impl Iterator<Item = Held>,
        shelf: Shelf,
        seed: u64,
    ) -> Self {
        Self {
            shelf,
            core: CachePadded::new(Mutex::new(Core::new(limits, vacant, seed))),
        }
    }

    /// Gives the core a command and returns the effects, which the caller must carry out.
    #[inline(always)]
    pub(crate) fn command<T>(
        &self,
        command: impl FnOnce(&mut Core<C>, &Shelf, &mut Effects<C>) -> T,
    ) -> (T, Effects<C>) {
        let mut effects = Effects::new();
        let answer = self.command_into(&mut effects, command);
        (answer, effects)
    }

    /// The same, with the effects left where they are to be carried out: moving them costs more
    /// than most commands.
    #[inline(always)]
    pub(crate) fn command_into<T>(
        &self,
        effects: &mut Effects<C>,
        command: impl FnOnce(&mut Core<C>, &Shelf, &mut Effects<C>) -> T,
    ) -> T {
        command(&mut self.lock(), &self.shelf, effects)
    }

    /// Asks the core something that changes nothing.
    pub(crate) fn query<T>(&self, query: impl FnOnce(&Core<C>, &Shelf) -> T) -> T {
        query(&self.lock(), &self.shelf)
    }

    fn lock(&self) -> MutexGuard<'_, Core<C>> {
        lock(&self.core)
    }
}
