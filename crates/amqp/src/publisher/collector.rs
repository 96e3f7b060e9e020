//! The open confirms of one channel, and who gets which returned message.
//!
//! lapin (4.12) attaches a returned message to whichever confirm completes next, not to its own.
//! A return always comes before its own confirm, though, and every confirm that completes takes the
//! oldest return that waits. Hence, for a mandatory message that was acknowledged:
//!
//! - with nothing attached: its return, if there is one, hangs on a confirm that completed before;
//! - with another's return: its own hangs on a confirm that completed before, or on one of those
//!   that were open at that moment.
//!
//! So the collector takes in everything that has completed before it decides, and in the second
//! case leaves the message open until its return turns up or all of those have completed.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use lapin::{Confirmation, message::BasicReturnMessage, options::BasicPublishOptions};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    again,
    entry::{Entry, Fate},
};
use crate::{channels::Channel, io};

type Verdict = lapin::Result<Confirmation>;
type Confirm = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// After so many rejections in a row a channel is left for another: a client that reconnected
/// through the node of a dead leader was rejected for ever.
const PATIENCE: u32 = 256;

/// The channel's end of its collector: the collector ends with it, when nothing is open.
pub(super) struct Collector(Arc<Desk>);

struct Desk {
    /// Held for the first poll of each publish, so that who holds it knows of every message whose
    /// frames may have been sent.
    arrivals: Mutex<Vec<Arrival>>,
    ready: Arc<Ready>,
    /// No more messages are to go out on this channel.
    retired: AtomicBool,
    /// The channel has no holder any more.
    orphaned: AtomicBool,
    rejections: AtomicU32,
    /// The channel itself when it is retired, until nothing is open on it.
    kept: Mutex<Option<Channel>>,
}

struct Arrival {
    entry: Entry,
    step: Step,
}

enum Step {
    Open(Confirm),
    Done(Box<Verdict>),
}

/// Which confirms may have completed.
#[derive(Default)]
struct Ready {
    places: Mutex<Vec<usize>>,
    bell: Notify,
}

struct Bell {
    place: usize,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        lock(&self.ready.places).push(self.place);
        self.ready.bell.notify_one();
    }
}

impl Collector {
    pub(super) fn of(channel: &Channel) -> &Collector {
        let new = || -> Box<dyn std::any::Any + Send + Sync> { Box::new(Self::start()) };
        let extension = channel.extension().get_or_init(new);
        extension
            .downcast_ref()
            .expect("bug: another extension of a channel")
    }

    fn start() -> Self {
        let desk = Arc::new(Desk {
            arrivals: Mutex::default(),
            ready: Arc::default(),
            retired: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
            rejections: AtomicU32::new(0),
            kept: Mutex::default(),
        });
        io::spawn(Ledger::new(Arc::clone(&desk)).run());
        Self(desk)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Relaxed)
    }

    /// Takes a retired channel over: it ends when nothing is open on it.
    pub(super) fn retire(channel: Channel) {
        let desk = Arc::clone(&Self::of(&channel).0);
        *lock(&desk.kept) = Some(channel);
        desk.ready.bell.notify_one();
    }

    /// Publishes a message; its verdict is the collector's business. The caller holds the channel.
    /// Gives it back if the channel is closed, and nothing was sent.
    pub(super) fn launch(&self, channel: &Channel, mut entry: Entry) -> Result<(), Entry> {
        entry.handed = true;
        let Some(message) = entry.message.clone() else {
            return Ok(());
        };
        let raw = lapin::Channel::clone(channel);
        let mut confirm: Confirm = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: message.mandatory,
                immediate: false,
            };
            let sent = raw.basic_publish(
                message.exchange.clone(),
                message.routing_key.clone(),
                options,
                &message.body,
                message.properties.clone(),
            );
            sent.await?.await
        });
        let mut arrivals = lock(&self.0.arrivals);
        if !channel.is_open() {
            entry.handed = entry.doubtful;
            return Err(entry);
        }
        // Takes the delivery tag and queues the frames. What wakes it before the collector has
        // looked at it is not missed: the collector polls every newcomer.
        let step = match confirm
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Pending => Step::Open(confirm),
            Poll::Ready(verdict) => Step::Done(Box::new(verdict)),
        };
        arrivals.push(Arrival { entry, step });
        drop(arrivals);
        self.0.ready.bell.notify_one();
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.orphaned.store(true, Ordering::Release);
        self.0.ready.bell.notify_one();
    }
}

struct Returned {
    code: u16,
    text: String,
}

/// Acknowledged with another's return; decided when all up to this number have completed.
struct Undecided {
    entry: Entry,
    until: u64,
}

struct Open {
    entry: Entry,
    number: u64,
    confirm: Confirm,
}

