//! What redb says, in the words of a journal.

use std::io;

use redb::{CursorError, DatabaseError, TableError};

use crate::{caught::Panicked, journal::JournalError};

/// Redb has an error type for each operation.
pub(super) struct Failure(pub(super) JournalError);

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self(error)
    }
}

impl From<Failure> for JournalError {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

/// Redb panics at some of what makes no sense in a file.
impl From<Panicked> for Failure {
    fn from(panicked: Panicked) -> Self {
        Self(JournalError::Damaged(panicked.into()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        redb::Error::Io(error).into()
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        Self(match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                JournalError::InUse
            }
            redb::Error::Io(error)
                if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) =>
            {
                JournalError::NoSpace(error.into())
            }
            error @ redb::Error::Corrupted(_) => JournalError::Damaged(error.into()),
            // A number that is there already, or a higher one.
            redb::Error::UnorderedKey => JournalError::Changed,
            error => JournalError::failed(error),
        })
    }
}

macro_rules! through_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

through_redb!(
    DatabaseError,
    redb::TransactionError,
    TableError,
    redb::StorageError,
    redb::CommitError,
    CursorError
);
