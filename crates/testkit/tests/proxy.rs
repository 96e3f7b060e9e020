//! The proxy does to a connection exactly what it was told, when it was told.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use wharf_testkit::ports;
use wharf_testkit::proxy::{Direction, End, Proxy};
use wharf_testkit::wait::{eventually, within};

const BOUND: Duration = Duration::from_secs(20);

/// Long enough for anything on loopback to arrive, if it were to arrive.
const A_WHILE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn bytes_pass_in_both_directions_and_are_counted() {
    let (proxy, mut client) = echoed().await;
    assert_eq!(say(&mut client, b"hello").await, b"hello");
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.open), (1, 1));
    assert_eq!((counts.to_server, counts.to_client), (5, 5));
}

#[tokio::test]
async fn a_megabyte_arrives_whole() {
    let (_proxy, client) = echoed().await;
    let sent: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2])
        .collect();
    let (mut reader, mut writer) = client.into_split();
    let copy = sent.clone();
    let writing = tokio::spawn(async move { writer.write_all(&copy).await.map(|()| writer) });
    let mut got = vec![0; sent.len()];
    within("the echo", BOUND, reader.read_exact(&mut got))
        .await
        .unwrap();
    assert!(got == sent, "the bytes differ");
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_end_in_order_passes_through_and_the_connection_is_done() {
    let (proxy, mut client) = echoed().await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"bye");
    proxy.wait_for_open(0).await;
}

#[tokio::test]
async fn a_black_hole_holds_bytes_and_ends_until_it_passes_again() {
    let (proxy, mut client) = echoed().await;
    proxy.black_hole();
    client.write_all(b"held").await.unwrap();
    client.shutdown().await.unwrap();
    assert_silent(&mut client).await;
    assert_eq!(proxy.counts().to_server, 0);

    proxy.pass().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"held");
}

#[tokio::test]
async fn a_new_connection_into_a_black_hole_meets_a_silent_peer() {
    let proxy = Proxy::to(echo_server().await).await;
    proxy.black_hole();
    let mut client = connect(&proxy).await;
    client.write_all(b"anyone?").await.unwrap();
    assert_silent(&mut client).await;
    proxy.pass().await;
    assert_eq!(read(&mut client, 7).await, b"anyone?");
}

#[tokio::test]
async fn one_direction_stalls_while_the_other_flows() {
    let (server, mut heard) = listening_server().await;
    let proxy = Proxy::to(server).await;
    let mut client = connect(&proxy).await;

    proxy.black_hole_only(Direction::ToClient);
    client.write_all(b"up").await.unwrap();
    assert_eq!(
        within("the server hears", BOUND, heard.recv())
            .await
            .unwrap(),
        b"up"
    );
    assert_silent(&mut client).await;

    proxy.black_hole_only(Direction::ToServer);
    assert_eq!(read(&mut client, 2).await, b"ok");
    client.write_all(b"again").await.unwrap();
    assert!(tokio::time::timeout(A_WHILE, heard.recv()).await.is_err());
}

#[tokio::test]
async fn dropped_replies_are_lost_and_the_holed_connection_is_reset_afterwards() {
    let (server, mut heard) = listening_server().await;
    let proxy = Proxy::to(server).await;
    let mut client = connect(&proxy).await;
    let mut bystander = connect(&proxy).await;
    assert_eq!(say(&mut bystander, b"!").await, b"o");
    heard.recv().await.unwrap();

    proxy.drop_replies();
    client.write_all(b"up").await.unwrap();
    assert_eq!(
        within("the server hears", BOUND, heard.recv())
            .await
            .unwrap(),
        b"up"
    );
    eventually("the reply is lost", BOUND, async || {
        proxy.counts().dropped == 2
    })
    .await;
    assert_silent(&mut client).await;

    proxy.pass().await;
    assert_reset(&mut client).await;
    assert_eq!(say(&mut bystander, b"?").await, b"k");
}

