//! Whoever reaches the port may send anything. Whatever comes, the broker's memory stays bounded
//! and another client is served meanwhile.

mod wire;

use std::time::Duration;

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, channel, connection},
};
use futures_util::{future::join_all, stream, stream::StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use wharf_broker::{Broker, Builder};
use wharf_testkit::{
    usage::{Allocations, COUNTING, CountingAllocator},
    wait::{eventually, within},
};
use wire::{BOUND, HEADER, Wire, builder, login_bytes, login_methods, publish_bytes};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

/// Memory is counted for the whole process, so that these tests go one after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

const MIB: isize = 1 << 20;

/// A broker under attack, and the client that is served all the same.
struct Siege {
    broker: Broker,
    witness: Wire,
    before: Allocations,
    _alone: MutexGuard<'static, ()>,
}

impl Siege {
    async fn of(builder: Builder) -> Self {
        let alone = ALONE.lock().await;
        let broker = builder.start().await.unwrap();
        let mut witness = Wire::open(&broker).await;
        witness.confirming(1).await;
        witness.declare(1, "witness").await;
        let mut siege = Self {
            broker,
            witness,
            before: Allocations::now(),
            _alone: alone,
        };
        siege.serves().await;
        siege.before = Allocations::now();
        siege
    }

    /// The witness publishes, hears the confirm and gets its message back.
    async fn serves(&mut self) {
        self.witness.publish(1, "witness", b"body").await;
        let ack = self.witness.method().await;
        let ack_method = AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack::default()));
        let (ack, wanted) = (std::mem::discriminant(&ack), ack_method);
        assert_eq!(ack, std::mem::discriminant(&wanted));
        self.gets("witness", b"body").await;
    }

    /// The witness gets this message.
    async fn gets(&mut self, queue: &str, body: &[u8]) {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: queue.into(),
            no_ack: true,
        });
        self.witness.send(1, AMQPClass::Basic(get)).await;
        let got = self.witness.method().await;
        let AMQPClass::Basic(basic::AMQPMethod::GetOk(_)) = got else {
            panic!("no message: {got:?}");
        };
        assert!(matches!(
            self.witness.next().await,
            Some(AMQPFrame::Header(1, _))
        ));
        let mut received = Vec::new();
        while received.len() < body.len() {
            match self.witness.next().await {
                Some(AMQPFrame::Body(1, part)) => received.extend(part),
                other => panic!("not a body: {other:?}"),
            }
        }
        assert_eq!(received, body);
    }

    /// Bytes held more than before the attack, by the broker and by the attackers of this test.
    fn held(&self) -> isize {
        (Allocations::now() - self.before).live_bytes
    }

    #[track_caller]
    fn assert_held_below(&self, bound: isize) {
        let held = self.held();
        assert!(held < bound, "{held} bytes held, {bound} allowed");
    }
}

/// Writes the same over and over, as fast as the broker takes it, until that cuts the connection.
async fn flood(mut socket: impl AsyncWrite + Unpin, bytes: Vec<u8>) {
    while socket.write_all(&bytes).await.is_ok() {}
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(payload);
    bytes.push(206);
    bytes
}

/// `queue.declare` of a queue named `q`, with these bytes for a table.
fn declare_with(table: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    payload.extend(table);
    frame(1, 1, &payload)
}

/// A table of tables, so many levels deep.
fn nested(levels: usize) -> Vec<u8> {
    let mut table = vec![0, 0, 0, 0];
    for _ in 1..levels {
        let inner = [&[1, b'k', b'F'][..], &table].concat();
        table = u32::try_from(inner.len()).unwrap().to_be_bytes().to_vec();
        table.extend(inner);
    }
    table
}

