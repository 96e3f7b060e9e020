//! A node of one's own: it can be killed, restarted, paused and broken, and it ends with its owner.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{BOUND, connect, declare_durable, depth_seen_by_a_client, publish};
use wharf_testkit::proxy::Proxy;
use wharf_testkit::rabbit::Rabbit;
use wharf_testkit::wait::{eventually, within};

#[tokio::test]
async fn a_restart_keeps_a_durable_queue_and_its_persistent_messages() {
    let rabbit = Rabbit::start().await;
    let url = rabbit.url();
    let client = connect(&url).await;
    declare_durable(&client, "kept").await;
    publish(&client, "kept", 10).await;
    rabbit.save_declarations().await;
    let first = rabbit.pid();

    rabbit.restart().await;

    assert_ne!(rabbit.pid(), first);
    assert_eq!(rabbit.url(), url);
    assert_eq!(rabbit.queue_depth("kept").await, 10);
    assert_eq!(
        depth_seen_by_a_client(&connect(&url).await, "kept").await,
        10
    );
}

/// RabbitMQ serves without a vhost that it cannot recover, as if its queues had never been.
#[tokio::test]
async fn a_node_that_leaves_a_vhost_aside_has_not_started() {
    let rabbit = Rabbit::start().await;
    let home = home_of(rabbit.pid().unwrap());
    let database = Path::new(&home).join(rabbit.name()).join("mnesia");
    let vhosts = database.join(rabbit.name()).join("msg_stores/vhosts");
    rabbit.stop().await;
    for vhost in std::fs::read_dir(vhosts).unwrap() {
        // A file that it writes anew.
        let name = vhost.unwrap().path().join(".vhost");
        std::fs::remove_file(&name).unwrap();
        std::fs::create_dir(&name).unwrap();
    }

    let restarted = tokio::spawn(async move { rabbit.restart().await }).await;

    let panic = restarted.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    let reason = r#"it did not recover these vhosts: [<<"/">>]"#;
    assert!(text.contains(reason), "{text}");
}

#[tokio::test]
async fn a_stop_in_order_and_a_kill_both_close_the_port() {
    let rabbit = Rabbit::start().await;
    let pid = rabbit.pid().unwrap();

    rabbit.stop().await;
    assert_eq!(rabbit.pid(), None);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(
        tokio::net::TcpStream::connect(rabbit.amqp_addr())
            .await
            .is_err()
    );

    rabbit.restart().await;
    let pid = rabbit.pid().unwrap();
    rabbit.kill().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(
        tokio::net::TcpStream::connect(rabbit.amqp_addr())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_node_and_all_it_had_is_gone_when_the_last_handle_is_dropped() {
    let rabbit = Rabbit::start().await;
    let clone = rabbit.clone();
    let pid = rabbit.pid().unwrap();
    let home = home_of(pid);
    drop(rabbit);
    assert!(Path::new(&format!("/proc/{pid}")).exists());

    drop(clone);

    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!Path::new(&home).exists(), "{home} is left");
    assert_eq!(processes_that_name(&home), Vec::<u32>::new());
}

#[tokio::test]
async fn a_node_and_all_it_had_is_gone_after_its_owner_was_killed() {
    let (mut owner, home) = common::owner_of_a_node();
    let record = std::fs::read_to_string(Path::new(&home).join("node")).unwrap();
    let number = |field: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap()
    };
    let processes = [number("vm="), number("epmd=")].map(|pid| format!("/proc/{pid}"));
    assert!(processes.iter().all(|process| runs(process)));

    owner.kill().unwrap(); // SIGKILL
    owner.wait().unwrap();

    eventually(
        "the node, its port mapper and its folder are gone",
        BOUND,
        async || !processes.iter().any(|process| runs(process)) && !Path::new(&home).exists(),
    )
    .await;
}

#[tokio::test]
async fn a_paused_node_says_nothing_until_it_is_resumed() {
    let rabbit = Rabbit::start().await;
    let client = connect(&rabbit.url()).await;

    rabbit.pause().await;
    let answer = client.create_channel();
    tokio::pin!(answer);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut answer).await;
    assert!(early.is_err(), "a stopped process answered");

    rabbit.resume().await;
    within("the channel opens", BOUND, answer).await.unwrap();
}

#[tokio::test]
async fn faults_of_the_node_come_and_go() {
    let rabbit = Rabbit::start().await;
    let client = connect(&rabbit.url()).await;
    declare_durable(&client, "q").await;
    publish(&client, "q", 1).await;

    // An alarm blocks connections that publish.
    rabbit.set_memory_alarm().await;
    let state = async || rabbit.connections().await[0].state.clone();
    eventually("the alarm has reached it", BOUND, async || {
        state().await == "blocking"
    })
    .await;
    rabbit.clear_memory_alarm().await;
    eventually("so has its end", BOUND, async || state().await == "running").await;

    // Suspended listeners take no new connection, and keep the old ones.
    rabbit.suspend_listeners().await;
    assert!(
        tokio::net::TcpStream::connect(rabbit.amqp_addr())
            .await
            .is_err()
    );
    publish(&client, "q", 1).await;
    rabbit.resume_listeners().await;
    drop(connect(&rabbit.url()).await);

    // All connections are closed by force.
    rabbit.close_all_connections("a test").await;
    eventually("the client knows", BOUND, async || {
        !client.status().connected()
    })
    .await;
    eventually("no connection is left", BOUND, async || {
        rabbit.connections().await.is_empty()
    })
    .await;

    // The broker inside the node stops and starts; the process lives on.
    let pid = rabbit.pid();
    rabbit.stop_app().await;
    assert!(
        tokio::net::TcpStream::connect(rabbit.amqp_addr())
            .await
            .is_err()
    );
    rabbit.start_app().await;
    assert_eq!(rabbit.pid(), pid);
    assert_eq!(rabbit.queue_depth("q").await, 2);
    drop(connect(&rabbit.url()).await);
}

#[tokio::test]
async fn a_client_survives_behind_a_proxy_that_delays_and_learns_of_a_reset() {
    let rabbit = Rabbit::start().await;
    let proxy = Proxy::to(rabbit.amqp_addr()).await;
    let client = connect(&rabbit.root().url_via(proxy.addr())).await;
    proxy.wait_for_open(1).await;

    proxy.delay(Duration::from_millis(50));
    declare_durable(&client, "q").await;
    publish(&client, "q", 5).await;

    proxy.reset();
    eventually("the client knows", BOUND, async || {
        !client.status().connected()
    })
    .await;
    assert_eq!(rabbit.queue_depth("q").await, 5);
}

/// Where the virtual machine says its home is.
fn home_of(pid: u32) -> String {
    let line = String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
    let mut words = line.split('\0').skip_while(|&word| word != "-home");
    words
        .nth(1)
        .expect("the command line has a home")
        .to_owned()
}

/// A process that ended may stay in the list until somebody asks for it; it has no command then.
fn runs(process: &str) -> bool {
    std::fs::read(Path::new(process).join("cmdline")).is_ok_and(|line| !line.is_empty())
}

fn processes_that_name(text: &str) -> Vec<u32> {
    let folders = std::fs::read_dir("/proc").unwrap();
    folders
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
        })
        .collect()
}
