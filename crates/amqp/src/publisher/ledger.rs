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
//! So everything that has completed is taken in before anything is decided, and in the second case
//! the message is left open until its return turns up or all of those have completed.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use lapin::{Confirmation, PublisherConfirm, message::BasicReturnMessage};
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

use super::{
    again::{self, Part},
    entry::{Cause, Entry, Fate},
};

/// How many at most are kept to be used again: what is written at once is seldom more.
const SPARE: usize = 64;

/// How many callers get their verdicts before what others submitted meanwhile goes out: the broker is
/// not to run dry.
const LOT: RangeInclusive<usize> = 16..=128;

/// The same as a share of what is under way: with a large window it does not run dry that soon, and
/// each write costs as much as several messages.
const SHARE: usize = 8;

type Verdict = lapin::Result<Confirmation>;
/// A publish until its frames are written.
pub(super) type Sending = ReusableBoxFuture<'static, lapin::Result<PublisherConfirm>>;

/// Makes the bells of places.
pub(super) struct Founder {
    /// Whose ring says that the confirm at this place is to be polled.
    pub(super) of_place: Box<dyn Fn(usize) -> Waker + Send>,
    /// Of all whose frames are not written yet.
    pub(super) of_writes: Waker,
}

pub(super) struct Ledger {
    founder: Founder,
    places: Vec<Place>,
    free: Vec<usize>,
    open: usize,
    /// Ended, to be used again: a publish takes more room than allocators keep at hand.
    spare: Vec<Sending>,
    /// The places of those whose frames are not known to be written, in the order they were sent.
    sending: VecDeque<usize>,
    /// Which messages have completed, from number `completed` on, in the order they were sent.
    done: VecDeque<bool>,
    /// All with a lower number have completed.
    completed: u64,
    /// Completed, and not decided.
    results: VecDeque<(Box<Entry>, Word)>,
    /// Some were lost, and returned messages perhaps with them.
    broken: bool,
    undecided: VecDeque<Undecided>,
    returned: HashMap<Address, Vec<Returned>>,
    /// When the earliest deadline of those that are open passes, or earlier.
    alarm: Option<Instant>,
}

/// Where a confirm is open, or was.
struct Place {
    bell: Waker,
    open: Option<Open>,
}

struct Open {
    entry: Box<Entry>,
    number: u64,
    stage: Stage,
}

enum Stage {
    Sending(Sending),
    Written(PublisherConfirm),
}

/// Acknowledged with another's return; decided when all up to this number have completed.
struct Undecided {
    entry: Box<Entry>,
    until: u64,
}

struct Returned {
    code: u16,
    text: String,
}

enum Word {
    Ack,
    AckWithAnothers,
    Nack,
    Lost(Option<lapin::Error>),
}

/// What passed deadlines call for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    None,
    /// Nothing more is to go out on this channel.
    Some,
    /// It owes a confirm for so long that it is to be closed.
    Hopeless,
}

impl Ledger {
    pub(super) fn new(founder: Founder) -> Self {
        Self {
            founder,
            places: Vec::new(),
            free: Vec::new(),
            open: 0,
            spare: Vec::new(),
            sending: VecDeque::new(),
            done: VecDeque::new(),
            completed: 0,
            results: VecDeque::new(),
            broken: false,
            undecided: VecDeque::new(),
            returned: HashMap::new(),
            alarm: None,
        }
    }

    /// Whether everything is decided.
    pub(super) fn is_empty(&self) -> bool {
        self.open == 0 && self.results.is_empty() && self.undecided.is_empty()
    }

