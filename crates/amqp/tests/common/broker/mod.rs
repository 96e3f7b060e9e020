//! The broker under a test: RabbitMQ, or the embedded one of `wharf-broker`, as the environment
//! says.
//!
//! A test that needs RabbitMQ itself is in a module `rabbitmq_only` of its file, so that it can be
//! left out by name. On the embedded broker whatever only RabbitMQ can do panics.

mod embedded;

use std::{
    env::{self, VarError},
    net::SocketAddr,
};

use wharf_testkit::rabbit::{self, Rabbit};

/// `rabbitmq`, as without it, or `embedded`.
const CHOICE: &str = "WHARF_TEST_BROKER";

fn is_embedded() -> bool {
    says_embedded(env::var(CHOICE).as_deref())
}

pub(crate) fn says_embedded(choice: Result<&str, &VarError>) -> bool {
    match choice {
        Err(VarError::NotPresent) | Ok("rabbitmq") => false,
        Ok("embedded") => true,
        other => panic!("{CHOICE} is neither `rabbitmq` nor `embedded`: {other:?}"),
    }
}

/// A broker with virtual hosts. Clones are the same one.
#[derive(Clone)]
pub(crate) enum Node {
    RabbitMq(Rabbit),
    Embedded(embedded::Node),
}

/// A virtual host that a test has for itself.
pub(crate) enum Vhost {
    RabbitMq(rabbit::Vhost),
    Embedded(embedded::Vhost),
}

/// A client's connection, as the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// What the client calls itself.
    pub(crate) name: String,
    /// How many are open on it.
    pub(crate) channels: u64,
    /// Whether it has published while the broker takes no message.
    pub(crate) blocked: bool,
}

impl Node {
    /// RabbitMQ's node is that of all tests. An embedded broker is the test's own, and comes to no
    /// harm by others.
    pub(crate) async fn shared() -> Self {
        if is_embedded() {
            Self::embedded().await
        } else {
            Self::RabbitMq(Rabbit::shared().await)
        }
    }

    /// One that may be blocked.
    pub(crate) async fn start() -> Self {
        if is_embedded() {
            Self::embedded().await
        } else {
            Self::RabbitMq(Rabbit::start().await)
        }
    }

    pub(crate) async fn embedded() -> Self {
        Self::Embedded(embedded::Node::start().await)
    }

    /// For what only RabbitMQ can do.
    pub(crate) fn rabbit(&self) -> &Rabbit {
        match self {
            Self::RabbitMq(rabbit) => rabbit,
            Self::Embedded(_) => needs_rabbitmq(),
        }
    }

    pub(crate) async fn vhost(&self) -> Vhost {
        match self {
            Self::RabbitMq(rabbit) => Vhost::RabbitMq(rabbit.vhost().await),
            Self::Embedded(node) => Vhost::Embedded(node.vhost()),
        }
    }

    pub(crate) fn amqp_addr(&self) -> SocketAddr {
        match self {
            Self::RabbitMq(rabbit) => rabbit.amqp_addr(),
            Self::Embedded(node) => node.amqp_addr(),
        }
    }

    /// From now on the broker takes no message.
    pub(crate) async fn set_memory_alarm(&self) {
        match self {
            Self::RabbitMq(rabbit) => rabbit.set_memory_alarm().await,
            Self::Embedded(node) => node.set_memory_alarm().await,
        }
    }

    pub(crate) async fn clear_memory_alarm(&self) {
        match self {
            Self::RabbitMq(rabbit) => rabbit.clear_memory_alarm().await,
            Self::Embedded(node) => node.clear_memory_alarm().await,
        }
    }
}

impl Vhost {
    /// For what only RabbitMQ can do.
    pub(crate) fn rabbit(&self) -> &Rabbit {
        self.of_rabbitmq().rabbit()
    }

