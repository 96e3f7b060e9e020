//! A sender and its callers, who hear anything at all.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use bytes::Bytes;

use super::{
    OWN, Script, assert_hello_is_read_as_written, assert_packets_are_read_as_written,
    assert_word_is_read_as_written, opened,
};
use crate::{
    core::outbound::{BODIES, Fate, Outbound, Restarts, Settled, Waits},
    wire::{Epoch, Limits, Packed, Packer, Receipt, Rejected, ToSender, Welcome, weight},
};

/// Packets whose fate is not known, at most: the sender's own window.
const WINDOW: usize = 64;

pub(super) struct Sender {
    restarts: Restarts,
    outbound: Outbound<Caller>,
    connection: Connection,
    /// Who has spoken last.
    receiver: Option<Epoch>,
    pub(super) packets: Vec<Packet>,
    /// Which packets have numbers: zero and so on.
    numbered: Rc<RefCell<Vec<usize>>>,
    /// The number below which all are settled.
    base: u64,
    /// How many packets are without a fate.
    unsettled: usize,
    /// The size of the largest packet that all receivers took.
    least: usize,
}

/// One that was accepted for sending.
pub(super) struct Packet {
    size: usize,
    caller: Caller,
    pub(super) fate: Option<Fate>,
}

#[derive(Clone, Debug)]
struct Caller {
    nth: usize,
    left: Rc<Cell<bool>>,
    sent: Rc<Cell<bool>>,
    numbered: Rc<RefCell<Vec<usize>>>,
}

enum Connection {
    Down,
    /// Hello is said.
    Greeted,
    Up(Window),
}

/// What the receiver has been sent on this connection.
struct Window {
    limits: Limits,
    next: u64,
    /// The numbers behind the last packets of bodies.
    ends: VecDeque<u64>,
}

impl Waits for Caller {
    fn has_left(&self) -> bool {
        self.left.get()
    }

    fn sent(&self) {
        if !self.sent.replace(true) {
            self.numbered.borrow_mut().push(self.nth);
        }
    }
}

impl Sender {
    pub(super) fn new(restarts: Restarts) -> Self {
        Self {
            restarts,
            outbound: Outbound::new(OWN, restarts),
            connection: Connection::Down,
            receiver: None,
            packets: Vec::new(),
            numbered: Rc::default(),
            base: 0,
            unsettled: 0,
            least: usize::MAX,
        }
    }

