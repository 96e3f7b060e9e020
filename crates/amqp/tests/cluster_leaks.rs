//! What is left of connections that are gone: no thread, and no connection at the broker.

mod common;

use std::{net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use tokio::sync::{Mutex, MutexGuard};
use wharf_amqp::{Cluster, Consumer, Message, Publisher, State};
use wharf_testkit::wait::{eventually, within};

use common::{SOON, Stage, quick};

/// Each test counts the threads of the process, and so has it to itself: those of the test before
/// have ended.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    no_more_threads_than(0).await;
    turn
}

/// Threads of lapin's: one for each connection that is there, or is coming or going.
fn threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let is_lapins = |thread: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.trim_end() == "lapin-io-loop")
    };
    threads.flatten().filter(is_lapins).count()
}

async fn no_more_threads_than(before: usize) {
    eventually("no thread is left behind", SOON, async || {
        threads() <= before
    })
    .await;
}

/// A connection of each role.
async fn use_all(stage: &Stage, cluster: &Cluster) {
    let publisher = Publisher::builder(cluster).build().await.unwrap();
    let message = Message::new("body").to("", "q");
    let published = within("a verdict", SOON, publisher.publish(message)).await;
    assert!(published.unwrap().is_confirmed());
    let channel = within("a channel", SOON, cluster.channels().get()).await;
    drop(channel.unwrap());
    let consumer = Consumer::builder(cluster, "q").stream();
    let mut deliveries = within("a subscription", SOON, consumer).await.unwrap();
    let delivery = within("a message", SOON, deliveries.next()).await.unwrap();
    delivery.ack().unwrap();
    within("an end", SOON, deliveries.stop_within(SOON))
        .await
        .unwrap();
    stage.proxy.wait_for_open(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_leave_no_thread_and_no_connection_behind() {
    let _turn = alone().await;
    let stage = Stage::on_the_shared_node().await;
    let before = threads();
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let url = |address| stage.vhost.url_via(address);
    let cluster = quick(&[url(nobody), url(stage.proxy.addr())])
        .operation_timeout(2 * SOON)
        .connect()
        .await
        .unwrap();
    let mut state = cluster.watch();
    for _ in 0..5 {
        use_all(&stage, &cluster).await;
        // Those of the connections that were lost may be on their way out.
        eventually("a thread for each connection", SOON, async || {
            threads() == before + 3
        })
        .await;
        stage.proxy.refuse().await;
        stage.proxy.cut();
        let failed = state.wait_for(|state| matches!(state, State::Down { attempt: 3.., .. }));
        within("attempts that fail", SOON, failed).await.unwrap();
        stage.proxy.pass().await;
    }
    use_all(&stage, &cluster).await;
    within("an end", SOON, cluster.close_within(SOON)).await;
    no_more_threads_than(before).await;
    stage.proxy.wait_for_open(0).await;
}

/// Each attempt at a host that says nothing kept its thread for good.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_have_no_end_leave_no_thread_behind() {
    let _turn = alone().await;
    let stage = Stage::on_the_shared_node().await;
    let before = threads();
    stage.proxy.black_hole();
    let cluster = stage.cluster().connect_timeout(Duration::from_millis(100));
    let cluster = cluster.connect_lazily().unwrap();
    let call = cluster.channels().get_timeout(Duration::from_millis(10));
    assert!(call.await.is_err());
    stage.proxy.wait_for_connections(8).await;
    // The one that is under way, and one that is on its way out.
    no_more_threads_than(before + 1).await;
    drop(cluster);
    no_more_threads_than(before).await;
}

/// lapin waits for a broker's farewell without a bound, and stops its heartbeat for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_while_the_peer_is_silent_leaves_no_thread_behind() {
    let _turn = alone().await;
    let stage = Stage::on_the_shared_node().await;
    let before = threads();
    for drops in [false, true] {
        // Also for what is well.
        let limit = Duration::from_secs(5);
        let cluster = stage.cluster().heartbeat(0).operation_timeout(limit);
        let cluster = cluster.connect().await.unwrap();
        use_all(&stage, &cluster).await;
        stage.proxy.black_hole();
        if !drops {
            within("an end", SOON, cluster.close_within(limit)).await;
        }
        drop(cluster);
        no_more_threads_than(before).await;
        stage.proxy.pass().await;
        stage.proxy.wait_for_open(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_connect_leaves_nothing_behind() {
    let _turn = alone().await;
    let stage = Stage::on_the_shared_node().await;
    let before = threads();
    stage.proxy.delay(Duration::from_millis(10));
    let mut connected = 0;
    for patience in 0..60 {
        let patience = Duration::from_millis(4 * patience);
        let connecting = stage.cluster().connect();
        connected += usize::from(tokio::time::timeout(patience, connecting).await.is_ok());
    }
    println!("{connected} of 60 were patient enough");
    no_more_threads_than(before).await;
    stage.proxy.pass().await;
    stage.proxy.wait_for_open(0).await;
    eventually("the broker has none either", SOON, async || {
        let mut connections = stage.vhost.connections().await;
        connections.retain(|connection| connection.name.ends_with("(publish)"));
        connections.is_empty()
    })
    .await;
}

/// The pools were closed by then, and nobody closed the connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_whose_caller_leaves_goes_on() {
    let _turn = alone().await;
    let stage = Stage::on_the_shared_node().await;
    let before = threads();
    let cluster = stage.cluster().connect().await.unwrap();
    use_all(&stage, &cluster).await;
    let lent = cluster.channels().get().await.unwrap();
    let farewell = cluster.close_within(Duration::from_secs(1));
    assert!(farewell.now_or_never().is_none());
    no_more_threads_than(before).await;
    stage.proxy.wait_for_open(0).await;
    assert!(!lent.is_open());
}
