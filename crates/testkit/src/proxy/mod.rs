//! A TCP proxy on loopback that lets a network fail on demand.
//!
//! ```
//! # use wharf_testkit::proxy::Proxy;
//! # async fn example(server: std::net::SocketAddr) {
//! let proxy = Proxy::to(server).await;
//! // … connect a client to `proxy.addr()` …
//! proxy.wait_for_connections(1).await;
//! proxy.black_hole(); // nothing arrives any more, nothing fails
//! proxy.reset();      // every connection dies with a TCP reset
//! proxy.pass().await; // all is well again
//! # }
//! ```
//!
//! Proxies run on a thread of their own: a test whose runtime is starved or blocked does not stop
//! the network with it.

mod link;
mod orders;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports;
use crate::wait::within;
use link::Link;
use orders::{Budget, Door, Orders, Traffic};

pub use orders::{Direction, End};

/// How long anything on loopback may take on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// A proxy to one server. Dropping it resets its connections and closes its port.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What the handle, the accept loop and the links look at together.
#[derive(Debug)]
struct Shared {
    orders: watch::Sender<Orders>,
    counts: watch::Sender<Counts>,
}

/// What has gone through a proxy so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, also those that were closed at once by order.
    pub accepted: u64,
    /// Connections open between client and server.
    pub open: u64,
    /// Bytes passed on to the server.
    pub to_server: u64,
    /// Bytes passed on to the client.
    pub to_client: u64,
    /// Bytes for the client that were thrown away.
    pub dropped: u64,
    /// Whether the port is open.
    listening: bool,
}

impl Proxy {
    /// Opens a port on loopback whose connections go to `server`.
    ///
    /// # Panics
    ///
    /// When no port can be opened.
    pub async fn to(server: SocketAddr) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let shared = Arc::new(Shared {
            orders: watch::Sender::new(Orders::passing(server)),
            counts: watch::Sender::new(Counts::default()),
        });
        let accepting = runtime().spawn(accept(addr, Arc::clone(&shared)));
        let proxy = Self {
            addr,
            shared,
            accepting,
        };
        proxy
            .wait_until("the proxy listens", |counts| counts.listening)
            .await;
        proxy
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The counters at this moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until at least `count` connections have been accepted since the proxy began.
    ///
    /// # Panics
    ///
    /// When that takes more than 30 s.
    pub async fn wait_for_connections(&self, count: u64) {
        let what = format!("the proxy has accepted {count} connections");
        self.wait_until(&what, |counts| counts.accepted >= count)
            .await;
    }

    /// Waits until exactly `count` connections are open.
    ///
    /// # Panics
    ///
    /// When that takes more than 30 s.
    pub async fn wait_for_open(&self, count: u64) {
        let what = format!("the proxy has {count} open connections");
        self.wait_until(&what, |counts| counts.open == count).await;
    }

    /// Ends every fault: bytes flow at full speed, the port is open.
    ///
    /// A stalled connection goes on where it stopped. One that has lost bytes to
    /// [`Self::drop_replies`] cannot, and is reset.
    ///
    /// # Panics
    ///
    /// When the port cannot be opened again.
    pub async fn pass(&self) {
        self.order(|orders| {
            orders.traffic = Traffic::Pass;
            orders.door = Door::Open;
            orders.budget = None;
        });
        self.wait_until("the proxy listens", |counts| counts.listening)
            .await;
    }

    /// Sends connections made from now on to another server; the open ones stay where they are.
    pub fn retarget(&self, server: SocketAddr) {
        self.order(|orders| orders.server = server);
    }

    /// Stalls every connection both ways, new ones too: no byte and no end of a connection gets
    /// through. As on a broken line, writes succeed until the buffers are full.
    pub fn black_hole(&self) {
        self.traffic(Traffic::Stall {
            to_server: true,
            to_client: true,
        });
    }

