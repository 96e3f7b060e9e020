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
    any::Any,
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use lapin::{Confirmation, message::BasicReturnMessage, options::BasicPublishOptions};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    again::{self, Part},
    entry::{Cause, Entry, Fate},
};
use crate::{channels::Channel, io, message::Wire};

type Verdict = lapin::Result<Confirmation>;
type Confirm = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A channel as old as this is left for another when a message on it is rejected. When a quorum queue
/// loses its leader, a channel that first publishes to it before there is another has everything
/// for that queue rejected for as long as it is open; a new one is served (RabbitMQ 3.10.8).
const RENEWAL: Duration = Duration::from_secs(1);

/// The channel's end of its collector: the collector ends with it, when nothing is open.
pub(super) struct Collector(Arc<Desk>);

struct Desk {
    /// Held for the first poll of each publish, so that who holds it knows of every message whose
    /// frames may have been sent.
    arrivals: Mutex<Arrivals>,
    ready: Arc<Ready>,
    /// No more messages are to go out on this channel.
    retired: AtomicBool,
    /// The channel has no holder any more.
    orphaned: AtomicBool,
    began: Instant,
    /// The channel itself when it is retired, until nothing is open on it.
    kept: Mutex<Option<Channel>>,
}

/// What the collector has not heard of yet, and what it takes to be heard.
#[derive(Default)]
struct Arrivals {
    new: Vec<Arrival>,
    /// One for each place that an open confirm has or had.
    bells: Vec<Waker>,
    free: Vec<usize>,
    /// When the collector wakes by itself.
    alarm: Option<Instant>,
}

struct Arrival {
    entry: Entry,
    place: usize,
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
        let new = || -> Box<dyn Any + Send + Sync> { Box::new(Self::start(channel.raw())) };
        let extension = channel.extension().get_or_init(new);
        extension
            .downcast_ref()
            .expect("bug: another extension of a channel")
    }

    fn start(channel: &Arc<lapin::Channel>) -> Self {
        let desk = Arc::new(Desk {
            arrivals: Mutex::default(),
            ready: Arc::default(),
            retired: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
            began: Instant::now(),
            kept: Mutex::default(),
        });
        io::spawn(Ledger::new(Arc::clone(&desk), Arc::clone(channel)).run());
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
    pub(super) fn launch(
        &self,
        channel: &Channel,
        mut entry: Entry,
        wire: Option<Wire>,
    ) -> Result<(), Entry> {
        entry.handed = true;
        let Some(message) = entry.message.clone() else {
            return Ok(());
        };
        let wire = wire.unwrap_or_else(|| message.wire());
        let raw = Arc::clone(channel.raw());
        let mut confirm: Confirm = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: message.mandatory,
                immediate: false,
            };
            let sent = raw.basic_publish(
                wire.exchange,
                wire.routing_key,
                options,
                message.body(),
                wire.properties,
            );
            sent.await?.await
        });
        let mut arrivals = lock(&self.0.arrivals);
        if !channel.is_open() {
            entry.handed = entry.doubtful;
            return Err(entry);
        }
        let place = arrivals.place(&self.0.ready);
        // Takes the delivery tag and queues the frames. A bell that rings before the collector has
        // heard of the message is not missed: it takes in bells and newcomers under one lock.
        let mut context = Context::from_waker(&arrivals.bells[place]);
        let step = match confirm.as_mut().poll(&mut context) {
            Poll::Pending => Step::Open(confirm),
            Poll::Ready(verdict) => Step::Done(Box::new(verdict)),
        };
        let rings = arrivals.is_urgent(&entry) || matches!(step, Step::Done(_));
        arrivals.new.push(Arrival { entry, place, step });
        drop(arrivals);
        if rings {
            self.0.ready.bell.notify_one();
        }
        Ok(())
    }
}

