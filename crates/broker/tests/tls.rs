//! TLS: what goes through it, who is let in, and what strangers can do.

#[path = "tls/client.rs"]
mod client;
#[path = "tls/files.rs"]
mod files;
mod wire;

use std::{
    fs,
    io::{ErrorKind, Read},
    time::Duration,
};

use amq_protocol::protocol::{AMQPClass, connection};
use client::Client;
use files::Files;
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    tcp::OwnedTLSConfig,
    types::FieldTable,
};
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncReadExt;
use wharf_broker::{Broker, Frames, StartError, Tls};
use wharf_testkit::wait::{eventually, within};
use wire::{BOUND, HEADER, Wire, builder, login_bytes, pass};

/// A broker with the first of these files, and what is needed to connect to it.
async fn broker() -> (Broker, Files) {
    let files = Files::new();
    let broker = builder().tls(files.tls()).start().await.unwrap();
    (broker, files)
}

/// Runs a client that blocks, without blocking the broker.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let running = tokio::task::spawn_blocking(work);
    within("what the client does", 3 * BOUND, running)
        .await
        .unwrap()
}

async fn lapin(broker: &Broker, files: &Files) -> Connection {
    let url = broker.url("app", "secret");
    assert!(url.starts_with("amqps://"), "{url}");
    let trust = OwnedTLSConfig {
        identity: None,
        cert_chain: Some(files.ca_pem()),
    };
    let runtime = lapin::runtime::default_runtime().unwrap();
    Connection::connect_with_config(&url, ConnectionProperties::default(), trust, runtime)
        .await
        .unwrap()
}

