//! Whoever reaches the address may send anything, and whoever has the token may do it under a name.
//! Whatever comes, memory stays bounded, and an honest pair goes on.

mod common;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use common::{
    LONG, Seen, TOKEN, address,
    amqp::{
        self, BODY, CHANNEL_CLOSE, CONSUME, GREETING, METHOD, Properties, TUNE, Wire, announce,
        frame, login, short,
    },
    connected, packet, peer, sender,
    tap::Tap,
};
use futures_util::{StreamExt, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, MutexGuard, watch},
    time::{Instant, timeout},
};
use wharf_peers::{Peer, PeerState, SendError};
use wharf_testkit::{
    usage::{Allocations, COUNTING, CountingAllocator},
    wait::eventually,
};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

/// Memory is counted for the whole process, so that these tests go one after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

const MIB: isize = 1 << 20;

/// What a receiver takes of each sender at a time.
const WINDOW: usize = 100;
const WINDOW_BYTES: usize = 64 << 10;
const MAX_PACKET: usize = 32 << 10;

/// How long a receiver's broker lets anybody take to log in.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An honest pair, and what is said between them.
struct Siege {
    to: SocketAddr,
    seen: Seen,
    receiver: Peer,
    honest: Peer,
    state: watch::Receiver<PeerState>,
    sent: u64,
    tap: Tap,
    before: Allocations,
    _alone: MutexGuard<'static, ()>,
}

impl Siege {
    async fn start() -> Self {
        let alone = ALONE.lock().await;
        let seen = Seen::default();
        let receiver = peer("receiver")
            .listen("127.0.0.1:0")
            .caller("honest")
            .caller("mallory")
            .max_packet(MAX_PACKET)
            .window(WINDOW, WINDOW_BYTES);
        let receiver = seen.start(receiver).await;
        let to = address(&receiver).await.parse().unwrap();
        let tap = Tap::to(to).await;
        let honest = sender(peer("honest").peer("receiver", tap.addr.to_string())).await;
        connected(&honest, "receiver").await;
        let mut state = honest.watch("receiver").unwrap();
        state.mark_unchanged();
        let mut siege = Self {
            to,
            seen,
            receiver,
            honest,
            state,
            sent: 0,
            tap,
            before: Allocations::now(),
            _alone: alone,
        };
        siege.goes_on().await;
        siege.before = Allocations::now();
        siege
    }

    /// The honest one sends, is answered, and has the connection it had.
    async fn goes_on(&mut self) {
        let sent = self.honest.send("receiver", packet(self.sent));
        timeout(LONG, sent).await.expect("in time").unwrap();
        self.sent += 1;
        assert!(
            !self.state.has_changed().unwrap(),
            "the connection was lost"
        );
        assert_eq!(self.seen.count("honest") as u64, self.sent);
    }

    async fn mallory(&self) -> Wire {
        Wire::open(self.to, "mallory", TOKEN).await
    }

    /// Mallory, whose hello was heard.
    async fn greeted(&self, life: u64) -> Wire {
        let mut mallory = self.mallory().await;
        mallory.say(&hello(life, 1, 0)).await;
        mallory
    }

    /// All that the honest one sent has come, once and in order. Whoever else is connected does not
    /// delay the end.
    async fn finish(mut self) {
        self.goes_on().await;
        assert_eq!(
            self.seen.numbers("honest"),
            (0..self.sent).collect::<Vec<_>>()
        );
        let left = self.receiver.stop_within(10 * LONG);
        timeout(LONG, left).await.expect("in time").unwrap();
    }

    #[track_caller]
    fn assert_held_below(&self, bound: isize) {
        let held = (Allocations::now() - self.before).live_bytes;
        assert!(held < bound, "{held} bytes held, {bound} allowed");
    }
}

impl Wire {
    async fn say(&mut self, body: &[u8]) {
        let own = Properties {
            user_id: Some("mallory"),
            reply_to: None,
        };
        self.publish("inbox.mallory", &own, body).await;
    }
}

