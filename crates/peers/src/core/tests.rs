//! A sender and a receiver over connections that are cut at any moment, and of which the old ones
//! still bring what was under way: each packet is handled once, in order, and told as it was.

use std::{cell::Cell, collections::VecDeque, rc::Rc};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{
    inbound::{Arrived, Greeted, Inbound},
    outbound::{BODIES, Fate, Outbound, Restarts, Settled, Waits},
};
use crate::wire::{
    Epoch, Hello, Limits, Packer, Packets, Receipt, ToReceiver, ToSender, Welcome, weight,
};

const LIMITS: Limits = Limits {
    packet: 40,
    window: 6,
    window_bytes: 500,
};

/// The number of the packet, in the order in which they were pushed.
#[derive(Clone, Debug)]
struct Caller {
    nth: usize,
    left: Rc<Cell<bool>>,
    sent: Rc<Cell<bool>>,
}

impl Waits for Caller {
    fn has_left(&self) -> bool {
        self.left.get()
    }

    fn sent(&self) {
        self.sent.set(true);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Pack(usize),
    /// The receiver reads a message of the connection, or of one that was cut before.
    Read(bool),
    /// The handler is done with a packet, and accepts it or not.
    Handle(bool),
    Tell,
    /// The sender reads a message.
    Hear,
    Cut,
    Connect,
    Leave(prop::sample::Index),
    RestartReceiver,
    TakeLine,
}

fn steps(restarts: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..LIMITS.packet as usize + 3).prop_map(Step::Push),
        8 => (30_usize..400).prop_map(Step::Pack),
        8 => any::<bool>().prop_map(Step::Read),
        8 => prop::bool::weighted(0.8).prop_map(Step::Handle),
        4 => Just(Step::Tell),
        8 => Just(Step::Hear),
        1 => Just(Step::Cut),
        3 => Just(Step::Connect),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => Just(if restarts { Step::RestartReceiver } else { Step::Cut }),
        1 => Just(Step::TakeLine),
    ];
    vec(step, 1..300)
}

/// Both sides, and what is between them.
struct World {
    restarts: Restarts,
    outbound: Outbound<Caller>,
    inbound: Inbound,
    lives: u64,
    /// What is under way on the connection, if there is one, and on those that were cut.
    there: VecDeque<Bytes>,
    stale: VecDeque<Bytes>,
    back: VecDeque<Bytes>,
    is_connected: bool,
    connections: u64,
    /// The receiver speaks to the connection that said hello last: is it this one?
    is_heard: bool,
    /// What waits for the handler: the life of the receiver, and the packets.
    queue: VecDeque<Packets>,
    callers: Vec<Caller>,
    handled: Vec<(usize, bool)>,
    fates: Vec<Option<Fate>>,
}

