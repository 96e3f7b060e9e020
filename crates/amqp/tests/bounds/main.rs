//! No call hangs: each returns within its bound while the broker blocks, says nothing or stands
//! still, and says so with the kind of error that is documented.
//!
//! One more call is one more entry in a table of `calls`.

mod calls;
#[path = "../common/mod.rs"]
mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use tokio::net::TcpListener;
use wharf_amqp::{Cluster, Config, Endpoint};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, within},
};

use common::broker::{Node, Vhost};

use calls::{Call, Later, Site, State, first_calls, later_calls};

/// Every bound that can be set, for the preparations, too.
const BOUND: Duration = Duration::from_secs(5);

/// What counts as hanging. No heartbeat comes to the rescue before.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Seconds: a connection is found to be dead after twice that.
const HEARTBEAT: u16 = 60;

/// RabbitMQ would hang up on whoever says nothing for ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn no_first_call_hangs_on_a_peer_that_says_nothing() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let config = config("/", nobody.local_addr().unwrap());
    let prepared = prepare_first(&config, first_calls(State::Silent)).await;
    make(State::Silent, prepared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_hangs_when_a_peer_falls_silent() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let config = config(vhost.name(), proxy.addr());
    let (prepared, _) = prepare_later(&config, later_calls(State::Silent)).await;
    proxy.black_hole();
    make(State::Silent, prepared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_hangs_while_the_broker_blocks() {
    let node = Node::start().await;
    let vhost = node.vhost().await;
    let config = config(vhost.name(), node.amqp_addr());

    let (prepared, clusters) = prepare_later(&config, later_calls(State::Blocked)).await;
    node.set_memory_alarm().await;
    block(&vhost, &clusters).await;
    make(State::Blocked, prepared).await;
    let prepared = prepare_first(&config, first_calls(State::Blocked)).await;
    make(State::Blocked, prepared).await;
}

type Prepared = Vec<(Call, Later<String>)>;

async fn prepare_first(config: &Config, calls: Vec<Call>) -> Prepared {
    let prepared = calls.into_iter().map(async |call| {
        let site = Site {
            cluster: Cluster::from_config(config.clone())
                .connect_lazily()
                .unwrap(),
            queue: "common".into(),
            config: config.clone(),
        };
        let made = (call.prepare)(site).await;
        (call, made)
    });
    join_all(prepared).await
}

/// Each call has connections of every role, and a queue.
async fn prepare_later(config: &Config, calls: Vec<Call>) -> (Prepared, Vec<Cluster>) {
    let prepared = calls.into_iter().enumerate().map(async |(number, call)| {
        let cluster = Cluster::from_config(config.clone())
            .connect()
            .await
            .unwrap();
        let queue = format!("q{number}");
        for queue in [queue.as_str(), "common"] {
            let channel = cluster.channels().get().await.unwrap();
            let options = QueueDeclareOptions::default();
            let declared = channel.queue_declare(queue.into(), options, Default::default());
            declared.await.unwrap();
            channel.discard();
        }
        let site = Site {
            cluster: cluster.clone(),
            queue,
            config: config.clone(),
        };
        let prepared = (call.prepare)(site);
        let made = within(call.name, FOR_EVER, prepared).await;
        ((call, made), cluster)
    });
    join_all(prepared).await.into_iter().unzip()
}

/// A broker under an alarm blocks connections as they publish.
async fn block(vhost: &Vhost, clusters: &[Cluster]) {
    for cluster in clusters {
        for pool in [cluster.channels(), cluster.confirm_channels()] {
            let channel = pool.get().await.unwrap();
            let options = BasicPublishOptions::default();
            let properties = Default::default();
            let publish =
                channel.basic_publish("".into(), "nowhere".into(), options, b"", properties);
            publish.await.unwrap();
            channel.discard();
        }
    }
    eventually("the connections are blocked", FOR_EVER, async || {
        let connections = vhost.connections().await;
        let blocked = connections.iter().filter(|one| one.blocked);
        blocked.count() == 2 * clusters.len()
    })
    .await;
    for cluster in clusters {
        let mut state = cluster.watch();
        let blocked = state.wait_for(|state| matches!(state, wharf_amqp::State::Blocked { .. }));
        within("word of it", FOR_EVER, blocked).await.unwrap();
    }
}

/// Makes all calls at the same time.
async fn make(state: State, prepared: Prepared) {
    let outcomes = prepared.into_iter().map(async |(call, made)| {
        let outcome = tokio::time::timeout(FOR_EVER, made).await;
        let outcome = outcome.unwrap_or_else(|_| "nothing: it hangs".into());
        let as_expected = call.expected.iter().any(|word| outcome.starts_with(word));
        (!as_expected).then(|| format!("{}: {outcome}", call.name))
    });
    let wrong: Vec<String> = join_all(outcomes).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{state:?}: {wrong:#?}");
}

fn config(vhost: &str, address: SocketAddr) -> Config {
    let mut config = Config::default();
    config.hosts = vec![Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: false,
    }];
    config.vhost = vhost.into();
    config.connect_timeout = BOUND;
    config.operation_timeout = BOUND;
    config.heartbeat = HEARTBEAT;
    config.frame_max = 4096;
    config
}

/// Nodes that stand still.
mod rabbitmq_only {
    use super::*;

    /// Of a broker that is stopped the system goes on accepting connections and bytes.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_call_hangs_while_the_broker_stands_still() {
        let node = Node::start().await;
        let (rabbit, vhost) = (node.rabbit(), node.vhost().await);
        let config = config(vhost.name(), rabbit.amqp_addr());
        let (prepared, _) = prepare_later(&config, later_calls(State::Silent)).await;
        rabbit.pause().await;
        make(State::Silent, prepared).await;
        let prepared = prepare_first(&config, first_calls(State::Silent)).await;
        make(State::Silent, prepared).await;
        rabbit.resume().await;
    }
}
