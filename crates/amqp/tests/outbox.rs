//! An outbox before a publisher: what is accepted while the broker is away arrives when it is back,
//! in order, and who waits for word of it gets it.

mod common;

use std::{collections::HashSet, path::Path, time::Duration};

use futures_util::future::join_all;
use lapin::options::BasicGetOptions;
use tokio::time::Instant;
use wharf_amqp::{
    Cluster, Message, MessageCodec, Publisher, Receipt, State, lapin,
    outbox::{EnqueueError, Policy, Undelivered, journal::Disk},
    publisher::{PublisherBuilder, Rejection, Ticket},
};
use wharf_testkit::wait::{eventually, within};

use common::{SOON, Stage, at_most, broker::Node, declare, numbered};

/// A stage whose broker cannot be reached, and a publisher before it that gives up soon, so that the
/// outbox has to try again.
async fn away() -> (Stage, Publisher) {
    let stage = Stage::on_the_shared_node().await;
    stage.proxy.refuse().await;
    let cluster = stage.cluster().connect_lazily().unwrap();
    let publisher = hasty(&cluster).build_lazily().unwrap();
    (stage, publisher)
}

fn hasty(cluster: &Cluster) -> PublisherBuilder {
    Publisher::builder(cluster).deadline(Duration::from_millis(200))
}

async fn accepted(publisher: &Publisher, ids: std::ops::Range<u64>) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for id in ids {
        let ticket = within("room", SOON, publisher.enqueue(numbered(id)));
        tickets.push(ticket.await.unwrap());
    }
    tickets
}

/// Waits until the outbox has noticed that nobody is there.
async fn notices_the_outage(publisher: &Publisher) {
    eventually(
        "the outbox knows that the broker is away",
        SOON,
        async || publisher.outbox().status().outage.is_some(),
    )
    .await;
}

/// Three times, while there are 6,000 messages.
async fn cut_while_it_drains(stage: &Stage, publisher: &Publisher) {
    for delivered in [1000, 2500, 4000] {
        eventually("the drain goes on", SOON, async || {
            publisher.outbox().status().totals.delivered >= delivered
        })
        .await;
        stage.proxy.reset();
    }
}

/// All of them are confirmed.
async fn confirmed(tickets: Vec<Ticket>) {
    for fate in within("every ticket", 3 * SOON, join_all(tickets)).await {
        assert!(fate.unwrap().is_confirmed());
    }
}

/// What is in `q`, in order: ids and numbers, copies among them.
async fn contents(stage: &Stage) -> Vec<(String, u64)> {
    let channel = stage.direct.channels().get().await.unwrap();
    let mut contents = Vec::new();
    loop {
        let options = BasicGetOptions { no_ack: true };
        let Some(got) = channel.basic_get("q".into(), options).await.unwrap() else {
            return contents;
        };
        let id = got.delivery.properties.message_id().clone().unwrap();
        let number = str::from_utf8(&got.delivery.data).unwrap().parse().unwrap();
        contents.push((id.to_string(), number));
    }
}

