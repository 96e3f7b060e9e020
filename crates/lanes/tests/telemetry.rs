//! What traces and metrics tell.

#![cfg(all(feature = "tracing", feature = "metrics"))]

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::{runtime::Builder, time::sleep};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use wharf_lanes::{Reason, Retry};
use wharf_testkit::wait::within;

use common::{Act, Desk, settle};

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_state_is_told_while_it_lasts_and_when_it_is_over() {
    let told = Told::listen();
    let desk = Desk::new(|_| Act::AtTheGate);
    let builder = desk.builder().name("state").linger(SECOND).max_items(3);
    let lanes = builder.weigher(|_, _| 5).build().unwrap();
    for (key, item) in [(1, 0), (1, 1), (2, 2)] {
        lanes.push(key, item).await.unwrap();
    }
    let waits = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.push(3, 3).await }
    });
    sleep(SECOND * 2).await;
    let state = |name: &str| told.meter(&format!("wharf_lanes_{name}{{lanes=state}}"));
    assert_eq!(["lanes", "items", "bytes"].map(state), [2.0, 3.0, 15.0]);
    assert_eq!(["in_flight", "waiting"].map(state), [2.0, 1.0]);
    // Nothing is pushed any more, and nothing becomes due: it is told all the same.
    desk.gate.add_permits(10);
    waits.await.unwrap().unwrap();
    within("the last", SECOND, lanes.flush(&3)).await;
    settle().await;
    for name in ["lanes", "items", "bytes", "in_flight", "waiting"] {
        assert_eq!(state(name), 0.0, "{name}");
    }
    let items = |outcome| {
        told.meter(&format!(
            "wharf_lanes_items_total{{lanes=state,outcome={outcome}}}"
        ))
    };
    assert_eq!(["accepted", "handled"].map(items), [4.0, 4.0]);
    let flushes = |reason| {
        told.meter(&format!(
            "wharf_lanes_flushes_total{{lanes=state,reason={reason}}}"
        ))
    };
    assert_eq!(["linger", "flush"].map(flushes), [2.0, 1.0]);
    assert_eq!(lanes.status().flushed(Reason::Linger), 2);
    assert_eq!(state("handle_seconds"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn how_attempts_end_is_told_and_counted() {
    let told = Told::listen();
    let desk = Desk::new(|batch| match (batch.key(), batch.attempt()) {
        (1, _) => Act::Handle,
        (2, 1) => Act::Panic,
        (2, _) => Act::FailAfter(1),
        _ => Act::Never,
    });
    let retry = Retry {
        attempts: 2,
        ..Retry::default()
    };
    let builder = desk.builder().name("ends").items(2).linger(HOUR);
    let builder = builder.retry(retry).handler_timeout(SECOND * 5);
    let lanes = builder.build().unwrap();
    for key in 1..4 {
        for item in 0..2 {
            lanes.push(key, item).await.unwrap();
        }
    }
    lanes.flush(&2).await;
    sleep(SECOND * 6).await;
    // The second attempt of the third is interrupted.
    let closed = within("its limit", SECOND * 3, lanes.close_within(SECOND)).await;
    assert_eq!(closed.unwrap_err().left, [(3, vec![0, 1])]);
    let attempts = |outcome| {
        told.meter(&format!(
            "wharf_lanes_attempts_total{{lanes=ends,outcome={outcome}}}"
        ))
    };
    for outcome in ["handled", "error", "panic", "timeout", "interrupted"] {
        assert_eq!(attempts(outcome), 1.0, "{outcome}");
    }
    told.said(&[
        "DEBUG ended",
        "lanes=ends",
        "outcome=handled",
        "reason=Items",
    ]);
    told.said(&["WARN failed", "lanes=ends", "outcome=panic", "attempt=1"]);
    told.said(&["ERROR given up", "outcome=error", "items=2", "left=1"]);
    told.said(&["WARN failed", "lanes=ends", "outcome=timeout"]);
    told.said(&["DEBUG ended", "lanes=ends", "outcome=interrupted"]);
    let items = |outcome| {
        told.meter(&format!(
            "wharf_lanes_items_total{{lanes=ends,outcome={outcome}}}"
        ))
    };
    assert_eq!(
        ["accepted", "handled", "failed", "abandoned"].map(items),
        [6.0, 3.0, 1.0, 2.0]
    );
}

/// The last handle goes while there is something to do: what comes of it counts as well.
#[tokio::test(start_paused = true)]
async fn the_totals_are_whole_at_the_end() {
    let told = Told::listen();
    let desk = Desk::new(|_| Act::After(SECOND));
    let builder = desk.builder().name("totals").linger(HOUR);
    let lanes = builder.build().unwrap();
    lanes.push(1, 1).await.unwrap();
    drop(lanes);
    sleep(SECOND * 2).await;
    let of = "wharf_lanes_items_total{lanes=totals,outcome=handled}";
    assert_eq!(told.meter(of), 1.0);
    let of = "wharf_lanes_flushes_total{lanes=totals,reason=closed}";
    assert_eq!(told.meter(of), 1.0);
    assert_eq!(told.meter("wharf_lanes_items{lanes=totals}"), 0.0);
}

#[test]
fn what_a_runtime_leaves_behind_is_counted() {
    let told = Told::listen();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let desk = runtime.block_on(async { Desk::new(|_| Act::Handle) });
    let builder = desk.builder().name("left").linger(HOUR);
    let lanes = builder.runtime(runtime.handle().clone()).build().unwrap();
    lanes.try_push(1, 1).unwrap();
    drop(runtime);
    drop(lanes);
    let of = "wharf_lanes_items_total{lanes=left,outcome=abandoned}";
    assert_eq!(told.meter(of), 1.0);
    assert_eq!(told.meter("wharf_lanes_items{lanes=left}"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_and_panics_costs_no_batch() {
    Told::listen();
    let desk = Desk::new(|batch| match batch.attempt() {
        1 => Act::Fail,
        _ => Act::Handle,
    });
    let builder = desk.builder().name(BOMB).items(1).concurrency(1);
    let lanes = builder.build().unwrap();
    for key in 1..4 {
        lanes.push(key, 0).await.unwrap();
    }
    within("all", SECOND * 5, lanes.close()).await.unwrap();
    assert_eq!((lanes.status().handled, lanes.status().abandoned), (3, 0));
}

/// Lanes of this name make the listener panic.
const BOMB: &str = "bomb";

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

    fn said(&self, words: &[&str]) {
        let events = self.events.lock().unwrap();
        let is_it = |event: &String| words.iter().all(|word| event.contains(word));
        assert!(events.iter().any(is_it), "{words:?} is not in {events:#?}");
    }

    /// What a meter shows: `name{label=value,…}`.
    fn meter(&self, name: &str) -> f64 {
        let meters = self.meters.lock().unwrap();
        let Some(meter) = meters.get(name) else {
            panic!("no {name} in {:#?}", meters.keys());
        };
        meter.get()
    }

    fn register(&self, key: &Key) -> Arc<Meter> {
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        assert!(!name.contains(BOMB), "the recorder panics");
        Arc::clone(self.meters.lock().unwrap().entry(name).or_default())
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

impl CounterFn for Meter {
    fn increment(&self, by: u64) {
        self.add(by as f64);
    }

    fn absolute(&self, value: u64) {
        let mut shown = self.0.lock().unwrap();
        *shown = shown.max(value as f64);
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
    fn record(&self, _value: f64) {
        self.add(1.0);
    }
}

struct Listener(&'static Told);

impl Recorder for Listener {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.register(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.register(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.0.register(key))
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "wharf_lanes"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        assert!(!line.0.contains(BOMB), "the subscriber panics");
        self.0.events.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The level, the message, and `field=value` for the rest.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}