#[tokio::test]
async fn a_delay_holds_every_byte_back_without_slowing_the_stream() {
    let (proxy, client) = echoed().await;
    proxy.delay(Duration::from_millis(100));
    let start = Instant::now();
    let (mut reader, mut writer) = client.into_split();
    // Forty chunks would take eight seconds if each waited for the one before it.
    let writing = tokio::spawn(async move {
        for _ in 0..40 {
            writer.write_all(&[7; 20_000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        writer
    });
    let mut got = vec![0; 800_000];
    within("the echo", BOUND, reader.read_exact(&mut got))
        .await
        .unwrap();
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(200),
        "there and back in {took:?}"
    );
    assert!(
        took < Duration::from_secs(4),
        "the delays added up: {took:?}"
    );
    drop(writing.await);

    proxy.pass().await;
}

#[tokio::test]
async fn a_throttle_bounds_the_bytes_a_second() {
    let (server, mut heard) = listening_server().await;
    let proxy = Proxy::to(server).await;
    let mut client = connect(&proxy).await;
    proxy.throttle(20_000);
    let start = Instant::now();
    client.write_all(&[1; 10_000]).await.unwrap();
    let mut total = 0;
    while total < 10_000 {
        total += within("the server hears", BOUND, heard.recv())
            .await
            .unwrap()
            .len();
    }
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(400),
        "10,000 bytes in {took:?}"
    );
}

#[tokio::test]
async fn a_throttle_that_ends_lets_the_rest_go_at_once() {
    let (proxy, mut client) = echoed().await;
    proxy.throttle(10);
    client.write_all(&[1; 10_000]).await.unwrap();
    eventually("it trickles", BOUND, async || proxy.counts().to_server > 0).await;
    proxy.pass().await;
    assert_eq!(read(&mut client, 10_000).await.len(), 10_000);
}

#[tokio::test]
async fn a_cut_ends_open_connections_in_order_and_serves_new_ones() {
    let (proxy, mut client) = echoed().await;
    proxy.cut();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    proxy.wait_for_open(0).await;
    assert_eq!(say(&mut connect(&proxy).await, b"new").await, b"new");
}

/// A socket that is closed with unread bytes in it sends a reset in place of an end.
#[tokio::test]
async fn a_cut_is_in_order_even_while_the_client_talks() {
    let (proxy, mut client) = echoed().await;
    proxy.black_hole_only(Direction::ToServer);
    let chunk = [1; 64 * 1024];
    while tokio::time::timeout(A_WHILE, client.write_all(&chunk))
        .await
        .is_ok()
    {}
    proxy.cut();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn a_reset_ends_open_connections_the_hard_way_and_serves_new_ones() {
    let (proxy, mut client) = echoed().await;
    proxy.reset();
    assert_reset(&mut client).await;
    proxy.wait_for_open(0).await;
    assert_eq!(say(&mut connect(&proxy).await, b"new").await, b"new");
}

/// A connection was counted before it noted which ends were before its time. Who waited for the
/// count and reset at once came in between, and the connection lived on.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_seen_a_connection_counted_can_end_it() {
    let proxy = Proxy::to(echo_server().await).await;
    for number in 1..=500 {
        let connecting = TcpStream::connect(proxy.addr());
        let (client, ()) = tokio::join!(connecting, proxy.wait_for_connections(number));
        proxy.reset();
        let mut client = client.unwrap();
        let _ = within("the end", BOUND, read_to_end(&mut client)).await;
    }
}

#[tokio::test]
async fn a_connection_ends_after_exactly_so_many_bytes_and_only_once() {
    let (proxy, mut client) = echoed().await;
    proxy.end_after(3, Direction::ToClient, End::Cut);
    client.write_all(b"12345").await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"123");
    assert_eq!(say(&mut connect(&proxy).await, b"12345").await, b"12345");
}

#[tokio::test]
async fn a_reset_may_come_in_the_middle_of_what_the_client_says() {
    let (server, mut heard) = listening_server().await;
    let proxy = Proxy::to(server).await;
    let mut client = connect(&proxy).await;
    proxy.end_after(4, Direction::ToServer, End::Reset);
    client.write_all(b"12345678").await.unwrap();
    assert_reset(&mut client).await;
    assert_eq!(proxy.counts().to_server, 4);
    // A reset may overtake what was under way, but nothing beyond the four bytes can have come.
    let arrived = heard.try_recv().unwrap_or_default();
    assert!(b"1234".starts_with(&arrived), "{arrived:?}");
}

