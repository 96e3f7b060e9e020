//! The thread that writes to the journal and reads from it.

mod reading;
mod retry;

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    caught::{Panicked, caught, flat},
    core::{Effect, Enough, Entry, Page, Stage},
    deliver::Deliver,
    error::{BuildError, EnqueueError},
    journal::{Changes, Journal, JournalError, record},
    shared::{Effects, Parcel, Shared, Token},
};
use retry::Retry;

/// Removals that come alone may wait for so long: they cost a commit, and if they are lost, a
/// delivery twice.
const REMOVAL_WAIT: Duration = Duration::from_millis(20);

/// If nobody came for so long, nobody else is waited for.
const GAP: Duration = Duration::from_micros(200);

/// The drain tells senders that their messages are stored. If it is kept from it for so long, by a
/// destination or by a runtime that stands still, the writer does.
const TELL_WAIT: Duration = Duration::from_millis(5);

/// What is written together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grouping {
    pub(crate) messages: usize,
    pub(crate) wait: Duration,
}

impl Default for Grouping {
    fn default() -> Self {
        Self {
            messages: 256,
            wait: Duration::from_millis(2),
        }
    }
}

/// Looks what the journal holds, and starts the thread.
pub(crate) fn start<T, D>(
    shared: &Arc<Shared<T, D>>,
    mut journal: Box<dyn Journal>,
    grouping: Grouping,
) -> Result<(), BuildError>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    let found = journal.found()?;
    let mut state = shared.state.lock();
    let core = &mut state.core;
    core.found(found.records, found.bytes, found.next);
    drop(state);
    shared.writer_runs.store(true, Ordering::Release);
    let run = Run {
        shared: Arc::clone(shared),
    };
    let thread = thread::Builder::new().name("wharf-outbox".to_owned());
    let started = thread.spawn(move || {
        let mut writer = Writer::new(&run.shared, journal, grouping);
        if let Err(panicked) = caught(|| writer.run()) {
            writer.died(panicked);
        }
        // Before the others are told of the end: somebody may want to open it.
        drop(writer);
        drop(run);
    });
    started.map(drop).map_err(BuildError::Thread)
}

/// Says when the thread ends, however that comes.
struct Run<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: Arc<Shared<T, D>>,
}

impl<T, D> Drop for Run<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn drop(&mut self) {
        self.shared.writer_runs.store(false, Ordering::Release);
        self.shared.one_ended();
    }
}

/// A message that is written, and who waits for that.
type Written<T, D> = (Entry<Parcel<T, D>>, Token<T>);

struct Writer<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    shared: &'a Shared<T, D>,
    journal: Box<dyn Journal>,
    grouping: Grouping,
    written: Vec<Written<T, D>>,
    /// Of what is written.
    records: Vec<(u64, Vec<u8>)>,
    /// What is to be removed, and what could not be appended and may be there all the same.
    removals: Vec<u64>,
    set_aside: Vec<u64>,
    effects: Effects<T, D>,
    /// Commits that nobody asks for. What somebody asks for is tried at once.
    commits: Retry,
    reads: Retry,
    /// A page is damaged: one record is read at a time until it is found which.
    is_careful: bool,
    /// How many messages were written together the last time. Their senders will come again, most
    /// likely: so many are waited for.
    company: usize,
    last_append: Option<Instant>,
    /// How many commits there were.
    made: u64,
    /// Since when the drain has had to tell somebody something.
    untold: Option<Instant>,
}

enum Work {
    Commit,
    Read(Page),
    Tell,
    End,
}

/// Messages that wait for others to be written with them.
struct Gathering {
    since: Instant,
    writes: usize,
    /// When there were fewer the last time.
    grown: Instant,
}

