//! The numbers of a pool, their defaults and bounds.

use std::{fmt, time::Duration};

use crate::{
    core::{Backoff, Limits, Shedding, nanos},
    error::BuildError,
    slots::{MAX_LEN, NEVER},
};

/// The numbers of a pool, as plain data. Every field has a default, chosen for connections to a
/// server; the builder's methods of the same names set them one by one.
///
/// Every duration must be more than zero and at most 100 years. Those measured against idle,
/// lent or ageing resources (`idle_timeout`, `max_lifetime`, `check_interval`, `keep_alive`,
/// `warn_after`) are kept by a coarse clock: never early, except that a check may come early, and
/// late by up to an eighth of the shortest of them or a second, whichever is less.
///
/// With the feature `serde`, durations are read in human form (`"30s"`, `"10m"`), those that can be
/// switched off also as `"never"`, and an unknown field is an error.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Config {
    /// The most resources that may exist, from 1 to 2²⁰. Those being created, checked and
    /// destroyed count. Default 10, what most pools choose: a server does its best work with few.
    pub max_active: usize,
    /// Upkeep keeps this many resources idle, at most `max_active`, as far as that allows. Default
    /// 0: nothing is created before it is asked for.
    pub min_idle: usize,
    /// A resource that comes back when this many are idle is destroyed. From `min_idle` to
    /// `max_active`. Default none: what was needed once is likely to be needed again, and
    /// `idle_timeout` clears up.
    pub max_idle: Option<usize>,
    /// A resource idle for longer is destroyed, unless fewer than `min_idle` would be left. One
    /// that was kept for that reason goes at most another `idle_timeout` after there are enough
    /// again. Default 10 minutes, below the half hour after which many firewalls forget a
    /// connection.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub idle_timeout: Option<Duration>,
    /// A resource older than this is destroyed: at checkout, on return or by upkeep. Default 30
    /// minutes, so that a fleet spreads again after a server was added or an address changed.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub max_lifetime: Option<Duration>,
    /// Each resource's lifetime is shortened by a random share of up to this, from 0 to 0.9, so
    /// that resources created together do not end together. Default 0.1.
    pub lifetime_jitter: f64,
    /// `Manager::check` is skipped at checkout when the resource was created or last checked more
    /// recently than this. Use does not count: the pool cannot know how it went. `None`: it is
    /// never called at checkout. Default 500 ms (the choice of `HikariCP`): the cost of a check is spread
    /// over all uses in that time, and a dead resource is met within it.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub check_interval: Option<Duration>,
    /// Upkeep checks resources that have been idle for this long, one at a time, so that they are
    /// kept alive and dead ones are found. Default none.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub keep_alive: Option<Duration>,
    /// How long a `get` may take, if it does not say itself. Default 30 seconds, which is what
    /// the clients of most services wait.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub wait_timeout: Option<Duration>,
    /// How long `Manager::create` may take. Default 10 seconds: longer than any handshake that
    /// will succeed, and within `wait_timeout` twice.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub create_timeout: Option<Duration>,
    /// How long `Manager::check` may take. Default 5 seconds.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub check_timeout: Option<Duration>,
    /// How long `Manager::destroy` may take. Default 5 seconds.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub destroy_timeout: Option<Duration>,
    /// How many callers may wait, at most 2²⁰, beyond those for whom there is room to create. One
    /// more gets `Overloaded` at once. Default 10,000: a bound, and one that no sound load meets.
    pub max_waiters: usize,
    /// How many creations may run at once, from 1 to 2²⁰. Default 8: fast enough to warm up, and no
    /// stampede on a server that has just come back.
    pub max_creating: usize,
    /// Observers are told of a lease that is out for longer, once. Default none.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::timeout"))]
    pub warn_after: Option<Duration>,
    /// The pauses between probes during an outage.
    pub backoff: Backoff,
    /// What callers do during an outage. Default [`OutagePolicy::Wait`].
    pub outage_policy: OutagePolicy,
    /// Turn waiters away when the line stands. Default none.
    pub shedding: Option<Shedding>,
}

/// What callers do while nothing can be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum OutagePolicy {
    /// They stay in line, and are served in order when it ends, or by resources that come back.
    /// Each waits until its own deadline.
    #[default]
    Wait,
    /// They get [`GetError::Down`](crate::GetError::Down) at once, those in line included, unless a
    /// resource is idle.
    FailFast,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_active: 10,
            min_idle: 0,
            max_idle: None,
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
            lifetime_jitter: 0.1,
            check_interval: Some(Duration::from_millis(500)),
            keep_alive: None,
            wait_timeout: Some(Duration::from_secs(30)),
            create_timeout: Some(Duration::from_secs(10)),
            check_timeout: Some(Duration::from_secs(5)),
            destroy_timeout: Some(Duration::from_secs(5)),
            max_waiters: 10_000,
            max_creating: 8,
            warn_after: None,
            backoff: Backoff::default(),
            outage_policy: OutagePolicy::default(),
            shedding: None,
        }
    }
}