#[tokio::test]
async fn lengths_that_lie_end_their_connection_and_reserve_nothing() {
    let mut siege = Siege::of(builder()).await;
    let publish = frame(1, 1, &[0, 60, 0, 40, 0, 0, 0, 1, b'q', 0]);
    let header = |size: u64, rest: &[u8]| {
        let mut payload = vec![0, 60, 0, 0];
        payload.extend(size.to_be_bytes());
        payload.extend(rest);
        [publish.clone(), frame(2, 1, &payload)].concat()
    };
    let lies = [
        ("frame size", vec![1, 0, 1, 255, 255, 255, 255]),
        ("frame size, less than there is", {
            let mut short = declare_with(&[0; 4]);
            short[6] -= 1;
            short
        }),
        ("empty method", frame(1, 1, &[])),
        (
            "short string",
            frame(1, 1, &[0, 50, 0, 10, 0, 0, 255, b'q', 0]),
        ),
        ("table", declare_with(&[255, 255, 255, 255])),
        (
            "table, less than there is",
            declare_with(&[0, 0, 0, 1, 1, b'k', b'V']),
        ),
        (
            "name in a table",
            declare_with(&[0, 0, 0, 3, 200, b'k', b'V']),
        ),
        (
            "long string",
            declare_with(&[0, 0, 0, 7, 1, b'k', b'S', 127, 255, 255, 255]),
        ),
        (
            "bytes",
            declare_with(&[0, 0, 0, 7, 1, b'k', b'x', 255, 255, 255, 255]),
        ),
        (
            "array",
            declare_with(&[0, 0, 0, 7, 1, b'k', b'A', 0, 0, 0, 9]),
        ),
        (
            "nested table",
            declare_with(&[0, 0, 0, 7, 1, b'k', b'F', 0, 1, 0, 0]),
        ),
        ("depth", declare_with(&nested(40))),
        ("depth that overflows stacks", declare_with(&nested(8_000))),
        ("property flags", header(1, &[255, 255])),
        ("flags for ever", header(1, &[0, 1, 0, 1, 0, 1])),
        ("header's table", header(1, &[32, 0, 255, 255, 255, 255])),
        (
            "more body than announced",
            [header(1, &[0, 0]), frame(3, 1, b"two")].concat(),
        ),
    ];
    for (lie, bytes) in lies {
        let mut liar = Wire::open(&siege.broker).await;
        liar.channel(1).await;
        liar.send_bytes(&bytes).await;
        let (code, _) = liar.closed().await;
        assert!(matches!(code, 501..=503), "{lie}: {code}");
        siege.serves().await;
    }
    // RabbitMQ's own bound; the channel goes, the connection stays.
    let mut liar = Wire::open(&siege.broker).await;
    for (number, size) in [(1, u64::MAX), (2, i64::MAX as u64), (3, (128 << 20) + 1)] {
        liar.channel(number).await;
        let mut bytes = header(size, &[0, 0]);
        let frames_of_other_channels = [2, publish.len() + 2];
        for at in frames_of_other_channels {
            bytes[at] = number.to_be_bytes()[1];
        }
        liar.send_bytes(&bytes).await;
        assert_eq!(liar.closed().await.0, 406);
    }
    // Within the bound, and never sent.
    for number in 11..=200 {
        liar.channel(number).await;
        let mut bytes = header(128 << 20, &[0, 0]);
        for at in [2, publish.len() + 2] {
            bytes[at] = number.to_be_bytes()[1];
        }
        liar.send_bytes(&bytes).await;
    }
    siege.serves().await;
    siege.assert_held_below(MIB);
}

