//! A journal in a file, by [redb](https://www.redb.org).

mod area;
mod failure;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{
    CursorError, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    Table, TableDefinition, TableError, backends::FileBackend,
};

use crate::{
    caught::{caught, flat},
    journal::{Changes, Found, Journal, JournalError, Record, Records},
};
use area::Area;
use failure::Failure;

const MESSAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");
const SET_ASIDE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("set aside");
/// [`Stock`], in one row.
const STOCK: TableDefinition<'_, (), (u64, u64, u64)> = TableDefinition::new("stock");

/// The pages of the file that are kept in memory.
const CACHE: usize = 16 << 20;

/// A [`Journal`] in a file. One commit is one write transaction of redb, with two syncs of the
/// file. After a crash it is there again at once, however large it is.
///
/// The file is locked while it is open: for as long as the outbox that has it is not closed. It does
/// not become smaller, but the room of messages that are gone is used again: it is a few times as large
/// as the most that the messages were together.
///
/// After a failure it is closed, and opened again when it is used next. What it relies on is that the
/// system has on the disk what it says it has: some keep what they failed to sync in memory as if it were
/// there, and lose it with the next power cut.
///
/// ```
/// use wharf_outbox::journal::Disk;
/// # use wharf_outbox::{Deliver, Delivery, Outbox, Outcome, Raw};
/// # struct Nowhere;
/// # impl Deliver<String> for Nowhere {
/// #     type Receipt = ();
/// #     type Rejection = ();
/// #     async fn deliver(&self, _: Delivery<'_, String>) -> Outcome<(), ()> {
/// #         Outcome::Delivered(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("outbox");
///
/// let outbox = Outbox::builder(Nowhere)
///     .journal(Disk::open(&path)?, Raw)
///     .build()?;
/// outbox.post("in the file when this returns".to_owned()).await?;
/// # outbox.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Disk {
    open: Box<dyn FnMut() -> io::Result<Box<dyn StorageBackend>> + Send>,
    /// How large the file may become.
    limit: Arc<AtomicU64>,
    max_file_bytes: u64,
    /// None after a failure: redb wants to be opened again then.
    database: Option<Database>,
    /// What is in the file after the last commit; none before it is opened for the first time.
    stock: Option<Stock>,
    /// What would be in it after a commit of which nobody knows.
    doubtful: Option<Stock>,
    /// Tells this one from others who write.
    writer: u64,
    /// Somebody else has been at the file.
    is_changed: bool,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stock {
    /// The bytes of all messages.
    bytes: u64,
    /// A number that is higher than any that was used.
    next: u64,
    /// Who has written last.
    writer: u64,
}

