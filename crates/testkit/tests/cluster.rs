//! Three nodes are one broker, and survive the loss of one.

mod common;

use std::time::Duration;

use common::{BOUND, connect, declare_quorum, depth_seen_by_a_client, publish};
use wharf_testkit::rabbit::{Cluster, Rabbit};
use wharf_testkit::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_form_a_cluster_whose_quorum_queues_outlive_their_leader() {
    let cluster = Cluster::start(3).await;
    let names: Vec<&str> = cluster.nodes().iter().map(Rabbit::name).collect();
    assert_eq!(
        names,
        [
            "rabbit1@localhost",
            "rabbit2@localhost",
            "rabbit3@localhost"
        ]
    );

    let client = connect(&cluster.urls()[0]).await;
    declare_quorum(&client, "q").await;
    publish(&client, "q", 10).await;

    let leader = cluster.leader_of("q").await.clone();
    leader.kill().await;

    let survivor = cluster.a_running_node();
    assert_ne!(survivor.name(), leader.name());
    eventually("another node leads", BOUND, async || {
        cluster.leader_of("q").await.name() != leader.name()
    })
    .await;
    let client = connect(&survivor.url()).await;
    // A leader that is slow to answer is taken for one that has nothing.
    eventually("its messages are there", BOUND, async || {
        depth_seen_by_a_client(&client, "q").await == 10
    })
    .await;
    publish(&client, "q", 5).await;
    let has_all = async |node: &Rabbit| node.queue_depth("q").await == 15;
    eventually("so are the others", BOUND, async || has_all(survivor).await).await;

    leader.restart().await;
    cluster.wait_until_whole().await;
    eventually("the old leader tells", BOUND, async || {
        has_all(&leader).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vhost_of_a_cluster_is_on_every_node() {
    let cluster = Cluster::start(2).await;
    let vhost = cluster.nodes()[0].vhost().await;
    for url in cluster.urls_of(&vhost) {
        let client = connect(&url).await;
        client.close(200, "done".into()).await.unwrap();
    }

    // The second node in order, and back again: the cluster heals by itself.
    let second = &cluster.nodes()[1];
    second.stop().await;
    tokio::time::timeout(Duration::from_secs(100), second.restart())
        .await
        .unwrap();
    cluster.wait_until_whole().await;
}