#[tokio::test]
async fn handshakes_that_never_end_come_by_the_thousand_and_are_put_out() {
    let limits = builder()
        .max_pending_connections(100)
        // In which the witness logs in, on a machine that is busy with everything else.
        .handshake_timeout(Duration::from_secs(5));
    let mut siege = Siege::of(limits).await;
    let addr = siege.broker.addr();
    let attack = stream::iter(0..2_000_usize).for_each_concurrent(500, move |number| async move {
        let Ok(mut socket) = TcpStream::connect(addr).await else {
            return;
        };
        // Each stops somewhere else on its way.
        let bytes = [HEADER, &login_bytes("slow", 131_072)].concat();
        let part = &bytes[..number % (bytes.len() - 1)];
        let _ = socket.write_all(part).await;
        if number < 1_900 {
            // Of one that the system dropped from a full backlog nobody hears any more.
            let _ = timeout(BOUND, socket.read_to_end(&mut Vec::new())).await;
        }
    });
    let slow = tokio::spawn(attack);
    while !slow.is_finished() {
        siege.serves().await;
    }
    slow.await.unwrap();
    Wire::open(&siege.broker).await;
    eventually("they are gone", BOUND, async || {
        siege.broker.connections() == 1
    })
    .await;
    siege.serves().await;
    siege.assert_held_below(MIB);
}

#[tokio::test]
async fn passwords_are_tried_in_vain_and_leave_nothing() {
    let mut siege = Siege::of(builder()).await;
    for _ in 0..20 {
        let tries = (0..25).map(async |_| {
            let mut guess = Wire::connect(&siege.broker).await;
            guess.send_bytes(HEADER).await;
            guess.method().await;
            let mut login = login_bytes("guess", 131_072);
            let at = (login.windows(6)).position(|part| part == b"secret");
            login[at.unwrap()] = b'S';
            guess.send_bytes(&login).await;
            // Nobody says why to a client that did not ask to be told.
            assert_eq!(guess.next().await, None);
        });
        join_all(tries).await;
        siege.serves().await;
    }
    eventually("they are gone", BOUND, async || {
        siege.broker.connections() == 1
    })
    .await;
    siege.assert_held_below(MIB);
}

#[tokio::test]
async fn a_client_that_asks_for_ever_and_never_reads_is_not_read_from_and_then_cut() {
    let patience = Duration::from_secs(1);
    let outbox = 256 << 10;
    let limits = builder().send_timeout(patience).outbox(outbox);
    let mut siege = Siege::of(limits).await;
    let declare = declare_with(&[0; 4]);
    let mut mandatory = publish_bytes(1, "nowhere", &[7; 1_000]);
    // The flag is the last octet of basic.publish.
    let end = 7 + usize::from(mandatory[6]);
    mandatory[end - 1] = 1;
    for bytes in [declare, mandatory] {
        let mut deaf = Wire::open(&siege.broker).await;
        deaf.channel(1).await;
        let asking = tokio::spawn(flood(deaf.socket, bytes.repeat(1_000)));
        // The answers have to fill the buffers of two sockets first.
        within("it is cut", 6 * BOUND, async {
            while !asking.is_finished() {
                siege.serves().await;
                siege.assert_held_below(8 * MIB);
            }
        })
        .await;
        asking.await.unwrap();
        eventually("it is gone", BOUND, async || {
            siege.broker.connections() == 1
        })
        .await;
    }
    siege.serves().await;
}

#[tokio::test]
async fn bodies_that_are_never_finished_cost_no_more_than_the_bound() {
    let bound = 4 << 20;
    let limits = builder().memory(bound).max_message_size(1 << 20);
    let mut siege = Siege::of(limits).await;
    let mut honest = Wire::open(&siege.broker).await;
    honest.confirming(1).await;
    let whole = publish_bytes(1, "witness", &[1; 300_000]);
    let (begun, rest) = whole.split_at(200_000);
    honest.send_bytes(begun).await;
    // Eight frames are full, and the ninth has the rest.
    let last_frame = (1 << 20) - 8 * 131_064 + 8;
    for _ in 0..3 {
        let mut attacker = Wire::open(&siege.broker).await;
        let mut number = 0;
        let code = loop {
            number += 1;
            assert!(number < 20, "it may hold {number} MiB");
            attacker.channel(number).await;
            let whole = publish_bytes(number, "witness", &[0; 1 << 20]);
            attacker
                .send_bytes(&whole[..whole.len() - last_frame])
                .await;
            // The answer tells that the bodies were read.
            let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
            attacker.send(1_000 + number, open).await;
            match attacker.method().await {
                AMQPClass::Channel(_) => {}
                AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                    break close.reply_code;
                }
                other => panic!("{other:?}"),
            }
            siege.assert_held_below(2 * 4 * MIB + 2 * MIB);
        };
        assert_eq!(code, 506);
        siege.serves().await;
    }
    // Who holds less was left alone.
    honest.send_bytes(rest).await;
    assert_eq!(honest.acks(1).await, [1]);
    siege.gets("witness", &[1; 300_000]).await;
}

