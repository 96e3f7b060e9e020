//! The packets for one receiver, from the moment they have a place in the window until their fate is
//! known.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Violation;
use crate::wire::{Epoch, Hello, Limits, Packed, Packer, Receipt, Welcome, weight};

/// With so many bodies under way, the next waits until it is full, or the oldest of these is handled. A
/// body costs both sides far more than a packet: this gathers many in one where they come fast, and
/// holds none up where they do not.
pub(crate) const BODIES: usize = 4;

/// Who waits for the fate of a packet.
pub(crate) trait Waits {
    /// Nobody does any more.
    fn has_left(&self) -> bool;

    /// The packet is about to be sent.
    fn sent(&self);
}

/// What has become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The handler has accepted it.
    Accepted,
    /// The handler has not, for this reason.
    Rejected(String),
    /// The receiver takes none of this size.
    TooLarge { size: usize, limit: usize },
    /// The receiver is another process than the one that it was sent to.
    Restarted,
    /// It has not left this process, and will not.
    Unsent,
    /// Nobody waits for word of it any more, though it was sent.
    Unknown,
}

/// A packet that is done with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled<W> {
    pub(crate) waits: W,
    pub(crate) fate: Fate,
    /// What it weighed in the window.
    pub(crate) weight: usize,
}

/// What to do with packets that were sent to a receiver that has restarted since.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restarts {
    /// Their fate is not known.
    Fail,
    /// They are sent to the new one, which may make it the second time that they are handled.
    Redeliver,
}

/// The packets for one receiver.
///
/// ```text
///      base                base + cursor        base + sent.len()
///       │ sent on this connection │ to be sent again   │ without a number
///       └────────────── sent ──────────────────────────┴──── line ────
/// ```
#[derive(Debug)]
pub(crate) struct Outbound<W> {
    epoch: Epoch,
    restarts: Restarts,
    /// How often hello was said.
    connections: u64,
    /// The number of the first of `sent`.
    base: u64,
    /// Numbered, in this order, and not known to be handled.
    sent: VecDeque<Entry<W>>,
    /// How many of them were sent on this connection, or are known to be there.
    cursor: usize,
    /// The weight of these.
    in_flight: usize,
    /// The numbers behind the last packet of each body that is under way on this connection.
    bodies: VecDeque<u64>,
    /// Accepted for sending and never sent.
    line: VecDeque<Entry<W>>,
    /// The sizes of these, in a body.
    line_size: usize,
    /// Whose words count, once there was a welcome.
    receiver: Option<Epoch>,
    /// What the receiver takes on this connection, once it has said so.
    limits: Option<Limits>,
}

#[derive(Debug)]
struct Entry<W> {
    packet: Bytes,
    waits: W,
    /// It is sent, or sent again, as a void.
    is_void: bool,
    /// Why, if that is not because its caller has left.
    instead: Option<Fate>,
    /// In the windows of both sides. Also of a void, for the packet itself may be there.
    weight: usize,
}

impl<W: Waits> Outbound<W> {
    pub(crate) fn new(epoch: Epoch, restarts: Restarts) -> Self {
        Self {
            epoch,
            restarts,
            connections: 0,
            base: 0,
            sent: VecDeque::new(),
            cursor: 0,
            in_flight: 0,
            bodies: VecDeque::new(),
            line: VecDeque::new(),
            line_size: 0,
            receiver: None,
            limits: None,
        }
    }

    /// One more packet at the end of the line.
    pub(crate) fn push(&mut self, packet: Bytes, waits: W) {
        let weight = weight(packet.len());
        self.line_size += Packer::size_of(packet.len());
        self.line.push_back(Entry {
            packet,
            waits,
            is_void: false,
            instead: None,
            weight,
        });
    }

    /// The first word on a new connection.
    pub(crate) fn hello(&mut self) -> Hello {
        self.connections += 1;
        Hello {
            epoch: self.epoch,
            connection: self.connections,
            base: self.base,
        }
    }

    /// The receiver has answered to hello on a new connection.
    pub(crate) fn welcome(
        &mut self,
        welcome: &Welcome,
        settled: &mut Vec<Settled<W>>,
    ) -> Result<(), Violation> {
        let is_another = self.receiver != Some(welcome.receiver);
        if is_another && self.receiver.is_some() {
            self.restarted(settled);
        }
        self.receiver = Some(welcome.receiver);
        self.rewind();
        self.limits = Some(welcome.limits);
        if is_another {
            // What it says of numbers is an echo of the hello.
            return Ok(());
        }
        let known = welcome.next.checked_sub(self.base);
        let known = known
            .and_then(|known| usize::try_from(known).ok())
            .filter(|&known| known <= self.sent.len())
            .ok_or(Violation::Unsent)?;
        self.cursor = known;
        self.in_flight = self.sent.range(..known).map(|entry| entry.weight).sum();
        self.receipt(&welcome.receipt, settled)
    }

    fn restarted(&mut self, settled: &mut Vec<Settled<W>>) {
        if self.restarts == Restarts::Fail {
            self.base += self.sent.len() as u64;
            let lost = self.sent.drain(..);
            settled.extend(lost.map(|entry| entry.settle(Fate::Restarted)));
        }
    }

