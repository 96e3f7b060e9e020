//! Several brokers from one configuration, one of which is away for a while.
//!
//! The broker stands for two: `orders` is reached directly, `audit` through a proxy that refuses
//! everybody at first. Orders are served meanwhile; when the proxy lets connections through, the
//! audit is, too, without anybody doing anything about it.
//!
//! ```sh
//! cargo run --example several_brokers
//! ```

mod broker;

use std::{
    error::Error,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use wharf_amqp::{
    Clients, ClientsConfig, Cluster, State,
    lapin::{options::QueueDeclareOptions, uri::AMQPUri},
};
use wharf_testkit::proxy::Proxy;

/// How long the outage may last once the proxy lets connections through.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = broker::broker().await?;
    let uri: AMQPUri = broker.url.parse()?;
    let host = (uri.authority.host.as_str(), uri.authority.port);
    let server = host
        .to_socket_addrs()?
        .next()
        .ok_or("the host has no address")?;
    let proxy = Proxy::to(server).await;
    proxy.refuse().await;

    let clients = Clients::connect(configuration(&uri, server, proxy.addr())?).await?;
    for (name, cluster) in clients.iter() {
        println!("{name}: {}", word(cluster));
    }
    let orders = clients.get("orders").ok_or("no orders")?;
    let audit = clients.get("audit").ok_or("no audit")?;
    if audit.state().is_up() {
        return Err("the audit should be away".into());
    }
    declare(orders, "example.several.orders").await?;
    println!("orders are served while the audit is away");

    proxy.pass().await;
    let mut state = audit.watch();
    tokio::time::timeout(PATIENCE, state.wait_for(State::is_up)).await??;
    declare(audit, "example.several.audit").await?;
    println!("the audit is served again");

    clients.close_within(Duration::from_secs(5)).await;
    Ok(())
}

/// As it might be in a file.
fn configuration(
    uri: &AMQPUri,
    orders: SocketAddr,
    audit: SocketAddr,
) -> Result<ClientsConfig, Box<dyn Error>> {
    let (user, password) = (
        &uri.authority.userinfo.username,
        &uri.authority.userinfo.password,
    );
    let (vhost, orders, audit) = (&uri.vhost, orders.to_string(), audit.to_string());
    let text = format!(
        r#"
        [orders]
        hosts = [{orders:?}]
        user = {user:?}
        password = {password:?}
        vhost = {vhost:?}
        connections = 2
        operation_timeout = "10s"

        [audit]
        hosts = [{audit:?}]
        user = {user:?}
        password = {password:?}
        vhost = {vhost:?}
        backoff = {{ min = "50ms", max = "1s" }}
        "#
    );
    let configuration: ClientsConfig = toml::from_str(&text)?;
    configuration.check()?;
    Ok(configuration)
}

fn word(cluster: &Cluster) -> String {
    match cluster.state() {
        State::Up => "up".to_owned(),
        State::Down { cause, .. } => format!("down: {cause}"),
        other => format!("{other:?}"),
    }
}

async fn declare(cluster: &Cluster, queue: &str) -> Result<(), Box<dyn Error>> {
    let channel = cluster.channels().get().await?;
    let options = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), options, Default::default())
        .await?;
    channel
        .queue_delete(queue.into(), Default::default())
        .await?;
    Ok(())
}
