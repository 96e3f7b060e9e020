//! The tasks that create and destroy resources. Each holds the slot's token in a guard, so that
//! whatever ends the task, the core hears of it.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    caught::{Attempt, caught, caught_async, settle},
    core::{Errand, Verdict},
    error::Cause,
    manager::{Failure, Manager},
    observer::Event,
    shared::Shared,
    slots::Held,
};

/// Creates a resource, if it is still needed, and hands it to the core.
pub(crate) fn create<M: Manager>(
    shared: Arc<Shared<M>>,
    held: Held,
    errand: Errand,
) -> impl Future<Output = ()> + Send {
    // Made before the task is spawned: a runtime that never polls it drops the guard.
    let mut creation = Creation {
        shared,
        held: Some(held),
        errand,
    };
    async move {
        if !creation.begin() {
            return;
        }
        let shared = Arc::clone(&creation.shared);
        let began = shared.now();
        let limit = shared.config.create_timeout;
        let attempt = within(limit, caught_async(|| shared.manager.create())).await;
        let took = shared.now().saturating_sub(began);
        match settle(attempt) {
            Ok(resource) => creation.land(resource, took),
            Err(cause) => creation.fail(cause, took),
        }
    }
}

/// Takes the resource out of its slot and destroys it.
pub(crate) fn destroy<M: Manager>(
    shared: Arc<Shared<M>>,
    held: Held,
) -> impl Future<Output = ()> + Send {
    let mut destruction = Destruction {
        shared,
        held: Some(held),
        taken: false,
    };
    async move {
        let resource = destruction.take();
        let shared = Arc::clone(&destruction.shared);
        let limit = shared.config.destroy_timeout;
        match within(limit, caught_async(|| shared.manager.destroy(resource))).await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => {
                shared.emit(&Event::Panicked {
                    method: "destroy",
                    message: &message,
                });
            }
            Err(after) => shared.emit(&Event::DestroyTimedOut { after }),
        }
    }
}

/// A creation under way. Dropped before its end, it was aborted.
struct Creation<M: Manager> {
    shared: Arc<Shared<M>>,
    held: Option<Held>,
    errand: Errand,
}

impl<M: Manager> Creation<M> {
    /// Whether it is still needed, which is asked once, just before dialling.
    fn begin(&mut self) -> bool {
        let errand = self.errand;
        self.held = self.held.take().and_then(|held| {
            let now = self.shared.now();
            self.shared
                .command(|core, shelf, fx| core.begin(shelf, held, errand, now, fx))
        });
        self.held.is_some()
    }

    fn land(&mut self, resource: M::Resource, took: u64) {
        let (shared, errand) = (&self.shared, self.errand);
        let Some(mut held) = self.held.take() else {
            return;
        };
        shared.bear(&mut held, resource, errand.generation);
        shared.emit(&Event::Created {
            took: Duration::from_nanos(took),
        });
        let now = shared.now();
        shared.command(|core, shelf, fx| core.created(shelf, held, errand, took, now, fx));
    }

    fn fail(&mut self, cause: Cause<M::Error>, took: u64) {
        let (shared, errand) = (&self.shared, self.errand);
        let Some(held) = self.held.take() else { return };
        let verdict = match &cause {
            Cause::Failed(error) => match caught(|| shared.manager.classify(error)) {
                Ok(Failure::Refuse) => Verdict::Refuse,
                Ok(Failure::Outage) => Verdict::Outage,
                Err(message) => {
                    shared.emit(&Event::Panicked {
                        method: "classify",
                        message: &message,
                    });
                    Verdict::Outage
                }
            },
            // A manager that hangs or panics would do so again at once.
            Cause::TimedOut(_) | Cause::Panicked(_) => Verdict::Outage,
        };
        if let Cause::Panicked(message) = &cause {
            shared.emit(&Event::Panicked {
                method: "create",
                message,
            });
        }
        shared.emit(&Event::CreateFailed {
            took: Duration::from_nanos(took),
            cause: &cause,
        });
        let now = shared.now();
        shared.command(|core, shelf, fx| {
            core.create_failed(shelf, held, errand, (verdict, cause), took, now, fx);
        });
    }
}

impl<M: Manager> Drop for Creation<M> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        if std::thread::panicking() {
            // Only the drop of the user's future can unwind to here.
            self.held = Some(held);
            self.fail(
                Cause::Panicked(Arc::from("while a creation was dropped")),
                0,
            );
            return;
        }
        let (errand, now) = (self.errand, self.shared.now());
        self.shared
            .command(|core, shelf, fx| core.create_aborted(shelf, held, errand, now, fx));
        self.shared.lose_home();
    }
}

/// A destruction under way. However it ends, the slot is vacant then.
struct Destruction<M: Manager> {
    shared: Arc<Shared<M>>,
    held: Option<Held>,
    taken: bool,
}

impl<M: Manager> Destruction<M> {
    fn take(&mut self) -> M::Resource {
        let held = self
            .held
            .as_mut()
            .expect("bug: the token stays until the end");
        self.taken = true;
        self.shared.table.take(held)
    }
}

impl<M: Manager> Drop for Destruction<M> {
    fn drop(&mut self) {
        let shared = &self.shared;
        let Some(mut held) = self.held.take() else {
            return;
        };
        if !self.taken {
            // No runtime to say goodbye on.
            let resource = shared.table.take(&mut held);
            if let Err(message) = caught(|| drop(resource)) {
                shared.emit(&Event::Panicked {
                    method: "drop",
                    message: &message,
                });
            }
        }
        let now = shared.now();
        shared.command(|core, shelf, fx| core.destroyed(shelf, held, now, fx));
    }
}

/// Runs a future with a time limit, which the error names.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    run: impl Future<Output = Result<T, Arc<str>>>,
) -> Attempt<T> {
    match limit {
        Some(limit) => timeout(limit, run).await.map_err(|_| limit),
        None => Ok(run.await),
    }
}