    /// For what only RabbitMQ can tell.
    pub(crate) fn of_rabbitmq(&self) -> &rabbit::Vhost {
        match self {
            Self::RabbitMq(vhost) => vhost,
            Self::Embedded(_) => needs_rabbitmq(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::RabbitMq(vhost) => vhost.name(),
            Self::Embedded(vhost) => vhost.name(),
        }
    }

    /// For the user `guest`.
    pub(crate) fn url(&self) -> String {
        self.url_via(match self {
            Self::RabbitMq(vhost) => vhost.rabbit().amqp_addr(),
            Self::Embedded(vhost) => vhost.amqp_addr(),
        })
    }

    /// The same, through a proxy.
    pub(crate) fn url_via(&self, addr: SocketAddr) -> String {
        self.url_of("guest", "guest", addr)
    }

    pub(crate) fn url_of(&self, user: &str, password: &str, addr: SocketAddr) -> String {
        match self {
            Self::RabbitMq(vhost) => vhost.url_of(user, password, addr),
            Self::Embedded(vhost) => vhost.url_of(user, password, addr),
        }
    }

    /// Adds a user who may do anything here.
    pub(crate) async fn add_user(&self, name: &str, password: &str) {
        match self {
            Self::RabbitMq(vhost) => {
                vhost.rabbit().add_user(name, password).await;
                vhost.permit(name).await;
            }
            Self::Embedded(vhost) => vhost.add_user(name, password),
        }
    }

    /// Open connections of this user stay.
    pub(crate) async fn delete_user(&self, name: &str) {
        match self {
            Self::RabbitMq(vhost) => vhost.rabbit().delete_user(name).await,
            Self::Embedded(vhost) => vhost.delete_user(name),
        }
    }

    pub(crate) async fn has_queue(&self, queue: &str) -> bool {
        match self {
            Self::RabbitMq(vhost) => vhost.has_queue(queue).await,
            Self::Embedded(vhost) => vhost.queues().iter().any(|one| one.name == queue),
        }
    }

    /// How many queues there are.
    pub(crate) async fn queues(&self) -> usize {
        match self {
            Self::RabbitMq(vhost) => {
                let list = format!("length(rabbit_amqqueue:list(<<\"{}\">>))", vhost.name());
                vhost.rabbit().eval(&list).await.parse().unwrap()
            }
            Self::Embedded(vhost) => vhost.queues().len(),
        }
    }

    /// Messages that are ready.
    pub(crate) async fn queue_depth(&self, queue: &str) -> u64 {
        match self {
            Self::RabbitMq(vhost) => vhost.queue_depth(queue).await,
            Self::Embedded(vhost) => vhost.queue(queue).ready as u64,
        }
    }

    /// Messages that are ready, and those that are delivered and not acknowledged.
    pub(crate) async fn count(&self, queue: &str) -> (u64, u64) {
        match self {
            Self::RabbitMq(vhost) => {
                let item = async |item| vhost.queue_info(queue, item).await.parse().unwrap();
                (
                    item("messages_ready").await,
                    item("messages_unacknowledged").await,
                )
            }
            Self::Embedded(vhost) => {
                let queue = vhost.queue(queue);
                (queue.ready as u64, queue.unacked as u64)
            }
        }
    }

    /// Consumers of a queue.
    pub(crate) async fn consumers(&self, queue: &str) -> u64 {
        match self {
            Self::RabbitMq(vhost) => vhost.consumers(queue).await,
            Self::Embedded(vhost) => vhost.queue(queue).consumers as u64,
        }
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        match self {
            Self::RabbitMq(vhost) => vhost.delete_queue(queue).await,
            Self::Embedded(vhost) => vhost.delete_queue(queue),
        }
    }

    /// From now on nobody has the queue's word for what it took.
    pub(crate) async fn suspend(&self, queue: &str) {
        match self {
            Self::RabbitMq(vhost) => order(vhost, queue, "sys:suspend").await,
            Self::Embedded(vhost) => vhost.suspend(queue),
        }
    }

    /// All that [`suspend`](Self::suspend) held back comes.
    pub(crate) async fn resume(&self, queue: &str) {
        match self {
            Self::RabbitMq(vhost) => order(vhost, queue, "sys:resume").await,
            Self::Embedded(vhost) => vhost.resume(),
        }
    }

    pub(crate) async fn connections(&self) -> Vec<Connection> {
        match self {
            Self::RabbitMq(vhost) => {
                let connections = vhost.connections().await.into_iter();
                let told = connections.map(|one| Connection {
                    name: one.name,
                    channels: one.channels,
                    blocked: one.state == "blocked",
                });
                told.collect()
            }
            Self::Embedded(vhost) => {
                let connections = vhost.connections().into_iter();
                let told = connections.map(|one| Connection {
                    name: one.name.unwrap_or_default(),
                    channels: one.channels.len() as u64,
                    blocked: one.blocked,
                });
                told.collect()
            }
        }
    }

    /// The numbers of all channels, in ascending order.
    pub(crate) async fn channel_numbers(&self) -> Vec<u16> {
        match self {
            Self::RabbitMq(vhost) => {
                let list = format!(
                    "lists:sort([N || [{{number, N}}, {{vhost, <<\"{}\">>}}] \
                     <- rabbit_channel:info_all([number, vhost])])",
                    vhost.name()
                );
                let list = vhost.rabbit().eval(&list).await;
                let numbers = list.trim_matches(['[', ']']).split(',');
                let numbers = numbers.filter(|number| !number.is_empty());
                numbers
                    .map(|number| number.trim().parse().unwrap())
                    .collect()
            }
            Self::Embedded(vhost) => {
                let connections = vhost.connections().into_iter();
                let mut numbers: Vec<_> = connections.flat_map(|one| one.channels).collect();
                numbers.sort_unstable();
                numbers
            }
        }
    }

    /// Closes every connection, with code 320 and this reason.
    pub(crate) async fn close_all_connections(&self, reason: &str) {
        match self {
            Self::RabbitMq(vhost) => vhost.close_all_connections(reason).await,
            Self::Embedded(vhost) => vhost.close_all_connections(reason),
        }
    }

    /// Closes the connection that an exclusive queue belongs to.
    pub(crate) async fn close_owner(&self, queue: &str) {
        match self {
            Self::RabbitMq(vhost) => {
                let close = format!(
                    "{{ok, Q}} = rabbit_amqqueue:lookup({}), \
                     rabbit_networking:close_connection(amqqueue:get_exclusive_owner(Q), \"test\")",
                    resource(vhost, queue)
                );
                vhost.rabbit().eval(&close).await;
            }
            Self::Embedded(vhost) => vhost.close_owner(queue),
        }
    }
}

/// Gives an order to the process of a queue.
async fn order(vhost: &rabbit::Vhost, queue: &str, order: &str) {
    let name = resource(vhost, queue);
    let order = format!("{{ok, Q}} = rabbit_amqqueue:lookup({name}), {order}(amqqueue:get_pid(Q))");
    vhost.rabbit().eval(&order).await;
}

fn resource(vhost: &rabbit::Vhost, queue: &str) -> String {
    let vhost = vhost.name();
    format!("rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)")
}

fn needs_rabbitmq() -> ! {
    panic!(
        "this needs RabbitMQ itself, and {CHOICE} chose the embedded broker: \
         the test belongs into a module `rabbitmq_only`"
    )
}
