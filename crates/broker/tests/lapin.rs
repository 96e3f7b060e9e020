//! The whole broker through lapin: declare, publish with confirms, consume, acknowledge.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use wharf_broker::Broker;

#[tokio::test]
async fn what_lapin_publishes_it_consumes_and_acknowledges() {
    let broker = Broker::builder()
        .user("app", "secret")
        .start()
        .await
        .expect("the broker starts");
    let url = broker.url("app", "secret");
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .expect("lapin connects");
    let channel = connection.create_channel().await.expect("a channel");
    let arguments = FieldTable::default();
    channel
        .queue_declare("work".into(), QueueDeclareOptions::default(), arguments)
        .await
        .expect("the queue is declared");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirm mode");
    let mut open = Vec::new();
    for number in 0..500_u32 {
        let body = number.to_be_bytes();
        let publish = channel.basic_publish(
            "".into(),
            "work".into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default(),
        );
        open.push(publish.await.expect("the publish is written"));
    }
    for confirm in open {
        let verdict = confirm.await.expect("a verdict");
        assert_eq!(verdict, Confirmation::Ack(None));
    }
    assert_eq!(broker.queue_depth("/", "work"), Some((500, 0)));

    channel
        .basic_qos(10, BasicQosOptions::default())
        .await
        .expect("prefetch");
    let mut deliveries = channel
        .basic_consume(
            "work".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("the consumer starts");
    for number in 0..500_u32 {
        let delivery = deliveries.next().await.expect("not the end");
        let delivery = delivery.expect("a delivery");
        assert_eq!(delivery.data, number.to_be_bytes());
        delivery
            .ack(BasicAckOptions::default())
            .await
            .expect("the ack is written");
    }
    connection
        .close(200, "bye".into())
        .await
        .expect("it closes");
    assert_eq!(broker.queue_depth("/", "work"), Some((0, 0)));
    broker
        .stop_within(Duration::from_secs(5))
        .await
        .expect("the broker stops");
}