    /// When to look for passed deadlines.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    /// Polls a publish for the first time, which takes the delivery tag and queues the frames.
    pub(super) fn admit(&mut self, entry: Box<Entry>, mut sending: Sending) {
        let mut context = Context::from_waker(&self.founder.of_writes);
        let polled = sending.poll(&mut context);
        let stage = match polled {
            Poll::Pending => Stage::Sending(sending),
            Poll::Ready(Ok(confirm)) => Stage::Written(confirm),
            Poll::Ready(Err(error)) => {
                self.done.push_back(true);
                self.file(entry, Err(error));
                return self.advance();
            }
        };
        let number = self.completed + self.done.len() as u64;
        self.done.push_back(false);
        self.open += 1;
        let alarm = self.alarm.get_or_insert(entry.deadline);
        *alarm = (*alarm).min(entry.deadline);
        let at = self.free.pop().unwrap_or_else(|| self.found());
        let is_written = matches!(stage, Stage::Written(_));
        self.places[at].open = Some(Open {
            entry,
            number,
            stage,
        });
        if is_written {
            self.poll(at);
        } else {
            self.sending.push_back(at);
        }
    }

    /// Room for a publish, if there is some from one that ended.
    pub(super) fn spare(&mut self) -> Option<Sending> {
        self.spare.pop()
    }

    fn keep_spare(&mut self, ended: Sending) {
        if self.spare.len() < SPARE {
            self.spare.push(ended);
        }
    }

    fn found(&mut self) -> usize {
        let at = self.places.len();
        let bell = (self.founder.of_place)(at);
        self.places.push(Place { bell, open: None });
        at
    }

    /// Takes note of those whose frames are written, which they are in the order they were sent; from
    /// then on their own bells ring. Says whether there were any.
    pub(super) fn take_in_written(&mut self) -> bool {
        let mut any = false;
        while let Some(&at) = self.sending.front() {
            let open = self.places[at].open.as_mut();
            let Some(Stage::Sending(sending)) = open.map(|open| &mut open.stage) else {
                unreachable!("bug: a place in the row of those that are sent is of another");
            };
            let mut context = Context::from_waker(&self.founder.of_writes);
            let Poll::Ready(written) = sending.poll(&mut context) else {
                break;
            };
            any = true;
            self.sending.pop_front();
            match written {
                Ok(confirm) => {
                    if let Some(open) = &mut self.places[at].open {
                        let stage = mem::replace(&mut open.stage, Stage::Written(confirm));
                        if let Stage::Sending(ended) = stage {
                            self.keep_spare(ended);
                        }
                    }
                    self.poll(at);
                }
                Err(error) => self.complete(at, Err(error)),
            }
        }
        any
    }

    /// Whether the first whose frames are being written was sent right behind one whose confirm is
    /// open. The broker usually confirms in order, so that one's bell will do for both.
    pub(super) fn is_in_flow(&self) -> bool {
        let first = self.sending.front();
        let first = first.and_then(|&at| self.places[at].open.as_ref());
        first.is_some_and(|first| {
            let before = self.index(first.number).checked_sub(1);
            before.is_some_and(|before| !self.done[before])
        })
    }

    /// Whether frames are not known to be written.
    pub(super) fn is_sending(&self) -> bool {
        !self.sending.is_empty()
    }

    /// The confirm at this place may have completed.
    pub(super) fn poll(&mut self, at: usize) {
        let Place { bell, open } = &mut self.places[at];
        // The last one here may have rung twice.
        let Some(Open {
            stage: Stage::Written(confirm),
            ..
        }) = open
        else {
            return;
        };
        if let Poll::Ready(verdict) = Pin::new(confirm).poll(&mut Context::from_waker(bell)) {
            self.complete(at, verdict);
        }
    }

    fn complete(&mut self, at: usize, verdict: Verdict) {
        let Some(Open { entry, number, .. }) = self.places[at].open.take() else {
            return;
        };
        self.free.push(at);
        self.open -= 1;
        let index = self.index(number);
        self.done[index] = true;
        self.file(entry, verdict);
        self.advance();
    }

    /// Where `done` has this message.
    fn index(&self, number: u64) -> usize {
        usize::try_from(number - self.completed).expect("bug: too many are open")
    }

