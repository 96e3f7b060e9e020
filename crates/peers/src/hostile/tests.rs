use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use super::*;
use crate::{
    core::outbound::Fate,
    wire::{Receipt, Rejected, Welcome},
};

/// A word as the script of a receiver has it.
fn to_receiver(body: &[u8]) -> Vec<u8> {
    [&[0, u8::try_from(body.len()).unwrap()], body].concat()
}

/// As that of a sender does.
fn to_sender(word: &ToSender) -> Vec<u8> {
    let body = word.encode();
    [&[15, u8::try_from(body.len()).unwrap()], &*body].concat()
}

fn hello(epoch: u64, connection: u64, base: u64) -> Vec<u8> {
    let hello = Hello {
        epoch: Epoch(epoch),
        connection,
        base,
    };
    to_receiver(&hello.encode())
}

fn packets(epoch: u64, base: u64, first: u64, sizes: &[usize]) -> Vec<u8> {
    let mut packer = Packer::new(Epoch(epoch), base, first, 64);
    for size in sizes {
        packer.push(Some(&vec![7; *size]));
    }
    to_receiver(&packer.finish().body)
}

fn void(epoch: u64, base: u64, first: u64) -> Vec<u8> {
    let mut packer = Packer::new(Epoch(epoch), base, first, 64);
    packer.push(None);
    to_receiver(&packer.finish().body)
}

const fn accept(times: u8) -> [u8; 1] {
    [(times - 1) * 8 + 4]
}

/// For a reason of twice as many bytes as said.
const fn reject(times: u8, reason: u8) -> [u8; 2] {
    [(times - 1) * 8 + 6, reason]
}

const TELL: [u8; 1] = [7];

fn receipt(handled: u64, rejected: &[u64]) -> Receipt {
    Receipt {
        epoch: OWN,
        handled,
        rejected: rejected
            .iter()
            .map(|number| Rejected {
                number: *number,
                reason: "no".to_owned(),
            })
            .collect(),
    }
}

fn welcome(receiver: u64, next: u64, receipt: Receipt, limits: Limits) -> Vec<u8> {
    let welcome = Welcome {
        receiver: Epoch(receiver),
        next,
        receipt,
        limits,
    };
    to_sender(&ToSender::Welcome(welcome))
}

fn told(handled: u64, rejected: &[u64]) -> Vec<u8> {
    to_sender(&ToSender::Receipt(receipt(handled, rejected)))
}

const fn push(times: u8, size: u8) -> [u8; 2] {
    [(times - 1) * 16 + 5, size]
}

/// Twice as many bytes as said.
const fn pack(room: u8) -> [u8; 2] {
    [8, room]
}

const CONNECT: [u8; 6] = [0; 6];
const CUT: [u8; 1] = [13];
const REFUSE: [u8; 1] = [14];

const fn leave(which: u8) -> [u8; 2] {
    [12, which]
}

/// Steps that keep to the rules, in an order in which all of them matter.
fn of_sender() -> Vec<Vec<u8>> {
    vec![
        hello(5, 1, 0),
        packets(5, 0, 0, &[3, 0, 8]),
        TELL.into(),
        accept(1).into(),
        reject(2, 200).into(),
        packets(5, 1, 3, &[200]),
        accept(1).into(),
        hello(6, 1, 70),
        packets(6, 70, 70, &[1, 2]),
        hello(5, 2, 3),
        packets(5, 3, 3, &[200, 5]),
        void(5, 4, 5),
        accept(2).into(),
        reject(2, 3).into(),
        TELL.into(),
        hello(7, 1, 0),
        hello(8, 1, 0),
        hello(9, 1, 0),
        packets(9, 0, 0, &[240]),
        reject(1, 0).into(),
        hello(9, 2, 1),
        packets(9, 1, 1, &[9]),
        hello(1, 1, 0),
        packets(1, 0, 0, &[1]),
        hello(2, 1, 0),
        packets(2, 0, 0, &[2]),
        hello(3, 1, 0),
        packets(3, 0, 0, &[3]),
        hello(4, 1, 0),
    ]
}

fn of_receiver() -> Vec<Vec<u8>> {
    vec![
        push(3, 20).into(),
        CONNECT.into(),
        welcome(3, 0, receipt(0, &[]), WIDE),
        pack(30).into(),
        pack(30).into(),
        told(1, &[0]),
        CUT.into(),
        push(2, 241).into(),
        leave(1).into(),
        CONNECT.into(),
        welcome(3, 2, receipt(1, &[]), NARROW),
        pack(200).into(),
        told(3, &[1]),
        push(5, 1).into(),
        pack(1).into(),
        pack(1).into(),
        pack(1).into(),
        pack(1).into(),
        leave(4).into(),
        told(5, &[]),
        CUT.into(),
        CONNECT.into(),
        welcome(4, 0, receipt(0, &[]), WIDE),
        pack(9).into(),
        CUT.into(),
        REFUSE.into(),
        CONNECT.into(),
        to_sender(&ToSender::Replaced(OWN)),
    ]
}