fn varint(mut number: u64, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn word(kind: u8, numbers: [u64; 3]) -> Vec<u8> {
    let mut body = vec![1, kind];
    numbers
        .into_iter()
        .for_each(|number| varint(number, &mut body));
    body
}

fn hello(life: u64, connection: u64, base: u64) -> Vec<u8> {
    word(b'H', [life, connection, base])
}

fn packets(life: u64, base: u64, first: u64, packets: &[&[u8]]) -> Vec<u8> {
    let mut body = word(b'P', [life, base, first]);
    for packet in packets {
        body.extend(u32::try_from(packet.len()).unwrap().to_be_bytes());
        body.extend(*packet);
    }
    body
}

#[tokio::test]
async fn tokens_are_tried_in_vain_and_leave_nothing() {
    let mut siege = Siege::start().await;
    for round in 0..10 {
        let guesses = (0..25).map(async |guess| {
            let mut wire = Wire::connect(siege.to).await;
            wire.send(GREETING).await;
            let token = ["", "secre", "secrets", "Secret", "\0secret"][guess % 5];
            wire.send(&login(["honest", "mallory", "receiver"][round % 3], token))
                .await;
            assert_eq!(wire.end().await, None);
        });
        join_all(guesses).await;
        siege.goes_on().await;
    }
    // Its own name is nobody's.
    let mut wire = Wire::connect(siege.to).await;
    wire.send(GREETING).await;
    wire.send(&login("receiver", TOKEN)).await;
    assert_eq!(wire.end().await, None);
    siege.assert_held_below(MIB);
    siege.finish().await;
}

#[tokio::test]
async fn handshakes_that_break_off_anywhere_come_to_nothing() {
    let mut siege = Siege::start().await;
    let whole = [GREETING, &login("mallory", TOKEN)].concat();
    let to = siege.to;
    for part in 0..whole.len() {
        let mut wire = Wire::connect(to).await;
        wire.send(&whole[..part]).await;
        wire.socket.shutdown().await.unwrap();
        // There is no word of it but the answers to what was whole.
        while wire.next().await.is_some() {}
    }
    siege.goes_on().await;
    siege.assert_held_below(MIB);
    siege.finish().await;
}

#[tokio::test]
async fn a_thousand_that_never_end_their_handshake_are_put_out() {
    let mut siege = Siege::start().await;
    let whole = [GREETING, &login("mallory", TOKEN)].concat();
    let to = siege.to;
    let attack = stream::iter(0..1_000_usize).for_each_concurrent(None, move |number| {
        let part = whole[..number % (whole.len() - 1)].to_vec();
        async move {
            let mut socket = TcpStream::connect(to).await.unwrap();
            let _ = socket.write_all(&part).await;
            // It stays until it is put out.
            let end = timeout(LONG, socket.read_to_end(&mut Vec::new())).await;
            let _ = end.expect("it is put out, in time");
        }
    });
    let attack = tokio::spawn(attack);
    // Who comes while it lasts is let in.
    for _ in 0..20 {
        siege.goes_on().await;
        let late = sender(peer("mallory").peer("receiver", to.to_string())).await;
        let sent = timeout(LONG, late.send("receiver", packet(0))).await;
        sent.expect("in time").unwrap();
        late.stop_within(LONG).await.unwrap();
    }
    while !attack.is_finished() {
        siege.goes_on().await;
        // What the honest pair says is kept by this test, and counted.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    attack.await.unwrap();
    siege.assert_held_below(4 * MIB);
    siege.finish().await;
}

#[tokio::test]
async fn one_byte_at_a_time_holds_nobody_up() {
    let mut siege = Siege::start().await;
    let whole = [GREETING, &login("mallory", TOKEN)].concat();
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(Wire::connect(siege.to).await);
    }
    for byte in whole {
        for wire in &mut slow {
            wire.send(&[byte]).await;
        }
        siege.goes_on().await;
    }
    // They have got in, slowly as they went. A machine on which they took longer than anybody may is
    // one on which they were put out.
    for wire in &mut slow {
        assert!(wire.reaches(amqp::OPEN_OK).await || began.elapsed() > HANDSHAKE);
    }
    siege.assert_held_below(4 * MIB);
    drop(slow);
    siege.finish().await;
}

#[tokio::test]
async fn frames_that_claim_to_be_huge_end_their_connection_and_reserve_nothing() {
    let mut siege = Siege::start().await;
    let claim = |kind: u8| vec![kind, 0, 1, 255, 255, 255, 240];
    // Before the login, and after it.
    for kind in [METHOD, amqp::HEADER, BODY, 8, 77] {
        let mut stranger = Wire::connect(siege.to).await;
        stranger.send(GREETING).await;
        stranger.send(&claim(kind)).await;
        stranger.end().await;
        let mut mallory = siege.mallory().await;
        mallory.send(&claim(kind)).await;
        assert_eq!(mallory.end().await, Some(501));
        siege.goes_on().await;
    }
    // A body that would be larger than any packet.
    let own = Properties::default();
    for size in [u64::MAX, 1 << 33, (MAX_PACKET as u64) + (1 << 20)] {
        let mut mallory = siege.mallory().await;
        mallory.send(&announce("inbox.mallory", &own, size)).await;
        assert_eq!(mallory.expect(CHANNEL_CLOSE).await.code(), 406);
        siege.goes_on().await;
    }
    // Bodies within the bound that never come.
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut mallory = siege.mallory().await;
        mallory
            .send(&announce("inbox.mallory", &own, 1 << 20))
            .await;
        silent.push(mallory);
    }
    siege.goes_on().await;
    siege.assert_held_below(8 * MIB);
    drop(silent);
    siege.finish().await;
}

