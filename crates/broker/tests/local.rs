//! The client in the process, beside clients with sockets.

mod wire;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use wharf_broker::{
    BasicProperties, Broker, ConsumeOptions, Disconnected, Local, LocalConsumer, QueueOptions,
};
use wharf_testkit::wait::within;
use wire::{BOUND, Wire, broker};

fn attach(broker: &Broker) -> Local {
    broker.attach("app", "local").unwrap()
}

async fn publish(local: &Local, queue: &str, body: impl Into<Bytes>) {
    let properties = BasicProperties::default();
    let publish = local.publish("", queue, &properties, body.into());
    within("the publish", BOUND, publish).await.unwrap();
}

/// The body of the next delivery, and whether it came before.
async fn next(consumer: &mut LocalConsumer) -> (String, bool) {
    let delivery = within("a delivery", BOUND, consumer.recv()).await;
    let delivery = delivery.expect("not the end");
    let body = String::from_utf8(delivery.body().to_vec()).unwrap();
    (body, delivery.redelivered())
}

async fn ended(consumer: &mut LocalConsumer) {
    let end = within("the end", BOUND, consumer.recv()).await;
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn deliveries_come_in_order_with_all_that_was_published() {
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut consumer = local.consume("q", ConsumeOptions::new()).unwrap();
    let properties = BasicProperties::default().with_message_id("7".into());
    let body = Bytes::from_static(b"0");
    let first = local.publish("", "q", &properties, body.clone()).await;
    assert_eq!(first, Ok(()));
    for number in 1..1_000 {
        publish(&local, "q", number.to_string()).await;
    }
    let first = consumer.recv().await.unwrap();
    assert_eq!((first.exchange(), first.routing_key()), ("", "q"));
    assert_eq!(first.properties(), &properties);
    assert_eq!(first.body().as_ptr(), body.as_ptr(), "nothing is copied");
    for number in 1..1_000 {
        assert_eq!(next(&mut consumer).await, (number.to_string(), false));
    }
    assert!(consumer.try_recv().is_none());
}

#[tokio::test]
async fn stopping_the_broker_ends_a_client_that_does_nothing() {
    let broker = broker().await;
    let local = attach(&broker);
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let mut consumer = local.consume("q", ConsumeOptions::new()).unwrap();
    let _wire = Wire::open(&broker).await;
    let stopping = broker.stop_within(Duration::from_millis(10));
    // The socket does not answer; of the two it is the only one that was asked.
    let cut = within("the stop", BOUND, stopping).await.unwrap_err().cut;
    assert_eq!(cut, 1);
    ended(&mut consumer).await;
    let why = local.disconnected().unwrap();
    assert!(
        matches!(why, Disconnected::Closed { code: 320, .. }),
        "{why}"
    );
}

#[tokio::test]
async fn dropping_the_broker_ends_its_clients_and_leaves_nothing_of_it() {
    let broker = broker().await;
    let local = Arc::new(attach(&broker));
    local.declare_queue("q", QueueOptions::new()).unwrap();
    let body = Bytes::from(vec![1; 100]);
    publish(&local, "q", body.clone()).await;
    assert!(!body.is_unique());
    let mut consumer = local.consume("empty", ConsumeOptions::new());
    assert!(consumer.is_err());
    local.declare_queue("empty", QueueOptions::new()).unwrap();
    consumer = local.consume("empty", ConsumeOptions::new());
    let mut consumer = consumer.unwrap();
    let waiting = tokio::spawn(async move { consumer.recv().await.is_none() });
    tokio::task::yield_now().await;
    drop(broker);
    assert!(within("the end", BOUND, waiting).await.unwrap());
    assert_eq!(local.disconnected(), Some(Disconnected::BrokerGone));
    let properties = BasicProperties::default();
    let refused = local.try_publish("", "q", &properties, Bytes::new());
    assert_eq!(refused, Err(Disconnected::BrokerGone.into()));
    within("its end", BOUND, async {
        while !body.is_unique() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
