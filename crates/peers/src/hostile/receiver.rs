//! A receiver and its handler, who hear anything at all.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    OWN, Script, assert_hello_is_read_as_written, assert_packets_are_read_as_written,
    assert_word_is_read_as_written,
};
use crate::{
    core::{
        Violation,
        inbound::{Arrived, Greeted, Inbound, LIVES},
    },
    wire::{Epoch, Hello, Limits, Packer, Packets, Receipt, ToReceiver, ToSender, reason, weight},
};

/// No word may be larger than a frame.
const FRAME: usize = 64 << 10;

pub(super) struct Receiver {
    limits: Limits,
    inbound: Inbound,
    /// What waits for the handler, in order.
    batches: VecDeque<Packets>,
    /// The last is listened to.
    lives: Vec<Life>,
    pub(super) handled: usize,
}

/// What has come from one life of the sender.
struct Life {
    epoch: Epoch,
    connection: u64,
    next: u64,
    handled: u64,
    /// The end of what was told on this connection.
    told: u64,
    /// Those the sender does not say that it knows of.
    rejected: BTreeMap<u64, String>,
    /// Of those that are not handled, in order.
    weights: VecDeque<usize>,
}

impl Receiver {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            inbound: Inbound::new(OWN, limits),
            batches: VecDeque::new(),
            lives: Vec::new(),
            handled: 0,
        }
    }

    /// The low bits of a byte say what happens, the others how often: a hello or packets come that are
    /// right but for what the next bytes say, or a word does; or the handler accepts packets, or rejects
    /// them for a reason as long as the next byte says; or it takes so long that the sender is told in
    /// between.
    pub(super) fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let what = script.byte()?;
        let times = what / 8 + 1;
        match what % 8 {
            0 => self.hear(&script.word()?),
            1 => self.hear(&self.hello(script)?),
            2 | 3 => self.hear(&self.packets(times, script)?),
            4 | 5 => (0..times).for_each(|_| self.handle(&Ok(()))),
            6 => {
                let outcome = Err(reason("é".repeat(script.byte()?.into())));
                (0..times).for_each(|_| self.handle(&outcome));
            }
            _ => {
                let at_work = self.batches.front().map(|packets| packets.epoch);
                at_work.into_iter().for_each(|epoch| self.tell(epoch));
            }
        }
        self.check();
        Some(())
    }

    /// Of the life that a byte says, on its next connection, with another base by what a byte says.
    fn hello(&self, script: &mut Script<'_>) -> Option<Bytes> {
        let which = script.byte()?;
        let epoch = Epoch((which % 8).into());
        // Numbers may begin where they end.
        let first = if which < 128 { 0 } else { u64::MAX };
        let life = self.lives.iter().find(|life| life.epoch == epoch);
        let (connection, told) = life.map_or((0, first), |life| (life.connection, life.told));
        let hello = Hello {
            epoch,
            connection: connection.saturating_add(1),
            base: script.near(told)?,
        };
        Some(hello.encode().into())
    }

    /// Of the life that is listened to. Bytes say by what first and base are others, and the size; the
    /// largest is that of a void.
    fn packets(&self, count: u8, script: &mut Script<'_>) -> Option<Bytes> {
        const VOID: u8 = u8::MAX;
        let life = self.lives.last()?;
        let first = script.near(life.next)?;
        let base = script.near(life.told)?;
        let size = script.byte()?;
        let packet = vec![size; size.into()];
        let mut packer = Packer::new(life.epoch, base, first, 64);
        for _ in 0..count {
            packer.push((size != VOID).then_some(&packet));
        }
        Some(packer.finish().body)
    }

    /// The handler goes on until there is nothing left.
    pub(super) fn finish(&mut self) {
        while !self.batches.is_empty() {
            self.handle(&Ok(()));
        }
        self.check();
        assert_eq!(self.inbound.unhandled(), 0);
    }

    fn hear(&mut self, body: &Bytes) {
        match ToReceiver::decode(body) {
            Ok(ToReceiver::Hello(hello)) => {
                assert_hello_is_read_as_written(&hello);
                self.greet(&hello);
            }
            Ok(ToReceiver::Packets(packets)) => {
                assert_packets_are_read_as_written(&packets);
                self.take(packets);
            }
            Err(_) => {}
        }
    }

    fn greet(&mut self, hello: &Hello) {
        let known = self.lives.iter().position(|life| life.epoch == hello.epoch);
        match self.inbound.hello(hello) {
            Greeted::Late => {
                let known = known.expect("none before it is known");
                assert!(hello.connection <= self.lives[known].connection);
            }
            Greeted::Crowded => {
                assert_eq!((known, self.lives.len()), (None, LIVES));
                assert!(self.lives.iter().all(|life| life.unhandled() > 0));
            }
            Greeted::Welcome { welcome, replaces } => {
                let before = self.lives.last().map(|life| life.epoch);
                assert_eq!(replaces, before.filter(|epoch| *epoch != hello.epoch));
                let life = self.welcomed(known, hello);
                assert_eq!(welcome.next, life.next);
                assert_eq!((welcome.receiver, welcome.limits), (OWN, self.limits));
                self.lives.push(life);
                self.told(&welcome.receipt);
                assert!(assert_word_is_read_as_written(&ToSender::Welcome(welcome)) < FRAME);
                if self.inbound.has_more() {
                    self.tell(hello.epoch);
                }
            }
        }
    }

    /// This life of the sender, no longer among the others.
    fn welcomed(&mut self, known: Option<usize>, hello: &Hello) -> Life {
        let mut life = match known {
            Some(known) => self.lives.remove(known),
            None => {
                if self.lives.len() == LIVES {
                    let done = self.lives.iter().position(|life| life.unhandled() == 0);
                    self.lives.remove(done.expect("it is not crowded"));
                }
                Life::new(hello)
            }
        };
        assert!(known.is_none() || hello.connection > life.connection);
        life.connection = hello.connection;
        life.told = 0;
        life.learn(hello.base);
        life
    }

    fn take(&mut self, packets: Packets) {
        let sent = packets.clone();
        let end = sent.first + u64::from(sent.len());
        let arrived = self.inbound.packets(packets);
        let life = self
            .lives
            .last_mut()
            .filter(|life| life.epoch == sent.epoch);
        let Some(life) = life else {
            assert!(
                matches!(arrived, Ok(Arrived::Known)),
                "it is not listened to"
            );
            return;
        };
        life.learn(sent.base);
        match arrived {
            Ok(Arrived::Known) => assert!(end <= life.next, "they were there before"),
            Ok(Arrived::New(new)) => {
                assert_eq!((new.epoch, new.first), (life.epoch, life.next));
                let known = (life.next - sent.first) as usize;
                assert!(new.clone().eq(sent.skip(known)), "the rest of them");
                assert!(new.largest() <= self.limits.packet as usize);
                life.next = end;
                life.weights.extend(new.sizes().map(weight));
                self.batches.push_back(new);
            }
            Err(Violation::Gap { expected, found }) => {
                assert_eq!((expected, found), (life.next, sent.first));
                assert!(expected < found);
            }
            Err(Violation::TooLarge(size)) => assert!(size > self.limits.packet as usize),
            Err(Violation::Overrun) => {
                let new = sent.sizes().skip((life.next - sent.first) as usize);
                let weight = life.weight() + new.map(weight).sum::<usize>();
                let has_place = end - sent.base <= self.limits.window.into()
                    && end - life.handled <= self.limits.window.into()
                    && weight as u64 <= self.limits.window_bytes;
                assert!(!has_place, "there is a place for them");
            }
            Err(Violation::Unsent) => panic!("a sender does not speak of others' packets"),
        }
    }

    fn handle(&mut self, outcome: &Result<(), String>) {
        let Some(packets) = self.batches.front_mut() else {
            return;
        };
        let epoch = packets.epoch;
        let packet = packets.next().expect("there is one");
        let is_last = packets.len() == 0;
        let size = packet.as_ref().map_or(0, Bytes::len);
        // The handler does not see a void.
        let outcome = packet.map_or(Ok(()), |_| outcome.clone());
        let life = self.lives.iter_mut().find(|life| life.epoch == epoch);
        let life = life.expect("it has packets");
        life.handled(size, &outcome);
        self.inbound.handled(epoch, size, outcome);
        self.handled += 1;
        if is_last {
            self.batches.pop_front();
            self.tell(epoch);
        }
    }

    fn tell(&mut self, epoch: Epoch) {
        while let Some(receipt) = self.inbound.receipt(epoch) {
            self.told(&receipt);
            if !self.inbound.has_more() {
                let life = self.lives.last().expect("it is listened to");
                assert_eq!(receipt.handled, life.handled, "all of it is told");
                return;
            }
            assert!(!receipt.rejected.is_empty(), "it comes to an end");
        }
        assert!(self.lives.last().is_some_and(|life| life.epoch != epoch));
    }

    /// What is handled is told as it was.
    fn told(&mut self, receipt: &Receipt) {
        let life = self.lives.last_mut().expect("it is listened to");
        assert_eq!(receipt.epoch, life.epoch);
        assert!((life.told..=life.handled).contains(&receipt.handled));
        let untold = life.told..receipt.handled;
        let expected = life
            .rejected
            .iter()
            .filter(|(number, _)| untold.contains(number));
        let rejected = receipt.rejected.iter();
        assert!(expected.eq(rejected.map(|each| (&each.number, &each.reason))));
        life.told = receipt.handled;
        let word = ToSender::Receipt(receipt.clone());
        assert!(assert_word_is_read_as_written(&word) < FRAME);
    }

    fn check(&self) {
        let waiting = self.batches.iter().map(|packets| packets.len() as usize);
        assert_eq!(self.inbound.unhandled(), waiting.sum::<usize>());
        assert!(self.lives.len() <= LIVES);
        for life in &self.lives {
            assert_eq!(life.unhandled(), life.weights.len() as u64);
            assert!(life.weights.len() <= self.limits.window as usize);
            assert!(life.rejected.len() <= self.limits.window as usize);
            let is_alone = life.weights.len() == 1;
            assert!(is_alone || life.weight() as u64 <= self.limits.window_bytes);
        }
    }
}

impl Life {
    fn new(hello: &Hello) -> Self {
        Self {
            epoch: hello.epoch,
            connection: hello.connection,
            next: hello.base,
            handled: hello.base,
            told: 0,
            rejected: BTreeMap::new(),
            weights: VecDeque::new(),
        }
    }

    fn unhandled(&self) -> u64 {
        self.next - self.handled
    }

    fn weight(&self) -> usize {
        self.weights.iter().sum()
    }

    /// The sender says that it knows of everything below.
    fn learn(&mut self, base: u64) {
        if self.handled == self.next {
            self.next = self.next.max(base);
            self.handled = self.next;
        }
        self.rejected = self.rejected.split_off(&base);
    }

    fn handled(&mut self, size: usize, outcome: &Result<(), String>) {
        assert_eq!(self.weights.pop_front(), Some(weight(size)));
        if let Err(reason) = outcome {
            self.rejected.insert(self.handled, reason.clone());
        }
        self.handled += 1;
    }
}
