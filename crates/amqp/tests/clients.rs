//! Several brokers from one configuration.

mod common;

use std::{net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use wharf::Backoff;
use wharf_amqp::{Clients, ClientsConfig, ClientsError, Config, Endpoint, State};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, within},
};

use common::broker::{Node, Vhost};

const SOON: Duration = Duration::from_secs(20);

fn config(vhost: &Vhost, address: SocketAddr, password: &str) -> Config {
    let mut config = Config::default();
    config.hosts = vec![Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: false,
    }];
    config.password = password.to_owned().into();
    config.vhost = vhost.name().to_owned();
    config.connect_timeout = Duration::from_secs(10);
    config.operation_timeout = Duration::from_secs(5);
    config
}

/// A service that waited for all of its brokers before it served anything stood still because of
/// the least of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_does_not_stop_the_other_and_comes_back_by_itself() {
    let node = Node::shared().await;
    let (orders, audit) = (node.vhost().await, node.vhost().await);
    let proxy = Proxy::to(node.amqp_addr()).await;
    proxy.refuse().await;
    let config = ClientsConfig::new()
        .cluster("orders", config(&orders, node.amqp_addr(), "guest"))
        .cluster("audit", config(&audit, proxy.addr(), "guest"));
    let clients = within("an answer", SOON, Clients::connect(config))
        .await
        .unwrap();
    let names: Vec<&str> = clients.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["audit", "orders"]);
    assert!(clients.get("payments").is_none());

    let (orders_cluster, audit_cluster) = (clients.get("orders"), clients.get("audit"));
    let (orders_cluster, audit_cluster) = (orders_cluster.unwrap(), audit_cluster.unwrap());
    assert!(matches!(audit_cluster.state(), State::Down { .. }));
    let declare = async |cluster: &wharf_amqp::Cluster| {
        let channel = cluster.channels().get().await.map_err(|_| ())?;
        let declare = channel.queue_declare("q".into(), Default::default(), Default::default());
        declare.await.map(drop).map_err(|_| ())
    };
    for _ in 0..10 {
        declare(orders_cluster).await.unwrap();
    }
    within("an end", SOON, declare(audit_cluster))
        .await
        .unwrap_err();
    assert!(orders.has_queue("q").await && !audit.has_queue("q").await);

    proxy.pass().await;
    eventually("service", SOON, async || {
        declare(audit_cluster).await.is_ok()
    })
    .await;
    assert!(audit.has_queue("q").await);
    within("farewells", SOON, clients.close_within(SOON)).await;
    assert!(
        clients
            .iter()
            .all(|(_, cluster)| cluster.state().is_closed())
    );
    eventually("nothing is left", SOON, async || {
        orders.connections().await.is_empty() && audit.connections().await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_user_is_told_by_the_name_of_the_cluster_and_nothing_is_left_open() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let config = ClientsConfig::new()
        .cluster("good", config(&vhost, node.amqp_addr(), "guest"))
        .cluster("bad", config(&vhost, node.amqp_addr(), "sesame"));
    assert!(!format!("{config:?}").contains("sesame"));
    let error = within("an answer", SOON, Clients::connect(config))
        .await
        .unwrap_err();
    assert!(matches!(&error, ClientsError::Refused { cluster, .. } if cluster == "bad"));
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("bad") && !shown.contains("sesame"),
        "{shown}"
    );
    eventually("nothing is left", SOON, async || {
        vhost.connections().await.is_empty()
    })
    .await;
}

fn of_host(host: &str, port: u16) -> Config {
    let mut config = Config::default();
    config.hosts = vec![Endpoint {
        host: host.into(),
        port,
        tls: false,
    }];
    config
}

fn backoff(min: Duration, max: Duration) -> Config {
    let mut config = of_host("h", 1);
    config.backoff = Backoff { min, max };
    config
}

