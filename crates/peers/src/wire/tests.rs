use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::*;

fn packets(body: &Bytes) -> Packets {
    match ToReceiver::decode(body) {
        Ok(ToReceiver::Packets(packets)) => packets,
        other => panic!("{other:?} are no packets"),
    }
}

fn welcome() -> Welcome {
    Welcome {
        receiver: Epoch(7),
        next: 12,
        receipt: Receipt {
            epoch: Epoch(u64::MAX),
            handled: 10,
            rejected: vec![Rejected {
                number: 9,
                reason: "bad".into(),
            }],
        },
        limits: Limits {
            packet: 1,
            window: 2,
            window_bytes: 3,
        },
    }
}

proptest! {
    #[test]
    fn packets_come_out_as_they_went_in(
        sent in vec(option::weighted(0.9, vec(any::<u8>(), 0..40)), 1..50),
        base in 0_u64..1000,
        ahead in 0_u64..1000,
        epoch: u64,
    ) {
        let mut packer = Packer::new(Epoch(epoch), base, base + ahead, 64);
        for packet in &sent {
            let size = packet.as_ref().map_or(0, Vec::len);
            let expected = packer.size_with(size);
            packer.push(packet.as_deref());
            prop_assert_eq!(packer.body.len(), expected);
        }
        let packed = packer.finish();
        prop_assert_eq!(packed.count as usize, sent.len());
        let read = packets(&packed.body);
        prop_assert_eq!((read.epoch, read.base, read.first), (Epoch(epoch), base, base + ahead));
        prop_assert_eq!(read.len() as usize, sent.len());
        let largest = sent.iter().flatten().map(Vec::len).max().unwrap_or(0);
        prop_assert_eq!(read.largest(), largest);
        let read: Vec<Option<Vec<u8>>> = read.map(|packet| packet.map(Vec::from)).collect();
        prop_assert_eq!(read, sent);
    }

    /// Neither does anything that is cut short, or anything at all, panic, nor is a part of packets
    /// taken for fewer unless it ends between two of them.
    #[test]
    fn what_is_cut_short_is_no_packet(
        sent in vec(vec(any::<u8>(), 1..40), 1..5),
        cut: prop::sample::Index,
    ) {
        let mut packer = Packer::new(Epoch(1), 0, 0, 64);
        let mut ends = Vec::new();
        for packet in &sent {
            packer.push(Some(packet));
            ends.push(packer.body.len());
        }
        let body = packer.finish().body;
        let cut = cut.index(body.len());
        let whole = ends.contains(&cut);
        prop_assert_eq!(ToReceiver::decode(&body.slice(..cut)).is_ok(), whole);
    }

    #[test]
    fn nothing_panics(body in vec(any::<u8>(), 0..200), kind in 0_usize..8) {
        let kinds = [HELLO, PACKETS, WELCOME, RECEIPT, REPLACED, 0, 1, 255];
        let mut framed = vec![VERSION, kinds[kind]];
        framed.extend(&body);
        for body in [body, framed] {
            let _ = ToSender::decode(&body);
            if let Ok(ToReceiver::Packets(packets)) = ToReceiver::decode(&body.into()) {
                prop_assert_eq!(packets.len() as usize, packets.count());
            }
        }
    }
}

#[test]
fn each_word_is_read_as_it_was_said() {
    let hello = Hello {
        connection: 3,
        epoch: Epoch(3),
        base: 4,
    };
    let read = ToReceiver::decode(&hello.encode().into());
    assert!(matches!(read, Ok(ToReceiver::Hello(read)) if read == hello));
    let receipt = welcome().receipt;
    for word in [
        ToSender::Welcome(welcome()),
        ToSender::Receipt(receipt),
        ToSender::Replaced(Epoch(7)),
    ] {
        assert_eq!(ToSender::decode(&word.encode()).as_ref(), Ok(&word));
    }
}

#[test]
fn another_version_is_named() {
    let mut body = ToSender::Replaced(Epoch(7)).encode();
    body[0] = 9;
    assert_eq!(ToSender::decode(&body), Err(Malformed::Version(9)));
}

#[test]
fn a_word_with_something_behind_it_is_not_understood() {
    let mut body = ToSender::Welcome(welcome()).encode();
    body.push(0);
    assert_eq!(ToSender::decode(&body), Err(Malformed::Unintelligible));
}

#[test]
fn packets_that_begin_below_what_is_settled_or_beyond_all_numbers_are_not_understood() {
    for (base, first) in [(5, 4), (0, u64::MAX)] {
        let mut packer = Packer::new(Epoch(1), base, first, 64);
        packer.push(Some(b"x"));
        let body = packer.finish().body;
        assert!(ToReceiver::decode(&body).is_err(), "{base} {first}");
    }
}

#[test]
fn a_body_without_packets_is_not_understood() {
    let body = Packer::new(Epoch(1), 0, 0, 64).finish().body;
    assert!(ToReceiver::decode(&body).is_err());
}

#[test]
fn a_packet_alone_makes_no_larger_body_than_is_said() {
    let mut packer = Packer::new(Epoch(u64::MAX), u64::MAX - 2, u64::MAX - 2, 64);
    packer.push(Some(&[0; 100]));
    assert!(packer.finish().body.len() <= largest_body(100));
}

#[test]
fn a_reason_is_cut_between_two_characters() {
    let long = "é".repeat(LONGEST_REASON);
    assert_eq!(reason(long).len(), LONGEST_REASON);
    let odd = format!("x{}", "é".repeat(LONGEST_REASON));
    assert_eq!(reason(odd).len(), LONGEST_REASON - 1);
    assert_eq!(reason("short".into()), "short");
}
