//! Both cores without connections, for words from anywhere: the fuzz target and tests feed them. What
//! a core promises is judged after each step by what its side has seen so far, kept as plainly as can
//! be.

mod receiver;
mod sender;

use bytes::Bytes;

use crate::{
    core::outbound::Restarts,
    wire::{Epoch, Hello, Limits, Packer, Packets, ToReceiver, ToSender},
};
use receiver::Receiver;
use sender::Sender;

/// Of the side that is judged.
const OWN: Epoch = Epoch(1);

/// So small that bytes bound it before packets do, and the other way round; and a single packet can
/// be too large for it.
const NARROW: Limits = Limits {
    packet: 240,
    window: 3,
    window_bytes: 300,
};

/// With room for more rejections than a word has.
const WIDE: Limits = Limits {
    packet: 240,
    window: 300,
    window_bytes: 1 << 20,
};

/// A script's first byte says which side it is for, and how that is set up. The others are what it
/// does and is told, as `Receiver::step` and `Sender::step` read them.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    match script.byte().map(|setup| setup % 4) {
        None => {}
        Some(0) => drop(receive(NARROW, script)),
        Some(1) => drop(receive(WIDE, script)),
        Some(2) => drop(send(Restarts::Fail, script)),
        Some(_) => drop(send(Restarts::Redeliver, script)),
    }
}

fn receive(limits: Limits, mut script: Script<'_>) -> Receiver {
    let mut receiver = Receiver::new(limits);
    while receiver.step(&mut script).is_some() {}
    receiver.finish();
    receiver
}

fn send(restarts: Restarts, mut script: Script<'_>) -> Sender {
    let mut sender = Sender::new(restarts);
    while sender.step(&mut script).is_some() {}
    sender.finish();
    sender
}

/// Bytes that are read from the front.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// This number, or one up to eight below or seven above, as a byte says.
    fn near(&mut self, number: u64) -> Option<u64> {
        let apart = self.byte()?.cast_signed() / 16;
        Some(number.saturating_add_signed(apart.into()))
    }

    /// A byte says how long it is; the last one is as long as there are bytes.
    fn word(&mut self) -> Option<Bytes> {
        let length = usize::from(self.byte()?);
        let (word, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(Bytes::copy_from_slice(word))
    }
}

fn assert_hello_is_read_as_written(hello: &Hello) {
    let read = ToReceiver::decode(&hello.encode().into());
    assert!(matches!(read, Ok(ToReceiver::Hello(read)) if read == *hello));
}

fn assert_packets_are_read_as_written(packets: &Packets) {
    let (epoch, base, first) = (packets.epoch, packets.base, packets.first);
    let mut packer = Packer::new(epoch, base, first, 64);
    packets
        .clone()
        .for_each(|packet| packer.push(packet.as_deref()));
    let packed = packer.finish();
    assert_eq!(packed.count, packets.len());
    let read = opened(&packed.body);
    assert_eq!((read.epoch, read.base, read.first), (epoch, base, first));
    assert_eq!(read.len(), packets.len());
    assert!(read.sizes().eq(packets.sizes()));
    assert!(read.eq(packets.clone()));
}

/// Says how many bytes it is.
fn assert_word_is_read_as_written(word: &ToSender) -> usize {
    let body = word.encode();
    assert_eq!(ToSender::decode(&body).as_ref(), Ok(word));
    body.len()
}

/// What a sender packed.
fn opened(body: &Bytes) -> Packets {
    match ToReceiver::decode(body) {
        Ok(ToReceiver::Packets(packets)) => packets,
        other => panic!("{other:?} are no packets"),
    }
}

#[cfg(test)]
mod tests;