/// A setting that makes no sense was found by the broker, or by nobody: a time beyond what clocks
/// count to ended the task that connects.
#[tokio::test]
async fn settings_out_of_bounds_are_told_by_cluster_and_field_and_nobody_is_dialled() {
    let second = Duration::from_secs(1);
    let with = |change: fn(&mut Config)| {
        let mut config = of_host("h", 1);
        change(&mut config);
        config
    };
    let wrong = [
        (Config::default(), "no host"),
        (of_host("", 1), "hosts"),
        (of_host("[::1]", 1), "hosts"),
        (of_host(&"h".repeat(254), 1), "hosts"),
        (of_host("h", 0), "hosts"),
        (with(|config| config.connections = 0), "connections"),
        (with(|config| config.connections = 65), "connections"),
        (
            with(|config| config.channels_per_connection = 0),
            "channels_per_connection",
        ),
        (
            with(|config| config.channels_per_connection = 2048),
            "channels_per_connection",
        ),
        (with(|config| config.frame_max = 4095), "frame_max"),
        (with(|config| config.vhost = "v".repeat(256)), "vhost"),
        (
            with(|config| config.connect_timeout = Duration::ZERO),
            "connect_timeout",
        ),
        (
            with(|config| config.connect_timeout = Duration::MAX),
            "connect_timeout",
        ),
        (
            with(|config| config.operation_timeout = Duration::ZERO),
            "operation_timeout",
        ),
        (
            with(|config| config.operation_timeout = Duration::MAX),
            "operation_timeout",
        ),
        (backoff(Duration::ZERO, second), "backoff"),
        (backoff(2 * second, second), "backoff"),
        (backoff(second, Duration::MAX), "backoff"),
        (
            with(|config| config.busy_poll = Duration::from_micros(1001)),
            "busy_poll",
        ),
    ];
    for (config, field) in wrong {
        // A peer that says nothing would be waited for.
        let config = ClientsConfig::new().cluster("orders", config);
        let connecting = Clients::connect(config).now_or_never();
        let error = connecting.expect("an answer at once").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cluster \"orders\": "), "{text}");
        assert!(text.contains(field), "{field}: {text}");
    }
}

#[cfg(feature = "serde")]
mod written {
    use super::*;

    const TOML: &str = r#"
        [orders]
        hosts = ["rabbit-1", "rabbit-2:5673", "[2001:db8::1]:5674", "::1"]
        user = "app"
        password = "sesame"
        vhost = "orders"
        name = "shop"
        connections = 2
        channels_per_connection = 64
        heartbeat = "20s"
        frame_max = 8192
        channel_max = 100
        connect_timeout = "5s"
        operation_timeout = "1m 30s"
        backoff = { min = "50ms", max = "2s" }
        busy_poll = "150us"

        [audit]
        hosts = ["amqp://app:sesame@audit-1:5673/audit?heartbeat=7"]
        connections = 3
    "#;

    fn expect_orders(config: &ClientsConfig) {
        config.check().unwrap();
        let orders = config.get("orders").unwrap();
        let hosts: Vec<String> = orders.hosts.iter().map(ToString::to_string).collect();
        let expected = [
            "rabbit-1:5672",
            "rabbit-2:5673",
            "[2001:db8::1]:5674",
            "[::1]:5672",
        ];
        assert_eq!(hosts, expected);
        let words = (
            &*orders.user,
            orders.password.reveal(),
            &*orders.vhost,
            &*orders.name,
        );
        assert_eq!(words, ("app", "sesame", "orders", "shop"));
        assert_eq!(
            (orders.connections, orders.channels_per_connection),
            (2, 64)
        );
        assert_eq!(
            (orders.heartbeat, orders.frame_max, orders.channel_max),
            (20, 8192, 100)
        );
        assert_eq!(orders.connect_timeout, Duration::from_secs(5));
        assert_eq!(orders.operation_timeout, Duration::from_secs(90));
        assert_eq!(orders.backoff.min, Duration::from_millis(50));
        assert_eq!(orders.backoff.max, Duration::from_secs(2));
        assert_eq!(orders.busy_poll, Duration::from_micros(150));
    }

    #[test]
    fn every_setting_is_read_from_toml_and_from_json() {
        let config: ClientsConfig = toml::from_str(TOML).unwrap();
        expect_orders(&config);
        let audit = config.get("audit").unwrap();
        assert_eq!(
            (audit.hosts[0].to_string().as_str(), audit.heartbeat),
            ("audit-1:5673", 7)
        );
        assert_eq!((audit.vhost.as_str(), audit.connections), ("audit", 3));
        assert_eq!(
            audit.channels_per_connection,
            Config::default().channels_per_connection
        );
        assert_eq!(config.names().collect::<Vec<_>>(), ["audit", "orders"]);
        assert!(!format!("{config:?}").contains("sesame"));

        let value: serde_json::Value = toml::from_str(TOML).unwrap();
        expect_orders(&serde_json::from_value(value.clone()).unwrap());
        expect_orders(&serde_json::from_str(&value.to_string()).unwrap());
    }