/// Without the copies: a consumer that knows ids sees this.
fn once(contents: &[(String, u64)]) -> Vec<u64> {
    let mut seen = HashSet::new();
    let firsts = contents.iter().filter(|(id, _)| seen.insert(id));
    firsts.map(|(_, number)| *number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_resolves_to_the_receipt_of_its_message() {
    let stage = Stage::on_the_shared_node().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let ticket = publisher.enqueue(numbered(1)).await.unwrap();
    let id = ticket.id().to_string();
    let receipt = within("a receipt", SOON, ticket).await.unwrap();
    assert_eq!(
        receipt,
        Receipt::Confirmed {
            id: id.clone(),
            republished: 0
        }
    );
    let own = publisher.enqueue(numbered(2).id("my own")).await.unwrap();
    let receipt = within("a receipt", SOON, own).await.unwrap();
    assert_eq!(receipt.id(), "my own");
    let expected = [(id, 1), ("my own".to_owned(), 2)];
    assert_eq!(contents(&stage).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_during_an_outage_arrives_in_order_after_it() {
    let (stage, publisher) = away().await;
    let tickets = accepted(&publisher, 0..2000).await;
    notices_the_outage(&publisher).await;
    assert_eq!(publisher.outbox().status().depth, 2000);
    stage.proxy.pass().await;
    confirmed(tickets).await;
    let contents = contents(&stage).await;
    assert!(once(&contents).into_iter().eq(0..2000));
    assert_eq!(publisher.outbox().status().totals.delivered, 2000);
}

/// Below the bound nothing is refused, as above; beyond it the policy decides, and the caller has the
/// message.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_beyond_the_bound_is_told_to_the_caller() {
    let (stage, publisher) = away().await;
    let publisher = publisher
        .with_outbox(|outbox| outbox.max_messages(100).policy(Policy::Reject))
        .unwrap();
    let tickets = accepted(&publisher, 0..100).await;
    for id in 100..150 {
        let refused = publisher.enqueue(numbered(id)).await.unwrap_err();
        assert!(matches!(refused, EnqueueError::Full(_)), "{refused:?}");
        assert_eq!(refused.into_message().body(), id.to_string().as_bytes());
    }
    notices_the_outage(&publisher).await;
    stage.proxy.pass().await;
    confirmed(tickets).await;
    assert!(once(&contents(&stage).await).into_iter().eq(0..100));
    let totals = publisher.outbox().status().totals;
    assert_eq!((totals.accepted, totals.refused), (100, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_during_the_drain_lose_nothing_and_keep_the_order() {
    let (stage, publisher) = away().await;
    let tickets = accepted(&publisher, 0..6000).await;
    notices_the_outage(&publisher).await;
    stage.proxy.pass().await;
    cut_while_it_drains(&stage, &publisher).await;
    confirmed(tickets).await;
    let contents = contents(&stage).await;
    assert!(once(&contents).into_iter().eq(0..6000));
    let copies = contents.len() - 6000;
    let most = publisher.outbox().status().totals.unknown + publisher.stats().republished;
    assert!(copies as u64 <= most, "{copies} copies, {most} known");
}

/// Many are under way at a time, and those of a key are in order all the same.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_keep_the_order_of_each_key() {
    const KEYS: u64 = 32;
    let number = |message: &Message| -> u64 {
        let text = str::from_utf8(message.body()).unwrap();
        text.parse().unwrap()
    };
    let (stage, publisher) = away().await;
    let publisher = publisher
        .with_outbox(|outbox| outbox.per_key(256, move |message| number(message) % KEYS))
        .unwrap();
    let tickets = accepted(&publisher, 0..6000).await;
    notices_the_outage(&publisher).await;
    stage.proxy.pass().await;
    cut_while_it_drains(&stage, &publisher).await;
    confirmed(tickets).await;
    let numbers = once(&contents(&stage).await);
    assert_eq!(numbers.len(), 6000);
    for key in 0..KEYS {
        let of_key = numbers
            .iter()
            .copied()
            .filter(|number| number % KEYS == key);
        assert!(of_key.eq((key..6000).step_by(KEYS as usize)), "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_will_not_have_comes_back_with_its_ticket() {
    let stage = Stage::on_the_shared_node().await;
    declare(&stage.direct, "full", at_most(0)).await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let to = |exchange: &str, key: &str| Message::new("x").to(exchange, key);
    let messages = [
        to("", "nowhere"),
        to("", "full"),
        to("no exchange", "q"),
        to("", &"x".repeat(256)),
        numbered(1),
    ];
    let mut tickets = Vec::new();
    for message in messages {
        tickets.push(publisher.enqueue(message).await.unwrap());
    }
    let mut fates = within("every ticket", SOON, join_all(tickets)).await;
    assert!(fates.pop().unwrap().unwrap().is_confirmed());
    let rejections = fates.into_iter().map(|fate| match fate {
        Err(Undelivered::Rejected { message, rejection }) => {
            assert_eq!(message.body(), b"x");
            rejection
        }
        other => panic!("{other:?}"),
    });
    let rejections: Vec<_> = rejections.collect();
    let [returned, rejected, refused, invalid] = &rejections[..] else {
        panic!("{rejections:?}");
    };
    assert!(
        matches!(returned, Rejection::Returned { code: 312, .. }),
        "{returned:?}"
    );
    assert!(matches!(rejected, Rejection::Rejected), "{rejected:?}");
    assert!(refused.to_string().contains("NOT_FOUND"), "{refused}");
    assert!(matches!(invalid, Rejection::Invalid(_)), "{invalid:?}");
    assert_eq!(contents(&stage).await.len(), 1);
    let totals = publisher.outbox().status().totals;
    assert_eq!(
        (totals.delivered, totals.rejected, totals.unknown),
        (1, 4, 0)
    );
}

/// Nobody tries while the broker says that it takes nothing: what was under way is tried once more at
/// most, when it takes messages again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_blocked_for_a_minute_gets_everything_afterwards() {
    let node = Node::start().await;
    let stage = Stage::on(&node).await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = hasty(&cluster).build().await.unwrap();
    confirmed(accepted(&publisher, 0..1).await).await;
    node.set_memory_alarm().await;
    let begun = Instant::now();
    // RabbitMQ says that it is blocked when somebody publishes.
    let tickets = accepted(&publisher, 1..2000).await;
    let mut states = cluster.watch();
    let blocked = states.wait_for(|state| matches!(state, State::Blocked { .. }));
    within("the word of it", SOON, blocked).await.unwrap();
    notices_the_outage(&publisher).await;
    // Until then it may have tried in vain.
    let before = publisher.outbox().status().totals.unknown;
    tokio::time::sleep_until(begun + Duration::from_secs(60)).await;
    let status = publisher.outbox().status();
    assert_eq!(status.depth, 1999, "{status:?}");
    let tried = status.totals.unknown - before;
    assert!(tried <= 2, "{tried} times: {status:?}");
    node.clear_memory_alarm().await;
    confirmed(tickets).await;
    assert!(once(&contents(&stage).await).into_iter().eq(0..2000));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_publisher_or_the_cluster_is_closed_messages_come_back() {
    for close_cluster in [false, true] {
        let stage = Stage::on_the_shared_node().await;
        stage.proxy.refuse().await;
        let cluster = stage.cluster().connect_lazily().unwrap();
        let publisher = hasty(&cluster).build_lazily().unwrap();
        let tickets = accepted(&publisher, 0..300).await;
        notices_the_outage(&publisher).await;
        if close_cluster {
            cluster.close_within(Duration::ZERO).await;
        } else {
            let _ = publisher.close_within(Duration::ZERO).await;
        }
        let fates = within("every ticket", SOON, join_all(tickets)).await;
        for (id, fate) in fates.into_iter().enumerate() {
            let message = fate.unwrap_err().into_message().unwrap();
            assert_eq!(message.body(), id.to_string().as_bytes());
        }
        let refused = publisher.enqueue(numbered(300)).await.unwrap_err();
        assert!(matches!(refused, EnqueueError::Closed(_)), "{refused:?}");
        assert!(publisher.outbox().status().has_ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_handle_takes_the_outbox_with_it() {
    let (_stage, publisher) = away().await;
    let tickets = accepted(&publisher, 0..10).await;
    drop(publisher);
    for fate in within("every ticket", SOON, join_all(tickets)).await {
        assert!(matches!(
            fate,
            Err(Undelivered::Closed { message: Some(_) })
        ));
    }
}

fn durable(publisher: &Publisher, path: &Path) -> Publisher {
    let journal = Disk::open(path).unwrap();
    let publisher = publisher.with_outbox(|outbox| outbox.journal(journal, MessageCodec));
    publisher.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_journal_is_published_by_the_next_process_under_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let (stage, publisher) = away().await;
    let first = durable(&publisher, &path);
    let mut ids = Vec::new();
    for ticket in accepted(&first, 0..500).await {
        ids.push(ticket.id().to_string());
    }
    let left = first.outbox().close_within(Duration::ZERO).await;
    assert_eq!((left.messages.len(), left.stored), (0, 500));
    drop(first);
    let second = durable(&publisher, &path);
    assert_eq!(second.outbox().status().totals.found, 500);
    stage.proxy.pass().await;
    within("the drain", SOON, second.outbox().flush())
        .await
        .unwrap();
    let contents = contents(&stage).await;
    assert!(once(&contents).into_iter().eq(0..500));
    let seen: HashSet<_> = contents.into_iter().map(|(id, _)| id).collect();
    assert_eq!(seen, ids.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_counts_from_the_acceptance() {
    let (stage, publisher) = away().await;
    let time = Duration::from_secs(1);
    let began = Instant::now();
    let short = publisher.enqueue(numbered(1).ttl(time)).await.unwrap();
    let long = numbered(2).ttl(Duration::from_secs(3600));
    let long = publisher.enqueue(long).await.unwrap();
    let between = began.elapsed();
    let fate = within("the end of its time", SOON, short).await;
    assert!(matches!(fate, Err(Undelivered::Expired { .. })), "{fate:?}");
    stage.proxy.pass().await;
    let receipt = within("a receipt", SOON, long).await.unwrap();
    assert!(receipt.is_confirmed());
    let channel = stage.direct.channels().get().await.unwrap();
    let got = channel.basic_get("q".into(), BasicGetOptions::default());
    let got = got.await.unwrap().unwrap();
    let left = got.delivery.properties.expiration().clone().unwrap();
    let left: u64 = left.as_str().parse().unwrap();
    // The short one's time had passed before, and the long one's began so much later at most.
    let most = Duration::from_secs(3600) - time.saturating_sub(between);
    assert!(u128::from(left) <= most.as_millis(), "{left} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_an_outbox_and_a_new_one_is_its_own() {
    let (_stage, publisher) = away().await;
    let clone = publisher.clone();
    let own = publisher.with_outbox(|outbox| outbox).unwrap();
    let _tickets = accepted(&clone, 0..3).await;
    let depth = |publisher: &Publisher| publisher.outbox().status().depth;
    assert_eq!((depth(&publisher), depth(&clone), depth(&own)), (3, 3, 0));
}
