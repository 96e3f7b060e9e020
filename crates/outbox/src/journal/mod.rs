//! Where messages are kept that have to outlast the process.

pub(crate) mod record;

#[cfg(feature = "durable")]
mod disk;

use thiserror::Error;

use crate::deliver::BoxError;

#[cfg(feature = "durable")]
pub use disk::Disk;

/// Storage of an outbox. It is used by one thread, and may block.
///
/// What it stores are records: bytes under a number, with a version and a checksum inside that are
/// the outbox's business. Numbers ascend, and are never used twice.
pub trait Journal: Send + 'static {
    /// What it holds. Called once, before anything else.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn found(&mut self) -> Result<Found, JournalError>;

    /// Makes all the changes, so that they outlast a crash of the machine, or none of them.
    ///
    /// # Errors
    ///
    /// They were not made, or nobody knows. It is called again later, with the removal of what was
    /// to be appended. Whatever it takes to work again after an error has to be done by the journal.
    /// A panic counts as one.
    fn commit(&mut self, changes: &Changes<'_>) -> Result<(), JournalError>;

    /// The records from this number on, in order: no more than `most`, and none after the one that
    /// makes them more than `bytes`.
    ///
    /// # Errors
    ///
    /// They cannot be read for now. It is called again later. If they are
    /// [`Damaged`](JournalError::Damaged) the third time, those behind them are read.
    fn read(&mut self, from: u64, most: usize, bytes: usize) -> Result<Records, JournalError>;
}

/// What a journal holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// How many records, without those set aside.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// A number that is higher than any that was used.
    pub next: u64,
}

/// Changes that are made together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    /// Records to be stored: numbers, which ascend and are higher than any before, and bytes.
    pub append: &'a [(u64, &'a [u8])],
    /// Numbers of records that go, ascending. Some may not be there.
    pub remove: &'a [u64],
    /// Numbers of records that cannot be read. They are kept somewhere else.
    pub set_aside: &'a [u64],
}

/// Bytes under a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Some records.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// In ascending order.
    pub records: Vec<Record>,
    /// Whether there are none after these.
    pub last: bool,
}

/// Why a journal could not do what it was asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no room for it.
    #[error("there is no space left")]
    NoSpace(#[source] BoxError),
    /// Somebody else has it open.
    #[error("it is open elsewhere, in this process or in another")]
    InUse,
    /// Somebody else has changed it while it was being opened again after a failure. It fails from now
    /// on: what both of them would write got mixed.
    #[error("somebody else has changed it")]
    Changed,
    /// Its contents make no sense.
    #[error("it is damaged")]
    Damaged(#[source] BoxError),
    /// Anything else.
    #[error("the journal failed")]
    Failed(#[source] BoxError),
}

impl JournalError {
    /// Anything.
    pub fn failed(cause: impl Into<BoxError>) -> Self {
        Self::Failed(cause.into())
    }
}
