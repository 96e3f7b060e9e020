//! What time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::core::{NEVER, Nanos};

/// Tokio's clock, which a test may stop, told as the time of day was when it began: moments that are
/// in a journal mean the same to the next process. It goes on evenly when the system's clock is set.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_nanos: Nanos,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            start_nanos: nanos(since.unwrap_or_default()),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.start_nanos + nanos(self.start.elapsed())
    }

    /// None for a moment too far off to wait for.
    pub(crate) fn instant(&self, at: Nanos) -> Option<Instant> {
        if at == NEVER {
            return None;
        }
        let since = Duration::from_nanos(at.saturating_sub(self.start_nanos));
        self.start.checked_add(since)
    }
}

/// What does not fit is for ever.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
