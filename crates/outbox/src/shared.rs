//! What the handles, the drain and the writer share: the core behind its lock, and the carrying out
//! of what it decides.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use crate::{
    caught::caught,
    clock::{Clock, nanos},
    codec::Codec,
    core::{Core, Effect, End, Entry, Letter, Limits, NEVER, Stage},
    deliver::Deliver,
    error::{EnqueueError, Undelivered},
    id::{Ids, MessageId},
    journal::JournalError,
    status::{Outage, Status},
    telemetry::Told,
    ticket,
};

/// What becomes of a message for this destination.
pub(crate) type Fate<T, D> =
    ticket::Fate<T, <D as Deliver<T>>::Receipt, <D as Deliver<T>>::Rejection>;

/// A message as it goes through the core.
pub(crate) struct Parcel<T, D: Deliver<T>> {
    pub(crate) id: MessageId,
    pub(crate) message: T,
    /// None if nobody wants to know.
    pub(crate) ticket: Option<oneshot::Sender<Fate<T, D>>>,
    /// With a journal, the record to be written, and nothing later.
    pub(crate) record: Vec<u8>,
}

impl<T, D: Deliver<T>> Parcel<T, D> {
    pub(crate) fn end(self, fate: impl FnOnce(T) -> Fate<T, D>) {
        if let Some(ticket) = self.ticket {
            let _ = ticket.send(fate(self.message));
        }
    }
}

/// Tells who put a message in whether it is accepted.
pub(crate) type Token<T> = oneshot::Sender<Result<(), EnqueueError<T>>>;
pub(crate) type Parcels<T, D> = Core<Parcel<T, D>, Token<T>>;
pub(crate) type Effects<T, D> = Vec<Effect<Parcel<T, D>, Token<T>>>;

type Key<T> = Box<dyn Fn(&T) -> u64 + Send + Sync>;

/// What is computed of a message, and what holds for all of them. The user's code.
pub(crate) struct Rules<T> {
    pub(crate) weigh: Box<dyn Fn(&T) -> usize + Send + Sync>,
    pub(crate) key: Option<Key<T>>,
    /// With a journal.
    pub(crate) codec: Option<Box<dyn Codec<T>>>,
    pub(crate) ttl: Option<Duration>,
}

/// What the lock guards.
pub(crate) struct State<T, D: Deliver<T>> {
    pub(crate) core: Parcels<T, D>,
    /// Why the last delivery without an answer failed.
    pub(crate) cause: Option<Arc<dyn Error + Send + Sync>>,
    pub(crate) panics: u64,
    pub(crate) commits: u64,
    pub(crate) failed_commits: u64,
    pub(crate) failed_reads: u64,
    /// Why the journal failed the last time, until it works again.
    pub(crate) trouble: Option<Arc<JournalError>>,
    /// Nobody will close the outbox any more: what is left at the end has nowhere else to go.
    pub(crate) is_forsaken: bool,
    /// The destination is closed for good.
    pub(crate) is_closed_for_good: bool,
}

pub(crate) struct Shared<T, D: Deliver<T>> {
    /// Held for one command of the core. Nothing of the user's runs or is dropped, and nothing is
    /// waited for, while it is held.
    pub(crate) state: Mutex<State<T, D>>,
    /// The bound of bytes.
    pub(crate) bytes: usize,
    pub(crate) destination: D,
    pub(crate) rules: Rules<T>,
    pub(crate) clock: Clock,
    pub(crate) ids: Ids,
    pub(crate) told: Told,
    /// Wakes the drain.
    pub(crate) drain: Notify,
    /// Wakes the writer, under `state`.
    pub(crate) writer: Condvar,
    /// Wakes those who wait for messages to be resolved, and for the drain and the writer to end.
    pub(crate) resolved: Notify,
    pub(crate) drain_runs: AtomicBool,
    pub(crate) writer_runs: AtomicBool,
    /// Who is to be told that its message is stored; none if there is no drain to tell it. The
    /// writer goes on to the next commit meanwhile, and tasks are woken from their own runtime,
    /// which costs less.
    stored: Mutex<Option<Vec<Token<T>>>>,
    /// The tickets of messages that are in the journal alone.
    away: Mutex<HashMap<u64, oneshot::Sender<Fate<T, D>>>>,
}