impl Arrivals {
    fn place(&mut self, ready: &Arc<Ready>) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let place = self.bells.len();
            let ready = Arc::clone(ready);
            self.bells
                .push(Waker::from(Arc::new(Bell { place, ready })));
            place
        })
    }

    /// Whether the collector would sleep for longer than this message may wait.
    fn is_urgent(&mut self, entry: &Entry) -> bool {
        let is_urgent = self.alarm.is_none_or(|alarm| entry.deadline < alarm);
        if is_urgent {
            self.alarm = Some(entry.deadline);
        }
        is_urgent
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
    channel: Arc<lapin::Channel>,
    places: Vec<Option<Open>>,
    bells: Vec<Waker>,
    free: Vec<usize>,
    open: usize,
    /// Which messages have completed, from number `completed` on, in the order they were sent.
    done: VecDeque<bool>,
    /// All with a lower number have completed.
    completed: u64,
    /// Completed, and not decided.
    results: Vec<(Entry, Word)>,
    undecided: VecDeque<Undecided>,
    returned: HashMap<Address, Vec<Returned>>,
    lost: Vec<Entry>,
}

impl Ledger {
    fn new(desk: Arc<Desk>, channel: Arc<lapin::Channel>) -> Self {
        Self {
            desk,
            channel,
            places: Vec::new(),
            bells: Vec::new(),
            free: Vec::new(),
            open: 0,
            done: VecDeque::new(),
            completed: 0,
            results: Vec::new(),
            undecided: VecDeque::new(),
            returned: HashMap::new(),
            lost: Vec::new(),
        }
    }

