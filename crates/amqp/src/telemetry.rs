//! Traces and metrics, each behind a feature of its own. Without the features nothing in here does
//! anything, so that the callers need not know of them.
//!
//! Metrics are in the crate's documentation. Events have the target `wharf_amqp` and a field
//! `cluster`, the name of the configuration. None has a password, a body or headers.
//!
//! | event | level | fields |
//! |---|---|---|
//! | `connected` | info | `role`, `host` |
//! | `connection failed` | warn | `role`, `host`, `cause`, `attempt`: the round over the hosts |
//! | `connection refused` | error | `role`, `host`, `cause`; for good |
//! | `connection lost` | warn | `role`, `host`, `cause` |
//! | `connection closed` | debug | `role`, `host`; by us |
//! | `blocked` | warn | `role`, `host`, `reason` |
//! | `unblocked` | info | `role`, `host` |
//! | `channel closed` | warn | `role`, `host`, `cause`; by the broker |
//! | `returned` | debug | `id`, `code`, `text` |
//! | `rejected` | debug | `id` |
//! | `unknown` | debug | `id`, `republished` |
//! | `not sent` | debug | `cause` |
//! | `channel left` | debug | a message was rejected on it, and it was not new |
//! | `publishing again` | info | `messages`, whose channel was lost |
//! | `subscribed` | info | `queue` |
//! | `subscription lost` | warn | `queue`, `cause`, `attempt`: attempts that have failed since |
//! | `consumer failed` | error | `queue`, `cause`; for good |
//! | `stale` | debug | `queue`, `verdicts` that were not sent, for their channel is gone |
//! | `handler panicked` | error | `queue` |
//! | `handler timed out` | warn | `queue` |
//! | `topology declared` | info | |
//! | `topology not declared` | warn | `entity`, `cause`; it is tried again |
//! | `topology refused` | error | `entity`, `cause` |

#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(dead_code, unused_variables, reason = "each feature reads its own")
)]

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
#[cfg(feature = "tracing")]
use tracing::{debug, error, info, warn};

#[cfg(not(feature = "metrics"))]
use uncounted::{Counter, Gauge, Histogram, counter, gauge, histogram};
#[cfg(not(feature = "tracing"))]
use unsaid::{debug, error, info, warn};

use crate::endpoint::Endpoint;

#[cfg(feature = "tracing")]
const TARGET: &str = "wharf_amqp";

/// What the task that dials has to tell.
#[derive(Default)]
pub(crate) struct Dialling {
    /// Connections of each role that have not been made again.
    lost: HashMap<&'static str, u32>,
}

impl Dialling {
    pub(crate) fn lost(&mut self, role: &'static str) {
        *self.lost.entry(role).or_default() += 1;
    }

    pub(crate) fn connected(&mut self, cluster: &str, role: &'static str) {
        if let Some(lost @ 1..) = self.lost.get_mut(role) {
            *lost -= 1;
            counter!("wharf_amqp_reconnects_total", "cluster" => cluster.to_owned(), "role" => role)
                .increment(1);
        }
    }

    /// An attempt failed; this is the number of the round over the hosts, from 1.
    pub(crate) fn failed(
        &self,
        cluster: &str,
        role: &'static str,
        host: &Endpoint,
        cause: &dyn Display,
        attempt: u32,
    ) {
        warn!(target: TARGET, cluster, role, %host, %cause, attempt, "connection failed");
    }

    pub(crate) fn refused(
        &self,
        cluster: &str,
        role: &'static str,
        host: &Endpoint,
        cause: &dyn Display,
    ) {
        error!(target: TARGET, cluster, role, %host, %cause, "connection refused");
    }
}

/// One connection, from when it is there until it is gone or dropped.
pub(crate) struct Connection {
    cluster: Arc<str>,
    role: &'static str,
    host: Endpoint,
    /// An index of [`STATES`], or [`GONE`].
    state: AtomicU8,
}

const UP: u8 = 0;
const BLOCKED: u8 = 1;
const GONE: u8 = 2;

const STATES: [&str; 2] = ["up", "blocked"];

impl Connection {
    pub(crate) fn up(cluster: &str, role: &'static str, host: &Endpoint) -> Self {
        let this = Self {
            cluster: cluster.into(),
            role,
            host: host.clone(),
            state: AtomicU8::new(UP),
        };
        this.count(UP, 1.0);
        info!(target: TARGET, cluster, role, %host, "connected");
        this
    }

    pub(crate) fn blocked(&self, reason: &str) {
        if self.enter(BLOCKED) {
            warn!(
                target: TARGET, cluster = %self.cluster, role = self.role, host = %self.host,
                reason, "blocked"
            );
        }
    }

    pub(crate) fn unblocked(&self) {
        if self.enter(UP) {
            info!(
                target: TARGET, cluster = %self.cluster, role = self.role, host = %self.host,
                "unblocked"
            );
        }
    }

    /// The broker closed it, or if it `is_up`, one of its channels.
    pub(crate) fn error(&self, cause: &dyn Display, is_up: bool) {
        if is_up {
            warn!(
                target: TARGET, cluster = %self.cluster, role = self.role, host = %self.host,
                %cause, "channel closed"
            );
        } else {
            self.lost(cause);
        }
    }

