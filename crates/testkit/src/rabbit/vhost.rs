//! A vhost: the part of a node that one test has for itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::erlang::binary;
use super::node::Rabbit;
use super::users::ACTOR;

/// A vhost of a node. One made by [`Rabbit::vhost`] is deleted when this value is dropped, with
/// its queues and its connections.
#[derive(Debug)]
pub struct Vhost {
    rabbit: Rabbit,
    name: String,
    deleted_on_drop: bool,
}

/// A client connection, as the node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The name the client gave itself; empty where it gave none.
    pub name: String,
    /// The client's address as the node sees it.
    pub peer: SocketAddr,
    /// Channels open on it.
    pub channels: u64,
    /// Such as `running`, `blocking` (an alarm is on, it has not published), `blocked`, `closing`.
    pub state: String,
}

impl Rabbit {
    /// A new vhost, named by no other, in which `guest` may do anything.
    pub async fn vhost(&self) -> Vhost {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        self.add_vhost(&name).await;
        Vhost {
            rabbit: self.clone(),
            name,
            deleted_on_drop: true,
        }
    }

    /// The vhost `/`, which every node has.
    #[must_use]
    pub fn root(&self) -> Vhost {
        self.existing_vhost("/")
    }

    /// A handle to a vhost that is there. Dropping the handle leaves it there.
    #[must_use]
    pub fn existing_vhost(&self, name: &str) -> Vhost {
        Vhost {
            rabbit: self.clone(),
            name: name.to_owned(),
            deleted_on_drop: false,
        }
    }

    /// Adds a vhost in which `guest` may do anything.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    pub async fn add_vhost(&self, name: &str) {
        let vhost = binary(name);
        self.eval(&format!(
            "ok = rabbit_vhost:add({vhost}, {ACTOR}), \
             ok = rabbit_vhost:await_running_on_all_nodes({vhost}, 30000)"
        ))
        .await;
        self.existing_vhost(name).permit("guest").await;
    }

    /// Deletes a vhost with its queues; its connections are closed.
    ///
    /// # Panics
    ///
    /// When there is no such vhost.
    pub async fn delete_vhost(&self, name: &str) {
        self.eval(&deletion(name)).await;
    }

    /// Messages ready in a queue of the vhost `/`; see [`Vhost::queue_depth`].
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    pub async fn queue_depth(&self, queue: &str) -> u64 {
        self.root().queue_depth(queue).await
    }

    /// The client connections of this node, in every vhost.
    pub async fn connections(&self) -> Vec<Connection> {
        self.connections_where("true").await
    }

    /// The connections for which an Erlang expression over `V`, the vhost's name, is true.
    async fn connections_where(&self, condition: &str) -> Vec<Connection> {
        let listing = self
            .eval_text(&format!(
                "Name = fun(P) -> case rabbit_misc:table_lookup(P, <<\"connection_name\">>) of \
                 {{longstr, N}} -> N; _ -> <<>> end end, \
                 [io_lib:format(\"~ts\\t~ts\\t~w\\t~w\\t~w\\n\", \
                 [Name(P), inet:ntoa(H), Port, C, S]) \
                 || [{{vhost, V}}, {{client_properties, P}}, {{peer_host, H}}, \
                 {{peer_port, Port}}, {{channels, C}}, {{state, S}}] \
                 <- rabbit_networking:connection_info_all(\
                 [vhost, client_properties, peer_host, peer_port, channels, state]), {condition}]"
            ))
            .await;
        listing.lines().map(connection).collect()
    }
}

impl Vhost {
    /// The vhost's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it was made on.
    #[must_use]
    pub fn rabbit(&self) -> &Rabbit {
        &self.rabbit
    }