impl Disk {
    /// Opens the file, or makes one.
    ///
    /// # Errors
    ///
    /// [`JournalError::InUse`] if another has it open; the others if it cannot be read, or made, or
    /// is something else. It reads and writes in the caller's thread, as
    /// [`build`](crate::Builder::build) does.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::open_bounded(path, u64::MAX)
    }

    /// The same with a bound for the file: what would make it larger is refused for want of space,
    /// until there is room in it again. Since the file grows by doubling itself while it is small,
    /// it may have to stay at half of the bound. Removals have a quarter of the bound besides, and
    /// 1 MiB, so that a full journal can be emptied.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_bounded(path: impl AsRef<Path>, max_file_bytes: u64) -> Result<Self, JournalError> {
        let mut path = path.as_ref().to_owned();
        let mut is_known = false;
        let open = move || {
            let mut options = OpenOptions::new();
            // It is opened again after a failure: what was there is not made anew then, nor looked for
            // in another folder.
            options.read(true).write(true).truncate(false);
            options.create(!is_known);
            let file = options.open(&path)?;
            if !is_known {
                path = path.canonicalize()?;
                sync_folder(&path)?;
                is_known = true;
            }
            let file = FileBackend::new(file).map_err(io::Error::other)?;
            Ok(Box::new(file) as Box<dyn StorageBackend>)
        };
        Self::over(Box::new(open), max_file_bytes)
    }

    fn over(
        open: Box<dyn FnMut() -> io::Result<Box<dyn StorageBackend>> + Send>,
        max_file_bytes: u64,
    ) -> Result<Self, JournalError> {
        let mut disk = Self {
            open,
            limit: Arc::new(AtomicU64::new(u64::MAX)),
            max_file_bytes,
            database: None,
            stock: None,
            doubtful: None,
            writer: fastrand::u64(1..),
            is_changed: false,
        };
        disk.with(|_, _| Ok(()))?;
        Ok(disk)
    }

    /// Takes records that could not be read out of the file: those of a later version, torn ones,
    /// those the codec did not know. What they are is for people to find out: a record is 37 bytes of the
    /// outbox's own (version, checksum, id, two moments) and what the codec wrote. They are gone from the
    /// file when this returns.
    ///
    /// # Errors
    ///
    /// They are still there.
    pub fn take_set_aside(&mut self, most: usize) -> Result<Vec<Record>, JournalError> {
        self.with(|_, database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            let mut taken = Vec::new();
            {
                let mut aside = transaction.open_table(SET_ASIDE)?;
                for entry in aside.range(0..)?.take(most) {
                    let (number, bytes) = entry?;
                    taken.push(Record {
                        number: number.value(),
                        bytes: bytes.value().to_vec(),
                    });
                }
                for record in &taken {
                    aside.remove(record.number)?;
                }
            }
            transaction.commit()?;
            Ok(taken)
        })
    }

    /// Does something with the file, which is opened if it is not. After a failure or a panic redb
    /// wants to be opened anew, and gives its lock on the file up until then.
    fn with<R>(
        &mut self,
        work: impl FnOnce(&mut Self, &Database) -> Result<R, Failure>,
    ) -> Result<R, JournalError> {
        let opened = match self.database.take() {
            Some(database) => Ok(database),
            None => flat(caught(|| self.open_file()), Failure::from),
        };
        let database = opened.map_err(JournalError::from)?;
        match flat(caught(|| work(self, &database)), Failure::from) {
            Ok(result) => {
                self.database = Some(database);
                Ok(result)
            }
            Err(failure) => {
                // It may have panicked with a lock in its hand.
                let _ = caught(|| drop(database));
                Err(failure.into())
            }
        }
    }

    fn open_file(&mut self) -> Result<Database, Failure> {
        if self.is_changed {
            return Err(JournalError::Changed.into());
        }
        self.limit.store(u64::MAX, Ordering::Relaxed);
        let area = Area::new((self.open)()?, Arc::clone(&self.limit));
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE).create_with_backend(area)?;
        let found = take_stock(&database)?;
        // While it was not open, it was not locked. Numbers that somebody else has given away since
        // would be given away again.
        self.is_changed = match self.stock {
            None => false,
            known => found != known && found != self.doubtful,
        };
        if self.is_changed {
            return Err(JournalError::Changed.into());
        }
        if found.is_none() {
            make_tables(&database)?;
        }
        self.stock = Some(found.unwrap_or_default());
        self.doubtful = None;
        Ok(database)
    }

    fn make(&mut self, database: &Database, changes: &Changes<'_>) -> Result<(), Failure> {
        let mut stock = Stock {
            writer: self.writer,
            ..self.stock()
        };
        let room = match changes.append {
            [] => self.max_file_bytes / 4 + (1 << 20),
            _ => 0,
        };
        let limit = self.max_file_bytes.saturating_add(room);
        self.limit.store(limit, Ordering::Relaxed);
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut messages = transaction.open_table(MESSAGES)?;
            let removed = remove(&mut messages, changes.remove)?;
            stock.bytes = stock.bytes.saturating_sub(removed);
            if !changes.set_aside.is_empty() {
                let mut aside = transaction.open_table(SET_ASIDE)?;
                for number in changes.set_aside {
                    if let Some(gone) = messages.remove(number)? {
                        stock.bytes = stock.bytes.saturating_sub(gone.value().len() as u64);
                        aside.insert(number, gone.value())?;
                    }
                }
            }
            if messages.is_empty()? {
                stock.bytes = 0;
            }
            // Not `insert`: whole leaves are made of what ascends, and nothing is written over.
            let mut end = messages.upper_bound_mut(Bound::<u64>::Unbounded)?;
            for (number, bytes) in changes.append {
                let put = end.insert_before(number, *bytes);
                self.is_changed = matches!(put, Err(CursorError::UnorderedKey));
                put?;
                stock.bytes += bytes.len() as u64;
                stock.next = stock.next.max(number + 1);
            }
            end.close()?;
            let mut stocks = transaction.open_table(STOCK)?;
            stocks.insert((), (stock.bytes, stock.next, stock.writer))?;
        }
        self.doubtful = Some(stock);
        transaction.commit()?;
        (self.stock, self.doubtful) = (Some(stock), None);
        Ok(())
    }

    fn stock(&self) -> Stock {
        self.stock.expect("bug: it has been opened")
    }
}