#[tokio::test]
async fn every_channel_is_opened_and_queues_are_declared_up_to_the_bound() {
    let mut siege = Siege::of(builder().max_queues(500)).await;
    let mut greedy = Wire::open(&siege.broker).await;
    for number in 1..=2_047 {
        greedy.channel(number).await;
    }
    siege.assert_held_below(4 * MIB);
    for number in 0..499 {
        greedy.declare(1, &format!("greedy-{number}")).await;
    }
    greedy.send_bytes(&declare_with(&[0; 4])).await;
    assert_eq!(greedy.closed().await.0, 406);
    siege.serves().await;
    siege.assert_held_below(4 * MIB);
    // One channel more than agreed.
    let open = frame(1, 2_048, &[0, 20, 0, 10, 0]);
    greedy.send_bytes(&open).await;
    assert_eq!(greedy.closed().await.0, 530);
    siege.serves().await;
}

#[tokio::test]
async fn a_queue_nobody_reads_blocks_who_fills_it_until_somebody_reads() {
    let bound = 4 << 20;
    let mut siege = Siege::of(builder().memory(bound)).await;
    let mut filler = Wire::open(&siege.broker).await;
    filler.channel(1).await;
    filler.declare(1, "full").await;
    let body = vec![3; 10_000];
    let (mut told, filling) = filler.socket.into_split();
    tokio::spawn(flood(filling, publish_bytes(1, "full", &body)));
    // Once it is told so, it is not read from any more.
    let mut frame = [0; 11];
    let blocked = told.read_exact(&mut frame);
    within("it is blocked", BOUND, blocked).await.unwrap();
    assert_eq!(frame[7..], [0, 10, 0, 60], "connection.blocked");
    siege.assert_held_below(6 * MIB);
    let (ready, _) = siege.broker.queue_depth("/", "full").unwrap();
    let taken = ready * body.len();
    assert!(taken > bound / 10 * 9 && taken <= bound, "{taken}");
    // A consumer that acknowledges nothing keeps the memory: the alarm stays.
    let mut hoarder = Wire::open(&siege.broker).await;
    hoarder.channel(1).await;
    let consume = basic::AMQPMethod::Consume(basic::Consume {
        queue: "full".into(),
        ..basic::Consume::default()
    });
    hoarder.send(1, AMQPClass::Basic(consume)).await;
    hoarder.method().await;
    for _ in 0..20 {
        assert!(hoarder.next().await.is_some());
    }
    siege.assert_held_below(8 * MIB);
    drop(hoarder);
    eventually("all is ready again", BOUND, async || {
        siege.broker.queue_depth("/", "full").unwrap() == (ready, 0)
    })
    .await;
    for _ in 0..ready {
        siege.gets("full", &body).await;
    }
    // What waited in the blocked connection's socket follows.
    within("the filler goes on", BOUND, async {
        while siege.broker.queue_depth("/", "full").unwrap().0 == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    siege.gets("full", &body).await;
}

/// A heartbeat has eight bytes, and once took twenty times as many as soon as it was read: all that
/// came in one read were decoded, and their room was kept.
#[tokio::test]
async fn heartbeats_before_the_login_cost_no_more_than_they_are() {
    let limits = builder().handshake_timeout(Duration::from_secs(60));
    let mut siege = Siege::of(limits).await;
    let heartbeats = frame(8, 0, &[]).repeat(3 * 8_192);
    let [login, ..] = login_methods("beating", 131_072, 0);
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut attacker = Wire::connect(&siege.broker).await;
        attacker.send_bytes(HEADER).await;
        attacker.method().await;
        attacker.send_bytes(&heartbeats).await;
        // The answer to this tells that all of them were read.
        attacker.send_bytes(&login).await;
        attacker.method().await;
        waiting.push(attacker.socket);
    }
    siege.serves().await;
    siege.assert_held_below(10 * MIB);
}

/// Each of these bodies once kept the buffer that it was read into, which counted as nothing.
#[tokio::test]
async fn bodies_that_come_one_by_one_keep_no_more_than_twice_what_counts() {
    let bound = 4 << 20;
    let siege = Siege::of(builder().memory(bound)).await;
    let mut filler = Wire::open(&siege.broker).await;
    filler.confirming(1).await;
    filler.declare(1, "full").await;
    // Makes the buffers as large as they get.
    let burst = publish_bytes(1, "nowhere", &[0; 60_000]).repeat(20);
    let publish = publish_bytes(1, "full", &[1; 17_000]);
    for bytes in std::iter::once(&burst).chain(std::iter::repeat(&publish)) {
        filler.send_bytes(bytes).await;
        if let AMQPClass::Connection(_) = filler.method().await {
            break;
        }
    }
    let (ready, _) = siege.broker.queue_depth("/", "full").unwrap();
    assert!((230..300).contains(&ready), "{ready}");
    drop(burst);
    siege.assert_held_below(2 * 4 * MIB);
}

#[tokio::test]
async fn argument_tables_cost_no_more_than_the_bound() {
    let mut siege = Siege::of(builder().max_argument_bytes(2 << 20)).await;
    let mut greedy = Wire::open(&siege.broker).await;
    greedy.channel(1).await;
    // An array of voids: a byte each, and many times as many when it is kept.
    let count: usize = 1_000;
    let size = |size: usize| u32::try_from(size).unwrap().to_be_bytes();
    let entry = [&[1, b'k', b'A'][..], &size(count), &b"V".repeat(count)].concat();
    let table = [&size(entry.len())[..], &entry].concat();
    let mut declared = 0;
    let code = loop {
        let name = format!("greedy-{declared:05}");
        let mut payload = vec![0, 50, 0, 10, 0, 0, 12];
        payload.extend(name.as_bytes());
        payload.push(0);
        payload.extend(&table);
        greedy.send_bytes(&frame(1, 1, &payload)).await;
        match greedy.method().await {
            AMQPClass::Queue(_) => declared += 1,
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => break close.reply_code,
            other => panic!("{other:?}"),
        }
        assert!(declared < 5_000, "it may declare {declared}");
    };
    assert_eq!(code, 406);
    assert!(declared > 10);
    siege.serves().await;
    siege.assert_held_below(2 * 2 * MIB + MIB);
}

#[tokio::test]
async fn clients_that_log_in_and_fall_silent_by_the_thousand_are_forgotten() {
    let mut siege = Siege::of(builder()).await;
    // The first thousand make tables grow.
    let mut bound = 4 * MIB;
    for _ in 0..2 {
        let mut silent = Vec::new();
        for _ in 0..1_000 {
            let mut client = Wire::connect(&siege.broker).await;
            client.send_bytes(HEADER).await;
            client.method().await;
            let login = login_methods("silent", 131_072, 3).concat();
            client.send_bytes(&login).await;
            client.method().await;
            client.method().await;
            // The socket stays open; nothing more is sent or read.
            silent.push(client.socket);
        }
        siege.serves().await;
        eventually("they are gone", BOUND, async || {
            siege.broker.connections() == 1
        })
        .await;
        siege.serves().await;
        eventually("their memory is back", BOUND, async || siege.held() < bound).await;
        bound = siege.held() + MIB / 4;
        drop(silent);
    }
}