    /// The receiver has told what it has handled.
    pub(crate) fn receipt(
        &mut self,
        receipt: &Receipt,
        settled: &mut Vec<Settled<W>>,
    ) -> Result<(), Violation> {
        // Beyond the cursor is what an earlier connection brought after all.
        if receipt.epoch != self.epoch || receipt.handled > self.base + self.sent.len() as u64 {
            return Err(Violation::Unsent);
        }
        let mut rejected = receipt.rejected.iter().peekable();
        while self.base < receipt.handled {
            let entry = self.sent.pop_front().expect("bug: so many were sent");
            if self.cursor > 0 {
                self.cursor -= 1;
                self.in_flight -= entry.weight;
            }
            while rejected.next_if(|each| each.number < self.base).is_some() {}
            let fate = match rejected.next_if(|each| each.number == self.base) {
                Some(rejected) => Fate::Rejected(rejected.reason.clone()),
                None => Fate::Accepted,
            };
            settled.push(entry.settle(fate));
            self.base += 1;
        }
        while self.bodies.front().is_some_and(|end| *end <= self.base) {
            self.bodies.pop_front();
        }
        Ok(())
    }

    /// The connection is gone: the next welcome tells what is to be sent again.
    pub(crate) fn disconnected(&mut self) {
        self.rewind();
    }

    fn rewind(&mut self) {
        self.cursor = 0;
        self.in_flight = 0;
        self.bodies.clear();
        self.limits = None;
    }

    /// The next body to send, of `room` bytes unless a single packet needs more. Nothing if there is no
    /// packet, or no place for one in the receiver's window, or if more packets are to be gathered.
    pub(crate) fn pack(&mut self, room: usize, settled: &mut Vec<Settled<W>>) -> Option<Packed> {
        let limits = self.limits?;
        if self.gathers(room) {
            return None;
        }
        let first = self.base + self.cursor as u64;
        let mut packer = None;
        while let Some((size, weight)) = self.next(settled) {
            let packer = packer
                .get_or_insert_with(|| Packer::new(self.epoch, self.base, first, room.min(4096)));
            let has_room = packer.is_empty() || packer.size_with(size) <= room;
            if !has_room || !self.has_place(weight, limits) {
                break;
            }
            if self.cursor == self.sent.len() {
                let entry = self.leave_line();
                self.sent.extend(entry);
            }
            let entry = &self.sent[self.cursor];
            entry.waits.sent();
            packer.push((!entry.is_void).then_some(&entry.packet));
            self.cursor += 1;
            self.in_flight += weight;
        }
        let packer = packer.filter(|packer| !packer.is_empty())?;
        self.bodies.push_back(self.base + self.cursor as u64);
        Some(packer.finish())
    }

    /// Enough is under way for the receiver to go on with, and what is in line would not fill a body.
    pub(crate) fn gathers(&self, room: usize) -> bool {
        self.bodies.len() >= BODIES && self.cursor == self.sent.len() && self.line_size < room
    }

    fn leave_line(&mut self) -> Option<Entry<W>> {
        let entry = self.line.pop_front()?;
        self.line_size -= Packer::size_of(entry.packet.len());
        Some(entry)
    }

    /// Size and weight of the next to send. One whose caller has left goes: without a trace if it was never
    /// sent, and else as a void.
    fn next(&mut self, settled: &mut Vec<Settled<W>>) -> Option<(usize, usize)> {
        let limit = self.limits?.packet as usize;
        if let Some(entry) = self.sent.get_mut(self.cursor) {
            let size = entry.packet.len();
            if entry.waits.has_left() {
                entry.give_up(None);
            } else if size > limit {
                entry.give_up(Some(Fate::TooLarge { size, limit }));
            }
            return Some((entry.packet.len(), entry.weight));
        }
        loop {
            let entry = self.line.front()?;
            let size = entry.packet.len();
            let fate = if entry.waits.has_left() {
                Fate::Unsent
            } else if size > limit {
                Fate::TooLarge { size, limit }
            } else {
                return Some((size, entry.weight));
            };
            let entry = self.leave_line();
            settled.extend(entry.map(|entry| entry.settle(fate)));
        }
    }

    /// In the window of the receiver.
    fn has_place(&self, weight: usize, limits: Limits) -> bool {
        let is_alone = self.cursor == 0;
        self.cursor < limits.window as usize
            && (is_alone || (self.in_flight + weight) as u64 <= limits.window_bytes)
    }

    /// Takes back what was never sent and has nobody who waits for it, as far as it is first in line:
    /// what is behind others goes with them.
    pub(crate) fn take_left(&mut self, settled: &mut Vec<Settled<W>>) {
        let has_left = |entry: &Entry<W>| entry.waits.has_left();
        while self.line.front().is_some_and(has_left) {
            let entry = self.leave_line();
            settled.extend(entry.map(|entry| entry.settle(Fate::Unsent)));
        }
    }

    /// Takes back what was never sent.
    pub(crate) fn take_line(&mut self, settled: &mut Vec<Settled<W>>) {
        self.line_size = 0;
        let line = self.line.drain(..);
        settled.extend(line.map(|entry| entry.settle(Fate::Unsent)));
    }

    /// Gives everything up.
    pub(crate) fn end(&mut self, settled: &mut Vec<Settled<W>>) {
        self.base += self.sent.len() as u64;
        let sent = self.sent.drain(..);
        settled.extend(sent.map(|entry| entry.settle(Fate::Unknown)));
        self.take_line(settled);
        self.rewind();
    }

    /// Those who wait, in the order in which they came.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &W> {
        self.sent.iter().chain(&self.line).map(|entry| &entry.waits)
    }

    /// Whether nothing is left to be sent or to be heard of.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.line.is_empty()
    }
}

impl<W> Entry<W> {
    /// Sends a void in place of the packet.
    fn give_up(&mut self, instead: Option<Fate>) {
        self.is_void = true;
        self.instead = instead;
        self.packet = Bytes::new();
    }

    fn settle(self, fate: Fate) -> Settled<W> {
        Settled {
            waits: self.waits,
            fate: self.instead.unwrap_or(fate),
            weight: self.weight,
        }
    }
}
