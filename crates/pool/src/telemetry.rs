//! Traces and metrics, each behind a feature of its own.

use crate::observer::Observer;

/// The observers that the enabled features add to every pool.
pub(crate) fn observers(name: &str) -> Vec<Box<dyn Observer>> {
    let _ = name;
    vec![
        #[cfg(feature = "tracing")]
        Box::new(tracing_events::Traces(name.to_owned())),
        #[cfg(feature = "metrics")]
        Box::new(metrics_export::Durations(name.to_owned())),
    ]
}

#[cfg(feature = "tracing")]
mod tracing_events {
    use tracing::{debug, error, info, warn};

    use crate::observer::{Event, Observer};

    /// Emits events with the target `wharf`: errors for panics, warnings for what someone should
    /// look at, the rest at debug level.
    pub(super) struct Traces(pub(super) String);

    impl Observer for Traces {
        fn on_event(&self, event: &Event<'_>) {
            let pool = self.0.as_str();
            match event {
                Event::Created { took } => debug!(target: "wharf", pool, ?took, "created"),
                Event::CreateFailed { took, cause } => {
                    warn!(target: "wharf", pool, ?took, cause = *cause, "create failed");
                }
                Event::CheckFailed { cause } => {
                    warn!(target: "wharf", pool, cause = *cause, "check failed");
                }
                Event::Retired { why } => debug!(target: "wharf", pool, ?why, "retired"),
                Event::DestroyTimedOut { after } => {
                    warn!(target: "wharf", pool, ?after, "destroy timed out");
                }
                Event::Down {
                    cause,
                    attempt,
                    retry_in,
                } => {
                    warn!(target: "wharf", pool, cause = *cause, attempt, ?retry_in, "down");
                }
                Event::Up { after } => info!(target: "wharf", pool, ?after, "up"),
                Event::Overdue { held, taken_at } => {
                    warn!(target: "wharf", pool, ?held, %taken_at, "lease overdue");
                }
                Event::Shed { waited } => warn!(target: "wharf", pool, ?waited, "shed"),
                Event::Panicked { method, message } => {
                    error!(target: "wharf", pool, method, message, "panicked");
                }
                Event::Closed => debug!(target: "wharf", pool, "closed"),
            }
        }
    }
}

#[cfg(feature = "metrics")]
mod metrics_export {
    use std::time::Duration;

    use metrics::{counter, gauge, histogram};

    use crate::{
        manager::Manager,
        observer::{Event, Observer},
        shared::Shared,
    };

    /// Records durations and outcomes as they come.
    pub(super) struct Durations(pub(super) String);

    impl Durations {
        fn create(&self, took: Duration, outcome: &'static str) {
            histogram!("wharf_create_seconds", "pool" => self.0.clone(), "outcome" => outcome)
                .record(took);
        }
    }

    impl Observer for Durations {
        fn on_event(&self, event: &Event<'_>) {
            match event {
                Event::Created { took } => self.create(*took, "ok"),
                Event::CreateFailed { took, .. } => self.create(*took, "error"),
                Event::Retired { why } => {
                    let why = format!("{why:?}").to_lowercase();
                    counter!("wharf_retired_total", "pool" => self.0.clone(), "why" => why)
                        .increment(1);
                }
                Event::Overdue { .. } => {
                    counter!("wharf_overdue_total", "pool" => self.0.clone()).increment(1);
                }
                Event::Panicked { method, .. } => {
                    counter!("wharf_panics_total", "pool" => self.0.clone(), "method" => *method)
                        .increment(1);
                }
                _ => {}
            }
        }
    }

    impl<M: Manager> Shared<M> {
        /// Publishes the state and the totals. Called by upkeep, so at least once an epoch while
        /// the pool is in use.
        pub(crate) fn publish_metrics(&self) {
            let status = self.status();
            let pool = self.name();
            for (state, count) in [
                ("idle", status.idle),
                ("leased", status.leased),
                ("upkeep", status.upkeep),
                ("creating", status.creating),
                ("closing", status.closing),
            ] {
                gauge!("wharf_resources", "pool" => pool.to_owned(), "state" => state)
                    .set(count as f64);
            }
            gauge!("wharf_max_active", "pool" => pool.to_owned()).set(status.max_active as f64);
            gauge!("wharf_waiting", "pool" => pool.to_owned()).set(status.waiting as f64);
            gauge!("wharf_down", "pool" => pool.to_owned())
                .set(f64::from(u8::from(status.is_down)));
            let totals = status.totals;
            for (outcome, count) in [
                ("lent", totals.leases),
                ("timed_out", totals.waits_timed_out),
                ("cancelled", totals.waits_cancelled),
                ("refused", totals.waits_refused),
                ("closed", totals.waits_closed),
                ("overloaded", totals.overloaded),
                ("shed", totals.shed),
            ] {
                counter!("wharf_gets_total", "pool" => pool.to_owned(), "outcome" => outcome)
                    .absolute(count);
            }
            for (quantile, wait) in [
                ("0.5", status.times.wait_served.p50),
                ("0.99", status.times.wait_served.p99),
                ("0.999", status.times.wait_served.p999),
            ] {
                gauge!("wharf_wait_seconds", "pool" => pool.to_owned(), "quantile" => quantile)
                    .set(wait.as_secs_f64());
            }
        }
    }
}