impl<T, D> Shared<T, D>
where
    T: Send + Sync + 'static,
    D: Deliver<T>,
{
    pub(crate) fn new(name: &str, limits: Limits, rules: Rules<T>, destination: D) -> Self {
        let bytes = limits.bytes;
        let state = State {
            core: Core::new(limits, fastrand::u64(..)),
            cause: None,
            panics: 0,
            commits: 0,
            failed_commits: 0,
            failed_reads: 0,
            trouble: None,
            is_forsaken: false,
            is_closed_for_good: false,
        };
        Self {
            state: Mutex::new(state),
            bytes,
            destination,
            rules,
            clock: Clock::new(),
            ids: Ids::new(),
            told: Told::new(name),
            drain: Notify::new(),
            writer: Condvar::new(),
            resolved: Notify::new(),
            drain_runs: AtomicBool::new(false),
            writer_runs: AtomicBool::new(false),
            stored: Mutex::new(None),
            away: Mutex::new(HashMap::new()),
        }
    }

    /// One command, and what follows from it.
    pub(crate) fn command<R>(
        &self,
        command: impl FnOnce(&mut Parcels<T, D>, &mut Effects<T, D>) -> R,
    ) -> R {
        let mut effects = Vec::new();
        let result = command(&mut self.state.lock().core, &mut effects);
        self.carry_out(&mut effects);
        result
    }

    /// Each on its own: messages that panic as they are dropped, and tasks that panic as they are
    /// woken, take nothing else with them.
    pub(crate) fn carry_out(&self, effects: &mut Effects<T, D>) {
        for effect in effects.drain(..) {
            self.guard(|| self.carry_out_one(effect));
        }
    }

    fn carry_out_one(&self, effect: Effect<Parcel<T, D>, Token<T>>) {
        match effect {
            Effect::Accepted(token) => {
                let _ = token.send(Ok(()));
            }
            Effect::TurnedAway(token, parcel) => {
                let _ = token.send(Err(EnqueueError::Closed(parcel.message)));
            }
            Effect::Ended(parcel, end) => {
                self.guard(|| self.told.ended(end));
                parcel.end(|message| Err(undelivered(message, end)));
            }
            Effect::PutAway(number, parcel) => {
                if let Some(ticket) = parcel.ticket {
                    self.away.lock().insert(number, ticket);
                }
            }
            Effect::TailLost(messages) => {
                self.guard(|| self.told.missing(messages));
                let tickets = std::mem::take(&mut *self.away.lock());
                for ticket in tickets.into_values() {
                    self.guard(|| drop(ticket.send(Err(Undelivered::Missing))));
                }
            }
            Effect::WakeDrain => self.drain.notify_one(),
            Effect::WakeWriter => {
                self.writer.notify_one();
            }
            Effect::WakeFlushers => self.resolved.notify_waiters(),
        }
    }

    /// Runs or drops what is not the outbox's own and has no other guard. A panic in it ends here.
    pub(crate) fn guard(&self, call: impl FnOnce()) {
        if let Err(panicked) = caught(call) {
            // If even this panics, nobody is left to be told.
            let _ = caught(|| self.told.user_panicked(&panicked.0));
        }
    }

    /// A drain begins: it tells who has to be told.
    pub(crate) fn begin_telling(&self) {
        *self.stored.lock() = Some(Vec::new());
    }

    /// The drain ends, and tells the last.
    pub(crate) fn end_telling(&self) {
        let tokens = self.stored.lock().take();
        self.tell(tokens.into_iter().flatten());
    }

    pub(crate) fn tell_stored(&self) {
        if self.rules.codec.is_some() {
            let tokens = self.stored.lock().as_mut().map(std::mem::take);
            self.tell(tokens.into_iter().flatten());
        }
    }

    /// Messages are stored: the drain, if there is one, has to tell those who wait for it. True if it
    /// has to be woken for that.
    pub(crate) fn have_told(&self, tokens: Vec<Token<T>>) -> bool {
        let mut stored = self.stored.lock();
        if let Some(waiting) = &mut *stored {
            waiting.extend(tokens);
            return true;
        }
        drop(stored);
        self.tell(tokens);
        false
    }

    fn tell(&self, tokens: impl IntoIterator<Item = Token<T>>) {
        for token in tokens {
            self.guard(|| drop(token.send(Ok(()))));
        }
    }

    /// The ticket of a message that comes back from the journal, if somebody has one.
    pub(crate) fn take_ticket(&self, number: u64) -> Option<oneshot::Sender<Fate<T, D>>> {
        self.away.lock().remove(&number)
    }

    /// What is to be accepted.
    pub(crate) fn letter(
        &self,
        parcel: Parcel<T, D>,
        ttl: Option<Duration>,
    ) -> Letter<Parcel<T, D>> {
        let weight = match &self.rules.codec {
            Some(_) => parcel.record.len(),
            None => (self.rules.weigh)(&parcel.message),
        };
        let ttl = ttl.or(self.rules.ttl);
        Letter {
            weight,
            key: self.key(&parcel.message),
            ttl: ttl.map_or(NEVER, nanos),
            payload: parcel,
        }
    }

    pub(crate) fn key(&self, message: &T) -> u64 {
        self.rules.key.as_ref().map_or(0, |key| key(message))
    }

    pub(crate) fn stop(&self) {
        self.command(Parcels::stop);
    }

    /// Whether drain and writer have ended, after `stop`.
    pub(crate) fn has_ended(&self) -> bool {
        !self.drain_runs.load(Ordering::Acquire) && !self.writer_runs.load(Ordering::Acquire)
    }

    /// The destination is closed for good: delivers nothing more.
    pub(crate) fn end_for_good(&self) {
        self.state.lock().is_closed_for_good = true;
        self.guard(|| self.told.ended_for_good());
        self.stop();
    }

    /// Called as the drain or the writer ends: the last of them gives back what nobody will ask for.
    pub(crate) fn one_ended(&self) {
        if self.has_ended() {
            let state = self.state.lock();
            let is_over = state.core.stage() == Stage::Stopped;
            let (all, with_ticket) = (state.is_forsaken, state.is_closed_for_good);
            drop(state);
            if is_over && (all || with_ticket) {
                self.give_back(all);
            }
        }
        self.resolved.notify_waiters();
    }

    /// Hands what is left to the tickets: all of it, or only what has one.
    fn give_back(&self, all: bool) {
        let (left, stored) = self.take_left(|parcel| all || parcel.ticket.is_some());
        if !left.is_empty() {
            self.guard(|| self.told.forsaken(left.len()));
        }
        for entry in left {
            let closed = |message| {
                let message = (!stored).then_some(message);
                Err(Undelivered::Closed { message })
            };
            self.guard(|| entry.payload.end(closed));
        }
    }

    /// What is left in memory of what is wanted, and whether it is in a journal as well.
    pub(crate) fn take_left(
        &self,
        wanted: impl Fn(&Parcel<T, D>) -> bool,
    ) -> (Vec<Entry<Parcel<T, D>>>, bool) {
        let left = self.state.lock().core.take_left(wanted);
        let away = std::mem::take(&mut *self.away.lock());
        // Their tickets say `Closed`.
        drop(away);
        (left, self.rules.codec.is_some())
    }

    pub(crate) fn status(&self) -> Status {
        let now = self.clock.now();
        let age = |since: u64| Duration::from_nanos(now.saturating_sub(since));
        let state = self.state.lock();
        let core = &state.core;
        let mut totals = core.totals();
        totals.panics = state.panics;
        totals.commits = state.commits;
        totals.failed_commits = state.failed_commits;
        totals.failed_reads = state.failed_reads;
        Status {
            depth: core.messages(),
            bytes: core.bytes(),
            in_flight: core.in_flight(),
            waiting: core.waiting(),
            age: core.oldest().map(age),
            outage: core.outage().map(|(failures, since)| Outage {
                lasted: age(since),
                failures,
                cause: state.cause.clone(),
            }),
            journal_trouble: state.trouble.clone(),
            is_closed: core.stage() != Stage::Open,
            has_ended: core.stage() == Stage::Stopped,
            totals,
        }
    }
}

fn undelivered<T, J>(message: T, end: End) -> Undelivered<T, J> {
    match end {
        End::DroppedOldest => Undelivered::Dropped { message },
        End::Expired { attempts } => Undelivered::Expired { message, attempts },
        End::GaveUp { attempts } => Undelivered::GaveUp { message, attempts },
    }
}
