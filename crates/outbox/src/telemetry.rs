//! Traces and metrics, each behind a feature of its own; nothing without.

use std::{error::Error, time::Duration};

use crate::{core::End, journal::JournalError};
#[cfg(not(feature = "metrics"))]
use {crate::status::Status, tokio::time::Instant};

/// What an outbox tells.
#[derive(Debug)]
pub(crate) struct Told {
    #[cfg_attr(
        not(any(feature = "tracing", feature = "metrics")),
        allow(dead_code, reason = "only the features tell")
    )]
    name: String,
    #[cfg(feature = "metrics")]
    gauges: metrics_export::Gauges,
}

/// Errors for panics and for a journal that fails, warnings for what is lost or away, the rest at
/// debug level.
#[cfg_attr(
    not(feature = "tracing"),
    allow(
        unused_variables,
        clippy::unused_self,
        reason = "only the feature tells"
    )
)]
impl Told {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            #[cfg(feature = "metrics")]
            gauges: metrics_export::Gauges::new(),
        }
    }

    pub(crate) fn outage(&self, cause: &(dyn Error + Send + Sync), pause: Duration) {
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "wharf_outbox", outbox = self.name, %cause, ?pause, "no answer");
    }

    pub(crate) fn recovered(&self) {
        #[cfg(feature = "tracing")]
        tracing::info!(target: "wharf_outbox", outbox = self.name, "answered again");
    }

    pub(crate) fn panicked(&self, times: u64) {
        #[cfg(feature = "tracing")]
        tracing::error!(target: "wharf_outbox", outbox = self.name, times, "the destination panicked");
    }

    pub(crate) fn user_panicked(&self, message: &str) {
        #[cfg(feature = "tracing")]
        tracing::error!(
            target: "wharf_outbox",
            outbox = self.name,
            message,
            "a message, a waker or a subscriber panicked"
        );
    }

    pub(crate) fn ended(&self, end: End) {
        #[cfg(feature = "tracing")]
        match end {
            End::GaveUp { attempts } => {
                tracing::warn!(target: "wharf_outbox", outbox = self.name, attempts, "given up");
            }
            End::Expired { attempts } => {
                tracing::debug!(target: "wharf_outbox", outbox = self.name, attempts, "expired");
            }
            End::DroppedOldest => {
                tracing::debug!(target: "wharf_outbox", outbox = self.name, "dropped the oldest");
            }
        }
    }

    pub(crate) fn dropped_newest(&self) {
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "wharf_outbox", outbox = self.name, "dropped the newest");
    }

    pub(crate) fn forsaken(&self, messages: usize) {
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "wharf_outbox", outbox = self.name, messages, "ended undelivered");
    }

    pub(crate) fn commit_failed(&self, cause: &JournalError) {
        #[cfg(feature = "tracing")]
        tracing::error!(
            target: "wharf_outbox",
            outbox = self.name,
            cause = cause as &dyn Error,
            "the journal could not be written"
        );
    }

    pub(crate) fn read_failed(&self, cause: &JournalError) {
        #[cfg(feature = "tracing")]
        tracing::error!(
            target: "wharf_outbox",
            outbox = self.name,
            cause = cause as &dyn Error,
            "the journal could not be read"
        );
    }

    pub(crate) fn missing(&self, messages: usize) {
        #[cfg(feature = "tracing")]
        tracing::error!(target: "wharf_outbox", outbox = self.name, messages, "missing from the journal");
    }

    pub(crate) fn ended_for_good(&self) {
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "wharf_outbox", outbox = self.name, "closed for good");
    }

    pub(crate) fn set_aside(&self, number: u64, cause: &str) {
        #[cfg(feature = "tracing")]
        tracing::error!(target: "wharf_outbox", outbox = self.name, number, cause, "set aside");
    }
}

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self, reason = "the feature has use for it")]
impl Told {
    pub(crate) fn due(&self, at: Option<Instant>, _is_busy: bool) -> Option<Instant> {
        at
    }

    pub(crate) fn publish_if_due(&self, _status: impl FnOnce() -> Status) {}

    pub(crate) fn publish(&self, _status: impl FnOnce() -> Status) {}
}

#[cfg(feature = "metrics")]
mod metrics_export {
    use std::time::Duration;

    use metrics::{counter, gauge};
    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::Told;
    use crate::status::Status;

    const EVERY: Duration = Duration::from_secs(1);

    /// When the numbers are published next.
    #[derive(Debug)]
    pub(super) struct Gauges {
        next: Mutex<Instant>,
    }

    impl Gauges {
        pub(super) fn new() -> Self {
            Self {
                next: Mutex::new(Instant::now()),
            }
        }
    }

    impl Told {
        /// When the drain has to look again. An outbox with nothing to do has no timer for this.
        pub(crate) fn due(&self, at: Option<Instant>, is_busy: bool) -> Option<Instant> {
            let next = is_busy.then(|| *self.gauges.next.lock());
            match (at, next) {
                (Some(at), Some(next)) => Some(at.min(next)),
                (at, next) => at.or(next),
            }
        }

        pub(crate) fn publish_if_due(&self, status: impl FnOnce() -> Status) {
            let now = Instant::now();
            let mut next = self.gauges.next.lock();
            if now < *next {
                return;
            }
            *next = now + EVERY;
            drop(next);
            self.publish(status);
        }

        pub(crate) fn publish(&self, status: impl FnOnce() -> Status) {
            let status = status();
            let outbox = &self.name;
            for (name, value) in [
                ("wharf_outbox_depth", status.depth as f64),
                ("wharf_outbox_bytes", status.bytes as f64),
                ("wharf_outbox_in_flight", status.in_flight as f64),
                ("wharf_outbox_waiting", status.waiting as f64),
                (
                    "wharf_outbox_age_seconds",
                    status.age.unwrap_or_default().as_secs_f64(),
                ),
                (
                    "wharf_outbox_down",
                    f64::from(u8::from(status.outage.is_some())),
                ),
            ] {
                gauge!(name, "outbox" => outbox.clone()).set(value);
            }
            let totals = status.totals;
            counter!("wharf_outbox_accepted_total", "outbox" => outbox.clone())
                .absolute(totals.accepted);
            for (outcome, count) in [
                ("delivered", totals.delivered),
                ("rejected", totals.rejected),
                ("dropped_oldest", totals.dropped_oldest),
                ("dropped_newest", totals.dropped_newest),
                ("refused", totals.refused),
                ("not_stored", totals.not_stored),
                ("expired", totals.expired),
                ("gave_up", totals.gave_up),
                ("handed_back", totals.handed_back),
                ("set_aside", totals.set_aside),
                ("missing", totals.missing),
            ] {
                counter!(
                    "wharf_outbox_outcomes_total",
                    "outbox" => outbox.clone(),
                    "outcome" => outcome
                )
                .absolute(count);
            }
            for (name, count) in [
                ("wharf_outbox_found_total", totals.found),
                ("wharf_outbox_unknown_total", totals.unknown),
                ("wharf_outbox_panics_total", totals.panics),
                ("wharf_outbox_outages_total", totals.outages),
                ("wharf_outbox_commits_total", totals.commits),
                ("wharf_outbox_failed_commits_total", totals.failed_commits),
                ("wharf_outbox_failed_reads_total", totals.failed_reads),
            ] {
                counter!(name, "outbox" => outbox.clone()).absolute(count);
            }
        }
    }
}