impl<'a, T, D> Writer<'a, T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    fn new(shared: &'a Shared<T, D>, journal: Box<dyn Journal>, grouping: Grouping) -> Self {
        Self {
            shared,
            journal,
            grouping,
            written: Vec::new(),
            records: Vec::new(),
            removals: Vec::new(),
            set_aside: Vec::new(),
            effects: Vec::new(),
            commits: Retry::default(),
            reads: Retry::default(),
            is_careful: false,
            company: 1,
            last_append: None,
            made: 0,
            untold: None,
        }
    }

    fn run(&mut self) {
        loop {
            match self.next() {
                Work::Commit => self.commit(),
                Work::Read(page) => self.read(page),
                Work::Tell => self.shared.tell_stored(),
                Work::End => {
                    self.commit();
                    return;
                }
            }
        }
    }

    /// Waits for something to do.
    fn next(&mut self) -> Work {
        let most = self.grouping.messages;
        let mut state = self.shared.state.lock();
        let (mut gathering, mut odds_since) = (None, None);
        loop {
            let core = &mut state.core;
            let now = Instant::now();
            let (writes, removals) = core.backlog();
            let is_over =
                core.stage() == Stage::Stopped && !self.shared.drain_runs.load(Ordering::Acquire);
            if is_over && writes <= most {
                core.take_writes(most, &mut self.written);
                core.take_removals(&mut self.removals);
                return Work::End;
            }
            if self.reads.is_due(now)
                && let Some(page) = core.begin_page()
            {
                // What could not be appended, and may be there, is not to be read.
                core.take_removals(&mut self.removals);
                return Work::Read(page);
            }
            if self.untold.is_some_and(|since| now >= since + TELL_WAIT) {
                self.untold = None;
                return Work::Tell;
            }
            let odds = removals + self.removals.len() + self.set_aside.len();
            let at = match (writes, odds) {
                (0, 0) => None,
                (0, _) => Some(self.removals_due(*odds_since.get_or_insert(now), odds)),
                (_, _) => Some(self.writes_due(&mut gathering, writes, now)),
            };
            if at.is_some_and(|at| now >= at) {
                if writes > 0 {
                    self.company = writes.min(most);
                    self.last_append = Some(now);
                }
                core.take_writes(most, &mut self.written);
                core.take_removals(&mut self.removals);
                return Work::Commit;
            }
            core.writer_sleeps(Enough {
                writes: if writes == 0 { 1 } else { self.company },
                removals: match odds {
                    0 => 1,
                    odds if odds < most => removals + most - odds,
                    _ => usize::MAX,
                },
            });
            let told = self.untold.map(|since| since + TELL_WAIT);
            let until = [at, self.reads.at(now), told].into_iter().flatten().min();
            match until {
                Some(until) => {
                    self.shared.writer.wait_until(&mut state, until);
                }
                None => self.shared.writer.wait(&mut state),
            }
        }
    }

    /// When removals are made that nothing is appended with.
    fn removals_due(&self, since: Instant, odds: usize) -> Instant {
        let at = self.commits.at(since).unwrap_or(since + REMOVAL_WAIT);
        if odds < self.grouping.messages || self.commits.at(since).is_some() {
            return at;
        }
        // Enough for a commit; but senders may be about to come again, who need one too.
        match self.last_append {
            Some(last) => at.min(last + self.grouping.wait),
            None => since,
        }
    }

    /// When messages are written: at once if there are as many as the last time, or else when nobody
    /// has come for a while, or the first of them has waited for long enough.
    fn writes_due(
        &self,
        gathering: &mut Option<Gathering>,
        writes: usize,
        now: Instant,
    ) -> Instant {
        if writes >= self.company {
            return now;
        }
        let gathering = gathering.get_or_insert(Gathering {
            since: now,
            writes,
            grown: now,
        });
        if writes > gathering.writes {
            (gathering.writes, gathering.grown) = (writes, now);
        }
        (gathering.since + self.grouping.wait).min(gathering.grown + GAP)
    }

    fn commit(&mut self) {
        self.removals.sort_unstable();
        let records = self.written.iter_mut().map(record_of);
        self.records.extend(records);
        // A full journal may have room for a message only after others have been removed.
        let cleared = match self.records.is_empty() || self.commits.works() {
            true => Ok(()),
            false => self.make(false),
        };
        let is_doubtful = cleared.is_ok();
        match cleared.and_then(|()| self.make(true)) {
            Ok(()) => {
                self.commits.worked();
                self.committed();
            }
            Err(cause) => self.failed(cause, is_doubtful),
        }
        self.records.clear();
    }

    fn committed(&mut self) {
        let mut tokens = Vec::with_capacity(self.written.len());
        let effects = &mut self.effects;
        let mut state = self.shared.state.lock();
        state.commits = self.made;
        state
            .core
            .committed(&mut self.written, &mut tokens, effects);
        let trouble = match self.reads.works() {
            true => state.trouble.take(),
            false => None,
        };
        drop(state);
        self.shared.guard(|| drop(trouble));
        let is_told_by_drain = !tokens.is_empty() && self.shared.have_told(tokens);
        let drain_wakes = effects
            .iter()
            .any(|effect| matches!(effect, Effect::WakeDrain));
        self.shared.carry_out(effects);
        if is_told_by_drain {
            self.untold.get_or_insert_with(Instant::now);
            if !drain_wakes {
                self.shared.drain.notify_one();
            }
        }
    }

    /// Removes, and appends if it is to, if there is something to do.
    fn make(&mut self, appends: bool) -> Result<(), JournalError> {
        let records = self.records.iter().filter(|_| appends);
        let append: Vec<_> = records.map(|(number, bytes)| (*number, &**bytes)).collect();
        let changes = Changes {
            append: &append,
            remove: &self.removals,
            set_aside: &self.set_aside,
        };
        if append.is_empty() && changes.remove.is_empty() && changes.set_aside.is_empty() {
            return Ok(());
        }
        flat(
            caught(|| self.journal.commit(&changes)),
            JournalError::failed,
        )?;
        self.made += 1;
        self.removals.clear();
        self.set_aside.clear();
        Ok(())
    }

    /// If it is doubtful whether the messages are in the journal, they are removed from it.
    fn failed(&mut self, cause: JournalError, is_doubtful: bool) {
        self.commits.failed();
        let cause = Arc::new(cause);
        let told = &self.shared.told;
        self.shared.guard(|| told.commit_failed(&cause));
        let now = self.shared.clock.now();
        let effects = &mut self.effects;
        let mut state = self.shared.state.lock();
        state.failed_commits += 1;
        let old = state.trouble.replace(Arc::clone(&cause));
        let core = &mut state.core;
        core.not_committed(now, &self.written, is_doubtful, effects);
        drop(state);
        self.shared.guard(|| drop(old));
        self.shared.carry_out(effects);
        for (entry, token) in self.written.drain(..) {
            let error = EnqueueError::NotStored {
                message: entry.payload.message,
                cause: Arc::clone(&cause),
            };
            self.shared.guard(|| drop(token.send(Err(error))));
        }
    }

    /// The thread has come upon a bug, the journal's or its own. Nobody is left waiting for it.
    fn died(&mut self, panicked: Panicked) {
        self.commits = Retry::default();
        self.failed(JournalError::failed(panicked), false);
        self.shared.end_for_good();
        loop {
            let writes = &mut self.written;
            self.shared
                .state
                .lock()
                .core
                .take_writes(usize::MAX, writes);
            if self.written.is_empty() {
                return;
            }
            self.failed(JournalError::failed("the journal's thread has died"), false);
        }
    }
}

fn record_of<T, D: Deliver<T>>((entry, _): &mut Written<T, D>) -> (u64, Vec<u8>) {
    let mut bytes = std::mem::take(&mut entry.payload.record);
    let id = entry.payload.id;
    record::finish(&mut bytes, entry.number, id, entry.accepted, entry.expires);
    (entry.number, bytes)
}
