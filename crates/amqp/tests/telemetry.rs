//! What traces and metrics tell, and what they keep to themselves.

#![cfg(all(feature = "tracing", feature = "metrics"))]

mod common;

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use common::{SOON, at_most, broker::Node, declare, numbered, quick};
use lapin::types::FieldTable;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::sync::OnceCell;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Receipt, Topology,
    consumer::{Delivery, Outcome},
    lapin,
    topology::Queue,
};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, within},
};

const PASSWORD: &str = "sesame-open-thyself";
const BODY: &str = "for-your-eyes-only";

async fn node() -> &'static Node {
    static NODE: OnceCell<Node> = OnceCell::const_new();
    NODE.get_or_init(Node::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_and_its_messages_are_told_and_counted() {
    let told = Told::listen();
    let node = node().await;
    let vhost = node.vhost().await;
    vhost.add_user("clerk", PASSWORD).await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let url = vhost.url_of("clerk", PASSWORD, proxy.addr());
    let cluster = quick(&[url]).name("post").connect().await.unwrap();
    declare(&cluster, "q", FieldTable::default()).await;
    declare(&cluster, "full", at_most(1)).await;
    let state =
        |role, state| format!("wharf_amqp_connections{{cluster=post,role={role},state={state}}}");
    told.counted(&state("publish", "up"), 1.0).await;
    told.counted(&state("channels", "up"), 1.0).await;
    let host = proxy.addr().to_string();
    told.said(&["INFO connected", "cluster=post", "role=publish", &host])
        .await;

    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    let publish =
        async |message: Message| within("a verdict", SOON, publisher.publish(message)).await;
    assert!(
        publish(Message::new(BODY).to("", "q"))
            .await
            .unwrap()
            .is_confirmed()
    );
    assert!(
        publish(Message::new(BODY).to("", "full"))
            .await
            .unwrap()
            .is_confirmed()
    );
    let rejected = Message::new(BODY).to("", "full").id("one-too-many");
    assert!(matches!(
        publish(rejected).await,
        Ok(Receipt::Rejected { .. })
    ));
    let returned = Message::new(BODY).to("", "nowhere").id("astray");
    assert!(matches!(
        publish(returned).await,
        Ok(Receipt::Returned { .. })
    ));
    let refused = Message::new(BODY).to("missing", "q");
    assert!(publish(refused).await.is_err());
    told.said(&["DEBUG rejected", "cluster=post", "id=one-too-many"])
        .await;
    told.said(&["DEBUG returned", "id=astray", "code=312", "text=NO_ROUTE"])
        .await;
    told.said(&["DEBUG not sent", "cluster=post", "no exchange 'missing'"])
        .await;
    let closed = [
        "WARN channel closed",
        "cluster=post",
        "role=publish",
        "no exchange 'missing'",
    ];
    told.said(&closed).await;

    node.set_memory_alarm().await;
    let waiting = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish(numbered(1)).await }
    });
    told.counted(&state("publish", "blocked"), 1.0).await;
    told.counted(&state("publish", "up"), 0.0).await;
    node.clear_memory_alarm().await;
    assert!(
        within("a verdict", SOON, waiting)
            .await
            .unwrap()
            .unwrap()
            .is_confirmed()
    );
    told.counted(&state("publish", "up"), 1.0).await;
    told.said(&["WARN blocked", "cluster=post", "role=publish", "reason="])
        .await;
    told.said(&["INFO unblocked", "cluster=post", "role=publish"])
        .await;

    // It arrives, and its confirm does not.
    proxy.drop_replies();
    let doubtful = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish(numbered(2)).await }
    });
    eventually("it has arrived", SOON, async || {
        vhost.queue_depth("q").await == 3
    })
    .await;
    // It may not have been confirmed yet.
    proxy.reset();
    proxy.pass().await;
    let doubtful = within("a verdict", SOON, doubtful).await.unwrap().unwrap();
    assert!(
        matches!(doubtful, Receipt::Confirmed { republished: 1, .. }),
        "{doubtful:?}"
    );
    told.said(&[
        "WARN connection lost",
        "cluster=post",
        "role=publish",
        "cause=",
    ])
    .await;
    told.said(&["INFO publishing again", "cluster=post", "messages=1"])
        .await;
    told.counted(&state("publish", "up"), 1.0).await;
    told.counted(
        "wharf_amqp_reconnects_total{cluster=post,role=publish}",
        1.0,
    )
    .await;

    let stats = publisher.stats();
    let outcome = |outcome| format!("wharf_amqp_outcomes_total{{cluster=post,outcome={outcome}}}");
    for (name, count) in [
        (
            "wharf_amqp_published_total{cluster=post}".into(),
            stats.published,
        ),
        (
            "wharf_amqp_republished_total{cluster=post}".into(),
            stats.republished,
        ),
        (
            "wharf_amqp_confirm_seconds{cluster=post}".into(),
            stats.confirmed,
        ),
        ("wharf_amqp_in_flight{cluster=post}".into(), 0),
        (outcome("confirmed"), stats.confirmed),
        (outcome("returned"), stats.returned),
        (outcome("rejected"), stats.rejected),
        (outcome("unknown"), stats.unknown),
        (outcome("failed"), stats.failed),
    ] {
        told.counted(&name, count as f64).await;
    }
    assert_eq!(
        (stats.published, stats.confirmed, stats.republished),
        (7, 4, 1)
    );

    drop(publisher);
    within("the end", SOON, cluster.close_within(SOON)).await;
    told.said(&["DEBUG connection closed", "cluster=post", "role=publish"])
        .await;
    told.counted(&state("publish", "up"), 0.0).await;
    told.counted(&state("channels", "up"), 0.0).await;
    // The pools of channels tell of themselves.
    told.said(&["DEBUG created", "pool=post (confirm channels)"])
        .await;
    told.keeps_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_and_its_topology_are_told_and_counted() {
    let told = Told::listen();
    let vhost = node().await.vhost().await;
    let cluster = quick(&[vhost.url()]).name("shop").connect().await.unwrap();
    let consumer = Consumer::builder(&cluster, "orders")
        .topology(Topology::new().queue(Queue::durable("orders")))
        .start(async |delivery: Delivery| match delivery.data.as_slice() {
            b"panic" => panic!("the handler's own"),
            b"bad" => Outcome::Reject,
            _ => Outcome::Ack,
        })
        .await
        .unwrap();
    told.said(&["INFO topology declared", "cluster=shop"]).await;
    told.said(&["INFO subscribed", "cluster=shop", "queue=orders"])
        .await;
    let publisher = Publisher::builder(&cluster).build().await.unwrap();
    for body in [BODY, "bad", "panic", BODY] {
        let message = Message::new(body).to("", "orders");
        let receipt = within("a verdict", SOON, publisher.publish(message)).await;
        assert!(receipt.unwrap().is_confirmed());
    }
    let verdict = |queue, verdict| {
        format!("wharf_amqp_verdicts_total{{cluster=shop,queue={queue},verdict={verdict}}}")
    };
    let of = |name| format!("wharf_amqp_{name}{{cluster=shop,queue=orders}}");
    told.counted(&verdict("orders", "ack"), 2.0).await;
    // What made the handler panic comes again once.
    told.counted(&verdict("orders", "requeue"), 1.0).await;
    told.counted(&verdict("orders", "reject"), 2.0).await;
    told.counted(&of("deliveries_total"), 5.0).await;
    told.counted(&of("handler_seconds"), 5.0).await;
    told.counted(&of("panics_total"), 2.0).await;
    told.counted(&of("unacked"), 0.0).await;
    told.said(&["ERROR handler panicked", "cluster=shop", "queue=orders"])
        .await;

    vhost.delete_queue("orders").await;
    told.counted(&of("subscriptions_total"), 2.0).await;
    told.said(&[
        "WARN subscription lost",
        "queue=orders",
        "cause=",
        "attempt=",
    ])
    .await;

    declare(&cluster, "held", FieldTable::default()).await;
    let mut held = Consumer::builder(&cluster, "held").stream().await.unwrap();
    let message = Message::new(BODY).to("", "held");
    within("a verdict", SOON, publisher.publish(message))
        .await
        .unwrap();
    let delivery = within("a delivery", SOON, held.next()).await.unwrap();
    told.counted("wharf_amqp_unacked{cluster=shop,queue=held}", 1.0)
        .await;
    vhost.close_all_connections("for a change").await;
    eventually("the loss is known", SOON, async || delivery.is_stale()).await;
    delivery.ack().unwrap_err();
    told.counted(&verdict("held", "stale"), 1.0).await;
    told.said(&["DEBUG stale", "cluster=shop", "queue=held", "verdicts=1"])
        .await;
    told.said(&[
        "WARN connection lost",
        "cluster=shop",
        "role=consume",
        "for a change",
    ])
    .await;
    told.counted(
        "wharf_amqp_reconnects_total{cluster=shop,role=consume}",
        1.0,
    )
    .await;

    let other = Topology::new().queue(Queue::durable("orders").max_length(5));
    // The loss of the other connections may be news yet.
    eventually("a refusal", SOON, async || {
        let refused = cluster.declare(&other).await;
        refused.is_err_and(|error| error.is_final())
    })
    .await;
    told.said(&[
        "ERROR topology refused",
        "cluster=shop",
        "entity=queue \"orders\"",
    ])
    .await;
    let absent = Consumer::builder(&cluster, "absent").stream().await;
    absent.unwrap_err();
    told.said(&["ERROR consumer failed", "cluster=shop", "queue=absent"])
        .await;
    consumer.stop_within(SOON).await.unwrap();
    told.keeps_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fails_says_why_and_not_with_what_password() {
    let told = Told::listen();
    let node = node().await;
    let vhost = node.vhost().await;
    let proxy = Proxy::to(node.amqp_addr()).await;
    let wrong = vhost.url_of("guest", PASSWORD, proxy.addr());
    let connecting = Cluster::builder([&*wrong]).name("stranger").connect();
    within("a refusal", SOON, connecting).await.unwrap_err();
    told.said(&[
        "ERROR connection refused",
        "cluster=stranger",
        "role=publish",
        "ACCESS_REFUSED",
    ])
    .await;
    proxy.refuse().await;
    let connecting = Cluster::builder([wrong]).name("nobody").connect();
    within("a failure", SOON, connecting).await.unwrap_err();
    told.said(&[
        "WARN connection failed",
        "cluster=nobody",
        "role=publish",
        "attempt=1",
    ])
    .await;
    told.keeps_secrets();
}

/// Everything that was said and counted in this process.
#[derive(Default)]
struct Told {
    events: Mutex<Vec<String>>,
    meters: Mutex<BTreeMap<String, Arc<Meter>>>,
}

/// A counter, a gauge, or how often something was recorded.
#[derive(Default)]
struct Meter(Mutex<f64>);

impl Told {
    fn listen() -> &'static Self {
        static TOLD: OnceLock<&'static Told> = OnceLock::new();
        TOLD.get_or_init(|| {
            let told: &Told = Box::leak(Box::default());
            metrics::set_global_recorder(Listener(told)).expect("there is no other");
            tracing::subscriber::set_global_default(Listener(told)).expect("there is no other");
            told
        })
    }

    /// Waits for an event with all these words.
    async fn said(&self, words: &[&str]) {
        eventually(&format!("{words:?} is said"), SOON, async || {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events
                .iter()
                .any(|event| words.iter().all(|word| event.contains(word)))
        })
        .await;
    }

    /// Waits until a meter, `name{label=value,…}`, shows this.
    async fn counted(&self, meter: &str, value: f64) {
        eventually(&format!("{meter} is {value}"), SOON, async || {
            let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
            meters
                .get(meter)
                .is_some_and(|meter| (meter.get() - value).abs() < 0.5)
        })
        .await;
    }

    fn keeps_secrets(&self) {
        let events = self
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n");
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let meters = meters.keys().map(String::as_str).collect::<String>();
        for secret in [PASSWORD, BODY] {
            assert!(
                !events.contains(secret) && !meters.contains(secret),
                "{secret} is told"
            );
        }
    }

    fn meter(&self, key: &Key) -> Arc<Meter> {
        let mut labels: Vec<_> = key
            .labels()
            .map(|l| format!("{}={}", l.key(), l.value()))
            .collect();
        labels.sort();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(meters.entry(name).or_default())
    }
}

impl Meter {
    fn get(&self) -> f64 {
        *self.0.lock().unwrap()
    }

    fn add(&self, by: f64) {
        *self.0.lock().unwrap() += by;
    }
}

struct Listener(&'static Told);

impl CounterFn for Meter {
    fn increment(&self, by: u64) {
        self.add(by as f64);
    }

    fn absolute(&self, value: u64) {
        GaugeFn::set(self, value as f64);
    }
}

impl GaugeFn for Meter {
    fn increment(&self, by: f64) {
        self.add(by);
    }

    fn decrement(&self, by: f64) {
        self.add(-by);
    }

    fn set(&self, value: f64) {
        *self.0.lock().unwrap() = value;
    }
}

impl HistogramFn for Meter {
    fn record(&self, value: f64) {
        assert!((0.0..600.0).contains(&value), "{value} s");
        self.add(1.0);
    }
}

impl Recorder for Listener {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.meter(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.meter(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.0.meter(key))
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("wharf")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level();
        let mut events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(format!("{level} {}{}", line.message, line.fields));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.fields, " {}={value}", field.name()).unwrap();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap();
        }
    }
}