    /// What is wrong, and what its error says.
    const WRONG: &[(&str, &str)] = &[
        (
            r#"hosts = ["h"], conections = 2"#,
            "conections: is not a setting",
        ),
        (r#"user = "u""#, "hosts: must be a list"),
        (r#"hosts = []"#, "no host"),
        (r#"hosts = "h""#, "hosts: must be a list"),
        (r#"hosts = [1]"#, "hosts: must be a text"),
        (r#"hosts = [""]"#, "hosts: must be hosts"),
        (r#"hosts = ["h:"]"#, "hosts: must have ports"),
        (r#"hosts = ["h:70000"]"#, "hosts: must have ports"),
        (r#"hosts = ["app:sesame@h"]"#, "hosts: must have ports"),
        (r#"hosts = ["[::zz]:1"]"#, "hosts: must have IPv6"),
        (
            r#"hosts = ["[::1]sesame"]"#,
            "hosts: must have nothing but a port",
        ),
        (
            r#"hosts = ["amqp://a:sesame@h", "h"]"#,
            "hosts: must all be URIs",
        ),
        (
            r#"hosts = ["amqp://a:sesame@h:port/"]"#,
            "hosts: not an AMQP URI",
        ),
        (
            r#"hosts = ["amqp://a:b@h"], user = "c""#,
            "user: is in the URIs",
        ),
        (
            r#"hosts = ["amqp://h/v"], vhost = "w""#,
            "vhost: is in the URIs",
        ),
        (
            r#"hosts = ["amqp://h?heartbeat=3"], heartbeat = 4"#,
            "heartbeat: is in the URIs",
        ),
        (r#"hosts = ["amqp://h"], tls = true"#, "tls: is in the URIs"),
        (
            r#"hosts = ["h"], tls = "yes""#,
            "tls: must be true or false",
        ),
        (
            r#"hosts = ["h"], connections = "2""#,
            "connections: must be a whole number",
        ),
        (
            r#"hosts = ["h"], connections = -2"#,
            "connections: must be a whole number",
        ),
        (
            r#"hosts = ["h"], connections = 0"#,
            "connections must be from 1 to 64",
        ),
        (
            r#"hosts = ["h"], heartbeat = 70000"#,
            "heartbeat: is too large",
        ),
        (
            r#"hosts = ["h"], heartbeat = "1500ms""#,
            "heartbeat: must be whole seconds",
        ),
        (
            r#"hosts = ["h"], connect_timeout = 5"#,
            "connect_timeout: must be a time",
        ),
        (
            r#"hosts = ["h"], connect_timeout = "soon""#,
            "connect_timeout: must be a time",
        ),
        (
            r#"hosts = ["h"], connect_timeout = "0s""#,
            "connect_timeout must be more than zero",
        ),
        (
            r#"hosts = ["h"], backoff = { least = "1s" }"#,
            "backoff: must be a table of min",
        ),
        (
            r#"hosts = ["h"], backoff = { min = "9s", max = "1s" }"#,
            "backoff must be",
        ),
        (
            r#"hosts = ["h"], password = 5318008"#,
            "password: must be a text",
        ),
    ];

    #[tokio::test]
    async fn what_is_wrong_is_told_by_cluster_and_field_and_no_password_with_it() {
        for (fields, word) in WRONG {
            let secret = if fields.contains("password") {
                ""
            } else {
                r#", password = "sesame""#
            };
            let secret = if fields.contains("amqp://a:") {
                ""
            } else {
                secret
            };
            let text = format!("orders = {{ {fields}{secret} }}");
            let config: ClientsConfig = toml::from_str(&text).unwrap();
            let error = Clients::connect_lazily(config.clone()).unwrap_err();
            let shown = error.to_string();
            assert!(shown.starts_with(r#"cluster "orders": "#), "{shown}");
            assert!(shown.contains(word), "{word}: {shown}");
            let shown = format!("{shown} {error:?} {config:?}");
            assert!(
                !shown.contains("sesame") && !shown.contains("5318008"),
                "{shown}"
            );
        }
        let twice = r#"{ "orders": { "hosts": ["h"], "user": "a", "user": "b" } }"#;
        let config: ClientsConfig = serde_json::from_str(twice).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("user: is there twice"), "{error}");
        let table: ClientsConfig = toml::from_str("orders = 1").unwrap();
        assert!(table.check().is_err());
    }

    #[test]
    fn a_single_cluster_is_read_too() {
        let config: Config = toml::from_str(r#"hosts = ["h"]"#).unwrap();
        assert_eq!(
            (config.hosts[0].port, config.user.as_str()),
            (5672, "guest")
        );
        let error = toml::from_str::<Config>("hosts = [\"h\"]\nuser = 1").unwrap_err();
        assert!(
            error.to_string().contains("user: must be a text"),
            "{error}"
        );
    }

    #[cfg(feature = "rustls")]
    #[test]
    fn with_tls_the_port_is_another() {
        let config: Config = toml::from_str("hosts = [\"h\", \"h:1\"]\ntls = true").unwrap();
        assert_eq!((config.hosts[0].port, config.hosts[1].port), (5671, 1));
        assert!(config.hosts.iter().all(|host| host.tls));
    }
}