    /// Stalls one direction; the other flows.
    pub fn black_hole_only(&self, direction: Direction) {
        self.traffic(Traffic::Stall {
            to_server: direction == Direction::ToServer,
            to_client: direction == Direction::ToClient,
        });
    }

    /// Throws away what the server says. The server sees a client that reads well.
    pub fn drop_replies(&self) {
        self.traffic(Traffic::DropReplies);
    }

    /// Lets every byte arrive `latency` later, in both directions. Throughput stays.
    pub fn delay(&self, latency: Duration) {
        self.traffic(Traffic::Delay(latency));
    }

    /// Lets at most this many bytes a second through, per connection and direction.
    ///
    /// # Panics
    ///
    /// On zero; that is a [`Self::black_hole`].
    pub fn throttle(&self, bytes_per_second: u32) {
        assert!(bytes_per_second > 0, "a throttle of zero is a black hole");
        self.traffic(Traffic::Throttle(bytes_per_second));
    }

    /// Closes every open connection as a peer does that goes in order (FIN). New ones are served.
    pub fn cut(&self) {
        self.end_all(End::Cut);
    }

    /// Ends every open connection with a TCP reset, also what is under way. New ones are served.
    pub fn reset(&self) {
        self.end_all(End::Reset);
    }

    /// Ends every open connection, once, as soon as `bytes` more bytes have passed in that
    /// direction, over all connections together; exactly so many pass.
    pub fn end_after(&self, bytes: u64, direction: Direction, end: End) {
        self.order(|orders| orders.budget = Some(Budget::new(bytes, direction, end)));
    }

    /// Closes the port: connecting fails at once. Open connections stay. [`Self::pass`] opens it.
    ///
    /// # Panics
    ///
    /// When the port does not close.
    pub async fn refuse(&self) {
        self.order(|orders| orders.door = Door::Shut);
        self.wait_until("the proxy's port is closed", |counts| !counts.listening)
            .await;
    }

    /// Accepts each new connection and ends it at once, as a load balancer does that has no server
    /// left. Open connections stay.
    pub fn accept_and_end(&self, end: End) {
        self.order(|orders| orders.door = Door::AcceptAndEnd(end));
    }

    fn traffic(&self, traffic: Traffic) {
        self.order(|orders| orders.traffic = traffic);
    }

    fn end_all(&self, end: End) {
        self.order(|orders| orders.end_all(end));
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.shared.orders.send_modify(change);
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        let reached = counts.wait_for(|counts| holds(counts));
        let outcome = within(what, BOUND, reached).await;
        outcome.expect("bug: the proxy holds the sender");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.reset();
        self.accepting.abort();
    }
}

async fn accept(addr: SocketAddr, shared: Arc<Shared>) {
    let mut orders = shared.orders.subscribe();
    loop {
        let listener = TcpListener::bind(addr)
            .await
            .unwrap_or_else(|error| panic!("the proxy's port {addr} does not open: {error}"));
        shared.count(|counts| counts.listening = true);
        while orders.borrow_and_update().door != Door::Shut {
            tokio::select! {
                biased;
                _ = orders.changed() => {}
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => admit(client, &shared),
                    // The client left between its connect and our accept, or descriptors are
                    // short for a moment.
                    Err(_) => tokio::task::yield_now().await,
                },
            }
        }
        drop(listener);
        shared.count(|counts| counts.listening = false);
        let opened = orders.wait_for(|orders| orders.door != Door::Shut).await;
        if opened.is_err() {
            return;
        }
    }
}

fn admit(client: TcpStream, shared: &Arc<Shared>) {
    let orders = shared.orders.subscribe();
    let door = orders.borrow().door;
    let link = Link::new(Arc::clone(shared), orders);
    // After the link has begun: whoever has seen it counted can end it.
    shared.count(|counts| counts.accepted += 1);
    match door {
        Door::AcceptAndEnd(end) => tokio::spawn(link::end(client, end)),
        Door::Open | Door::Shut => tokio::spawn(link.run(client)),
    };
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .expect("a runtime of one thread starts")
    })
}
