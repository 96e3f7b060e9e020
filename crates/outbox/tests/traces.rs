//! What an outbox tells through `tracing`, and what it keeps to itself.

#![cfg(feature = "tracing")]

mod common;

use std::{
    fmt::{self, Write},
    num::NonZeroU32,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use common::{
    Mode, Target,
    book::{Book, Digits, until, within},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use wharf_outbox::{Envelope, Policy, Readiness};

#[tokio::test]
async fn an_outage_a_panic_and_a_recovery_are_told_once_each() {
    let told = Told::listen();
    let target = Target::new(Mode::Down);
    let outbox = target.outbox().name("outage").build().unwrap();
    outbox.post(0).await.unwrap();
    told.said(&["WARN no answer", "outbox=outage", "cause=down", "pause="])
        .await;
    target.set(Mode::Panics);
    told.said(&["ERROR the destination panicked", "outbox=outage", "times=1"])
        .await;
    assert_eq!(told.count(&["answered again", "outbox=outage"]), 0);
    target.set(Mode::Up);
    told.said(&["INFO answered again", "outbox=outage"]).await;
    for message in 1..5 {
        outbox.post(message).await.unwrap();
    }
    within("the end", outbox.close()).await;
    assert_eq!(told.count(&["answered again", "outbox=outage"]), 1);
}

#[tokio::test]
async fn what_is_not_delivered_is_told() {
    let told = Told::listen();
    let target = Target::new(Mode::Down);
    let attempts = NonZeroU32::new(2).unwrap();
    let outbox = target.outbox().name("losses").max_attempts(attempts);
    let outbox = outbox.max_messages(2).policy(Policy::DropOldest).build();
    let outbox = outbox.unwrap();
    outbox.post(0).await.unwrap();
    told.said(&["WARN given up", "outbox=losses", "attempts=2"])
        .await;
    target.set(Mode::Held);
    outbox.post(1).await.unwrap();
    until("a delivery", || !target.flying().is_empty()).await;
    outbox.post(2).await.unwrap();
    outbox.post(3).await.unwrap();
    told.said(&["DEBUG dropped the oldest", "outbox=losses"])
        .await;
    let short = Envelope::new(4).ttl(Duration::from_millis(1));
    outbox.post(short).await.unwrap();
    told.said(&["DEBUG expired", "outbox=losses", "attempts=0"])
        .await;
    drop(outbox);
    told.said(&["WARN ended undelivered", "outbox=losses", "messages=1"])
        .await;

    let outbox = target.outbox().name("newest").max_messages(1);
    let outbox = outbox.policy(Policy::DropNewest).build().unwrap();
    for message in 0..2 {
        outbox.post(message).await.unwrap();
    }
    told.said(&["DEBUG dropped the newest", "outbox=newest"])
        .await;

    let target = Target::new(Mode::Down);
    let ready = target.says_when();
    let outbox = target.outbox().name("closed").build().unwrap();
    outbox.post(0).await.unwrap();
    ready.send_replace(Some(Readiness::Closed));
    told.said(&["WARN closed for good", "outbox=closed"]).await;
}

#[tokio::test]
async fn a_journal_that_fails_and_what_it_loses_are_told_without_the_messages() {
    let told = Told::listen();
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let builder = target
        .outbox()
        .name("journal")
        .journal(book.clone(), Digits);
    let outbox = builder.window(1).group_commit(1, Duration::ZERO).build();
    let outbox = outbox.unwrap();
    for message in [SECRET, 5, SECRET] {
        within("acceptance", outbox.post(message)).await.unwrap();
    }
    book.pages().fails = true;
    within("an answer", outbox.post(SECRET)).await.unwrap_err();
    told.said(&[
        "ERROR the journal could not be written",
        "outbox=journal",
        "cause=the journal failed",
    ])
    .await;
    book.pages().fails = false;
    // Of the three the last.
    book.pages().damaged = 3..4;
    target.set(Mode::Up);
    told.said(&[
        "ERROR set aside",
        "outbox=journal",
        "number=2",
        "cause=a five",
    ])
    .await;
    told.said(&[
        "ERROR the journal could not be read",
        "outbox=journal",
        "cause=it is damaged",
    ])
    .await;
    told.said(&[
        "ERROR missing from the journal",
        "outbox=journal",
        "messages=1",
    ])
    .await;
    within("the end", outbox.close()).await;
    // Elsewhere pauses are told, to the nanosecond, and any three digits may be among theirs.
    let secret = SECRET.to_string();
    assert_eq!(
        told.count(&["outbox=journal", &secret]),
        0,
        "a message is told"
    );
}

/// For nobody's eyes.
const SECRET: u32 = 987;

/// Everything that was said in this process.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn listen() -> &'static Self {
        static TOLD: OnceLock<&'static Told> = OnceLock::new();
        TOLD.get_or_init(|| {
            let told: &Told = Box::leak(Box::default());
            tracing::subscriber::set_global_default(Listener(told)).expect("there is no other");
            told
        })
    }

    fn count(&self, words: &[&str]) -> usize {
        let events = self.0.lock().unwrap();
        let has_all = |event: &&String| words.iter().all(|word| event.contains(word));
        events.iter().filter(has_all).count()
    }

    /// Waits for an event with all these words.
    async fn said(&self, words: &[&str]) {
        until(&format!("{words:?}"), || self.count(words) > 0).await;
    }
}

struct Listener(&'static Told);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "wharf_outbox"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level();
        let mut events = self.0.0.lock().unwrap();
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
