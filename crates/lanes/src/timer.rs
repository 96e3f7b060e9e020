//! The one background task: it sleeps until a lane is due, and ends with the lanes, which it holds
//! only while it works. Lanes that are due are served by those who push as well, so that the task
//! may be late without anybody waiting for it.

use std::sync::{Arc, Weak};

use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use crate::{handler::Key, shared::Shared};

/// It lets go of the lock after so many lanes.
const PORTION: usize = 256;

pub(crate) fn run<K: Key, T: Send + 'static>(
    shared: &Arc<Shared<K, T>>,
) -> impl Future<Output = ()> + Send + use<K, T> {
    let alarm = Arc::clone(shared.alarm());
    // Made before the task is spawned: a runtime that never polls it drops the guard.
    let tenant = Tenant(Arc::downgrade(shared));
    async move {
        loop {
            let next = {
                let Some(shared) = tenant.0.upgrade() else {
                    return;
                };
                let next = shared.tick(PORTION);
                shared.publish();
                next
            };
            match next {
                None => alarm.notified().await,
                Some(next) if next <= Instant::now() => yield_now().await,
                // The alarm or the clock, whichever is first: both mean another look.
                Some(next) => drop(timeout_at(next, alarm.notified()).await),
            }
        }
    }
}

/// If the runtime drops the task, nobody is left to handle anything.
struct Tenant<K: Key, T: Send + 'static>(Weak<Shared<K, T>>);

impl<K: Key, T: Send + 'static> Drop for Tenant<K, T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lose_home();
        }
    }
}