#[tokio::test]
async fn words_that_make_no_sense_cost_the_connection() {
    let mut siege = Siege::start().await;
    let large = vec![0; MAX_PACKET + 1];
    let third = vec![0; MAX_PACKET - 100];
    let many: Vec<&[u8]> = vec![b""; WINDOW + 1];
    let mut lies = packets(1, 0, 0, &[b"a packet"]);
    let at = lies.len() - 9;
    lies[at] = 200;
    let mut cut = packets(1, 0, 0, &[b"a packet"]);
    cut.truncate(cut.len() - 1);
    let mut huge = packets(1, 0, 0, &[]);
    huge.extend([255, 255, 255, 254]);
    let mut version = hello(1, 2, 0);
    version[0] = 2;
    for (what, body) in [
        ("nothing", vec![]),
        ("another version", version),
        ("another kind", vec![1, b'Z', 0, 0, 0]),
        ("an endless number", [&[1, b'H'][..], &[255; 40]].concat()),
        ("more than a hello", [hello(1, 2, 0), vec![0]].concat()),
        ("no packets", packets(1, 0, 0, &[])),
        ("a length that lies", lies),
        ("a packet cut short", cut),
        ("a length without end", huge),
        ("a base behind the first", packets(1, 1, 0, &[b"x"])),
        (
            "numbers that run out",
            packets(1, 0, u64::MAX, &[b"x", b"y"]),
        ),
        ("a gap", packets(1, 0, 1, &[b"x"])),
        ("a large gap", packets(1, 0, u64::MAX - 1, &[b"x"])),
        ("a packet too large", packets(1, 0, 0, &[&large])),
        ("more packets than the window", packets(1, 0, 0, &many)),
        (
            "more bytes than the window",
            packets(1, 0, 0, &[&third, &third, &third]),
        ),
    ] {
        let mut mallory = siege.greeted(1).await;
        mallory.say(&body).await;
        assert_eq!(mallory.end().await, Some(406), "{what}");
        siege.goes_on().await;
    }
    assert_eq!(siege.seen.count("mallory"), 0);
    siege.assert_held_below(MIB);
    siege.finish().await;
}

