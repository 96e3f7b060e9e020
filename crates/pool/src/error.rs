//! What can go wrong, one type for each operation.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use thiserror::Error;

/// Why `get` returned nothing. The pool is as it was before: nothing is held, nothing pending.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GetError<E: Error + 'static> {
    /// The pool is closed, or was closed during the wait.
    #[error("the pool is closed")]
    Closed,
    /// The deadline passed.
    #[error("no resource within {waited:?}: timed out {stage}")]
    Timeout {
        /// What was going on when it passed.
        stage: Stage,
        /// How long this `get` took in all.
        waited: Duration,
        /// The last failure that kept the pool from serving it, if there was one.
        #[source]
        cause: Option<Cause<E>>,
    },
    /// A resource could not be created, for a reason that concerns this caller
    /// ([`Failure::Refuse`](crate::Failure::Refuse)).
    #[error("a resource could not be created")]
    Refused(#[source] Cause<E>),
    /// The pool is down, and [`OutagePolicy::FailFast`](crate::OutagePolicy::FailFast) is set.
    #[error("no resource can be created for now (attempt {attempt})")]
    Down {
        /// The last failure.
        #[source]
        cause: Cause<E>,
        /// How many attempts have failed since the outage began.
        attempt: u32,
    },
    /// `max_waiters` callers are waiting already.
    #[error("{waiting} callers are waiting already")]
    Overloaded {
        /// How many.
        waiting: usize,
    },
    /// The key is not in use, and as many others are as
    /// [`KeyedBuilder::max_keys`](crate::KeyedBuilder::max_keys) allows.
    #[error("{keys} keys are in use already")]
    TooManyKeys {
        /// How many.
        keys: usize,
    },
    /// Turned away because the line has been standing for too long
    /// ([`Shedding`](crate::Shedding)).
    #[error("turned away after {waited:?}: the line is standing")]
    Shed {
        /// How long this caller had waited.
        waited: Duration,
    },
}

/// What a `get` was doing when its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// It waited for a resource to come back; all were in use, or on their way out.
    Wait,
    /// It waited for a resource to be created.
    Create,
    /// It had a resource, whose check did not end in time. That resource is destroyed.
    Check,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Wait => "waiting for one to come back",
            Stage::Create => "waiting for one to be created",
            Stage::Check => "checking one",
        })
    }
}

/// Why a resource could not be created, or did not pass its check. Shared by all who hear of it,
/// so cloning is cheap.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Cause<E: Error + 'static> {
    /// The manager returned this error.
    #[error(transparent)]
    Failed(Arc<E>),
    /// The manager did not finish within this time.
    #[error("not finished within {0:?}")]
    TimedOut(Duration),
    /// The manager panicked, with this message.
    #[error("panicked: {0}")]
    Panicked(Arc<str>),
}

impl<E: Error + 'static> Clone for Cause<E> {
    fn clone(&self) -> Self {
        match self {
            Cause::Failed(error) => Cause::Failed(Arc::clone(error)),
            Cause::TimedOut(after) => Cause::TimedOut(*after),
            Cause::Panicked(message) => Cause::Panicked(Arc::clone(message)),
        }
    }
}

/// Why `try_get` returned nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryGetError {
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// No resource is idle, those that are idle must be checked first, or others are waiting for
    /// them.
    #[error("no resource is idle")]
    Exhausted,
}

/// Why `add` did not take a resource. It comes back with the error.
#[derive(Error)]
#[non_exhaustive]
pub enum AddError<R> {
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed(R),
    /// There are `max_active` resources already, or as many as the pools of a
    /// [`KeyedPool`](crate::KeyedPool) may hold together.
    #[error("the pool is full")]
    Full(R),
}

impl<R> AddError<R> {
    /// The resource that was not added.
    pub fn into_inner(self) -> R {
        match self {
            AddError::Closed(resource) | AddError::Full(resource) => resource,
        }
    }
}

impl<R> fmt::Debug for AddError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddError::Closed(_) => "Closed(..)",
            AddError::Full(_) => "Full(..)",
        })
    }
}

/// `close_within` ran out of time. The pool is closed all the same, and what is counted here is
/// destroyed when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("still out after {waited:?}: {leased} leased, {creating} creating, {closing} closing")]
#[non_exhaustive]
pub struct CloseError {
    /// How long the call waited.
    pub waited: Duration,
    /// Resources that their holders have not returned.
    pub leased: usize,
    /// Creations that have not landed.
    pub creating: usize,
    /// Resources whose destruction has not ended.
    pub closing: usize,
}

/// A configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {value}, but must be {bound}")]
#[non_exhaustive]
pub struct BuildError {
    /// The field that is wrong.
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub bound: String,
}