/// The collector's books.
struct Ledger {
    desk: Arc<Desk>,
    places: Vec<(Option<Open>, Waker)>,
    free: Vec<usize>,
    open: usize,
    /// Which messages have completed, from number `completed` on, in the order they were sent.
    done: VecDeque<bool>,
    /// All with a lower number have completed.
    completed: u64,
    /// Completed, and not decided.
    results: Vec<(Entry, Verdict)>,
    undecided: VecDeque<Undecided>,
    returned: HashMap<String, Vec<Returned>>,
    lost: Vec<Entry>,
    next_deadline: Option<Instant>,
}

impl Ledger {
    fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            places: Vec::new(),
            free: Vec::new(),
            open: 0,
            done: VecDeque::new(),
            completed: 0,
            results: Vec::new(),
            undecided: VecDeque::new(),
            returned: HashMap::new(),
            lost: Vec::new(),
            next_deadline: None,
        }
    }

    async fn run(mut self) {
        let mut woken = Vec::new();
        loop {
            // To the end of both: a return may hang on any confirm that has completed.
            while self.poll_ready(&mut woken) | self.take_arrivals() {}
            self.decide();
            if self.open == 0 && self.undecided.is_empty() {
                // The last handle: the broker's side ends with it.
                drop(lock(&self.desk.kept).take());
            }
            if self.is_over() {
                return;
            }
            let alarm = self.next_deadline;
            tokio::select! {
                () = self.desk.ready.bell.notified() => {}
                () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {
                    self.expire();
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.desk.orphaned.load(Ordering::Acquire)
            && self.open == 0
            && self.undecided.is_empty()
            && lock(&self.desk.arrivals).is_empty()
    }

    fn poll_ready(&mut self, woken: &mut Vec<usize>) -> bool {
        std::mem::swap(&mut *lock(&self.desk.ready.places), woken);
        let any = !woken.is_empty();
        for place in woken.drain(..) {
            self.poll(place);
        }
        any
    }

    fn take_arrivals(&mut self) -> bool {
        let arrivals = std::mem::take(&mut *lock(&self.desk.arrivals));
        let any = !arrivals.is_empty();
        for arrival in arrivals {
            self.admit(arrival);
        }
        any
    }

    fn admit(&mut self, Arrival { entry, step }: Arrival) {
        let number = self.completed + self.done.len() as u64;
        let deadline = entry.deadline;
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |d| d.min(deadline)));
        match step {
            Step::Done(verdict) => {
                self.done.push_back(true);
                self.results.push((entry, *verdict));
                self.advance();
            }
            Step::Open(confirm) => {
                self.done.push_back(false);
                self.open += 1;
                let place = self.place();
                self.places[place].0 = Some(Open {
                    entry,
                    number,
                    confirm,
                });
                self.poll(place);
            }
        }
    }

    fn place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let place = self.places.len();
            let bell = Bell {
                place,
                ready: Arc::clone(&self.desk.ready),
            };
            self.places.push((None, Waker::from(Arc::new(bell))));
            place
        })
    }

    fn poll(&mut self, place: usize) {
        let (slot, waker) = &mut self.places[place];
        // The place's last message may have been woken twice.
        let Some(open) = slot else { return };
        let mut context = Context::from_waker(waker);
        let Poll::Ready(verdict) = open.confirm.as_mut().poll(&mut context) else {
            return;
        };
        let open = slot.take().expect("bug: it was there above");
        self.free.push(place);
        self.open -= 1;
        let at = usize::try_from(open.number - self.completed).expect("bug: too many are open");
        self.done[at] = true;
        self.results.push((open.entry, verdict));
        self.advance();
    }

    fn advance(&mut self) {
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.completed += 1;
        }
    }

    /// Everything that has completed is known.
    fn decide(&mut self) {
        let mut results = std::mem::take(&mut self.results);
        let mut judged = Vec::with_capacity(results.len());
        for (entry, verdict) in results.drain(..) {
            judged.push(self.file(entry, verdict));
        }
        self.results = results;
        let mut broken = false;
        for (entry, verdict) in judged {
            broken |= matches!(verdict, Word::Lost(_));
            self.judge(entry, verdict);
        }
        self.reconsider(broken);
        if self.open == 0 && self.undecided.is_empty() {
            self.returned.clear();
        }
        if !self.lost.is_empty() {
            again::publish(std::mem::take(&mut self.lost));
        }
    }

    /// Puts the returned message, if one is attached, where its owner finds it.
    fn file(&mut self, entry: Entry, verdict: Verdict) -> (Entry, Word) {
        let word = match verdict {
            Ok(Confirmation::Ack(attached)) => {
                let own = attached
                    .as_ref()
                    .is_none_or(|a| id_of(a) == Some(&entry.id));
                self.keep(attached);
                if own {
                    Word::Ack
                } else {
                    Word::AckWithAnothers
                }
            }
            Ok(Confirmation::Nack(attached)) => {
                self.keep(attached);
                Word::Nack
            }
            Ok(Confirmation::NotRequested) => Word::Lost(None),
            Err(error) => Word::Lost(Some(error)),
        };
        (entry, word)
    }

    fn keep(&mut self, attached: Option<BasicReturnMessage>) {
        let Some(message) = attached else { return };
        if let Some(id) = id_of(&message) {
            let returned = Returned {
                code: message.reply_code,
                text: message.reply_text.to_string(),
            };
            self.returned
                .entry(id.to_owned())
                .or_default()
                .push(returned);
        }
    }

    fn judge(&mut self, mut entry: Entry, word: Word) {
        match word {
            Word::Nack => {
                entry.settle(Fate::Rejected);
                self.count_rejection();
            }
            Word::Lost(error) => self.lose(entry, error),
            Word::Ack | Word::AckWithAnothers => {
                self.desk.rejections.store(0, Ordering::Relaxed);
                if let Some(fate) = self.find_return(&entry) {
                    entry.settle(fate);
                } else if entry.mandatory && matches!(word, Word::AckWithAnothers) {
                    let until = self.completed + self.done.len() as u64;
                    self.undecided.push_back(Undecided { entry, until });
                } else {
                    entry.settle(Fate::Confirmed);
                }
            }
        }
    }

    fn find_return(&mut self, entry: &Entry) -> Option<Fate> {
        if !entry.mandatory || self.returned.is_empty() {
            return None;
        }
        let same = self.returned.get_mut(&entry.id)?;
        let Returned { code, text } = same.pop()?;
        if same.is_empty() {
            self.returned.remove(&entry.id);
        }
        Some(Fate::Returned { code, text })
    }

    fn reconsider(&mut self, broken: bool) {
        for mut waiting in std::mem::take(&mut self.undecided) {
            if let Some(fate) = self.find_return(&waiting.entry) {
                waiting.entry.settle(fate);
            } else if broken {
                // Its return may have gone with the channel.
                self.lose(waiting.entry, None);
            } else if self.completed >= waiting.until {
                waiting.entry.settle(Fate::Confirmed);
            } else {
                self.undecided.push_back(waiting);
            }
        }
    }

    fn lose(&mut self, mut entry: Entry, error: Option<lapin::Error>) {
        if entry.is_settled() {
            return;
        }
        if let Some(cause) = error
            && let lapin::ErrorKind::ProtocolError(_) = cause.kind()
        {
            entry.exceptions += 1;
            if entry
                .message
                .as_ref()
                .is_some_and(|message| again::blames(&cause, message))
            {
                let id = entry.id.clone();
                // None of its copies can have arrived: there is nowhere to.
                entry.settle(Fate::NotSent(super::PublishError::Refused { id, cause }));
                return;
            }
        }
        entry.doubtful = true;
        self.lost.push(entry);
    }

    fn count_rejection(&self) {
        if self.desk.rejections.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.desk.retired.store(true, Ordering::Relaxed);
        }
    }

    /// Answers those whose time is up. They keep their place in the window until their verdict or
    /// the end of the channel; a channel that owes one for long is given up.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut given_up = false;
        let open = self.places.iter_mut().filter_map(|(open, _)| open.as_mut());
        let open = open.map(|open| &mut open.entry);
        let undecided = self.undecided.iter_mut().map(|waiting| &mut waiting.entry);
        for entry in open.chain(undecided) {
            if entry.deadline > now {
                next = Some(next.map_or(entry.deadline, |next| next.min(entry.deadline)));
            } else {
                entry.settle(Fate::Unknown);
                self.desk.retired.store(true, Ordering::Relaxed);
                let last = entry.deadline + entry.home.deadline;
                if last > now {
                    next = Some(next.map_or(last, |next| next.min(last)));
                } else {
                    given_up = true;
                }
            }
        }
        self.next_deadline = next;
        let kept = given_up.then(|| lock(&self.desk.kept).take()).flatten();
        if let Some(channel) = kept {
            // Its open confirms end with it, and their places in the window are free.
            io::spawn(async move {
                let limit = std::time::Duration::from_secs(30);
                let farewell = channel.close(200, "confirms are overdue".into());
                let _ = tokio::time::timeout(limit, farewell).await;
            });
        }
    }
}

enum Word {
    Ack,
    AckWithAnothers,
    Nack,
    Lost(Option<lapin::Error>),
}

fn id_of(message: &BasicReturnMessage) -> Option<&str> {
    let id = message.properties.message_id().as_ref()?;
    Some(id.as_str())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