    /// The low bits of a byte say what happens: a connection is opened or, if there is one, an answer
    /// comes that is right but for what the next bytes say; packets are pushed (as many as the other bits
    /// say, of the size that the next byte does) or packed (into twice as many bytes as the next byte
    /// says); a caller leaves (the next byte says which); the connection is cut; nothing more is taken
    /// for now; or a word comes.
    pub(super) fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let what = script.byte()?;
        match what % 16 {
            0..=4 => self.go_on(script)?,
            5..=7 => {
                let size = script.byte()?.into();
                (0..=what / 16).for_each(|_| self.push(size));
            }
            8..=11 => self.pack(usize::from(script.byte()?) * 2),
            12 => self.leave(script.byte()?.into()),
            13 => self.cut(),
            14 => self.refuse(),
            _ => self.hear(&script.word()?),
        }
        self.check();
        Some(())
    }

    fn go_on(&mut self, script: &mut Script<'_>) -> Option<()> {
        let welcome = Welcome {
            limits: limits(script.byte()?),
            receiver: Epoch((script.byte()? / 128).into()),
            next: script.near(self.numbers())?,
            receipt: self.answer(script)?,
        };
        let answer = match self.connection {
            Connection::Down => {
                self.connect();
                return Some(());
            }
            Connection::Greeted => ToSender::Welcome(welcome),
            Connection::Up(_) => ToSender::Receipt(welcome.receipt),
        };
        self.hear(&answer.encode().into());
        Some(())
    }

    /// Bytes say by how much another number of packets is handled than before, and which were rejected.
    fn answer(&self, script: &mut Script<'_>) -> Option<Receipt> {
        let handled = script.near(self.base)?;
        let which = script.byte()?;
        let rejected = (0..8).filter(|bit| which >> bit & 1 == 1);
        let rejected = rejected.map(|bit| Rejected {
            number: self.base + bit,
            reason: which.to_string(),
        });
        Some(Receipt {
            epoch: OWN,
            handled,
            rejected: rejected.collect(),
        })
    }

    /// Everything is given up.
    pub(super) fn finish(&mut self) {
        let mut settled = Vec::new();
        self.outbound.end(&mut settled);
        self.settle(settled);
        assert!(self.outbound.is_empty());
        assert!(self.packets.iter().all(|packet| packet.fate.is_some()));
    }

    fn hear(&mut self, body: &Bytes) {
        let Ok(word) = ToSender::decode(body) else {
            return self.cut();
        };
        assert_word_is_read_as_written(&word);
        if word.epoch() != OWN {
            return;
        }
        let is_kept = match (&self.connection, word) {
            (Connection::Down, _) => return,
            (Connection::Greeted, ToSender::Welcome(welcome)) => self.welcome(&welcome),
            (Connection::Up(_), ToSender::Receipt(receipt)) => self.receipt(&receipt),
            _ => false,
        };
        if !is_kept {
            self.cut();
        }
    }

    fn push(&mut self, size: usize) {
        if self.unsettled == WINDOW {
            return;
        }
        let nth = self.packets.len();
        let caller = Caller {
            nth,
            left: Rc::default(),
            sent: Rc::default(),
            numbered: Rc::clone(&self.numbered),
        };
        self.outbound.push(content(nth, size), caller.clone());
        self.packets.push(Packet {
            size,
            caller,
            fate: None,
        });
        self.unsettled += 1;
    }

    fn connect(&mut self) {
        if matches!(self.connection, Connection::Down) {
            let hello = self.outbound.hello();
            assert_hello_is_read_as_written(&hello);
            assert_eq!((hello.epoch, hello.base), (OWN, self.base));
            self.connection = Connection::Greeted;
        }
    }

    fn cut(&mut self) {
        self.outbound.disconnected();
        self.connection = Connection::Down;
    }

    fn leave(&mut self, which: usize) {
        let Some(caller) = self.outbound.waiting().nth(which % WINDOW) else {
            return;
        };
        caller.left.set(true);
        let mut settled = Vec::new();
        self.outbound.take_left(&mut settled);
        self.settle(settled);
    }

    fn refuse(&mut self) {
        if !matches!(self.connection, Connection::Up(_)) {
            let mut settled = Vec::new();
            self.outbound.take_line(&mut settled);
            self.settle(settled);
        }
    }

    fn welcome(&mut self, welcome: &Welcome) -> bool {
        let mut settled = Vec::new();
        let welcomed = self.outbound.welcome(welcome, &mut settled);
        let before = self.receiver.replace(welcome.receiver);
        let told = if before == self.receiver {
            let known = self.base..=self.numbers();
            assert!(welcomed.is_err() || known.contains(&welcome.next));
            self.told(&welcome.receipt, settled, welcomed.is_ok())
        } else {
            welcomed.expect("another receiver's numbers do not count");
            let lost = before.is_some() && self.restarts == Restarts::Fail;
            let end = if lost { self.numbers() } else { self.base };
            self.settled_until(end, settled, |_, fate| *fate == Fate::Restarted);
            true
        };
        let next = if before == self.receiver {
            welcome.next
        } else {
            self.base
        };
        self.least = self.least.min(welcome.limits.packet as usize);
        self.connection = Connection::Up(Window {
            limits: welcome.limits,
            next: next.max(self.base),
            ends: VecDeque::new(),
        });
        told
    }

    fn receipt(&mut self, receipt: &Receipt) -> bool {
        let mut settled = Vec::new();
        let noted = self.outbound.receipt(receipt, &mut settled);
        self.told(receipt, settled, noted.is_ok())
    }

    /// Says whether the receiver keeps to the rules.
    fn told(&mut self, receipt: &Receipt, settled: Vec<Settled<Caller>>, is_ok: bool) -> bool {
        if !is_ok {
            assert!(settled.is_empty());
            return false;
        }
        assert!(receipt.handled <= self.numbers(), "so many were sent");
        let rejected = &receipt.rejected;
        let is_in_order = rejected.is_sorted_by(|a, b| a.number < b.number);
        let end = receipt.handled.max(self.base);
        self.settled_until(end, settled, |number, fate| {
            let mut of_it = rejected.iter().filter(|each| each.number == number);
            match fate {
                Fate::Accepted => !is_in_order || of_it.next().is_none(),
                Fate::Rejected(reason) => of_it.any(|each| each.reason == *reason),
                _ => false,
            }
        });
        true
    }

    /// Those below this number are settled, in order, each as it should be or else as too large.
    fn settled_until(
        &mut self,
        end: u64,
        settled: Vec<Settled<Caller>>,
        is_right: impl Fn(u64, &Fate) -> bool,
    ) {
        let expected = self.numbered.borrow()[self.base as usize..end as usize].to_vec();
        assert!(settled.iter().map(|each| each.waits.nth).eq(expected));
        for (number, each) in (self.base..).zip(&settled) {
            let is_too_large = matches!(each.fate, Fate::TooLarge { .. });
            assert!(is_too_large || is_right(number, &each.fate), "{number}");
        }
        self.settle(settled);
        self.base = end;
        if let Connection::Up(window) = &mut self.connection {
            window.next = window.next.max(end);
        }
    }

    fn settle(&mut self, settled: Vec<Settled<Caller>>) {
        for Settled {
            waits,
            fate,
            weight: weighed,
        } in settled
        {
            let packet = &mut self.packets[waits.nth];
            assert_eq!(weighed, weight(packet.size));
            match fate {
                Fate::Unsent => assert!(!waits.sent.get()),
                Fate::TooLarge { size, limit } => assert!(size == packet.size && size > limit),
                _ => assert!(waits.sent.get()),
            }
            let told = packet.fate.replace(fate);
            assert_eq!(told, None, "packet {} has two fates", waits.nth);
            self.unsettled -= 1;
        }
    }

    fn pack(&mut self, room: usize) {
        let gathers = self.gathers(room);
        assert_eq!(self.outbound.gathers(room), gathers);
        let numbers = self.numbers();
        let mut settled = Vec::new();
        let packed = self.outbound.pack(room, &mut settled);
        assert!(settled.iter().all(|each| !each.waits.sent.get()));
        self.settle(settled);
        match packed {
            Some(packed) => self.packed(&packed, room),
            None => {
                assert_eq!(self.numbers(), numbers, "nothing was sent");
                assert!(gathers || !self.could_send(), "it stands still");
            }
        }
    }

    fn packed(&mut self, packed: &Packed, room: usize) {
        assert!(packed.count == 1 || packed.body.len() <= room);
        let packets = opened(&packed.body);
        assert_packets_are_read_as_written(&packets);
        assert_eq!(packets.len(), packed.count);
        assert_eq!((packets.epoch, packets.base), (OWN, self.base));
        let numbers = self.numbers();
        let Connection::Up(window) = &mut self.connection else {
            panic!("it is not connected");
        };
        assert_eq!(packets.first, window.next);
        window.next += u64::from(packed.count);
        assert!(window.next <= numbers);
        window.ends.push_back(window.next);
        let limit = window.limits.packet as usize;
        for (number, sent) in (packets.first..).zip(packets) {
            let packet = &self.packets[self.numbered.borrow()[number as usize]];
            match sent {
                Some(sent) => {
                    assert_eq!(sent, content(packet.caller.nth, packet.size));
                    assert!(sent.len() <= limit);
                }
                // One that was too large once stays void.
                None => assert!(packet.caller.left.get() || packet.size > self.least),
            }
        }
        self.check_window();
    }

    /// What was sent and is not handled has a place in the receiver's window.
    fn check_window(&self) {
        let Connection::Up(Window { limits, next, .. }) = &self.connection else {
            return;
        };
        let under_way = next - self.base;
        assert!(under_way <= limits.window.into());
        assert!(under_way == 1 || self.weight(*next) <= limits.window_bytes);
    }

    /// Of those from the first that is not settled to this number.
    fn weight(&self, end: u64) -> u64 {
        let under_way = self.base as usize..end as usize;
        let packets = self.numbered.borrow()[under_way].to_vec();
        let weights = packets.iter().map(|nth| weight(self.packets[*nth].size));
        weights.sum::<usize>() as u64
    }

    /// Enough bodies are under way, and what is in line does not fill another.
    fn gathers(&self, room: usize) -> bool {
        let Connection::Up(Window { next, ends, .. }) = &self.connection else {
            return false;
        };
        let bodies = ends.iter().filter(|end| **end > self.base).count();
        let numbered = (self.numbers() - self.base) as usize;
        let line = self.outbound.waiting().skip(numbered);
        let sizes = line.map(|caller| Packer::size_of(self.packets[caller.nth].size));
        bodies >= BODIES && *next == self.numbers() && sizes.sum::<usize>() < room
    }

    /// There is a packet, and a place for it in the receiver's window.
    fn could_send(&self) -> bool {
        let Connection::Up(Window { limits, next, .. }) = &self.connection else {
            return false;
        };
        let under_way = (next - self.base) as usize;
        let Some(due) = self.outbound.waiting().nth(under_way) else {
            return false;
        };
        let weight = self.weight(*next) + weight(self.packets[due.nth].size) as u64;
        under_way < limits.window as usize && (under_way == 0 || weight <= limits.window_bytes)
    }

    /// How many packets have numbers.
    fn numbers(&self) -> u64 {
        self.numbered.borrow().len() as u64
    }

    fn check(&self) {
        assert_eq!(self.outbound.waiting().count(), self.unsettled);
        assert_eq!(self.outbound.is_empty(), self.unsettled == 0);
    }
}

/// Each of four for each, as the bits of a byte say.
fn limits(which: u8) -> Limits {
    let nth = |from: u8| usize::from(which >> from & 3);
    Limits {
        packet: [240, u32::MAX, 20, 0][nth(0)],
        window: [3, u32::MAX, 20, 0][nth(2)],
        window_bytes: [300, u64::MAX, 2_000, 0][nth(4)],
    }
}

/// By which each packet is known.
fn content(nth: usize, size: usize) -> Bytes {
    vec![nth as u8; size].into()
}
