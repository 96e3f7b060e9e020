//! Embedded brokers, one for each test.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Runtime;
use wharf_broker::{Broker, Builder, ConnectionStatus, QueueStatus};

/// Virtual hosts of a broker: those that a test may ask for.
const VHOSTS: usize = 4;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    broker: Broker,
    /// Virtual hosts that were given out.
    taken: AtomicUsize,
}

pub(crate) struct Vhost {
    node: Node,
    name: String,
}

/// Where the brokers live. The runtime of a test may stand still, which its broker must not.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

fn name(number: usize) -> String {
    format!("test-{number}")
}

impl Node {
    pub(super) async fn start() -> Self {
        let builder = Broker::builder().user("guest", "guest");
        let builder = (0..VHOSTS).map(name).fold(builder, Builder::vhost);
        let started = runtime().spawn(builder.start());
        Self(Arc::new(Inner {
            broker: started.await.unwrap().unwrap(),
            taken: AtomicUsize::new(0),
        }))
    }

    pub(super) fn vhost(&self) -> Vhost {
        let number = self.0.taken.fetch_add(1, Ordering::Relaxed);
        assert!(number < VHOSTS, "only {VHOSTS} virtual hosts were prepared");
        Vhost {
            node: self.clone(),
            name: name(number),
        }
    }

    pub(super) fn amqp_addr(&self) -> SocketAddr {
        self.0.broker.addr()
    }

    pub(super) async fn set_memory_alarm(&self) {
        let blocked = self.0.broker.faults().block("low on memory");
        blocked.happened().await;
    }

    pub(super) async fn clear_memory_alarm(&self) {
        self.0.broker.faults().unblock().happened().await;
    }
}

impl Vhost {
    fn broker(&self) -> &Broker {
        &self.node.0.broker
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn amqp_addr(&self) -> SocketAddr {
        self.node.amqp_addr()
    }

    pub(super) fn url_of(&self, user: &str, password: &str, addr: SocketAddr) -> String {
        format!("amqp://{user}:{password}@{addr}/{}", self.name)
    }

    pub(super) fn add_user(&self, name: &str, password: &str) {
        self.broker()
            .add_user(name, password)
            .expect("a name that fits");
    }

    pub(super) fn delete_user(&self, name: &str) {
        assert!(self.broker().remove_user(name), "no user {name}");
    }

    pub(super) fn queues(&self) -> Vec<QueueStatus> {
        self.broker().queues(&self.name)
    }

    pub(super) fn queue(&self, queue: &str) -> QueueStatus {
        let mut queues = self.queues().into_iter();
        let found = queues.find(|one| one.name == queue);
        found.unwrap_or_else(|| panic!("no queue {queue}"))
    }

    pub(super) fn delete_queue(&self, queue: &str) {
        let deleted = self.broker().delete_queue(&self.name, queue);
        assert!(deleted, "no queue {queue}");
    }

    pub(super) fn suspend(&self, queue: &str) {
        let queue = queue.to_owned();
        let faults = self.broker().faults();
        let of_queue = faults
            .when(move |publish| publish.exchange().is_empty() && publish.routing_key() == queue);
        of_queue.delay_confirms(NEVER);
    }

    pub(super) fn resume(&self) {
        self.broker().faults().clear();
    }

    pub(super) fn connections(&self) -> Vec<ConnectionStatus> {
        let mut connections = self.broker().open_connections();
        connections.retain(|one| one.vhost == self.name);
        connections
    }

    pub(super) fn close_all_connections(&self, reason: &str) {
        for connection in self.connections() {
            self.close(connection.nth, reason);
        }
    }

    pub(super) fn close_owner(&self, queue: &str) {
        let owner = self.queue(queue).owner;
        self.close(owner.expect("it is exclusive"), "test");
    }

    /// In RabbitMQ's words.
    fn close(&self, nth: u64, reason: &str) {
        let text = format!("CONNECTION_FORCED - {reason}");
        // One that has ended by itself is not there any more.
        self.broker().close_connection(nth, 320, &text);
    }
}
