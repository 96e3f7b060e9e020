//! What a pool says through `tracing`.
#![cfg(feature = "tracing")]

mod common;

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Step, Works, settle};
use tokio::time::sleep;
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

const SECOND: Duration = Duration::from_secs(1);

/// Writes events down: level, target and fields.
#[derive(Clone, Default)]
struct Scribe(Arc<Mutex<Vec<String>>>);

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wharf")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut words = Words(format!("{} {}:", metadata.level(), metadata.target()));
        event.record(&mut words);
        self.0.lock().unwrap().push(words.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        write!(self.0, " {field}={value}").unwrap();
    }
}

/// An event that another thread is the first to come by, one without a subscriber, is taken for one
/// that nobody wants, here too. So this test is alone in its process.
#[tokio::test(start_paused = true)]
async fn traces_tell_what_happens_with_its_weight_and_the_pools_name() {
    let scribe = Scribe::default();
    let _guard = tracing::subscriber::set_default(scribe.clone());
    let works = Works::new();
    works.create.next(Step::Outage);
    let pool = works
        .pool(1)
        .name("harbour")
        .warn_after(10 * SECOND)
        .build()
        .unwrap();
    let line = line!() + 1;
    let lease = pool.get().await.unwrap();
    sleep(12 * SECOND).await;
    settle().await;
    works.reset.next(Step::Panic);
    drop(lease);
    pool.close().await;

    let told = std::mem::take(&mut *scribe.0.lock().unwrap());
    let overdue = format!("taken_at={}:{line}:", file!());
    for (told, expected) in told.iter().zip([
        ["WARN wharf:", "create failed", "cause=outage"],
        ["WARN wharf:", "down", "attempt=1"],
        ["DEBUG wharf:", "created", "took=0ns"],
        ["INFO wharf:", "up", "after="],
        ["WARN wharf:", "lease overdue", &overdue],
        ["ERROR wharf:", "panicked", "method=\"reset\""],
        ["DEBUG wharf:", "retired", "why=Panicked"],
        ["DEBUG wharf:", "closed", ""],
    ]) {
        for words in expected {
            assert!(told.contains(words), "{told} lacks {words}");
        }
        assert!(told.contains("pool=\"harbour\""), "{told}");
    }
    assert_eq!(told.len(), 8, "{told:?}");
}
