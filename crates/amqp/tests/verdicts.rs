//! Each message gets its own verdict, whoever publishes besides; and lapin alone does not see to
//! that when tasks share a channel.

mod common;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use wharf_amqp::{Cluster, Message, Publisher, Receipt, lapin};
use wharf_testkit::wait::within;

use common::{
    at_most,
    broker::{Node, Vhost},
    declare, none_in_flight,
};

const LIMIT: Duration = Duration::from_secs(120);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Confirmed,
    Rejected,
    /// And whose message the broker's word came with.
    Returned {
        own: bool,
    },
    Lost,
}

/// Where a message goes.
const QUEUES: [&str; 3] = ["takes", "full", "nowhere"];

fn fate(receipt: &Receipt) -> Fate {
    match receipt {
        Receipt::Confirmed { .. } => Fate::Confirmed,
        Receipt::Rejected { .. } => Fate::Rejected,
        Receipt::Returned { code: 312, .. } => Fate::Returned { own: true },
        _ => Fate::Lost,
    }
}

/// A vhost with the queue `takes`, which takes everything, and `full`, which has one message and
/// takes no other.
async fn queues() -> (Vhost, Cluster) {
    let vhost = Node::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).connect().await.unwrap();
    declare(&cluster, "takes", FieldTable::default()).await;
    declare(&cluster, "full", at_most(1)).await;
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let first = Message::new("first").to("", "full");
    assert!(publisher.publish(first).await.unwrap().is_confirmed());
    (vhost, cluster)
}

/// How many verdicts were wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wrong {
    /// Rejected and reported as confirmed, or the other way round.
    swapped: usize,
    /// The return of another, or none where there was one.
    returns: usize,
    other: usize,
}

impl Wrong {
    fn count(&mut self, queue: &str, fate: Fate) {
        match (queue, fate) {
            ("takes", Fate::Confirmed)
            | ("full", Fate::Rejected)
            | ("nowhere", Fate::Returned { own: true }) => {}
            ("takes", Fate::Rejected) | ("full", Fate::Confirmed) => self.swapped += 1,
            (_, Fate::Returned { .. }) | ("nowhere", _) => self.returns += 1,
            _ => self.other += 1,
        }
    }

    fn add(&mut self, more: &Self) {
        self.swapped += more.swapped;
        self.returns += more.returns;
        self.other += more.other;
    }
}

/// Publishes from so many tasks to all three queues.
async fn verdicts<P, F>(tasks: usize, messages: usize, publish: P) -> Wrong
where
    P: Fn(&'static str, String) -> F + Clone + Send + 'static,
    F: Future<Output = Fate> + Send,
{
    let each = (0..tasks).map(|task| {
        let publish = publish.clone();
        tokio::spawn(async move {
            let mut wrong = Wrong::default();
            // Several at a time from each task, so that the pipeline is full.
            for batch in 0..messages / tasks / 20 {
                let batch = (0..20).map(|n| {
                    let queue = QUEUES[fastrand::usize(..3)];
                    let publish = publish(queue, format!("{task}-{batch}-{n}"));
                    async move { (queue, publish.await) }
                });
                for (queue, fate) in join_all(batch).await {
                    wrong.count(queue, fate);
                }
            }
            wrong
        })
    });
    let all = within("all verdicts", LIMIT, join_all(each)).await;
    let mut wrong = Wrong::default();
    for task in all {
        wrong.add(&task.unwrap());
    }
    wrong
}

/// Two tasks that publish on one lapin channel get each other's verdicts: the delivery tag and the
/// frames are taken under separate locks; and a returned message hangs on any confirm.
async fn ours(tasks: usize) {
    let (_vhost, cluster) = queues().await;
    let publisher = Publisher::builder(&cluster).window(1000);
    let publisher = Arc::new(publisher.build().await.unwrap());
    let shared = Arc::clone(&publisher);
    let wrong = verdicts(tasks, 40_000, move |queue, id| {
        let publisher = Arc::clone(&shared);
        async move {
            let message = Message::new("body").to("", queue).id(&id);
            let receipt = publisher.publish(message).await.unwrap();
            assert_eq!(receipt.id(), id);
            fate(&receipt)
        }
    })
    .await;
    assert_eq!(wrong, Wrong::default());
    none_in_flight(&publisher).await;
    assert_eq!(publisher.stats().republished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tasks_get_no_verdict_of_another() {
    ours(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_tasks_get_no_verdict_of_another() {
    ours(32).await;
}

/// An id is the user's: two publishers may both number their messages from one, and one message may
/// go to two places.
#[tokio::test(flavor = "multi_thread")]
async fn messages_with_the_same_id_get_each_its_own_verdict() {
    let (_vhost, cluster) = queues().await;
    let publisher = || Publisher::builder(&cluster).build();
    let (first, second) = (publisher().await.unwrap(), publisher().await.unwrap());
    let mut all = Vec::new();
    for n in 0..2000 {
        // Whichever goes first: the return of the one must not end up with the other.
        let mut pair = [("takes", &first), ("nowhere", &second)];
        fastrand::shuffle(&mut pair);
        for (queue, publisher) in pair {
            let message = Message::new("body").to("", queue).id(n.to_string());
            all.push(async move { (queue, publisher.publish(message).await.unwrap()) });
        }
    }
    let mut wrong = Wrong::default();
    for (queue, receipt) in within("all verdicts", LIMIT, join_all(all)).await {
        wrong.count(queue, fate(&receipt));
    }
    assert_eq!(wrong, Wrong::default());
}

/// The same on one channel of lapin's.
async fn naive(channel: Arc<lapin::Channel>, queue: &str, id: String) -> Fate {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let properties = BasicProperties::default().with_message_id(id.as_str().into());
    let publish = channel.basic_publish("".into(), queue.into(), options, b"body", properties);
    let Ok(confirm) = publish.await else {
        return Fate::Lost;
    };
    match confirm.await {
        Ok(Confirmation::Ack(None)) => Fate::Confirmed,
        Ok(Confirmation::Nack(None)) => Fate::Rejected,
        Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) => {
            let returned = message.properties.message_id().as_ref().unwrap();
            Fate::Returned {
                own: returned.as_str() == id,
            }
        }
        _ => Fate::Lost,
    }
}

/// Publishes until a verdict was wrong and until a return came to another. Mostly that is a matter of
/// a round or two, but tasks that hardly ever run at the same time need more.
async fn naive_verdicts_go_wrong(tasks: usize) {
    let (vhost, _cluster) = queues().await;
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(&vhost.url(), properties)
        .await
        .unwrap();
    let channel = Arc::new(connection.create_channel().await.unwrap());
    let confirm = channel.confirm_select(ConfirmSelectOptions::default());
    confirm.await.unwrap();
    let mut wrong = Wrong::default();
    for _ in 0..100 {
        let channel = Arc::clone(&channel);
        let publish = move |queue, id| naive(Arc::clone(&channel), queue, id);
        wrong.add(&verdicts(tasks, 8_000, publish).await);
        if wrong.swapped > 0 && wrong.returns > 0 {
            return;
        }
    }
    panic!("lapin has become right: {wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn naive_sharing_of_a_channel_between_two_tasks_gets_wrong_verdicts() {
    naive_verdicts_go_wrong(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn naive_sharing_of_a_channel_between_eight_tasks_gets_wrong_verdicts() {
    naive_verdicts_go_wrong(8).await;
}