    /// The first cause stands.
    pub(crate) fn lost(&self, cause: &dyn Display) {
        if self.enter(GONE) {
            warn!(
                target: TARGET, cluster = %self.cluster, role = self.role, host = %self.host,
                %cause, "connection lost"
            );
        }
    }

    /// By us.
    pub(crate) fn closed(&self) {
        if self.enter(GONE) {
            debug!(
                target: TARGET, cluster = %self.cluster, role = self.role, host = %self.host,
                "connection closed"
            );
        }
    }

    /// Says whether that is news; what is gone stays gone.
    fn enter(&self, state: u8) -> bool {
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let change = |former| (former != state && former != GONE).then_some(state);
        let Ok(former) = self.state.fetch_update(set, get, change) else {
            return false;
        };
        self.count(former, -1.0);
        self.count(state, 1.0);
        true
    }

    fn count(&self, state: u8, by: f64) {
        if let Some(state) = STATES.get(usize::from(state)) {
            gauge!(
                "wharf_amqp_connections",
                "cluster" => Arc::clone(&self.cluster), "role" => self.role, "state" => *state
            )
            .increment(by);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed();
    }
}

/// What a publisher has to tell. Its instruments are looked up once, for they are on the way of
/// every message.
pub(crate) struct Publishing {
    cluster: Arc<str>,
    published: Counter,
    republished: Counter,
    confirmed: Counter,
    returned: Counter,
    rejected: Counter,
    unknown: Counter,
    failed: Counter,
    in_flight: Gauge,
    latency: Histogram,
}

/// What became of a message.
pub(crate) enum Verdict<'a> {
    Confirmed,
    Returned {
        id: &'a str,
        code: u16,
        text: &'a str,
    },
    Rejected {
        id: &'a str,
    },
    Unknown {
        id: &'a str,
        republished: u32,
    },
    NotSent(&'a dyn Display),
}

impl Publishing {
    pub(crate) fn new(cluster: &str) -> Self {
        let cluster: Arc<str> = cluster.into();
        let of = || Arc::clone(&cluster);
        let outcome = |outcome: &'static str| {
            let cluster = of();
            counter!("wharf_amqp_outcomes_total", "cluster" => cluster, "outcome" => outcome)
        };
        Self {
            published: counter!("wharf_amqp_published_total", "cluster" => of()),
            republished: counter!("wharf_amqp_republished_total", "cluster" => of()),
            confirmed: outcome("confirmed"),
            returned: outcome("returned"),
            rejected: outcome("rejected"),
            unknown: outcome("unknown"),
            failed: outcome("failed"),
            in_flight: gauge!("wharf_amqp_in_flight", "cluster" => of()),
            latency: histogram!("wharf_amqp_confirm_seconds", "cluster" => of()),
            cluster,
        }
    }

    /// A message has a place in the window.
    pub(crate) fn entered(&self) {
        self.in_flight.increment(1.0);
    }

    pub(crate) fn left(&self) {
        self.in_flight.decrement(1.0);
    }

    pub(crate) fn published(&self) {
        self.published.increment(1);
    }

    /// A message has its verdict; the timer began with its place in the window.
    pub(crate) fn settled(&self, verdict: &Verdict<'_>, timer: &Timer) {
        match *verdict {
            Verdict::Confirmed => {
                self.confirmed.increment(1);
                #[cfg(feature = "metrics")]
                self.latency.record(timer.0.elapsed());
            }
            Verdict::Returned { id, code, text } => {
                self.returned.increment(1);
                debug!(target: TARGET, cluster = %self.cluster, id, code, text, "returned");
            }
            Verdict::Rejected { id } => {
                self.rejected.increment(1);
                debug!(target: TARGET, cluster = %self.cluster, id, "rejected");
            }
            Verdict::Unknown { id, republished } => {
                self.unknown.increment(1);
                debug!(target: TARGET, cluster = %self.cluster, id, republished, "unknown");
            }
            Verdict::NotSent(cause) => {
                self.failed.increment(1);
                debug!(target: TARGET, cluster = %self.cluster, %cause, "not sent");
            }
        }
    }

    pub(crate) fn channel_left(&self) {
        debug!(target: TARGET, cluster = %self.cluster, "channel left");
    }

    /// So many messages are about to be sent once more.
    pub(crate) fn publishing_again(&self, messages: usize) {
        info!(target: TARGET, cluster = %self.cluster, messages, "publishing again");
    }

    /// One of those is.
    pub(crate) fn republished(&self) {
        self.republished.increment(1);
    }
}

/// What a consumer has to tell.
#[derive(Debug)]
pub(crate) struct Consuming {
    cluster: Arc<str>,
    queue: Arc<str>,
    subscriptions: Counter,
    deliveries: Counter,
    acked: Counter,
    requeued: Counter,
    rejected: Counter,
    stale: Counter,
    panics: Counter,
    timeouts: Counter,
    unacked: Gauge,
    handling: Histogram,
}