    /// The URL of this vhost for the user `guest`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_via(self.rabbit.amqp_addr())
    }

    /// The same, reached through another address: a proxy's, or that of another node of a cluster.
    #[must_use]
    pub fn url_via(&self, addr: SocketAddr) -> String {
        self.url_of("guest", "guest", addr)
    }

    /// The URL for another user.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str, addr: SocketAddr) -> String {
        let vhost = self.name.replace('%', "%25").replace('/', "%2f");
        format!("amqp://{user}:{password}@{addr}/{vhost}")
    }

    /// Messages ready in a queue; those out with a consumer do not count. Exact at once for classic
    /// and for quorum queues.
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    pub async fn queue_depth(&self, queue: &str) -> u64 {
        let depth = "{ok, Ready, _} = rabbit_amqqueue:stat(Q), Ready";
        number(&self.with_queue(queue, depth).await)
    }

    /// Consumers of a queue.
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    pub async fn consumers(&self, queue: &str) -> u64 {
        let consumers = "{ok, _, Consumers} = rabbit_amqqueue:stat(Q), Consumers";
        number(&self.with_queue(queue, consumers).await)
    }

    /// Whether there is such a queue.
    pub async fn has_queue(&self, queue: &str) -> bool {
        let resource = self.queue_name(queue);
        let found =
            format!("case rabbit_amqqueue:lookup({resource}) of {{ok, _}} -> true; _ -> false end");
        self.rabbit.eval(&found).await == "true"
    }

    /// One item of what `rabbitmqctl list_queues` tells, such as `messages_unacknowledged`, as
    /// Erlang prints it. The figures of a quorum queue lag by seconds.
    ///
    /// # Panics
    ///
    /// When there is no such queue or item.
    pub async fn queue_info(&self, queue: &str, item: &str) -> String {
        let info = format!("[{{_, Value}}] = rabbit_amqqueue:info(Q, [{item}]), Value");
        self.with_queue(queue, &info).await
    }

    /// Deletes a queue with what is in it, as an administrator would.
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    pub async fn delete_queue(&self, queue: &str) {
        let deletion = format!("{{ok, _}} = rabbit_amqqueue:delete(Q, false, false, {ACTOR})");
        self.with_queue(queue, &deletion).await;
    }

    /// The name of the node that leads a queue, such as `rabbit1@localhost`.
    ///
    /// # Panics
    ///
    /// When there is no such queue.
    pub async fn leader(&self, queue: &str) -> String {
        let leader = "case amqqueue:get_pid(Q) of P when is_pid(P) -> node(P); {_, N} -> N end";
        self.with_queue(queue, leader).await.replace('\'', "")
    }

    /// The client connections to this vhost on the node it was made on.
    pub async fn connections(&self) -> Vec<Connection> {
        let condition = format!("V =:= {}", binary(&self.name));
        self.rabbit.connections_where(&condition).await
    }

    /// Closes every client connection to this vhost on that node, telling `reason` (reply code
    /// 320, `CONNECTION_FORCED`). Others of a shared node do not feel it.
    pub async fn close_all_connections(&self, reason: &str) {
        let (vhost, reason) = (binary(&self.name), binary(reason));
        self.rabbit
            .eval(&format!(
                "[rabbit_networking:close_connection(P, {reason}) || [{{pid, P}}, {{vhost, V}}] \
                 <- rabbit_networking:connection_info_all([pid, vhost]), V =:= {vhost}]"
            ))
            .await;
    }

    /// Evaluates an expression over `Q`, the queue.
    async fn with_queue(&self, queue: &str, expression: &str) -> String {
        let resource = self.queue_name(queue);
        self.rabbit
            .eval(&format!(
                "{{ok, Q}} = rabbit_amqqueue:lookup({resource}), {expression}"
            ))
            .await
    }

    fn queue_name(&self, queue: &str) -> String {
        let (vhost, queue) = (binary(&self.name), binary(queue));
        format!("rabbit_misc:r({vhost}, queue, {queue})")
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if self.deleted_on_drop && self.rabbit.pid().is_some() {
            let node = &self.rabbit.node;
            node.evaluate_in_background(&deletion(&self.name));
        }
    }
}

fn deletion(vhost: &str) -> String {
    let vhost = binary(vhost);
    format!("ok = rabbit_vhost:delete({vhost}, {ACTOR})")
}

fn number(printed: &str) -> u64 {
    printed
        .parse()
        .unwrap_or_else(|_| panic!("the node gave `{printed}`, which is no count"))
}

fn connection(line: &str) -> Connection {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, host, port, channels, state] = fields[..] else {
        panic!("the node described a connection as `{line}`");
    };
    let peer = format!("{host}:{port}").parse();
    Connection {
        name: name.to_owned(),
        peer: peer.unwrap_or_else(|_| panic!("the node gave `{host}:{port}` as an address")),
        channels: number(channels),
        state: state.to_owned(),
    }
}
