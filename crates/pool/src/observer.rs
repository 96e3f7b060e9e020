//! Word of what happens in a pool, for logs and alarms.

use std::{panic::Location, time::Duration};

use crate::core::Retirement;

/// Hears of what happens in a pool. Checkouts and returns are not reported one by one, for that
/// would slow them down: [`Pool::status`](crate::Pool::status) counts them.
///
/// Called without any lock, on whatever thread caused the event: it must not block. It may call
/// the pool. A panic in it is caught and ignored.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Something that happened in a pool.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A resource was created.
    Created {
        /// How long it took.
        took: Duration,
    },
    /// A creation failed, timed out or panicked.
    CreateFailed {
        /// How long it took.
        took: Duration,
        /// Why.
        cause: &'a (dyn std::error::Error + 'static),
    },
    /// A resource did not pass its check, and is destroyed.
    CheckFailed {
        /// Why.
        cause: &'a (dyn std::error::Error + 'static),
    },
    /// A resource is about to be destroyed.
    Retired {
        /// Why.
        why: Retirement,
    },
    /// `Manager::destroy` did not finish in time, and was dropped.
    DestroyTimedOut {
        /// How long it was given.
        after: Duration,
    },
    /// The pool is down, or still down after another probe: nothing can be created.
    Down {
        /// The failure.
        cause: &'a (dyn std::error::Error + 'static),
        /// How many attempts have failed.
        attempt: u32,
        /// When the next probe begins.
        retry_in: Duration,
    },
    /// The outage is over.
    Up {
        /// How long it lasted.
        after: Duration,
    },
    /// A lease has been out for longer than `warn_after`. Reported once for each lease.
    Overdue {
        /// For how long, at least.
        held: Duration,
        /// Where `get` was called.
        taken_at: &'static Location<'static>,
    },
    /// A waiter was turned away because the line was standing.
    Shed {
        /// How long it had waited.
        waited: Duration,
    },
    /// The user's code panicked.
    Panicked {
        /// Where: the name of the manager's method, `wake` for a waker, `drop` for a destructor.
        method: &'static str,
        /// The panic's message.
        message: &'a str,
    },
    /// The pool was closed.
    Closed,
}