/// The bound is one for all lives of a sender, of which there may be no end.
#[tokio::test]
async fn lives_without_end_fill_no_memory() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = std::sync::Arc::clone(&gate);
    let _alone = ALONE.lock().await;
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("mallory")
        .max_packet(1 << 20)
        .window(10, 1 << 20)
        .start(move |_, _: Bytes| {
            let held = std::sync::Arc::clone(&held);
            async move { held.acquire().await.map(drop).map_err(Into::into) }
        })
        .await
        .unwrap();
    let to = address(&receiver).await.parse().unwrap();
    let before = Allocations::now();
    let full = vec![0; 1 << 20];
    let mut mallory = Wire::open(to, "mallory", TOKEN).await;
    for life in 0..100 {
        mallory.say(&hello(life, 1, 0)).await;
        mallory.say(&packets(life, 0, 0, &[&full])).await;
    }
    // An answer tells that all was read: this is no queue of anybody's.
    let passive = [
        &[0, 50, 0, 10, 0, 0][..],
        &short("nobody"),
        &[1, 0, 0, 0, 0],
    ]
    .concat();
    assert!(mallory.ask(&passive).await.is(CHANNEL_CLOSE));
    let settled = async || (Allocations::now() - before).live_bytes < 16 * MIB;
    eventually("most of it is dropped", LONG, settled).await;
    gate.add_permits(1_000);
    receiver.stop_within(LONG).await.unwrap();
}

#[tokio::test]
async fn nobody_says_that_they_are_another() {
    let mut siege = Siege::start().await;
    let body = hello(99, 1, 0);
    let mut mallory = siege.mallory().await;
    let claim = Properties {
        user_id: Some("honest"),
        reply_to: None,
    };
    mallory.publish("inbox.honest", &claim, &body).await;
    assert_eq!(mallory.expect(CHANNEL_CLOSE).await.code(), 406);
    // Under its own name, or none, it is not heard.
    for user_id in [Some("mallory"), None] {
        let mut mallory = siege.mallory().await;
        let own = Properties {
            user_id,
            reply_to: None,
        };
        mallory.publish("inbox.honest", &own, &body).await;
        mallory
            .publish("inbox.honest", &own, &packets(99, 0, 0, &[b"x"]))
            .await;
        siege.goes_on().await;
    }
    siege.finish().await;
}

/// A method on a queue, with what follows its name.
fn on_queue(class: u8, method: u8, queue: &str, rest: &[u8]) -> Vec<u8> {
    [&[0, class, 0, method, 0, 0][..], &short(queue), rest].concat()
}

/// The queue that the honest one hears its answers on.
fn answers(siege: &Siege) -> String {
    let said = siege.tap.to_client();
    let at = said
        .windows(4)
        .position(|part| part == [0, 50, 0, 11])
        .unwrap()
        + 4;
    let size = usize::from(said[at]);
    String::from_utf8(said[at + 1..][..size].to_vec()).unwrap()
}

/// Inboxes once belonged to nobody: with the token they could be deleted, and their owner was never
/// heard again.
#[tokio::test]
async fn the_queues_of_others_are_out_of_reach() {
    let mut siege = Siege::start().await;
    for queue in ["inbox.honest".to_owned(), answers(&siege)] {
        for (what, method) in [
            ("consume", on_queue(60, 20, &queue, &[0, 0, 0, 0, 0, 0])),
            ("get", on_queue(60, 70, &queue, &[1])),
            ("purge", on_queue(50, 30, &queue, &[0])),
            ("delete", on_queue(50, 40, &queue, &[0])),
            ("declare", on_queue(50, 10, &queue, &[0, 0, 0, 0, 0])),
            ("look", on_queue(50, 10, &queue, &[1, 0, 0, 0, 0])),
            (
                "bind",
                on_queue(
                    50,
                    20,
                    &queue,
                    &[&short("amq.fanout")[..], &[0, 0, 0, 0, 0, 0]].concat(),
                ),
            ),
        ] {
            let mut mallory = siege.mallory().await;
            let answer = mallory.ask(&method).await;
            assert!(answer.is(CHANNEL_CLOSE), "{what} {queue}");
            // Locked, or a name that is the broker's to give.
            assert!(matches!(answer.code(), 403 | 405), "{what} {queue}");
            siege.goes_on().await;
        }
    }
    siege.finish().await;
}