impl Consuming {
    pub(crate) fn new(cluster: &str, queue: &str) -> Self {
        let (cluster, queue): (Arc<str>, Arc<str>) = (cluster.into(), queue.into());
        let of = || Arc::clone(&cluster);
        let from = || Arc::clone(&queue);
        let verdict = |verdict: &'static str| {
            counter!(
                "wharf_amqp_verdicts_total",
                "cluster" => of(), "queue" => from(), "verdict" => verdict
            )
        };
        Self {
            subscriptions: counter!(
                "wharf_amqp_subscriptions_total", "cluster" => of(), "queue" => from()
            ),
            deliveries: counter!(
                "wharf_amqp_deliveries_total", "cluster" => of(), "queue" => from()
            ),
            acked: verdict("ack"),
            requeued: verdict("requeue"),
            rejected: verdict("reject"),
            stale: verdict("stale"),
            panics: counter!(
                "wharf_amqp_panics_total", "cluster" => of(), "queue" => from()
            ),
            timeouts: counter!(
                "wharf_amqp_timeouts_total", "cluster" => of(), "queue" => from()
            ),
            unacked: gauge!("wharf_amqp_unacked", "cluster" => of(), "queue" => from()),
            handling: histogram!(
                "wharf_amqp_handler_seconds", "cluster" => of(), "queue" => from()
            ),
            cluster,
            queue,
        }
    }

    pub(crate) fn subscribed(&self) {
        self.subscriptions.increment(1);
        info!(target: TARGET, cluster = %self.cluster, queue = %self.queue, "subscribed");
    }

    pub(crate) fn lost(&self, cause: &dyn Display, attempt: u32) {
        warn!(
            target: TARGET, cluster = %self.cluster, queue = %self.queue,
            %cause, attempt, "subscription lost"
        );
    }

    pub(crate) fn failed(&self, cause: &dyn Display) {
        error!(
            target: TARGET, cluster = %self.cluster, queue = %self.queue,
            %cause, "consumer failed"
        );
    }

    /// So many deliveries are here, to be processed.
    pub(crate) fn delivered(&self, count: usize) {
        self.deliveries.increment(count as u64);
        self.unacked.increment(count as f64);
    }

    /// It was, or never will be.
    pub(crate) fn done(&self) {
        self.unacked.decrement(1.0);
    }

    pub(crate) fn acked(&self, count: u64) {
        self.acked.increment(count);
    }

    pub(crate) fn refused(&self, requeue: bool) {
        let counter = if requeue {
            &self.requeued
        } else {
            &self.rejected
        };
        counter.increment(1);
    }

    pub(crate) fn stale(&self, verdicts: u64) {
        if verdicts > 0 {
            self.stale.increment(verdicts);
            debug!(target: TARGET, cluster = %self.cluster, queue = %self.queue, verdicts, "stale");
        }
    }

    pub(crate) fn handled(&self, timer: &Timer) {
        #[cfg(feature = "metrics")]
        self.handling.record(timer.0.elapsed());
    }

    pub(crate) fn panicked(&self) {
        self.panics.increment(1);
        error!(target: TARGET, cluster = %self.cluster, queue = %self.queue, "handler panicked");
    }

    pub(crate) fn timed_out(&self) {
        self.timeouts.increment(1);
        warn!(target: TARGET, cluster = %self.cluster, queue = %self.queue, "handler timed out");
    }
}

/// Reads the clock where somebody wants to know.
pub(crate) struct Timer(#[cfg(feature = "metrics")] std::time::Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(
            #[cfg(feature = "metrics")]
            std::time::Instant::now(),
        )
    }
}

/// What a topology on a cluster has to tell.
pub(crate) struct Declaring {
    cluster: Arc<str>,
}

impl Declaring {
    pub(crate) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.into(),
        }
    }

    pub(crate) fn declared(&self) {
        info!(target: TARGET, cluster = %self.cluster, "topology declared");
    }

    pub(crate) fn failed(&self, entity: &dyn Display, cause: &dyn Display, is_final: bool) {
        if is_final {
            error!(
                target: TARGET, cluster = %self.cluster,
                %entity, %cause, "topology refused"
            );
        } else {
            warn!(
                target: TARGET, cluster = %self.cluster,
                %entity, %cause, "topology not declared"
            );
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod unsaid {
    macro_rules! say {
        ($($said:tt)*) => {};
    }

    pub(super) use {say as debug, say as error, say as info, say as warn};
}

#[cfg(not(feature = "metrics"))]
mod uncounted {
    /// What counts nothing.
    #[derive(Debug)]
    pub(super) struct Nothing;

    pub(super) type Counter = Nothing;
    pub(super) type Gauge = Nothing;
    pub(super) type Histogram = Nothing;

    impl Nothing {
        pub(super) fn increment<N>(&self, _by: N) {}

        pub(super) fn decrement<N>(&self, _by: N) {}
    }

    macro_rules! nothing {
        ($($named:tt)*) => {
            uncounted::Nothing
        };
    }

    pub(super) use {nothing as counter, nothing as gauge, nothing as histogram};
}