impl Journal for Disk {
    fn found(&mut self) -> Result<Found, JournalError> {
        self.with(|disk, database| {
            let transaction = database.begin_read()?;
            let records = transaction.open_table(MESSAGES)?.len()?;
            let Stock { bytes, next, .. } = disk.stock();
            Ok(Found {
                records: usize::try_from(records).unwrap_or(usize::MAX),
                bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
                next,
            })
        })
    }

    fn commit(&mut self, changes: &Changes<'_>) -> Result<(), JournalError> {
        self.with(|disk, database| disk.make(database, changes))
    }

    fn read(&mut self, from: u64, most: usize, bytes: usize) -> Result<Records, JournalError> {
        self.with(|_, database| look(database, from, most, bytes))
    }
}

/// Removes messages, and says how many bytes they had.
fn remove(messages: &mut Table<'_, u64, &'static [u8]>, numbers: &[u64]) -> Result<u64, Failure> {
    let mut bytes: u64 = 0;
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        if let [first, .., last] = run {
            // Leaf by leaf. Between consecutive numbers there are no others. It must not panic.
            messages.retain_in(*first..=*last, |_, gone| {
                bytes = bytes.saturating_add(gone.len() as u64);
                false
            })?;
        } else {
            for number in run {
                if let Some(gone) = messages.remove(number)? {
                    bytes = bytes.saturating_add(gone.value().len() as u64);
                }
            }
        }
    }
    Ok(bytes)
}

fn look(database: &Database, from: u64, most: usize, bytes: usize) -> Result<Records, Failure> {
    let transaction = database.begin_read()?;
    let messages = transaction.open_table(MESSAGES)?;
    let mut records = Vec::new();
    let mut size = 0;
    for entry in messages.range(from..)? {
        if records.len() == most || size > bytes {
            return Ok(Records {
                records,
                last: false,
            });
        }
        let (number, record) = entry?;
        let record = Record {
            number: number.value(),
            bytes: record.value().to_vec(),
        };
        size += record.bytes.len();
        records.push(record);
    }
    Ok(Records {
        records,
        last: true,
    })
}

/// None if the file is new.
fn take_stock(database: &Database) -> Result<Option<Stock>, Failure> {
    let transaction = database.begin_read()?;
    let messages = match transaction.open_table(MESSAGES) {
        Ok(messages) => messages,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stock = transaction.open_table(STOCK)?.get(())?;
    let (bytes, next, writer) = stock.map_or((0, 0, 0), |stock| stock.value());
    let after = messages.last()?.map_or(0, |(last, _)| last.value() + 1);
    let next = next.max(after);
    Ok(Some(Stock {
        bytes,
        next,
        writer,
    }))
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("stock", &self.stock)
            .finish_non_exhaustive()
    }
}

fn make_tables(database: &Database) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(MESSAGES)?;
    transaction.open_table(SET_ASIDE)?;
    transaction.open_table(STOCK)?;
    transaction.commit()?;
    Ok(())
}

/// A file is there after a power cut only if its folder knows it. Where folders cannot be synced,
/// they need not be.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(_) => Ok(()),
    }
}