#[tokio::test]
async fn a_refusing_proxy_has_no_port_keeps_its_connections_and_comes_back() {
    let (proxy, mut client) = echoed().await;
    proxy.refuse().await;
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(say(&mut client, b"still").await, b"still");

    proxy.pass().await;
    assert_eq!(say(&mut connect(&proxy).await, b"new").await, b"new");
}

#[tokio::test]
async fn a_balancer_without_servers_accepts_and_ends() {
    let (proxy, mut client) = echoed().await;
    proxy.accept_and_end(End::Cut);
    assert_eq!(read_to_end(&mut connect(&proxy).await).await.unwrap(), b"");
    proxy.accept_and_end(End::Reset);
    assert_born_dead(&proxy).await;
    assert_eq!(proxy.counts().accepted, 3);
    assert_eq!(say(&mut client, b"still").await, b"still");
}

#[tokio::test]
async fn a_new_target_takes_new_connections_while_old_ones_stay() {
    let (proxy, mut client) = echoed().await;
    let (other, _heard) = listening_server().await;
    proxy.retarget(other);
    assert_eq!(say(&mut connect(&proxy).await, b"hi").await, b"ok");
    assert_eq!(say(&mut client, b"old").await, b"old");
}

#[tokio::test]
async fn a_client_of_a_dead_server_is_reset() {
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let proxy = Proxy::to(closed).await;
    assert_born_dead(&proxy).await;
    assert_eq!(proxy.counts().open, 0);
}

#[tokio::test]
async fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap()).await;
    let mut client = connect(&proxy).await;
    let (server, _) = within("the server accepts", BOUND, listener.accept())
        .await
        .unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_proxy_that_is_dropped_takes_its_connections_and_its_port_with_it() {
    let (proxy, mut client) = echoed().await;
    let addr = proxy.addr();
    drop(proxy);
    assert_reset(&mut client).await;
    eventually("the port is closed", BOUND, async || {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
}

/// The story of the promise: a test that starves its own runtime must not stop the network.
#[test]
fn a_proxy_works_while_the_runtime_that_made_it_is_blocked() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let addr = server.local_addr().unwrap();
    let proxy = runtime.block_on(Proxy::to(addr));
    // From here on nothing polls that runtime.
    let mut client = std::net::TcpStream::connect(proxy.addr()).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    std::io::Write::write_all(&mut client, b"through").unwrap();
    let mut got = [0; 7];
    std::io::Read::read_exact(&mut accepted, &mut got).unwrap();
    assert_eq!(&got, b"through");
}

/// A proxy before a server that says back what it hears, and a client that is connected through.
async fn echoed() -> (Proxy, TcpStream) {
    let proxy = Proxy::to(echo_server().await).await;
    let client = connect(&proxy).await;
    proxy.wait_for_open(1).await;
    (proxy, client)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    addr
}

/// A server that says `ok` to whatever it hears and tells what that was.
async fn listening_server() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    let _ = tell.send(bytes[..count].to_vec());
                    let _ = stream.write_all(b"ok").await;
                }
            });
        }
    });
    (addr, heard)
}

async fn say(client: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    client.write_all(words).await.unwrap();
    read(client, words.len()).await
}

async fn read(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    within("an answer", BOUND, client.read_exact(&mut bytes))
        .await
        .unwrap();
    bytes
}

async fn read_to_end(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within("the end", BOUND, client.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

async fn assert_silent(client: &mut TcpStream) {
    let heard = tokio::time::timeout(A_WHILE, client.read_u8()).await;
    assert!(heard.is_err(), "the client heard {heard:?}");
}

/// A reset may come before the connect is done or after it.
async fn assert_born_dead(proxy: &Proxy) {
    match TcpStream::connect(proxy.addr()).await {
        Ok(mut client) => assert_reset(&mut client).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

async fn assert_reset(client: &mut TcpStream) {
    let error = read_to_end(client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