fn script(setup: u8, steps: &[Vec<u8>]) -> Vec<u8> {
    let mut script = vec![setup];
    script.extend(steps.concat());
    script
}

/// If it were not, what follows would prove nothing.
#[test]
fn what_an_honest_sender_sends_is_handled() {
    let receiver = receive(NARROW, Script(&of_sender().concat()));
    assert_eq!(receiver.handled, 13);
}

#[test]
fn what_an_honest_receiver_has_handled_is_settled() {
    let sender = send(Restarts::Fail, Script(&of_receiver().concat()));
    let fates = sender.packets.iter().map(|packet| packet.fate.as_ref());
    let fates: Vec<_> = fates.map(Option::unwrap).collect();
    let no = Fate::Rejected("no".to_owned());
    let too_large = Fate::TooLarge {
        size: 241,
        limit: 240,
    };
    assert_eq!(
        fates[..5],
        [&no, &no, &Fate::Accepted, &too_large, &too_large]
    );
    let of_two_receivers = [
        &Fate::Accepted,
        &Fate::Accepted,
        &Fate::Restarted,
        &Fate::Unknown,
        &Fate::Unsent,
    ];
    assert_eq!(fates[5..], of_two_receivers);
}

/// Too many for one.
#[test]
fn three_hundred_rejections_are_told_in_several_words() {
    let mut steps = vec![hello(5, 1, 0)];
    for first in (0..300).step_by(30) {
        steps.push(packets(5, 0, first, &[0; 30]));
        steps.push(reject(30, 255).into());
    }
    steps.push(hello(5, 2, 10));
    let receiver = receive(WIDE, Script(&steps.concat()));
    assert_eq!(receiver.handled, 300);
}

fn steps(setup: u8) -> Vec<Vec<u8>> {
    if setup < 2 {
        of_sender()
    } else {
        of_receiver()
    }
}

/// What leaves things as they should be, most of the time.
fn slightly() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(0_u8), 1 => any::<u8>()]
}

/// The first byte of a step, which happens once, most of the time.
fn step(what: u8, kinds: u8) -> impl Strategy<Value = u8> {
    let times = prop_oneof![8 => Just(0), 1 => 0..=u8::MAX / kinds];
    times.prop_map(move |times| times * kinds + what)
}

fn receiver_step() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![4 => 0_u8..10, 1 => any::<u8>()];
    prop_oneof![
        2 => (step(1, 8), any::<u8>(), slightly()).prop_map(|step| vec![step.0, step.1, step.2]),
        4 => (step(2, 8), slightly(), slightly(), size)
            .prop_map(|step| vec![step.0, step.1, step.2, step.3]),
        1 => step(4, 8).prop_map(|step| vec![step]),
        1 => (step(6, 8), any::<u8>()).prop_map(|step| vec![step.0, step.1]),
        1 => Just(TELL.to_vec()),
    ]
}

fn sender_step() -> impl Strategy<Value = Vec<u8>> {
    let handled = select(vec![0_u8, 16, 32, 48, 112, 240]);
    let answer = (
        step(0, 16),
        any::<u8>(),
        any::<u8>(),
        slightly(),
        handled,
        any::<u8>(),
    );
    prop_oneof![
        4 => answer.prop_map(|step| vec![step.0, step.1, step.2, step.3, step.4, step.5]),
        4 => (step(5, 16), any::<u8>()).prop_map(|step| vec![step.0, step.1]),
        4 => any::<u8>().prop_map(|room| pack(room).to_vec()),
        1 => (0..64_u8).prop_map(|which| leave(which).to_vec()),
        1 => select(vec![CUT.to_vec(), REFUSE.to_vec()]),
    ]
}

fn scripts() -> impl Strategy<Value = Vec<u8>> {
    let to_receiver = (0..2_u8, vec(receiver_step(), 0..60));
    let to_sender = (2..4_u8, vec(sender_step(), 0..60));
    prop_oneof![
        to_receiver.prop_map(|(setup, steps)| script(setup, &steps)),
        to_sender.prop_map(|(setup, steps)| script(setup, &steps)),
    ]
}

proptest! {
    #[test]
    fn nothing_that_is_said_breaks_a_promise(script in scripts(), more in vec(any::<u8>(), 0..40)) {
        run(&[script, more].concat());
    }

    #[test]
    fn no_damage_to_a_conversation_breaks_a_promise(
        setup in 0_u8..4,
        upright: Index,
        order in vec(any::<Index>(), 0..30),
        damage in vec((any::<Index>(), any::<u8>()), 0..6),
    ) {
        let steps = steps(setup);
        let mut shuffled = steps[..upright.index(steps.len())].to_vec();
        shuffled.extend(order.iter().map(|at| at.get(&steps).clone()));
        let mut bytes = script(setup, &shuffled);
        for (at, octet) in damage {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        run(&bytes);
    }
}
