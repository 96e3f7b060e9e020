//! What one sender has sent, and what has become of it.

use std::collections::VecDeque;

use super::Violation;
use crate::wire::{Epoch, Hello, Limits, Packets, Receipt, Rejected, Welcome, weight};

/// Lives of a sender that are remembered. One that is forgotten may have packets handled again, which
/// only a process can bring about that lives on while others of its name come and go.
pub(crate) const LIVES: usize = 4;

/// Rejections told in one word, so that it is no larger than a frame.
const REJECTIONS: usize = 200;

/// What is known of one sender.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Our own.
    receiver: Epoch,
    limits: Limits,
    /// The last is listened to: it has said hello last.
    lives: Vec<Life>,
}

/// What is known of one life of the sender.
#[derive(Debug)]
struct Life {
    epoch: Epoch,
    /// The number of its connection that is listened to.
    connection: u64,
    /// The number that is due next.
    next: u64,
    /// Everything below is handled. `next - handled` packets wait.
    handled: u64,
    /// Those that were rejected, and of which the sender has not said that it knows. As many as the
    /// window holds, at most, for that begins where its knowledge ends.
    rejected: VecDeque<Rejected>,
    /// How many of these were told on this connection. The others are told with the next receipt.
    told: usize,
    /// The weight of those that wait for the handler, or are with it.
    waiting: u64,
}

/// What a hello comes to.
#[derive(Debug)]
pub(crate) enum Greeted {
    Welcome {
        welcome: Welcome,
        /// The other life of the sender that was listened to before.
        replaces: Option<Epoch>,
    },
    /// It is late: its connection has been followed by another.
    Late,
    /// Packets of too many lives before this one wait for the handler.
    Crowded,
}

/// Packets that came, without those that were there before.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// Nothing is new, or it comes from a life of the sender that is not listened to.
    Known,
    /// These are to be handled, in order.
    New(Packets),
}

impl Inbound {
    pub(crate) fn new(receiver: Epoch, limits: Limits) -> Self {
        Self {
            receiver,
            limits,
            lives: Vec::with_capacity(LIVES),
        }
    }

    /// Packets that have come and are not handled.
    pub(crate) fn unhandled(&self) -> usize {
        self.lives.iter().map(Life::unhandled).sum()
    }

    /// The sender has a new connection, or a new life.
    pub(crate) fn hello(&mut self, hello: &Hello) -> Greeted {
        let before = self.lives.last().map(|life| life.epoch);
        let replaces = before.filter(|epoch| *epoch != hello.epoch);
        let place = self.lives.iter().position(|life| life.epoch == hello.epoch);
        let life = match place {
            Some(place) if self.lives[place].connection >= hello.connection => {
                return Greeted::Late;
            }
            Some(place) => self.lives.remove(place),
            None if self.is_crowded() => return Greeted::Crowded,
            None => Life::new(hello),
        };
        self.lives.push(life);
        let receiver = self.receiver;
        let limits = self.limits;
        let life = self.lives.last_mut().expect("bug: it is there");
        life.connection = hello.connection;
        life.forget(hello.base);
        life.told = 0;
        let welcome = Welcome {
            receiver,
            next: life.next,
            receipt: life.tell(),
            limits,
        };
        Greeted::Welcome { welcome, replaces }
    }

    /// Whether there is no place for a further life. Of those that are there the oldest one goes whose
    /// packets are all handled.
    fn is_crowded(&mut self) -> bool {
        if self.lives.len() == LIVES
            && let Some(done) = self.lives.iter().position(|life| life.unhandled() == 0)
        {
            self.lives.remove(done);
        }
        self.lives.len() == LIVES
    }

    pub(crate) fn packets(&mut self, mut packets: Packets) -> Result<Arrived, Violation> {
        let limits = self.limits;
        let Some(life) = self.listened_to(packets.epoch) else {
            return Ok(Arrived::Known);
        };
        life.forget(packets.base);
        if packets.first > life.next {
            return Err(Violation::Gap {
                expected: life.next,
                found: packets.first,
            });
        }
        while packets.first < life.next {
            if packets.next().is_none() {
                return Ok(Arrived::Known);
            }
        }
        if packets.len() == 0 {
            return Ok(Arrived::Known);
        }
        life.admit(&packets, limits)?;
        Ok(Arrived::New(packets))
    }

    /// The handler is done with the oldest packet of this life that waited.
    pub(crate) fn handled(&mut self, epoch: Epoch, size: usize, outcome: Result<(), String>) {
        let life = self.lives.iter_mut().find(|life| life.epoch == epoch);
        let life = life.expect("bug: a life with packets is remembered");
        life.handled(size, outcome);
    }

    /// What the sender is to be told, if it is this life of it that is listened to. There may be
    /// [more](Self::has_more).
    pub(crate) fn receipt(&mut self, epoch: Epoch) -> Option<Receipt> {
        self.listened_to(epoch).map(Life::tell)
    }

    /// Whether what was told last did not have room for all of it.
    pub(crate) fn has_more(&self) -> bool {
        let life = self.lives.last();
        life.is_some_and(|life| life.told < life.rejected.len())
    }

    fn listened_to(&mut self, epoch: Epoch) -> Option<&mut Life> {
        self.lives.last_mut().filter(|life| life.epoch == epoch)
    }
}

impl Life {
    fn new(hello: &Hello) -> Self {
        Self {
            epoch: hello.epoch,
            connection: hello.connection,
            next: hello.base,
            handled: hello.base,
            rejected: VecDeque::new(),
            told: 0,
            waiting: 0,
        }
    }

    fn unhandled(&self) -> usize {
        (self.next - self.handled) as usize
    }

    fn admit(&mut self, packets: &Packets, limits: Limits) -> Result<(), Violation> {
        let largest = packets.largest();
        if largest > limits.packet as usize {
            return Err(Violation::TooLarge(largest));
        }
        let is_alone = self.handled == self.next && packets.len() == 1;
        let end = self.next + u64::from(packets.len());
        let weight: u64 = packets.sizes().map(|size| weight(size) as u64).sum();
        let has_place = is_alone || self.waiting + weight <= limits.window_bytes;
        // Whatever the sender says, it cannot know of what is not handled.
        let known = packets.base.min(self.handled);
        if end - known > limits.window.into() || !has_place {
            return Err(Violation::Overrun);
        }
        self.next = end;
        self.waiting += weight;
        Ok(())
    }

    fn handled(&mut self, size: usize, outcome: Result<(), String>) {
        debug_assert!(self.handled < self.next, "what was handled had arrived");
        if let Err(reason) = outcome {
            self.rejected.push_back(Rejected {
                number: self.handled,
                reason,
            });
        }
        self.handled += 1;
        self.waiting -= weight(size) as u64;
    }

    fn tell(&mut self) -> Receipt {
        let untold = self.rejected.range(self.told..);
        let rejected: Vec<_> = untold.take(REJECTIONS).cloned().collect();
        self.told += rejected.len();
        // Beyond a rejection that is not told, what is handled would pass for accepted.
        let next = self.rejected.get(self.told);
        Receipt {
            epoch: self.epoch,
            handled: next.map_or(self.handled, |next| next.number),
            rejected,
        }
    }

    /// The sender knows of everything below this number.
    fn forget(&mut self, base: u64) {
        if base > self.next && self.handled == self.next {
            // It has given up what lies between: it was for another life of ours.
            self.next = base;
            self.handled = base;
        }
        while self.rejected.front().is_some_and(|each| each.number < base) {
            self.rejected.pop_front();
            self.told = self.told.saturating_sub(1);
        }
    }
}