/// The longest duration that makes sense to anybody: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Config {
    /// Says what is wrong, if anything is. The builder calls it.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), BuildError> {
        let most = MAX_LEN as usize;
        within("max_active", self.max_active, 1, most)?;
        within("min_idle", self.min_idle, 0, self.max_active)?;
        if let Some(max_idle) = self.max_idle {
            within("max_idle", max_idle, self.min_idle, self.max_active)?;
        }
        within("max_waiters", self.max_waiters, 0, most)?;
        within("max_creating", self.max_creating, 1, most)?;
        if !(0.0..=0.9).contains(&self.lifetime_jitter) {
            return Err(wrong(
                "lifetime_jitter",
                self.lifetime_jitter,
                "from 0 to 0.9",
            ));
        }
        for (field, value) in [
            ("idle_timeout", self.idle_timeout),
            ("max_lifetime", self.max_lifetime),
            ("check_interval", self.check_interval),
            ("keep_alive", self.keep_alive),
            ("wait_timeout", self.wait_timeout),
            ("create_timeout", self.create_timeout),
            ("check_timeout", self.check_timeout),
            ("destroy_timeout", self.destroy_timeout),
            ("warn_after", self.warn_after),
        ] {
            if let Some(value) = value {
                lasting(field, value, Duration::from_nanos(1))?;
            }
        }
        lasting("backoff.min", self.backoff.min, Duration::from_nanos(1))?;
        lasting("backoff.max", self.backoff.max, self.backoff.min)?;
        if let Some(Shedding { target, interval }) = self.shedding {
            lasting("shedding.target", target, Duration::from_nanos(1))?;
            lasting("shedding.interval", interval, target)?;
        }
        Ok(())
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_active: self.max_active as u32,
            min_idle: self.min_idle as u32,
            max_idle: self.max_idle.map_or(u32::MAX, |max| max as u32),
            max_waiters: self.max_waiters,
            max_creating: self.max_creating as u32,
            wait_timeout: nanos_or_never(self.wait_timeout),
            fail_fast: self.outage_policy == OutagePolicy::FailFast,
            backoff: self.backoff,
            shedding: self.shedding,
            epoch: nanos(self.epoch()),
        }
    }

    /// How far the coarse clock may be behind: an eighth of the shortest thing measured by it.
    pub(crate) fn epoch(&self) -> Duration {
        let shortest = [
            self.idle_timeout,
            self.max_lifetime,
            self.check_interval,
            self.keep_alive,
            self.warn_after,
        ]
        .into_iter()
        .flatten()
        .min();
        let eighth = shortest.unwrap_or(Duration::MAX) / 8;
        eighth.clamp(Duration::from_millis(1), Duration::from_secs(1))
    }
}

pub(crate) fn nanos_or_never(duration: Option<Duration>) -> u64 {
    duration.map_or(NEVER, nanos)
}

pub(crate) fn within(
    field: &'static str,
    value: usize,
    least: usize,
    most: usize,
) -> Result<(), BuildError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(wrong(field, value, format_args!("from {least} to {most}")))
}

fn lasting(field: &'static str, value: Duration, least: Duration) -> Result<(), BuildError> {
    if (least..=LONGEST).contains(&value) {
        return Ok(());
    }
    let value = format!("{value:?}");
    Err(wrong(
        field,
        value,
        format_args!("from {least:?} to 100 years"),
    ))
}

fn wrong(field: &'static str, value: impl fmt::Display, bound: impl fmt::Display) -> BuildError {
    BuildError {
        field,
        value: value.to_string(),
        bound: bound.to_string(),
    }
}

/// Durations in human form, or `"never"`.
#[cfg(feature = "serde")]
mod timeout {
    use std::time::Duration;

    use humantime_serde::re::humantime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const NEVER: &str = "never";

    #[allow(
        clippy::ref_option,
        reason = "serde's `with` passes the field by reference"
    )]
    pub(super) fn serialize<S: Serializer>(
        timeout: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match timeout {
            Some(timeout) => serializer.collect_str(&humantime::format_duration(*timeout)),
            None => serializer.serialize_str(NEVER),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            NEVER => Ok(None),
            text => humantime::parse_duration(text)
                .map(Some)
                .map_err(D::Error::custom),
        }
    }
}