/// Answers once counted whoever they were from.
#[tokio::test]
async fn nobody_answers_in_the_name_of_another() {
    let mut siege = Siege::start().await;
    let answers = answers(&siege);
    let mut mallory = siege.mallory().await;
    // A receipt, words that make no sense, and one that sends the honest one away.
    for body in [word(b'R', [1, 1, 0]), vec![9], vec![1, b'X', 0]] {
        for user_id in [None, Some("mallory")] {
            let own = Properties {
                user_id,
                reply_to: None,
            };
            mallory.publish(&answers, &own, &body).await;
        }
    }
    siege.goes_on().await;
    // Nor does it have the receiver do it: answers to mallory are none to the honest one.
    for (life, reply_to) in [(1, &*answers), (2, &*answers), (3, "inbox.honest"), (4, "")] {
        let own = Properties {
            user_id: Some("mallory"),
            reply_to: Some(reply_to),
        };
        mallory
            .publish("inbox.mallory", &own, &hello(life, 1, 0))
            .await;
        let numbered = packet(life);
        let body = packets(life, 0, 0, &[&numbered]);
        mallory.publish("inbox.mallory", &own, &body).await;
        siege.goes_on().await;
    }
    let handled = async || siege.seen.numbers("mallory") == [1, 2, 3, 4];
    eventually("mallory's own packets are handled", LONG, handled).await;
    siege.finish().await;
}

/// Plays a session again, as it was, and without asking for the answers, which are another's.
async fn play(to: SocketAddr, said: &[u8]) {
    let ends = amqp::ends(said);
    let frames = ends.windows(2).map(|ends| &said[ends[0]..ends[1]]);
    let deaf = frames.filter(|frame| !(frame[0] == METHOD && frame[7..].starts_with(&CONSUME)));
    let deaf = [GREETING].into_iter().chain(deaf).collect::<Vec<_>>();
    for bytes in [said, &deaf.concat()] {
        let mut again = Wire::connect(to).await;
        again.send(bytes).await;
        again.socket.shutdown().await.unwrap();
        while again.next().await.is_some() {}
    }
}

/// A hello that came again once turned the answers to a queue that nobody read.
#[tokio::test]
async fn a_session_that_is_played_again_is_not_heard() {
    let mut siege = Siege::start().await;
    for _ in 0..3 {
        let recorded = siege.tap.to_server();
        play(siege.to, &recorded).await;
        siege.goes_on().await;
    }
    // An earlier life of the sender is known as well.
    let recorded = siege.tap.to_server();
    siege.honest.stop_within(LONG).await.unwrap();
    siege.honest = sender(peer("honest").peer("receiver", siege.to.to_string())).await;
    connected(&siege.honest, "receiver").await;
    siege.state = siege.honest.watch("receiver").unwrap();
    siege.state.mark_unchanged();
    siege.goes_on().await;
    play(siege.to, &recorded).await;
    siege.finish().await;
}

#[tokio::test]
async fn either_of_two_tokens_opens() {
    let seen = Seen::default();
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .other_token("old");
    let receiver = seen.start(receiver).await;
    let to = address(&receiver).await;
    for token in [TOKEN, "old"] {
        let sender = sender(peer("sender").token(token).peer("receiver", &to)).await;
        sender.send("receiver", packet(0)).await.unwrap();
        sender.stop_within(LONG).await.unwrap();
    }
    let wrong = sender(peer("sender").token("older").peer("receiver", &to)).await;
    let refused = timeout(LONG, wrong.send("receiver", packet(0))).await;
    let refused = refused.expect("in time");
    assert!(
        matches!(refused, Err(SendError::Unauthorised)),
        "{refused:?}"
    );
}

/// What listens there need not be a peer at all.
#[tokio::test]
async fn whatever_answers_at_an_address_keeps_nobody_busy() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = silent.local_addr().unwrap();
    let sender = sender(
        peer("sender")
            .peer("receiver", at.to_string())
            .connect_timeout(Duration::from_millis(100)),
    )
    .await;
    let sends = sender.send("receiver", packet(0));
    tokio::pin!(sends);
    let words: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING,
        &[255; 64],
    ];
    for word in words.into_iter().chain([&frame(METHOD, 0, &TUNE)[..]]) {
        let (mut socket, _) = tokio::select! {
            accepted = silent.accept() => accepted.unwrap(),
            outcome = &mut sends => panic!("{outcome:?}"),
        };
        let _ = socket.write_all(word).await;
        let mut state = sender.watch("receiver").unwrap();
        let down = state.wait_for(|state| matches!(state, PeerState::Disconnected { .. }));
        timeout(LONG, down).await.expect("in time").unwrap();
    }
}