    async fn run(mut self) {
        let (mut arrived, mut rung) = (Vec::new(), Vec::new());
        loop {
            // To the end: a return may hang on any confirm that has completed.
            while self.take(&mut arrived, &mut rung) {}
            self.decide();
            if self.open == 0 && self.undecided.is_empty() {
                // The last handle: the broker's side ends with it.
                drop(lock(&self.desk.kept).take());
            }
            if self.is_over() {
                return;
            }
            let alarm = lock(&self.desk.arrivals).alarm;
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
            && lock(&self.desk.arrivals).new.is_empty()
    }

    /// Takes in newcomers and what has completed. Says whether there was anything.
    fn take(&mut self, arrived: &mut Vec<Arrival>, rung: &mut Vec<usize>) -> bool {
        let mut arrivals = lock(&self.desk.arrivals);
        std::mem::swap(&mut arrivals.new, arrived);
        std::mem::swap(&mut *lock(&self.desk.ready.places), rung);
        arrivals.free.append(&mut self.free);
        let known = self.bells.len();
        self.bells.extend_from_slice(&arrivals.bells[known..]);
        drop(arrivals);
        self.places.resize_with(self.bells.len(), || None);
        let any = !arrived.is_empty() || !rung.is_empty();
        arrived.drain(..).for_each(|arrival| self.admit(arrival));
        rung.drain(..).for_each(|place| self.poll(place));
        any
    }

    fn admit(&mut self, Arrival { entry, place, step }: Arrival) {
        let number = self.completed + self.done.len() as u64;
        match step {
            Step::Done(verdict) => {
                self.done.push_back(true);
                self.free.push(place);
                self.file(entry, *verdict);
                self.advance();
            }
            Step::Open(confirm) => {
                self.done.push_back(false);
                self.open += 1;
                self.places[place] = Some(Open {
                    entry,
                    number,
                    confirm,
                });
            }
        }
    }

    fn poll(&mut self, place: usize) {
        let slot = &mut self.places[place];
        // The place's last message may have been woken twice.
        let Some(open) = slot else { return };
        let mut context = Context::from_waker(&self.bells[place]);
        let Poll::Ready(verdict) = open.confirm.as_mut().poll(&mut context) else {
            return;
        };
        let open = slot.take().expect("bug: it was there above");
        self.free.push(place);
        self.open -= 1;
        let at = usize::try_from(open.number - self.completed).expect("bug: too many are open");
        self.done[at] = true;
        self.file(open.entry, verdict);
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
        let mut broken = false;
        for (entry, word) in results.drain(..) {
            broken |= matches!(word, Word::Lost(_));
            self.judge(entry, word);
        }
        self.results = results;
        self.reconsider(broken);
        if self.open == 0 && self.undecided.is_empty() {
            self.returned.clear();
        }
        if !self.lost.is_empty() {
            again::publish(std::mem::take(&mut self.lost));
        }
    }

    /// Puts the returned message, if one is attached, where its owner finds it.
    fn file(&mut self, entry: Entry, verdict: Verdict) {
        let word = match verdict {
            Ok(Confirmation::Ack(attached)) => {
                let own = attached
                    .as_ref()
                    .is_none_or(|message| Address::of_returned(message) == Address::of(&entry));
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
        self.results.push((entry, word));
    }

    fn keep(&mut self, attached: Option<BasicReturnMessage>) {
        let Some(message) = attached else { return };
        if let Some(address) = Address::of_returned(&message) {
            let returned = Returned {
                code: message.reply_code,
                text: message.reply_text.to_string(),
            };
            self.returned.entry(address).or_default().push(returned);
        }
    }

    fn judge(&mut self, mut entry: Entry, word: Word) {
        match word {
            Word::Nack => {
                entry.settle(Fate::Rejected);
                let is_old = self.desk.began.elapsed() >= RENEWAL;
                if is_old && !self.desk.retired.swap(true, Ordering::Relaxed) {
                    entry.home.told.channel_left();
                }
            }
            Word::Lost(error) => self.lose(entry, error),
            Word::Ack | Word::AckWithAnothers => {
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
        let address = Address::of(entry)?;
        let same = self.returned.get_mut(&address)?;
        let Returned { code, text } = same.pop()?;
        if same.is_empty() {
            self.returned.remove(&address);
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
        if let (Some(cause), Some(message)) = (error, &entry.message) {
            match again::part(&cause, message) {
                Part::None => {}
                Part::Perhaps => entry.exceptions += 1,
                Part::Cause => {
                    // This copy has not arrived; an earlier one may have.
                    entry.settle(Fate::NotSent(Cause::Refused(cause)));
                    return;
                }
            }
        }
        entry.doubtful = true;
        self.lost.push(entry);
    }

    /// Answers those whose time is up. They keep their place in the window until their verdict or
    /// the end of the channel; a channel that owes one for long is given up.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut given_up = false;
        let open = self.places.iter_mut().filter_map(Option::as_mut);
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
        let mut arrivals = lock(&self.desk.arrivals);
        let newcomers = arrivals.new.iter().map(|arrival| arrival.entry.deadline);
        arrivals.alarm = newcomers.chain(next).min();
        drop(arrivals);
        if given_up {
            // Its open confirms end with it, and their places in the window are free.
            let channel = Arc::clone(&self.channel);
            io::spawn(async move {
                let farewell = channel.close(200, "confirms are overdue".into());
                let _ = timeout(Duration::from_secs(30), farewell).await;
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

/// What tells a returned message from others: ids are the user's, and the same may go to several
/// places.
#[derive(PartialEq, Eq, Hash)]
struct Address {
    id: String,
    exchange: String,
    routing_key: String,
}

impl Address {
    fn of_returned(message: &BasicReturnMessage) -> Option<Self> {
        let id = message.properties.message_id().as_ref()?;
        Some(Self {
            id: id.to_string(),
            exchange: message.exchange.to_string(),
            routing_key: message.routing_key.to_string(),
        })
    }

    /// None if it was answered.
    fn of(entry: &Entry) -> Option<Self> {
        let message = entry.message.as_ref()?;
        Some(Self {
            id: message.id().to_owned(),
            exchange: message.exchange().to_owned(),
            routing_key: message.routing_key().to_owned(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
