//! Each message gets its own verdict, whoever publishes besides.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, LongString},
};
use wharf_amqp::{Cluster, Message, Publisher, Receipt, lapin};
use wharf_testkit::{rabbit::Rabbit, wait::within};

/// Queues `takes`, which takes everything, and `full`, which has one message and takes no other.
async fn queues(cluster: &Cluster) {
    let channel = cluster.channels().get().await.unwrap();
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let reject = LongString::from("reject-publish");
    full.insert("x-overflow".into(), AMQPValue::LongString(reject));
    for (name, arguments) in [("takes", FieldTable::default()), ("full", full)] {
        let declare = channel.queue_declare(name.into(), QueueDeclareOptions::default(), arguments);
        declare.await.unwrap();
    }
}

/// Two tasks that publish on one lapin channel get each other's verdicts: the delivery tag and the
/// frames are taken under separate locks; and a returned message hangs on any confirm.
async fn verdicts(tasks: usize) {
    const MESSAGES: usize = 40_000;
    let vhost = Rabbit::shared().await.vhost().await;
    let cluster = Cluster::builder([vhost.url()]).connect().await.unwrap();
    queues(&cluster).await;
    let publisher = Publisher::builder(&cluster)
        .window(1000)
        .build()
        .await
        .unwrap();
    let first = Message::new("first").to("", "full");
    assert!(publisher.publish(first).await.unwrap().is_confirmed());
    let publisher = Arc::new(publisher);
    let each = (0..tasks).map(|task| {
        let publisher = Arc::clone(&publisher);
        tokio::spawn(async move {
            let mut wrong = 0;
            // Several at a time from each task, so that the pipeline is full.
            for batch in 0..MESSAGES / tasks / 20 {
                let batch = (0..20).map(|n| {
                    let kind = fastrand::u8(..3);
                    let id = format!("{task}-{batch}-{n}");
                    let queue = ["takes", "full", "nowhere"][usize::from(kind)];
                    let message = Message::new("body").to("", queue).id(&id);
                    let publisher = &publisher;
                    async move {
                        let receipt = publisher.publish(message).await.unwrap();
                        assert_eq!(receipt.id(), id);
                        match receipt {
                            Receipt::Confirmed { .. } => kind != 0,
                            Receipt::Rejected { .. } => kind != 1,
                            Receipt::Returned { code, .. } => kind != 2 || code != 312,
                            _ => true,
                        }
                    }
                });
                wrong += join_all(batch)
                    .await
                    .into_iter()
                    .filter(|wrong| *wrong)
                    .count();
            }
            wrong
        })
    });
    let limit = Duration::from_secs(120);
    let wrong = within("all verdicts", limit, join_all(each)).await;
    assert_eq!(wrong.into_iter().map(Result::unwrap).sum::<usize>(), 0);
    assert_eq!(publisher.stats().in_flight, 0);
    assert_eq!(publisher.stats().republished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tasks_get_no_verdict_of_another() {
    verdicts(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_tasks_get_no_verdict_of_another() {
    verdicts(32).await;
}