/// Publishes to a queue of this name and gets it back. The channel is for the caller to keep: lapin
/// closes one that is dropped, and can not close its connection meanwhile.
async fn goes_there_and_back(client: &Connection, queue: &str, body: &[u8]) -> Channel {
    let channel = client.create_channel().await.unwrap();
    channel
        .queue_declare(
            queue.into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let confirm = channel
        .basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default(),
        )
        .await
        .unwrap();
    assert!(confirm.await.unwrap().is_ack());
    let got = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
        .unwrap();
    assert!(got.delivery.data == body, "another body came back");
    channel
}

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_megabytes_goes_there_and_back() {
    let (broker, files) = broker().await;
    let client = lapin(&broker, &files).await;
    let body = bytes(8_000_000);
    let there_and_back = goes_there_and_back(&client, "large", &body);
    let _channel = within("it is back", 3 * BOUND, there_and_back).await;
    client.close(200, "bye".into()).await.unwrap();
    eventually("the connection is gone", BOUND, async || {
        broker.connections() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_are_served_side_by_side() {
    let (broker, files) = broker().await;
    let body = bytes(100_000);
    let clients = (0..60).map(async |number| {
        let client = lapin(&broker, &files).await;
        let channel = goes_there_and_back(&client, &format!("q{number}"), &body).await;
        (client, channel)
    });
    let clients = within("all are served", 3 * BOUND, join_all(clients)).await;
    assert_eq!(broker.connections(), 60);
    drop(clients);
}

/// The queue is larger than all buffers on the way, so that the broker's session holds what the socket
/// does not take.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything() {
    const MESSAGES: usize = 24;
    let (broker, files) = broker().await;
    let (addr, config) = (broker.addr(), files.client(None));
    let body = bytes(1_000_000);
    let sent = body.clone();
    let mut client = beside(move || {
        let mut client = Client::open(addr, config);
        client.declare("large");
        for _ in 0..MESSAGES {
            client.publish("large", &sent);
        }
        client.declare("large");
        client.consume("large");
        client
    })
    .await;
    // From here on nobody reads until the broker can not go on.
    let left = within("the broker is stalled", BOUND, stalled(&broker, "large")).await;
    assert!(left > 0, "all of it fits into the buffers");
    beside(move || {
        for _ in 0..MESSAGES {
            assert!(client.delivery() == body, "another body");
        }
    })
    .await;
    assert_eq!(broker.queue_depth("/", "large"), Some((0, 0)));
}

/// Messages that are left when no more of them have gone out for a while.
async fn stalled(broker: &Broker, queue: &str) -> usize {
    let ready = || broker.queue_depth("/", queue).unwrap().0;
    let mut before = ready();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let left = ready();
        if left == before {
            return left;
        }
        before = left;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_cut() {
    let files = Files::new();
    let patience = Duration::from_millis(500);
    let limits = builder().tls(files.tls()).send_timeout(patience);
    let broker = limits.start().await.unwrap();
    let (addr, config) = (broker.addr(), files.client(None));
    let deaf = beside(move || {
        let mut client = Client::open(addr, config);
        client.declare("flood");
        for _ in 0..24 {
            client.publish("flood", &[7; 1_000_000]);
        }
        client.declare("flood");
        client.consume("flood");
        client
    })
    .await;
    eventually("it is cut", BOUND, async || broker.connections() == 0).await;
    drop(deaf);
}

/// Their frames are written by whoever publishes, not by the connection's task.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_in_the_process_is_delivered_at_once() {
    let (broker, files) = broker().await;
    let (addr, config) = (broker.addr(), files.client(None));
    let mut client = beside(move || {
        let mut client = Client::open(addr, config);
        client.declare("q");
        client.consume("q");
        client
    })
    .await;
    let local = broker.attach("app", "local").unwrap();
    let properties = BasicProperties::default();
    for number in 0..500_u32 {
        let body = number.to_be_bytes().to_vec();
        local
            .publish("", "q", &properties, body.clone().into())
            .await
            .unwrap();
        client = beside(move || {
            assert_eq!(client.delivery(), body);
            client
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_authorities_of_clients_only_theirs_are_let_in() {
    let files = Files::new();
    let demanding = files.tls().client_ca_file(files.at("ca.pem"));
    let broker = builder().tls(demanding).start().await.unwrap();
    let addr = broker.addr();
    for version in [&TLS12, &TLS13] {
        for (who, told) in [
            (None, "CertificateRequired"),
            (Some("stranger"), "UnknownCA"),
            (Some("impostor"), "DecryptError"),
        ] {
            let config = files.client_of(who, version);
            let refusal = beside(move || Client::connect(addr, config).refusal()).await;
            assert!(refusal.contains(told), "{version:?}, {who:?}: {refusal}");
        }
        let config = files.client_of(Some("client"), version);
        let client = beside(move || Client::open(addr, config)).await;
        assert_eq!(broker.open_connections().len(), 1);
        drop(client);
        eventually("it is gone", BOUND, async || broker.connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_says_so_and_a_cut_does_not() {
    let (broker, files) = broker().await;
    let (addr, config) = (broker.addr(), files.client(None));
    let trust = config.clone();
    beside(move || {
        let mut client = Client::open(addr, trust);
        client.close();
        let method = client.method();
        let close_ok = matches!(
            method,
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))
        );
        assert!(close_ok, "{method:?}");
        assert_eq!(client.stream.read(&mut [0; 8]).unwrap(), 0);
    })
    .await;

    broker.faults().cut_after(Frames(1));
    let mut client = beside(move || Client::connect(addr, config)).await;
    let end = beside(move || {
        client.send(HEADER);
        client.method();
        client.send(&login_bytes("client", 131_072));
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest)
    });
    assert_eq!(end.await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_without_a_word_in_amqp_is_gone() {
    let (broker, files) = broker().await;
    let (addr, config) = (broker.addr(), files.client(None));
    // Its socket stays open, and so does the broker's half until it has seen the alert.
    let client = beside(move || {
        let mut client = Client::open(addr, config);
        client.stream.conn.send_close_notify();
        client
            .stream
            .conn
            .write_tls(&mut client.stream.sock)
            .unwrap();
        client
    })
    .await;
    eventually("it is gone", BOUND, async || broker.connections() == 0).await;
    drop(client);
}

#[tokio::test]
async fn a_handshake_of_tls_that_takes_too_long_is_ended() {
    let files = Files::new();
    let deadline = Duration::from_secs(60);
    let limits = builder().tls(files.tls()).handshake_timeout(deadline);
    let broker = limits.start().await.unwrap();
    let hello = client::hello(files.client(None));
    let mut silent = Wire::connect(&broker).await;
    let mut slow = Wire::connect(&broker).await;
    slow.send_bytes(&hello[..hello.len() / 2]).await;
    // It has the broker's answer and says nothing to it.
    let mut greeted = Wire::connect(&broker).await;
    greeted.send_bytes(&hello).await;
    greeted.socket.readable().await.unwrap();
    pass(deadline).await;
    for client in [&mut silent, &mut slow, &mut greeted] {
        ends(client).await;
    }
    eventually("all are gone", BOUND, async || broker.connections() == 0).await;
}

#[tokio::test]
async fn of_too_many_handshakes_of_tls_the_oldest_is_put_out() {
    let files = Files::new();
    let limits = builder().tls(files.tls()).max_pending_connections(2);
    let broker = limits.start().await.unwrap();
    let hello = client::hello(files.client(None));
    let mut first = Wire::connect(&broker).await;
    first.send_bytes(&hello[..20]).await;
    let mut second = Wire::connect(&broker).await;
    second.send_bytes(&hello).await;
    second.socket.readable().await.unwrap();
    let third = Wire::connect(&broker).await;
    ends(&mut first).await;
    assert_eq!(broker.connections(), 2);
    drop((second, third));
}

/// One of its own making, whose records are not the client's but the test's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_refused_and_others_are_served() {
    let (broker, files) = broker().await;
    let mut hello = client::hello(files.client(None));
    let middle = hello.len() / 2;
    hello[middle..].fill(0xff);
    let record = |kind: u8, payload: &[u8]| {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3, high, low], payload].concat()
    };
    let mut noise = fastrand::Rng::with_seed(7);
    let mut hostile = vec![
        HEADER.to_vec(),
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        hello,
        // A record that is larger than any may be, and one with nothing of what it promises.
        vec![22, 3, 3, 0xff, 0xff, 1],
        record(22, &[]).repeat(100),
        // A hello of 16 MiB, in records that are well formed.
        [
            record(22, &[1, 0xff, 0xff, 0xff]),
            record(22, &[0; 16_384]).repeat(1_024),
        ]
        .concat(),
        record(23, b"data before the handshake"),
        record(21, &[2, 40]),
        record(20, &[1]).repeat(1_000),
    ];
    hostile.extend((0..20).map(|_| (0..30_000).map(|_| noise.u8(..)).collect()));
    for bytes in hostile {
        let mut client = Wire::connect(&broker).await;
        client.send_bytes(&bytes).await;
        ends(&mut client).await;
    }
    eventually("all are gone", BOUND, async || broker.connections() == 0).await;
    let (addr, config) = (broker.addr(), files.client(None));
    beside(move || Client::open(addr, config)).await;
}

/// The broker ends it, by itself and without a word in AMQP.
async fn ends(client: &mut Wire) {
    let mut rest = Vec::new();
    let read = within("the end", BOUND, client.socket.read_to_end(&mut rest)).await;
    if let Err(error) = read {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(!rest.windows(4).any(|part| part == b"AMQP"), "{rest:?}");
}

#[tokio::test]
async fn files_that_do_not_fit_are_named_and_not_shown() {
    let files = Files::new();
    let key = fs::read_to_string(files.at("broker.key")).unwrap();
    fs::write(files.at("empty.pem"), "").unwrap();
    // On one line it looks like the beginning of a section and nothing else.
    fs::write(files.at("line.key"), key.replace('\n', "")).unwrap();
    fs::write(files.at("half.key"), &key[..key.len() / 2]).unwrap();
    let zeros = |label| format!("-----BEGIN {label}-----\nAAAAAAAA\n-----END {label}-----\n");
    fs::write(files.at("zeros.pem"), zeros("CERTIFICATE")).unwrap();
    fs::write(files.at("zeros.key"), zeros("PRIVATE KEY")).unwrap();
    let odd = |cert: &str, key: &str| Tls::new(files.at(cert), files.at(key));
    let of_clients = |ca: &str| files.tls().client_ca_file(files.at(ca));
    for (tls, named, kind) in [
        (odd("missing", "broker.key"), "missing", ErrorKind::NotFound),
        (odd("broker.pem", "missing"), "missing", ErrorKind::NotFound),
        (of_clients("missing"), "missing", ErrorKind::NotFound),
        (
            odd("empty.pem", "broker.key"),
            "empty.pem",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.key", "broker.key"),
            "broker.key",
            ErrorKind::InvalidData,
        ),
        (
            odd("zeros.pem", "broker.key"),
            "zeros.pem",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "broker.pem"),
            "broker.pem",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "empty.pem"),
            "empty.pem",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "line.key"),
            "line.key",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "half.key"),
            "half.key",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "zeros.key"),
            "zeros.key",
            ErrorKind::InvalidData,
        ),
        (
            odd("broker.pem", "client.key"),
            "client.key",
            ErrorKind::InvalidData,
        ),
        (of_clients("empty.pem"), "empty.pem", ErrorKind::InvalidData),
        (of_clients("zeros.pem"), "zeros.pem", ErrorKind::InvalidData),
    ] {
        let error = builder().tls(tls.clone()).start().await.unwrap_err();
        let StartError::Tls { path, source } = &error else {
            panic!("{tls:?}: {error}");
        };
        assert_eq!(*path, files.at(named), "{tls:?}");
        assert_eq!(source.kind(), kind, "{tls:?}: {source}");
        assert!(error.to_string().contains(named), "{error}");
        let shown = format!("{error:?} {error} {source}");
        for line in key.lines().filter(|line| !line.starts_with('-')) {
            let listed = format!("{:?}", line.as_bytes());
            let listed = listed.trim_matches(['[', ']']);
            assert!(!shown.contains(line) && !shown.contains(listed), "{shown}");
        }
    }
}
