//! Storage that fails when a test says so.

use std::{
    fs::OpenOptions,
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{BackendError, StorageBackend, backends::FileBackend};

use crate::journal::{Disk, JournalError};

/// Storage that has trouble, and a file below.
#[derive(Debug)]
struct Troubled {
    file: FileBackend,
    trouble: Arc<Trouble>,
}

#[derive(Debug)]
pub(super) struct Trouble {
    /// So many writes and syncs succeed from now on.
    pub(super) left: AtomicU64,
    /// So many syncs succeed.
    pub(super) syncs: AtomicU64,
    /// Every sync waits for this.
    pub(super) gate: Mutex<()>,
    pub(super) is_at_gate: AtomicBool,
    /// It does not fail then, but panics.
    pub(super) panics: AtomicBool,
    /// The file may be so large.
    pub(super) quota: AtomicU64,
}

impl Trouble {
    pub(super) fn none() -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(u64::MAX),
            syncs: AtomicU64::new(u64::MAX),
            gate: Mutex::new(()),
            is_at_gate: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            quota: AtomicU64::new(u64::MAX),
        })
    }

    pub(super) fn disk(self: &Arc<Self>, path: &Path) -> Result<Disk, JournalError> {
        let (path, trouble) = (path.to_owned(), Arc::clone(self));
        let open = move || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = FileBackend::new(options.open(&path)?).map_err(io::Error::other)?;
            let trouble = Arc::clone(&trouble);
            Ok(Box::new(Troubled { file, trouble }) as Box<dyn StorageBackend>)
        };
        Disk::over(Box::new(open), u64::MAX)
    }

    pub(super) fn heal(&self) {
        self.left.store(u64::MAX, Ordering::Relaxed);
        self.syncs.store(u64::MAX, Ordering::Relaxed);
        self.quota.store(u64::MAX, Ordering::Relaxed);
    }

    fn count(&self, left: &AtomicU64) -> io::Result<()> {
        let one_less = |left: u64| match left {
            u64::MAX => Some(u64::MAX),
            left => left.checked_sub(1),
        };
        let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        assert!(
            spent.is_ok() || !self.panics.load(Ordering::Relaxed),
            "the storage panics"
        );
        spent
            .map(drop)
            .map_err(|_| io::ErrorKind::StorageFull.into())
    }
}

impl StorageBackend for Troubled {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length > self.trouble.quota.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.trouble.is_at_gate.store(true, Ordering::Relaxed);
        drop(self.trouble.gate.lock().unwrap());
        self.trouble.count(&self.trouble.left)?;
        self.trouble.count(&self.trouble.syncs)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.trouble.count(&self.trouble.left)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
