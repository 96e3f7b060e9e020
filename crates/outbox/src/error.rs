//! What can go wrong, one type for each operation.

use std::{fmt, sync::Arc};

use thiserror::Error;

use crate::{deliver::BoxError, journal::JournalError};

/// Why a message was not accepted. It comes back with the error, and is nowhere else.
#[derive(Error)]
#[non_exhaustive]
pub enum EnqueueError<T> {
    /// The outbox is closed, or was closed while the caller waited for room.
    #[error("the outbox is closed")]
    Closed(T),
    /// There is no room, and it was not to be waited for.
    #[error("the outbox is full")]
    Full(T),
    /// It alone is larger than everything together may be.
    #[error("a message of {bytes} bytes is larger than the bound of {bound}")]
    TooLarge {
        /// What was not accepted.
        message: T,
        /// Its size.
        bytes: usize,
        /// The bound of the outbox.
        bound: usize,
    },
    /// The codec cannot write it.
    #[error("the message cannot be encoded")]
    Unencodable {
        /// What was not accepted.
        message: T,
        /// What the codec says.
        #[source]
        cause: BoxError,
    },
    /// The journal could not store it. In rare cases (a disk that fails while it confirms, and a crash
    /// before it works again) it is found there all the same, and delivered.
    #[error("the message could not be stored")]
    NotStored {
        /// What was not accepted.
        message: T,
        /// What the journal says.
        #[source]
        cause: Arc<JournalError>,
    },
}

impl<T> EnqueueError<T> {
    /// The message that was not accepted.
    pub fn into_message(self) -> T {
        match self {
            Self::Closed(message)
            | Self::Full(message)
            | Self::TooLarge { message, .. }
            | Self::Unencodable { message, .. }
            | Self::NotStored { message, .. } => message,
        }
    }
}

impl<T> fmt::Debug for EnqueueError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Full(_) => f.write_str("Full(..)"),
            Self::TooLarge { bytes, bound, .. } => f
                .debug_struct("TooLarge")
                .field("bytes", bytes)
                .field("bound", bound)
                .finish_non_exhaustive(),
            Self::Unencodable { cause, .. } => f
                .debug_struct("Unencodable")
                .field("cause", cause)
                .finish_non_exhaustive(),
            Self::NotStored { cause, .. } => f
                .debug_struct("NotStored")
                .field("cause", cause)
                .finish_non_exhaustive(),
        }
    }
}

/// Why an accepted message was not delivered.
#[derive(Error)]
#[non_exhaustive]
pub enum Undelivered<T, J> {
    /// The destination rejected it for good.
    #[error("rejected")]
    Rejected {
        /// What was rejected.
        message: T,
        /// Why.
        rejection: J,
    },
    /// It was dropped to make room ([`Policy::DropOldest`](crate::Policy::DropOldest)), or because
    /// there was none ([`Policy::DropNewest`](crate::Policy::DropNewest)).
    #[error("dropped for want of room")]
    Dropped {
        /// What was dropped.
        message: T,
    },
    /// It has waited for as long as it may.
    #[error("expired after {attempts} attempts")]
    Expired {
        /// What expired.
        message: T,
        /// How often it was tried. If that is not 0, it may have arrived.
        attempts: u32,
    },
    /// It was tried as often as it may.
    #[error("given up after {attempts} attempts")]
    GaveUp {
        /// What was given up. It may have arrived.
        message: T,
        /// How often it was tried.
        attempts: u32,
    },
    /// The outbox ended first. What was in memory only comes back: here if its last handle was
    /// dropped or its destination is [closed for good](crate::Readiness::Closed), to whoever called
    /// [`close_within`](crate::Outbox::close_within) otherwise. What is in a journal stays there.
    #[error("the outbox ended first")]
    Closed {
        /// What was not delivered, if it is not elsewhere.
        message: Option<T>,
    },
    /// It was in the journal only, and its record there cannot be read. The record is kept, set aside.
    #[error("its record in the journal cannot be read")]
    Unreadable,
    /// It was in the journal only, and is not there any more.
    #[error("it is missing from the journal")]
    Missing,
}

impl<T, J> Undelivered<T, J> {
    /// The message, if it is here.
    pub fn into_message(self) -> Option<T> {
        match self {
            Self::Rejected { message, .. }
            | Self::Dropped { message }
            | Self::Expired { message, .. }
            | Self::GaveUp { message, .. } => Some(message),
            Self::Closed { message } => message,
            Self::Unreadable | Self::Missing => None,
        }
    }
}

impl<T, J> fmt::Debug for Undelivered<T, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { .. } => f.write_str("Rejected { .. }"),
            Self::Dropped { .. } => f.write_str("Dropped { .. }"),
            Self::Expired { attempts, .. } => write!(f, "Expired {{ attempts: {attempts}, .. }}"),
            Self::GaveUp { attempts, .. } => write!(f, "GaveUp {{ attempts: {attempts}, .. }}"),
            Self::Closed { message: None } => f.write_str("Closed { message: None }"),
            Self::Closed { message: Some(_) } => f.write_str("Closed { message: Some(..) }"),
            Self::Unreadable => f.write_str("Unreadable"),
            Self::Missing => f.write_str("Missing"),
        }
    }
}

/// The outbox ended before everything was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the outbox ended before everything was resolved")]
pub struct Ended;

/// A configuration that makes no sense.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of its bounds.
    #[error("{field} is {value}, but must be {bound}")]
    Setting {
        /// The setting that is wrong.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        bound: &'static str,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[from] JournalError),
    /// No thread could be started for the journal.
    #[error("there is no thread for the journal")]
    Thread(#[source] std::io::Error),
}
