//! What becomes of the channels of a pool: broken ones are not lent, and no place is lost.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use lapin::{
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::task::JoinError;
use wharf::{GetError, Lease};
use wharf_amqp::{Channel, ChannelError, Cluster, Publisher, State};
use wharf_testkit::{
    proxy::{Direction, End, Proxy},
    wait::{eventually, eventually_some, within},
};

use common::{SOON, Stage, broker::Node, numbered, quick};

/// Makes the broker close the channel.
async fn offend(channel: &Channel) {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let missing = channel.queue_declare("missing".into(), passive, FieldTable::default());
    missing.await.unwrap_err();
}

async fn assert_works(channel: &Channel) {
    assert!(channel.is_open());
    let options = QueueDeclareOptions::default();
    let declared = channel.queue_declare("works".into(), options, FieldTable::default());
    within("an answer", SOON, declared).await.unwrap();
}

/// As many as the pool has room for can be lent, and all of them work.
async fn assert_all_there(cluster: &Cluster, count: usize) {
    let all = join_all((0..count).map(|_| cluster.channels().get()));
    for channel in within("all channels", SOON, all).await {
        assert_works(&channel.unwrap()).await;
    }
}

/// A publish to a missing exchange has the channel closed after it was given back, and whoever got
/// it next got the error of a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closed_while_it_was_idle_is_not_lent() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let channel = cluster.channels().get().await.unwrap();
    let witness = lapin::Channel::clone(&channel);
    stage.proxy.black_hole_only(Direction::ToClient);
    let options = BasicPublishOptions::default();
    let offence = channel.basic_publish(
        "missing".into(),
        "".into(),
        options,
        b"",
        Default::default(),
    );
    offence.await.unwrap();
    drop(channel);
    assert_eq!(cluster.channels().status().idle, 1);
    stage.proxy.pass().await;
    eventually("the broker closes it", SOON, async || {
        !witness.status().connected()
    })
    .await;
    assert_works(&cluster.channels().get().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_channels_that_the_broker_closed_cost_no_error_and_no_capacity() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    // More than the numbers of a connection: RabbitMQ has 2,047 of them as it comes.
    for _ in 0..80 {
        let lent = join_all((0..32).map(|_| cluster.channels().get())).await;
        let lent: Vec<_> = lent.into_iter().map(Result::unwrap).collect();
        join_all(lent.iter().map(|channel| offend(channel))).await;
    }
    assert_all_there(&cluster, 32).await;
    // What is left is the one that the cluster began with, the last one for channels, and perhaps
    // one that is worn out and still has the channels just lent.
    eventually("those that were worn out are gone", SOON, async || {
        stage.proxy.counts().open <= 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_spread_over_the_connections_of_their_role() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage
        .cluster()
        .connections(3)
        .channels_per_connection(4)
        .connect()
        .await
        .unwrap();
    let spread = async || {
        let lent = join_all((0..9).map(|_| cluster.channels().get())).await;
        assert!(lent.iter().all(Result::is_ok));
        let mut channels = Vec::new();
        for connection in stage.vhost.connections().await {
            if connection.name.ends_with("(channels)") {
                channels.push(connection.channels);
            }
        }
        lent.into_iter().flatten().for_each(Lease::discard);
        eventually("all are closed", SOON, async || {
            cluster.channels().status().active() == 0
        })
        .await;
        channels.sort_unstable();
        channels
    };
    // They are used from the first one on.
    eventually("all are there", SOON, async || {
        let channels = spread().await;
        channels.len() == 4 && !channels.contains(&0)
    })
    .await;
    // The stage has one of its own, with a channel.
    assert_eq!(spread().await, [1, 3, 3, 3]);
}

/// With more channels to a connection than the broker allows, the surplus is not an error for
/// whoever comes next, but a wait.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_what_the_broker_allows_the_next_connection_is_used_and_then_callers_wait() {
    let stage = Stage::on_the_shared_node().await;
    let uri = stage.vhost.url_via(stage.proxy.addr());
    let cluster = quick(&[format!("{uri}?channel_max=4")])
        .connections(2)
        .channels_per_connection(8)
        .connect()
        .await
        .unwrap();
    let lent = join_all((0..8).map(|_| cluster.channels().get()));
    let lent = within("eight channels", SOON, lent).await;
    let mut lent: Vec<_> = lent.into_iter().map(Result::unwrap).collect();

    // The time may be up before there was an attempt.
    let cause = eventually_some("word of why there is none", SOON, async || {
        let none = cluster.channels().get_timeout(Duration::from_millis(300));
        match none.await.map(drop).unwrap_err() {
            GetError::Timeout { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert_eq!(cause.to_string(), ChannelError::Exhausted.to_string());

    let mut waiting = Box::pin(cluster.channels().get());
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(lent.pop());
    let served = within("the one that came back", SOON, waiting).await;
    assert_works(&served.unwrap()).await;
    // A channel that is thrown away makes room for another.
    lent.pop().unwrap().discard();
    let replaced = within("another", SOON, cluster.channels().get()).await;
    assert_works(&replaced.unwrap()).await;
    drop(lent);
    assert_all_there(&cluster, 8).await;
}

/// Whoever came while the few channels that a broker allows were lent got an error at once.
#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_the_few_channels_that_the_broker_allows() {
    let stage = Stage::on_the_shared_node().await;
    let uri = stage.vhost.url_via(stage.proxy.addr());
    let cluster = quick(&[format!("{uri}?channel_max=2")]);
    let cluster = cluster.connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let tasks = (0..64).map(|_| {
        let (cluster, publisher) = (cluster.clone(), publisher.clone());
        tokio::spawn(async move {
            for id in 0..20 {
                let channel = cluster.channels().get().await.unwrap();
                assert_works(&channel).await;
                let receipt = publisher.publish(numbered(id)).await.unwrap();
                assert!(receipt.is_confirmed(), "{receipt:?}");
            }
        })
    });
    for task in within("all are served", 3 * SOON, join_all(tasks)).await {
        task.unwrap();
    }
    assert_all_there(&cluster, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_panic_and_callers_that_leave_cost_no_place() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage
        .cluster()
        .channels_per_connection(4)
        .connect()
        .await
        .unwrap();
    let held = join_all((0..4).map(|_| async {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let _channel = cluster.channels().get().await.unwrap();
            panic!("as expected");
        })
        .await
        .unwrap_err()
    }));
    assert!(held.await.iter().all(JoinError::is_panic));
    assert_all_there(&cluster, 4).await;

    // Callers that leave at every step of opening a channel, while answers are slow.
    cluster.channels().invalidate_all();
    stage.proxy.delay(Duration::from_millis(20));
    for patience in 0..60 {
        let calls = (0..8).map(|_| {
            let patience = Duration::from_millis(patience);
            tokio::time::timeout(patience, cluster.channels().get()).map(drop)
        });
        join_all(calls).await;
    }
    stage.proxy.pass().await;
    assert_all_there(&cluster, 4).await;
    eventually("nobody counts as waiting", SOON, async || {
        let status = cluster.channels().status();
        status.waiting == 0 && status.active() <= 4
    })
    .await;
}

/// A storm of callers after an outage was served in any order, and some of them never.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_of_an_outage_are_served_in_the_order_they_came() {
    let node = Node::shared().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let cluster = quick(&[vhost.url_via(proxy.addr())])
        .operation_timeout(2 * SOON)
        // One channel, so that to be served is to go first.
        .channels_per_connection(1)
        .connect()
        .await
        .unwrap();
    let lent = cluster.channels().get().await.unwrap();
    proxy.accept_and_end(End::Cut);
    proxy.cut();
    eventually("the channel notices", SOON, async || !lent.is_open()).await;
    drop(lent);

    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for number in 0..1000 {
        let (cluster, served) = (cluster.clone(), Arc::clone(&served));
        let mut waiter = Box::pin(async move {
            let channel = cluster.channels().get().await.unwrap();
            assert!(channel.is_open());
            served.lock().unwrap().push(number);
        });
        // In line from here on.
        assert!(waiter.as_mut().now_or_never().is_none());
        waiters.push(tokio::spawn(waiter));
    }
    let mut state = cluster.watch();
    let failed = state.wait_for(|state| matches!(state, State::Down { attempt: 2.., .. }));
    within("attempts that fail", SOON, failed).await.unwrap();
    assert_eq!(cluster.channels().status().waiting, 1000);
    proxy.pass().await;
    for waiter in within("all are served", 2 * SOON, join_all(waiters)).await {
        waiter.unwrap();
    }
    let served = served.lock().unwrap();
    assert!(served.iter().copied().eq(0..1000), "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_on_the_connections_thread_until_it_is_done_or_unwanted() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let channel = cluster.channels().get().await.unwrap();
    let thread = channel.run(async { std::thread::current().name().map(str::to_owned) });
    let thread = within("its result", SOON, thread).await.flatten();
    assert_eq!(thread.as_deref(), Some("lapin-io-loop"));
    let panic = channel.run(async { panic!("that is what it is for") });
    assert_eq!(within("its end", SOON, panic).await, None::<()>);
    let (mut held, hold) = tokio::sync::oneshot::channel::<()>();
    let unwanted = channel.run(async move {
        let _hold = hold;
        std::future::pending::<()>().await;
    });
    drop(unwanted);
    within("its drop", SOON, held.closed()).await;
    assert_works(&channel).await;
}