    fn advance(&mut self) {
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.completed += 1;
        }
    }

    /// Puts the returned message, if one is attached, where its owner finds it.
    fn file(&mut self, entry: Box<Entry>, verdict: Verdict) {
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
        self.broken |= matches!(word, Word::Lost(_));
        self.results.push_back((entry, word));
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

    /// Everything that has completed was taken in. Tells the fates of some messages; that of one whose
    /// channel was lost is none. Says whether there are more.
    pub(super) fn decide(&mut self, mut tell: impl FnMut(Box<Entry>, Option<Fate>)) -> bool {
        let under_way = self.open + self.results.len();
        for _ in 0..(under_way / SHARE).clamp(*LOT.start(), *LOT.end()) {
            let Some((entry, word)) = self.results.pop_front() else {
                break;
            };
            self.judge(entry, word, &mut tell);
        }
        self.reconsider(&mut tell);
        if self.is_empty() {
            self.returned.clear();
        }
        !self.results.is_empty()
    }

    fn judge(
        &mut self,
        entry: Box<Entry>,
        word: Word,
        tell: &mut impl FnMut(Box<Entry>, Option<Fate>),
    ) {
        match word {
            Word::Nack => tell(entry, Some(Fate::Rejected)),
            Word::Lost(error) => lose(entry, error, tell),
            Word::Ack | Word::AckWithAnothers => {
                if let Some(fate) = self.find_return(&entry) {
                    tell(entry, Some(fate));
                } else if entry.mandatory && matches!(word, Word::AckWithAnothers) {
                    let until = self.completed + self.done.len() as u64;
                    self.undecided.push_back(Undecided { entry, until });
                } else {
                    tell(entry, Some(Fate::Confirmed));
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

    fn reconsider(&mut self, tell: &mut impl FnMut(Box<Entry>, Option<Fate>)) {
        for waiting in mem::take(&mut self.undecided) {
            if let Some(fate) = self.find_return(&waiting.entry) {
                tell(waiting.entry, Some(fate));
            } else if self.broken {
                // Its return may have gone with the channel.
                lose(waiting.entry, None, tell);
            } else if self.completed >= waiting.until {
                tell(waiting.entry, Some(Fate::Confirmed));
            } else {
                self.undecided.push_back(waiting);
            }
        }
    }

    /// Answers those whose time is up. They keep their place in the window until their verdict or the
    /// end of the channel.
    pub(super) fn expire(&mut self, now: Instant) -> Overdue {
        if self.alarm.is_none_or(|alarm| alarm > now) {
            return Overdue::None;
        }
        self.alarm = None;
        let mut overdue = Overdue::None;
        let open = self
            .places
            .iter_mut()
            .filter_map(|place| place.open.as_mut());
        let open = open.map(|open| &mut open.entry);
        let undecided = self.undecided.iter_mut().map(|waiting| &mut waiting.entry);
        for entry in open.chain(undecided) {
            let mut until = entry.deadline;
            if until <= now {
                entry.settle(Fate::Unknown);
                until += entry.home.deadline;
                if overdue == Overdue::None {
                    overdue = Overdue::Some;
                }
            }
            if until > now {
                let alarm = self.alarm.get_or_insert(until);
                *alarm = (*alarm).min(until);
            } else {
                overdue = Overdue::Hopeless;
            }
        }
        overdue
    }
}

fn lose(
    mut entry: Box<Entry>,
    error: Option<lapin::Error>,
    tell: &mut impl FnMut(Box<Entry>, Option<Fate>),
) {
    if entry.is_settled() {
        return;
    }
    if let (Some(cause), Some(message)) = (error, &entry.message) {
        match again::part(&cause, message) {
            Part::None => {}
            Part::Perhaps => entry.exceptions += 1,
            // This copy has not arrived; an earlier one may have.
            Part::Cause => return tell(entry, Some(Fate::NotSent(Cause::Refused(cause)))),
        }
    }
    entry.doubtful = true;
    tell(entry, None);
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
