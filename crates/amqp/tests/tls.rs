//! Connections over TLS.
#![cfg(feature = "rustls")]

use std::{fs, time::Duration};

use futures_util::future::join_all;
use tempfile::TempDir;
use wharf_amqp::{
    BuildError, Builder, Cluster, Config, ConnectError, Endpoint, Message, Publisher, Receipt,
    lapin::options::QueueDeclareOptions,
};
use wharf_testkit::{
    certs::Authority,
    ports,
    proxy::{Direction, Proxy},
    rabbit::Rabbit,
    wait::within,
};

const SOON: Duration = Duration::from_secs(60);

/// A node that wants to see a certificate, and files of those it trusts and does not.
struct Secure {
    folder: TempDir,
    port: u16,
    _rabbit: Rabbit,
}

impl Secure {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let ours = Authority::new("authority");
        ours.issue(folder.path(), "broker", "127.0.0.1");
        ours.issue(folder.path(), "client", "client");
        Authority::new("authority").issue(folder.path(), "stranger", "client");
        fs::write(at("ca.pem"), ours.pem()).unwrap();
        fs::write(at("other.pem"), Authority::new("authority").pem()).unwrap();
        let port = ports::free();
        let conf = format!(
            "listeners.ssl.default = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            at("ca.pem").display(),
            at("broker.pem").display(),
            at("broker.key").display(),
        );
        Self {
            _rabbit: Rabbit::start_with(&conf).await,
            folder,
            port,
        }
    }

    /// A client that trusts this authority, and is this one itself.
    fn client(&self, port: u16, ca: &str, who: Option<&str>) -> Builder {
        let at = |name: &str| self.folder.path().join(name);
        let builder = Cluster::builder([format!("amqps://127.0.0.1:{port}")]).ca_file(at(ca));
        match who {
            Some(who) => builder.identity(at(&format!("{who}.pem")), at(&format!("{who}.key"))),
            None => builder,
        }
    }
}

async fn declare(cluster: &Cluster) {
    let channel = cluster.channels().get().await.unwrap();
    let options = QueueDeclareOptions::default();
    let declare = channel.queue_declare("q".into(), options, Default::default());
    declare.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_believed_by_its_certificate_and_a_client_by_its_own() {
    let secure = Secure::start().await;
    let cluster = |ca: &str, who: Option<&str>| {
        let client = secure.client(secure.port, ca, who);
        within("an outcome", SOON, client.connect())
    };

    let trusted = cluster("ca.pem", Some("client")).await.unwrap();
    declare(&trusted).await;
    let publisher = Publisher::builder(&trusted).build().await.unwrap();
    let receipt = publisher.publish(Message::new("x").to("", "q")).await;
    assert!(receipt.unwrap().is_confirmed());

    for (ca, who) in [
        ("other.pem", Some("client")),
        ("ca.pem", Some("stranger")),
        ("ca.pem", None),
    ] {
        let refused = cluster(ca, who).await.unwrap_err();
        assert!(
            matches!(refused, BuildError::Connect(_)),
            "{ca}, {who:?}: {refused}"
        );
    }
    let BuildError::Connect(missing) = cluster("missing.pem", None).await.unwrap_err() else {
        panic!("not an error of connecting");
    };
    let ConnectError::File { path, .. } = &*missing else {
        panic!("{missing}");
    };
    assert!(path.ends_with("missing.pem"));
}

/// TLS that has bytes which the socket does not take passes no flush on, and on flushes hangs what is
/// done on a connection's thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_nothing_any_more_keeps_nobody_beyond_the_deadline() {
    let secure = Secure::start().await;
    let proxy = Proxy::to(([127, 0, 0, 1], secure.port).into()).await;
    let client = secure.client(proxy.addr().port(), "ca.pem", Some("client"));
    // So that nothing else ends the connection.
    let cluster = client.heartbeat(600).connect().await.unwrap();
    declare(&cluster).await;
    let publisher = Publisher::builder(&cluster).deadline(Duration::from_secs(5));
    let publisher = publisher.build().await.unwrap();
    let first = publisher.publish(Message::new("x").to("", "q")).await;
    assert!(first.unwrap().is_confirmed());

    proxy.black_hole_only(Direction::ToServer);
    // More than the buffers on the way take.
    let large = || Message::new(vec![0; 1 << 20]).to("", "q");
    let publishing = join_all((0..48).map(|_| publisher.publish(large())));
    for outcome in within("every verdict", SOON, publishing).await {
        let receipt = outcome.unwrap();
        assert!(matches!(receipt, Receipt::Unknown { .. }), "{receipt:?}");
    }
}

#[test]
fn a_certificate_without_its_key_is_an_error_that_names_the_field() {
    let mut config = Config::default();
    config.hosts.push(Endpoint {
        host: "localhost".into(),
        port: 5671,
        tls: true,
    });
    config.cert_file = Some("cert.pem".into());
    let error = Cluster::from_config(config).connect_lazily().unwrap_err();
    let named = matches!(
        error,
        BuildError::Setting {
            field: "cert_file",
            ..
        }
    );
    assert!(named, "{error}");
}
