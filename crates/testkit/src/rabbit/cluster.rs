//! Several nodes that form one broker.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::home::{Error, Home};
use super::node::Rabbit;
use super::vhost::Vhost;
use crate::wait::eventually;

/// For nodes to find each other.
const BOUND: Duration = Duration::from_secs(60);

/// Private RabbitMQ nodes that form one broker.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Rabbit>,
}

impl Cluster {
    /// Starts a cluster and waits until it is whole: about 20 s for three nodes.
    ///
    /// # Panics
    ///
    /// When a node does not start, or the nodes do not find each other.
    pub async fn start(count: usize) -> Self {
        let started = Self::try_start(count).await;
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, with the error of a node that does not start.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is missing, or what the node said before it ended.
    ///
    /// # Panics
    ///
    /// When the nodes do not find each other.
    pub async fn try_start(count: usize) -> Result<Self, Error> {
        let home = Arc::new(Home::temporary().await?);
        let names: Vec<String> = (1..=count)
            .map(|n| format!("rabbit{n}@localhost"))
            .collect();
        let configuration = peers(&names);
        let nodes: Result<Vec<Rabbit>, Error> = names
            .iter()
            .map(|name| Rabbit::prepare(Arc::clone(&home), name, &configuration))
            .collect();
        let cluster = Self { nodes: nodes? };
        cluster.boot().await?;
        cluster.wait_until_whole().await;
        Ok(cluster)
    }

    /// The first node founds the cluster, the others join it at the same time.
    async fn boot(&self) -> Result<(), Error> {
        let (founder, others) = self.nodes.split_first().expect("a cluster has a node");
        founder.boot().await?;
        let joining: Vec<_> = others
            .iter()
            .cloned()
            .map(|node| tokio::spawn(async move { node.boot().await }))
            .collect();
        for node in joining {
            node.await.expect("bug: starting a node panicked")?;
        }
        Ok(())
    }

    /// The nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> &[Rabbit] {
        &self.nodes
    }

    /// The URL of the default vhost on each node.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Rabbit::url).collect()
    }

    /// The URL of a vhost on each node.
    #[must_use]
    pub fn urls_of(&self, vhost: &Vhost) -> Vec<String> {
        let addrs = self.nodes.iter().map(Rabbit::amqp_addr);
        addrs.map(|addr| vhost.url_via(addr)).collect()
    }

    /// The node with this Erlang name.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Rabbit {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("the cluster has no node {name}"))
    }

    /// The node that leads a queue of the default vhost, as a running node knows it.
    ///
    /// # Panics
    ///
    /// When there is no such queue, or no node runs.
    pub async fn leader_of(&self, queue: &str) -> &Rabbit {
        let leader = self.a_running_node().root().leader(queue).await;
        self.node(&leader)
    }

    /// A node that runs.
    ///
    /// # Panics
    ///
    /// When none does.
    #[must_use]
    pub fn a_running_node(&self) -> &Rabbit {
        let running = self.nodes.iter().find(|node| node.pid().is_some());
        running.expect("no node of the cluster runs")
    }

    /// Waits until every node sees every other one at work.
    ///
    /// # Panics
    ///
    /// When that takes longer than a minute.
    pub async fn wait_until_whole(&self) {
        for node in &self.nodes {
            let what = format!("{} sees the whole cluster", node.name());
            eventually(&what, BOUND, async || {
                let running = node.eval("length(rabbit_mnesia:cluster_nodes(running))");
                running.await == self.nodes.len().to_string()
            })
            .await;
        }
    }
}

fn peers(names: &[String]) -> String {
    let mut lines = "cluster_formation.peer_discovery_backend = classic_config\n".to_owned();
    for (number, name) in (1..).zip(names) {
        writeln!(
            lines,
            "cluster_formation.classic_config.nodes.{number} = {name}"
        )
        .expect("bug: text takes any line");
    }
    lines
}