impl World {
    fn new(restarts: Restarts) -> Self {
        Self {
            restarts,
            outbound: Outbound::new(Epoch(1), restarts),
            inbound: Inbound::new(Epoch(0), LIMITS),
            lives: 0,
            there: VecDeque::new(),
            stale: VecDeque::new(),
            back: VecDeque::new(),
            is_connected: false,
            connections: 0,
            is_heard: false,
            queue: VecDeque::new(),
            callers: Vec::new(),
            handled: Vec::new(),
            fates: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let mut settled = Vec::new();
        match step {
            Step::Push(size) => {
                let caller = Caller {
                    nth: self.callers.len(),
                    left: Rc::default(),
                    sent: Rc::default(),
                };
                let mut packet = vec![0; (*size).max(8)];
                packet[..8].copy_from_slice(&(caller.nth as u64).to_be_bytes());
                self.outbound.push(packet.into(), caller.clone());
                self.callers.push(caller);
                self.fates.push(None);
            }
            Step::Pack(room) if self.is_connected => {
                let packed = self.outbound.pack(*room, &mut settled);
                self.there.extend(packed.map(|packed| packed.body));
            }
            Step::Read(stale) => {
                let from = [&mut self.there, &mut self.stale];
                let from = from.into_iter().nth(usize::from(*stale)).unwrap();
                if let Some(body) = from.pop_front() {
                    self.read(&body);
                }
            }
            Step::Handle(accept) => self.handle(*accept),
            Step::Tell => {
                let receipt = self.inbound.receipt(Epoch(1));
                let receipt = receipt.map(|receipt| ToSender::Receipt(receipt).encode());
                let receipt = receipt.filter(|_| self.is_heard);
                self.back.extend(receipt.map(Bytes::from));
            }
            Step::Hear => self.hear(&mut settled),
            Step::Cut => self.cut(),
            Step::Connect if !self.is_connected => {
                self.is_connected = true;
                self.connections += 1;
                self.there.push_back(self.outbound.hello().encode().into());
            }
            Step::Leave(which) if !self.callers.is_empty() => {
                which.get(&self.callers).left.set(true);
            }
            Step::RestartReceiver => {
                self.cut();
                self.stale.clear();
                self.queue.clear();
                self.lives += 1;
                self.inbound = Inbound::new(Epoch(self.lives), LIMITS);
            }
            Step::TakeLine if !self.is_connected => self.outbound.take_line(&mut settled),
            _ => {}
        }
        self.settle(settled);
    }

    fn read(&mut self, body: &Bytes) {
        match ToReceiver::decode(body).unwrap() {
            ToReceiver::Hello(hello) => {
                let is_current = self.is_connected && hello.connection == self.connections;
                match self.inbound.hello(&hello) {
                    Greeted::Welcome { welcome, replaces } => {
                        assert_eq!(replaces, None, "nobody else has said hello");
                        self.is_heard = is_current;
                        let welcome = ToSender::Welcome(welcome).encode();
                        self.back.extend(is_current.then(|| Bytes::from(welcome)));
                    }
                    Greeted::Late => assert!(!is_current, "it is not late"),
                    Greeted::Crowded => panic!("there is one life"),
                }
            }
            ToReceiver::Packets(packets) => match self.inbound.packets(packets) {
                Ok(Arrived::New(packets)) => self.queue.push_back(packets),
                Ok(Arrived::Known) => {}
                Err(violation) => panic!("an honest sender was taken for another: {violation}"),
            },
        }
    }

    fn handle(&mut self, accept: bool) {
        let Some(packets) = self.queue.front_mut() else {
            return;
        };
        let packet = packets.next().expect("there is one");
        let epoch = packets.epoch;
        if packets.len() == 0 {
            self.queue.pop_front();
        }
        let outcome = if accept || packet.is_none() {
            Ok(())
        } else {
            Err("no".to_owned())
        };
        let size = packet.as_ref().map_or(0, Bytes::len);
        if let Some(packet) = packet {
            let nth = u64::from_be_bytes(packet[..8].try_into().unwrap());
            self.handled.push((nth as usize, accept));
        }
        self.inbound.handled(epoch, size, outcome);
    }

    fn hear(&mut self, settled: &mut Vec<Settled<Caller>>) {
        if !self.is_connected {
            return;
        }
        let Some(body) = self.back.pop_front() else {
            return;
        };
        let heard = match ToSender::decode(&body).unwrap() {
            ToSender::Welcome(welcome) => self.outbound.welcome(&welcome, settled),
            ToSender::Receipt(receipt) => self.outbound.receipt(&receipt, settled),
            ToSender::Replaced(_) => panic!("nobody else has said hello"),
        };
        heard.expect("the receiver is honest");
    }

    /// What was under way may come later, but for what was lost; what was on its way back is gone.
    fn cut(&mut self) {
        self.is_connected = false;
        self.is_heard = false;
        self.stale.append(&mut self.there);
        self.back.clear();
        self.outbound.disconnected();
    }

    fn settle(&mut self, settled: Vec<Settled<Caller>>) {
        for Settled {
            waits,
            fate,
            weight: weighed,
        } in settled
        {
            assert!(weighed >= weight(8));
            let told = self.fates[waits.nth].replace(fate);
            assert_eq!(told, None, "packet {} has two fates", waits.nth);
        }
    }

    /// Nothing is cut any more until everything is told.
    fn finish(&mut self) {
        self.step(&Step::Cut);
        self.step(&Step::Connect);
        for _ in 0..10_000 {
            let quiet = self.outbound.is_empty();
            for step in [
                Step::Read(true),
                Step::Read(false),
                Step::Handle(true),
                Step::Tell,
                Step::Hear,
                Step::Pack(200),
            ] {
                self.step(&step);
            }
            if quiet {
                return;
            }
        }
        panic!("it stands still: {:?}", self.outbound);
    }

    fn check(&self) {
        let mut last = None;
        let mut seen = vec![None; self.callers.len()];
        for (nth, accepted) in &self.handled {
            if self.lives == 0 || self.restarts == Restarts::Fail {
                assert!(last < Some(nth), "{nth} came after {last:?}");
                last = Some(nth);
            }
            seen[*nth] = Some(*accepted);
        }
        for (nth, (fate, seen)) in self.fates.iter().zip(seen).enumerate() {
            let Caller { left, sent, .. } = &self.callers[nth];
            let left = left.get();
            let kept = matches!(fate, Some(Fate::Unsent | Fate::TooLarge { .. }));
            assert_eq!(sent.get(), !kept, "{nth}");
            match fate.as_ref().expect("all are told") {
                // A void is accepted by everybody, also by the next life of one that had rejected it.
                Fate::Accepted => assert!(
                    seen == Some(true) || left && (seen.is_none() || self.lives > 0),
                    "{nth} was accepted, and left {left}, handled {seen:?}"
                ),
                Fate::Rejected(reason) => assert_eq!((seen, &**reason), (Some(false), "no")),
                Fate::Unsent => assert_eq!(seen, None, "{nth} was sent"),
                Fate::TooLarge { size, limit } => assert!(seen.is_none() && size > limit),
                Fate::Restarted => {
                    assert!(self.lives > 0 && self.restarts == Restarts::Fail);
                }
                Fate::Unknown => panic!("nothing was given up"),
            }
        }
    }
}

fn hello(life: u64, connection: u64, base: u64) -> Hello {
    Hello {
        epoch: Epoch(life),
        connection,
        base,
    }
}

/// The number that is due next in this life of the sender, if it was welcome.
fn next(greeted: &Greeted) -> Option<u64> {
    match greeted {
        Greeted::Welcome { welcome, .. } => Some(welcome.next),
        Greeted::Late | Greeted::Crowded => None,
    }
}

/// Whether these packets are to be handled.
fn comes(inbound: &mut Inbound, life: u64, first: u64, count: usize) -> bool {
    let mut packer = Packer::new(Epoch(life), first, first, 0);
    for _ in 0..count {
        packer.push(Some(b"a packet"));
    }
    let Ok(ToReceiver::Packets(packets)) = ToReceiver::decode(&packer.finish().body) else {
        panic!("packets are read");
    };
    matches!(inbound.packets(packets), Ok(Arrived::New(_)))
}

/// Whoever comes back after another of its name is known: what waits for the handler is not taken again.
#[test]
fn two_of_a_name_that_take_turns_have_each_packet_handled_once() {
    let mut inbound = Inbound::new(Epoch(0), LIMITS);
    assert_eq!(next(&inbound.hello(&hello(1, 1, 0))), Some(0));
    assert!(comes(&mut inbound, 1, 0, 3));
    assert_eq!(next(&inbound.hello(&hello(2, 1, 70))), Some(70));
    assert!(!comes(&mut inbound, 1, 3, 1));
    assert!(comes(&mut inbound, 2, 70, 2));
    assert_eq!(inbound.unhandled(), 5);
    let again = inbound.hello(&hello(1, 2, 0));
    assert!(matches!(
        again,
        Greeted::Welcome {
            replaces: Some(Epoch(2)),
            ..
        }
    ));
    assert_eq!(next(&again), Some(3));
    assert!(!comes(&mut inbound, 1, 0, 3));
    for life in [1, 1, 1, 2, 2] {
        inbound.handled(Epoch(life), 8, Ok(()));
    }
    assert_eq!(inbound.unhandled(), 0);
    assert_eq!(inbound.receipt(Epoch(1)).unwrap().handled, 3);
    assert_eq!(inbound.receipt(Epoch(2)), None);
    assert_eq!(next(&inbound.hello(&hello(2, 2, 70))), Some(72));
}

/// If each life that comes has a window of its own, memory has no bound.
#[test]
fn lives_without_end_are_not_welcome_while_packets_of_others_wait() {
    let mut inbound = Inbound::new(Epoch(0), LIMITS);
    let mut lives = 0;
    while next(&inbound.hello(&hello(lives, 1, 0))).is_some() {
        assert!(comes(&mut inbound, lives, 0, 6));
        lives += 1;
        assert!(lives < 10, "there is no end of it");
    }
    assert_eq!(inbound.unhandled() as u64, 6 * lives);
    for _ in 0..6 {
        inbound.handled(Epoch(0), 8, Ok(()));
    }
    assert_eq!(next(&inbound.hello(&hello(lives, 1, 0))), Some(0));
    assert!(comes(&mut inbound, lives, 0, 6));
    let further = inbound.hello(&hello(lives + 1, 1, 0));
    assert!(matches!(further, Greeted::Crowded));
}

/// In one message they could be larger than any that is taken.
#[test]
fn many_rejections_are_told_in_words_that_are_no_larger_than_others() {
    const COUNT: u64 = 5_000;
    let limits = Limits {
        window: COUNT as u32,
        window_bytes: u64::MAX,
        ..LIMITS
    };
    let is_accepted = |number: u64| number % 10 == 9;
    let mut inbound = Inbound::new(Epoch(0), limits);
    inbound.hello(&hello(1, 1, 0));
    assert!(comes(&mut inbound, 1, 0, COUNT as usize));
    for number in 0..COUNT {
        let outcome = is_accepted(number)
            .then_some(())
            .ok_or_else(|| "x".repeat(256));
        inbound.handled(Epoch(1), 8, outcome);
    }
    let Greeted::Welcome { welcome, .. } = inbound.hello(&hello(1, 2, 0)) else {
        panic!("it is not welcome");
    };
    let mut told = vec![welcome.receipt.clone()];
    assert!(ToSender::Welcome(welcome).encode().len() < 64 << 10);
    while inbound.has_more() {
        let receipt = inbound.receipt(Epoch(1)).unwrap();
        assert!(ToSender::Receipt(receipt.clone()).encode().len() < 64 << 10);
        told.push(receipt);
    }
    let mut handled = 0;
    for receipt in told {
        let numbers = receipt.rejected.iter().map(|each| each.number);
        let expected = (handled..receipt.handled).filter(|number| !is_accepted(*number));
        assert!(numbers.eq(expected), "what is handled is told as it was");
        handled = receipt.handled;
    }
    assert_eq!(handled, COUNT);
}

proptest! {
    #[test]
    fn each_packet_is_handled_once_in_order_and_told_as_it_was(steps in steps(false)) {
        let mut world = World::new(Restarts::Fail);
        steps.iter().for_each(|step| world.step(step));
        world.finish();
        world.check();
    }

    #[test]
    fn over_restarts_of_the_receiver_none_is_handled_twice_where_that_is_asked(steps in steps(true)) {
        let mut world = World::new(Restarts::Fail);
        steps.iter().for_each(|step| world.step(step));
        world.finish();
        world.check();
    }

    #[test]
    fn over_restarts_of_the_receiver_all_are_handled_where_that_is_asked(steps in steps(true)) {
        let mut world = World::new(Restarts::Redeliver);
        steps.iter().for_each(|step| world.step(step));
        world.finish();
        world.check();
    }
}

/// Whoever claims to know of what it cannot know of would have a second window, and a third.
#[test]
fn a_sender_that_claims_to_know_of_what_is_not_handled_gets_no_more_into_the_window() {
    let limits = Limits {
        window_bytes: u64::MAX,
        ..LIMITS
    };
    let mut inbound = Inbound::new(Epoch(0), limits);
    inbound.hello(&hello(1, 1, 0));
    assert!(comes(&mut inbound, 1, 0, 6));
    assert!(!comes(&mut inbound, 1, 6, 1));
    assert_eq!(inbound.unhandled(), 6);
    inbound.handled(Epoch(1), 8, Ok(()));
    assert!(comes(&mut inbound, 1, 6, 1));
}

/// What has gone fills no body: with bodies enough under way, the next waits for others.
#[test]
fn packets_are_gathered_behind_one_whose_caller_has_left() {
    const ROOM: usize = 100;
    let mut outbound = Outbound::new(Epoch(1), Restarts::Fail);
    let mut settled = Vec::new();
    let push = |outbound: &mut Outbound<Caller>, size| {
        let caller = Caller {
            nth: 0,
            left: Rc::default(),
            sent: Rc::default(),
        };
        outbound.push(vec![0; size].into(), caller.clone());
        caller
    };
    let welcome = Welcome {
        receiver: Epoch(2),
        next: 0,
        receipt: Receipt {
            epoch: Epoch(1),
            handled: 0,
            rejected: Vec::new(),
        },
        limits: LIMITS,
    };
    outbound.hello();
    outbound.welcome(&welcome, &mut settled).unwrap();
    for _ in 0..BODIES {
        push(&mut outbound, 1);
        assert!(outbound.pack(ROOM, &mut settled).is_some());
    }
    let caller = push(&mut outbound, ROOM);
    caller.left.set(true);
    outbound.take_left(&mut settled);
    assert_eq!(settled.len(), 1);
    push(&mut outbound, 1);
    assert_eq!(outbound.pack(ROOM, &mut settled), None);
}
