//! Traces and metrics, each behind a feature of its own; empty without them.

#[cfg(any(feature = "tracing", feature = "metrics"))]
use crate::caught::caught;
use crate::{core::Flight, handler::Key, shared::Shared};

/// How an attempt ended, as told.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(dead_code, reason = "not told without the features")
)]
pub(crate) struct Told {
    /// `handled`, `error`, `panic`, `timeout` or `interrupted`.
    pub(crate) outcome: &'static str,
    /// What is left of the batch.
    pub(crate) left: usize,
    /// It goes to the sink.
    pub(crate) is_given_up: bool,
}

/// Tells of an attempt.
pub(crate) fn ended(lanes: &str, flight: &Flight, told: Told) {
    // Subscribers and recorders are the user's, too.
    #[cfg(feature = "tracing")]
    let _ = caught(|| traces::ended(lanes, flight, told));
    #[cfg(feature = "metrics")]
    let _ = caught(|| export::ended(lanes, told));
    let _ = (lanes, flight, told);
}

/// Brings gauges and totals up to date.
pub(crate) fn publish<K: Key, T: Send + 'static>(shared: &Shared<K, T>) {
    #[cfg(feature = "metrics")]
    let _ = caught(|| export::publish(shared));
    let _ = shared;
}

/// Takes the time of an attempt, where somebody wants it.
pub(crate) struct Stopwatch {
    #[cfg(feature = "metrics")]
    since: tokio::time::Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            since: tokio::time::Instant::now(),
        }
    }

    pub(crate) fn stop(self, lanes: &str) {
        #[cfg(feature = "metrics")]
        let _ = caught(|| export::took(lanes, self.since.elapsed()));
        let _ = lanes;
    }
}

#[cfg(feature = "tracing")]
mod traces {
    use tracing::{debug, error, warn};

    use super::Told;
    use crate::core::Flight;

    /// Events with the target `wharf_lanes`: errors for what goes to the sink, warnings for what is
    /// tried again, the rest at debug level.
    pub(super) fn ended(lanes: &str, flight: &Flight, told: Told) {
        let Told {
            outcome,
            left,
            is_given_up,
        } = told;
        let (items, reason, attempt) = (flight.items, flight.reason, flight.attempt);
        if is_given_up {
            error!(target: "wharf_lanes", lanes, outcome, ?reason, attempt, items, left, "given up");
        } else if matches!(outcome, "handled" | "interrupted") {
            debug!(target: "wharf_lanes", lanes, outcome, ?reason, attempt, items, left, "ended");
        } else {
            warn!(target: "wharf_lanes", lanes, outcome, ?reason, attempt, items, left, "failed");
        }
    }
}

#[cfg(feature = "metrics")]
mod export {
    use std::time::Duration;

    use metrics::{counter, gauge, histogram};

    use super::Told;
    use crate::{core::Reason, handler::Key, shared::Shared, status::Status};

    pub(super) fn ended(lanes: &str, told: Told) {
        let lanes = lanes.to_owned();
        counter!("wharf_lanes_attempts_total", "lanes" => lanes, "outcome" => told.outcome)
            .increment(1);
    }

    pub(super) fn took(lanes: &str, took: Duration) {
        histogram!("wharf_lanes_handle_seconds", "lanes" => lanes.to_owned()).record(took);
    }

    pub(super) fn publish<K: Key, T: Send + 'static>(shared: &Shared<K, T>) {
        let status = Status::of(shared);
        let lanes = &*shared.name;
        for (name, value) in [
            ("wharf_lanes_lanes", status.lanes as f64),
            ("wharf_lanes_items", status.items as f64),
            ("wharf_lanes_bytes", status.bytes as f64),
            ("wharf_lanes_in_flight", status.in_flight as f64),
            ("wharf_lanes_waiting", status.waiting as f64),
        ] {
            gauge!(name, "lanes" => lanes.to_owned()).set(value);
        }
        for (outcome, count) in [
            ("accepted", status.accepted),
            ("rejected", status.rejected),
            ("handled", status.handled),
            ("failed", status.failed_items),
            ("abandoned", status.abandoned),
        ] {
            let lanes = lanes.to_owned();
            counter!("wharf_lanes_items_total", "lanes" => lanes, "outcome" => outcome)
                .absolute(count);
        }
        for reason in Reason::ALL {
            let label = format!("{reason:?}").to_lowercase();
            let lanes = lanes.to_owned();
            counter!("wharf_lanes_flushes_total", "lanes" => lanes, "reason" => label)
                .absolute(status.flushed(reason));
        }
    }
}
