//! Messages into a journal, and out of it, beside bare redb with the same batches.

use std::ops::Bound::Unbounded;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};
use wharf_outbox::journal::Disk;
use wharf_outbox::{BoxError, Codec, Outbox};
use wharf_race::lane::{Lane, Trouble};
use wharf_race::options::Options;
use wharf_race::runtime::Arena;
use wharf_race::verdict::{Bound, Verdicts};

use crate::{BODY, Contender, Entrant, Sink, compete};

const BATCH: usize = 256;
const BATCHES: usize = 16;
/// What an outbox adds to a message.
const HEADER: usize = 37;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");

/// Only in, or in and out: bare redb appends a batch and removes the one before in one transaction.
pub(crate) fn run(options: &Options, verdicts: &mut Verdicts, is_cycle: bool) {
    let what = if is_cycle { "cycle" } else { "stored" };
    println!("{what}: {BATCHES} batches of {BATCH} messages of {BODY} bytes a slice");
    let arena = &Arc::new(Arena::two_workers());
    let tally = &Arc::new(Tally::default());
    let bare = move |manner| move || Ok(Box::new(Bare { is_cycle, manner }) as Entrant);
    let mut lanes = vec![
        Lane::new("wharf", move || {
            let (arena, tally) = (Arc::clone(arena), Arc::clone(tally));
            let stored = Stored {
                arena,
                tally,
                is_cycle,
            };
            Ok(Box::new(stored) as Entrant)
        }),
        Lane::new("redb", bare(Manner::OneByOne)),
        Lane::new("redb, in runs", bare(Manner::InRuns)),
    ];
    let results = compete(options, &mut lanes, "redb");
    tally.print();
    let ratio = results.ratio("wharf", "redb", |rate| *rate);
    let ratio = ratio.map(|ratio| ratio.median);
    verdicts.must(ratio, Bound::AtLeast(0.8), &format!("× redb, {what}"));
}

pub(crate) struct Shared;

impl Codec<Arc<[u8]>> for Shared {
    fn encode(&self, message: &Arc<[u8]>, into: &mut Vec<u8>) -> Result<(), BoxError> {
        into.extend_from_slice(message);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Arc<[u8]>, BoxError> {
        Ok(bytes.into())
    }
}

pub(crate) fn open(path: &Path, is_up: bool) -> Result<Outbox<Arc<[u8]>, Sink>, Trouble> {
    let disk = Disk::open(path).map_err(Trouble::of)?;
    Outbox::builder(Sink { is_up })
        .journal(disk, Shared)
        .group_commit(BATCH, Duration::from_millis(2))
        .build()
        .map_err(Trouble::of)
}

/// How many commits the outbox made of a slice, in which bare redb makes one a batch.
#[derive(Default)]
struct Tally {
    slices: AtomicU64,
    commits: AtomicU64,
}

impl Tally {
    fn count(&self, commits: u64) {
        self.slices.fetch_add(1, Ordering::Relaxed);
        self.commits.fetch_add(commits, Ordering::Relaxed);
    }

    fn print(&self) {
        let slices = self.slices.load(Ordering::Relaxed).max(1) as f64;
        let commits = self.commits.load(Ordering::Relaxed) as f64 / slices;
        println!("  wharf: {commits:.1} commits a slice, redb: {BATCHES}");
    }
}

struct Stored {
    arena: Arc<Arena>,
    tally: Arc<Tally>,
    is_cycle: bool,
}

impl Contender for Stored {
    /// Twice as many senders as a batch has messages, so that one batch forms while another is
    /// written.
    fn slice(&self) -> Result<f64, Trouble> {
        let (is_cycle, tally) = (self.is_cycle, Arc::clone(&self.tally));
        self.arena.run(async move {
            let folder = tempfile::tempdir().map_err(Trouble::of)?;
            let outbox = open(&folder.path().join("outbox"), is_cycle)?;
            let body: Arc<[u8]> = vec![0; BODY].into();
            let senders = BATCH * 2;
            let since = Instant::now();
            let tasks = (0..senders).map(|_| {
                let (outbox, body) = (outbox.clone(), Arc::clone(&body));
                tokio::spawn(async move {
                    for _ in 0..BATCHES / 2 {
                        let posted = outbox.post(Arc::clone(&body)).await;
                        posted.map_err(Trouble::of)?;
                    }
                    Ok(())
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.map_err(Trouble::of)??;
            }
            if is_cycle {
                outbox.flush().await.map_err(Trouble::of)?;
            }
            let rate = (BATCH * BATCHES) as f64 / since.elapsed().as_secs_f64();
            tally.count(outbox.status().totals.commits);
            let left = outbox.close_within(Duration::ZERO).await;
            let expected = if is_cycle { 0 } else { BATCH * BATCHES };
            if left.stored != expected {
                return Err(Trouble::Failed(format!("{} left", left.stored)));
            }
            Ok(rate)
        })
    }
}

/// How a batch is written.
#[derive(Clone, Copy)]
enum Manner {
    /// By `insert` and `remove`, which is what there is at hand.
    OneByOne,
    /// By a cursor, and by `retain_in`, as the outbox does.
    InRuns,
}

struct Bare {
    is_cycle: bool,
    manner: Manner,
}

impl Contender for Bare {
    /// In a new file, as the other.
    fn slice(&self) -> Result<f64, Trouble> {
        let folder = tempfile::tempdir().map_err(Trouble::of)?;
        let database = Database::create(folder.path().join("redb")).map_err(Trouble::of)?;
        let since = Instant::now();
        for batch in 0..BATCHES as u64 {
            self.append(&database, batch).map_err(Trouble::of)?;
        }
        Ok((BATCH * BATCHES) as f64 / since.elapsed().as_secs_f64())
    }
}

impl Bare {
    fn append(&self, database: &Database, batch: u64) -> Result<(), redb::Error> {
        let record = vec![0; BODY + HEADER];
        let numbers = |batch: u64| batch * BATCH as u64..(batch + 1) * BATCH as u64;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(TABLE)?;
            let gone = self.is_cycle && batch > 0;
            match self.manner {
                Manner::OneByOne => {
                    for number in numbers(batch - u64::from(gone)).filter(|_| gone) {
                        table.remove(number)?;
                    }
                    for number in numbers(batch) {
                        table.insert(number, record.as_slice())?;
                    }
                }
                Manner::InRuns => {
                    if gone {
                        table.retain_in(numbers(batch - 1), |_, _| false)?;
                    }
                    let mut end = table.upper_bound_mut(Unbounded::<u64>)?;
                    for number in numbers(batch) {
                        end.insert_before(number, record.as_slice())?;
                    }
                    end.close()?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
