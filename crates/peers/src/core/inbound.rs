//! What one sender has sent, and what has become of it.

use std::collections::VecDeque;

use super::Violation;
use crate::wire::{Epoch, Hello, Limits, Packets, Receipt, Rejected, Welcome, weight};

/// What is known of one sender.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Our own.
    receiver: Epoch,
    limits: Limits,
    /// The life of the sender that is listened to: that which said hello last.
    epoch: Option<Epoch>,
    /// The number that is due next.
    next: u64,
    /// Everything below is handled. `next - handled` packets wait.
    handled: u64,
    /// Those that were rejected, and of which the sender has not said that it knows. As many as the
    /// window holds, at most, for that begins where its knowledge ends.
    rejected: VecDeque<Rejected>,
    /// How many of these were told on this connection. The others are told with the next receipt.
    told: usize,
    /// The weight of those of this epoch that wait for the handler, or are with it.
    waiting: u64,
}

/// Packets that came, without those that were there before.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// Nothing is new, or it comes from a life of the sender that is over.
    Known,
    /// These are to be handled, in order.
    New(Packets),
}

impl Inbound {
    pub(crate) fn new(receiver: Epoch, limits: Limits) -> Self {
        Self {
            receiver,
            limits,
            epoch: None,
            next: 0,
            handled: 0,
            rejected: VecDeque::new(),
            told: 0,
            waiting: 0,
        }
    }

    /// Whether this is another life of the sender than the one that is listened to.
    pub(crate) fn is_another(&self, epoch: Epoch) -> bool {
        self.epoch.is_some_and(|current| current != epoch)
    }

    /// Packets that have come and are not handled.
    pub(crate) fn unhandled(&self) -> usize {
        (self.next - self.handled) as usize
    }

    /// The sender has a new connection, or a new life.
    pub(crate) fn hello(&mut self, hello: &Hello) -> Welcome {
        if self.epoch != Some(hello.epoch) {
            self.epoch = Some(hello.epoch);
            self.next = hello.base;
            self.handled = hello.base;
            self.rejected.clear();
            self.waiting = 0;
        }
        self.forget(hello.base);
        self.told = 0;
        Welcome {
            receiver: self.receiver,
            next: self.next,
            receipt: self.tell(hello.epoch),
            limits: self.limits,
        }
    }

    pub(crate) fn packets(&mut self, mut packets: Packets) -> Result<Arrived, Violation> {
        if self.epoch != Some(packets.epoch) {
            return Ok(Arrived::Known);
        }
        self.forget(packets.base);
        if packets.first > self.next {
            return Err(Violation::Gap {
                expected: self.next,
                found: packets.first,
            });
        }
        while packets.first < self.next {
            if packets.next().is_none() {
                return Ok(Arrived::Known);
            }
        }
        if packets.len() == 0 {
            return Ok(Arrived::Known);
        }
        self.admit(&packets)?;
        Ok(Arrived::New(packets))
    }

    fn admit(&mut self, packets: &Packets) -> Result<(), Violation> {
        let largest = packets.largest();
        if largest > self.limits.packet as usize {
            return Err(Violation::TooLarge(largest));
        }
        let is_alone = self.handled == self.next && packets.len() == 1;
        let end = self.next + u64::from(packets.len());
        let weight: u64 = packets.sizes().map(|size| weight(size) as u64).sum();
        let has_place = is_alone || self.waiting + weight <= self.limits.window_bytes;
        if end - packets.base > self.limits.window.into() || !has_place {
            return Err(Violation::Overrun);
        }
        self.next = end;
        self.waiting += weight;
        Ok(())
    }

    /// The handler is done with the oldest packet that waited. One of an earlier life concerns nobody.
    pub(crate) fn handled(&mut self, epoch: Epoch, size: usize, outcome: Result<(), String>) {
        if self.epoch != Some(epoch) {
            return;
        }
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

    /// What the sender is to be told, if it is this life of it that is listened to.
    pub(crate) fn receipt(&mut self, epoch: Epoch) -> Option<Receipt> {
        (self.epoch == Some(epoch)).then(|| self.tell(epoch))
    }

    fn tell(&mut self, epoch: Epoch) -> Receipt {
        let untold = self.rejected.range(self.told..).cloned().collect();
        self.told = self.rejected.len();
        Receipt {
            epoch,
            handled: self.handled,
            rejected: untold,
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
