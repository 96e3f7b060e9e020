//! The journal under an outbox, on storage that fails.

mod file;
mod trouble;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tempfile::TempDir;

use super::*;
use crate::{
    BoxError, Codec, Deliver, Delivery, EnqueueError, Left, MessageId, Outbox, Outcome, Raw,
    Readiness, journal::record::HEADER,
};
use trouble::Trouble;

/// Real time: the journal has a thread of its own.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within a minute: {what}"),
    }
}

/// Takes everything while the gate is open.
#[derive(Clone, Default)]
struct Sink {
    arrived: Arc<Mutex<Vec<(MessageId, String)>>>,
    is_shut: Arc<AtomicBool>,
}

impl Sink {
    fn shut() -> Self {
        let sink = Self::default();
        sink.is_shut.store(true, Ordering::Relaxed);
        sink
    }

    fn texts(&self) -> Vec<String> {
        let arrived = self.arrived.lock().unwrap();
        arrived.iter().map(|(_, text)| text.clone()).collect()
    }

    fn ids(&self) -> Vec<MessageId> {
        self.arrived
            .lock()
            .unwrap()
            .iter()
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Deliver<String> for Sink {
    type Receipt = ();
    type Rejection = ();

    async fn deliver(&self, delivery: Delivery<'_, String>) -> Outcome<(), ()> {
        if self.is_shut.load(Ordering::Relaxed) {
            return Outcome::unknown("shut");
        }
        let arrived = (delivery.id, delivery.message.clone());
        self.arrived.lock().unwrap().push(arrived);
        Outcome::Delivered(())
    }

    async fn ready(&self, _: Duration) -> Readiness {
        while self.is_shut.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Readiness::Ready
    }
}

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            path: folder.path().join("outbox"),
            _folder: folder,
        }
    }

    fn outbox(&self, sink: &Sink) -> Outbox<String, Sink> {
        outbox(Disk::open(&self.path).unwrap(), sink)
    }
}

fn outbox(disk: Disk, sink: &Sink) -> Outbox<String, Sink> {
    let builder = Outbox::builder(sink.clone()).journal(disk, Raw);
    builder.group_commit(64, Duration::ZERO).build().unwrap()
}

/// Ends it at once, and waits for its thread, which has the file for as long as its last commit takes.
async fn end<D>(outbox: Outbox<String, D>) -> Left<String>
where
    D: Deliver<String>,
{
    let left = within("the end", outbox.close_within(Duration::ZERO)).await;
    within("the end of its thread", outbox.close()).await;
    left
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_in_order_with_its_ids() {
    let place = Place::new();
    let sink = Sink::shut();
    let first = place.outbox(&sink);
    let mut ids = Vec::new();
    for text in numbered(0..100) {
        ids.push(within("acceptance", first.post(text)).await.unwrap());
    }
    let left = end(first).await;
    assert_eq!((left.messages.len(), left.stored), (0, 100));

    let sink = Sink::default();
    let second = place.outbox(&sink);
    assert_eq!(second.status().totals.found, 100);
    ids.push(
        within("acceptance", second.post("100".to_owned()))
            .await
            .unwrap(),
    );
    within("flush", second.flush()).await.unwrap();
    assert_eq!(sink.texts(), numbered(0..101));
    assert_eq!(sink.ids(), ids);
    within("the end", second.close()).await;

    let sink = Sink::default();
    let third = place.outbox(&sink);
    assert_eq!(third.status().depth, 0, "what was delivered came back");
    within("the end", third.close()).await;
}

#[tokio::test]
async fn a_second_who_opens_the_file_is_told_that_it_is_in_use() {
    let place = Place::new();
    let outbox = place.outbox(&Sink::default());
    assert!(matches!(Disk::open(&place.path), Err(JournalError::InUse)));
    within("the end", outbox.close()).await;
    Disk::open(&place.path).expect("it is closed");
}

#[tokio::test]
async fn what_does_not_fit_in_memory_is_read_when_its_turn_comes() {
    /// Counts what is read.
    struct Counting(Arc<AtomicU64>);

    impl Codec<String> for Counting {
        fn encode(&self, message: &String, into: &mut Vec<u8>) -> Result<(), BoxError> {
            Raw.encode(message, into)
        }

        fn decode(&self, bytes: &[u8]) -> Result<String, BoxError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Raw.decode(bytes)
        }
    }

    let place = Place::new();
    let sink = Sink::shut();
    let read = Arc::new(AtomicU64::new(0));
    let build = |sink: &Sink| {
        let builder = Outbox::builder(sink.clone()).window(16);
        let codec = Counting(Arc::clone(&read));
        let builder = builder.journal(Disk::open(&place.path).unwrap(), codec);
        builder.group_commit(64, Duration::ZERO).build().unwrap()
    };
    let outbox = build(&sink);
    let mut tickets = Vec::new();
    for text in numbered(0..200) {
        let ticket = within("acceptance", outbox.enqueue(text)).await;
        tickets.push(ticket.unwrap());
    }
    assert_eq!(read.load(Ordering::Relaxed), 0);
    sink.is_shut.store(false, Ordering::Relaxed);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(sink.texts(), numbered(0..200));
    for ticket in tickets {
        within("its receipt", ticket).await.unwrap();
    }
    let again = read.load(Ordering::Relaxed);
    assert!((180..=190).contains(&again), "{again} were read");

    sink.is_shut.store(true, Ordering::Relaxed);
    for text in numbered(200..300) {
        within("acceptance", outbox.post(text)).await.unwrap();
    }
    let _ = end(outbox).await;
    read.store(0, Ordering::Relaxed);
    let outbox = build(&sink);
    within("the first", async {
        while outbox.status().in_flight + outbox.status().totals.unknown as usize == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(read.load(Ordering::Relaxed) <= 16, "more than the window");
    assert_eq!(outbox.status().depth, 100);
    sink.is_shut.store(false, Ordering::Relaxed);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(sink.texts(), numbered(0..300));
    within("the end", outbox.close()).await;
}

#[tokio::test]
async fn records_that_cannot_be_read_are_set_aside_and_keep_nobody_waiting() {
    /// Reads no fives, and panics at sixes.
    struct Picky;

    impl Codec<String> for Picky {
        fn encode(&self, message: &String, into: &mut Vec<u8>) -> Result<(), BoxError> {
            Raw.encode(message, into)
        }

        fn decode(&self, bytes: &[u8]) -> Result<String, BoxError> {
            match bytes {
                b"5" => Err("a five".into()),
                b"6" => panic!("a six"),
                _ => Raw.decode(bytes),
            }
        }
    }

    let place = Place::new();
    let outbox = place.outbox(&Sink::shut());
    for text in numbered(0..10) {
        within("acceptance", outbox.post(text)).await.unwrap();
    }
    let _ = end(outbox).await;
    damage(&place.path);

    let sink = Sink::default();
    let builder = Outbox::builder(sink.clone());
    let builder = builder.journal(Disk::open(&place.path).unwrap(), Picky);
    let outbox = builder.build().unwrap();
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(sink.texts(), ["1", "3", "4", "7", "8", "9"]);
    let status = outbox.status();
    assert_eq!(
        (status.totals.set_aside, status.depth, status.bytes),
        (4, 0, 0)
    );
    within("the end", outbox.close()).await;

    let mut disk = Disk::open(&place.path).unwrap();
    let aside = disk.take_set_aside(10).unwrap();
    let mut texts: Vec<_> = aside
        .iter()
        .map(|record| record.bytes.get(HEADER..))
        .collect();
    assert_eq!(texts.remove(1), None, "the torn one is as it was");
    assert_eq!(texts, [Some(&b"x"[..]), Some(b"5"), Some(b"6")]);
    assert_eq!(disk.take_set_aside(10).unwrap(), []);
}

/// Changes a byte of the first message and tears the third.
fn damage(path: &Path) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut messages = transaction.open_table(MESSAGES).unwrap();
        let record = |number| messages.get(number).unwrap().unwrap().value().to_vec();
        let (mut first, third) = (record(1), record(3));
        *first.last_mut().unwrap() = b'x';
        messages.insert(1, &*first).unwrap();
        messages.insert(3, &third[..HEADER / 2]).unwrap();
    }
    transaction.commit().unwrap();
}

/// Whether the write that fails is the first or the sixtieth: what was accepted is delivered, what
/// was not comes back, and when writes succeed again all is well.
#[tokio::test]
async fn whichever_write_fails_the_message_comes_back_and_the_rest_is_delivered() {
    let mut failures = 0;
    for writes in 0..60 {
        let place = Place::new();
        let trouble = Trouble::none();
        let sink = Sink::default();
        let outbox = outbox(trouble.disk(&place.path).unwrap(), &sink);
        trouble.left.store(writes, Ordering::Relaxed);
        let mut accepted = Vec::new();
        for text in numbered(0..6) {
            match within("an answer", outbox.post(text.clone())).await {
                Ok(_) => accepted.push(text),
                Err(EnqueueError::NotStored { message, cause }) => {
                    assert_eq!(message, text);
                    assert!(!matches!(*cause, JournalError::InUse));
                    failures += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        trouble.heal();
        for text in numbered(6..9) {
            within("an answer", outbox.post(text.clone()))
                .await
                .unwrap();
            accepted.push(text);
        }
        within("flush", outbox.flush()).await.unwrap();
        assert_eq!(sink.texts(), accepted, "after {writes} writes");
        within("the end", outbox.close()).await;
        let disk = Disk::open(&place.path).unwrap().found().unwrap();
        assert_eq!((disk.records, disk.bytes), (0, 0), "after {writes} writes");
    }
    assert!(failures > 50, "{failures} failures");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_heals_when_there_is_room() {
    let place = Place::new();
    let trouble = Trouble::none();
    let sink = Sink::shut();
    let outbox = outbox(trouble.disk(&place.path).unwrap(), &sink);
    trouble.quota.store(4 << 20, Ordering::Relaxed);
    let large = |number: usize| format!("{number:050000}");
    let mut accepted = Vec::new();
    let full = loop {
        let text = large(accepted.len());
        match within("an answer", outbox.post(text.clone())).await {
            Ok(_) => accepted.push(text),
            Err(error) => break error,
        }
        assert!(accepted.len() < 200, "it is never full");
    };
    let EnqueueError::NotStored { message, cause } = full else {
        panic!("{full:?}");
    };
    assert_eq!(message, large(accepted.len()));
    assert!(matches!(*cause, JournalError::NoSpace(_)), "{cause:?}");
    assert!(accepted.len() > 5, "full after {}", accepted.len());
    let again = within("an answer", outbox.post(message)).await;
    assert!(again.is_err(), "there is still no room");
    assert!(outbox.status().totals.failed_commits >= 2);

    // Deliveries make room, though the disk is as full as before.
    sink.is_shut.store(false, Ordering::Relaxed);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(sink.texts(), accepted);
    let text = large(accepted.len());
    within("room", async {
        while outbox.post(text.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within("the end", outbox.close()).await;
    assert_eq!(sink.texts().last(), Some(&text));
}

#[tokio::test]
async fn the_file_keeps_to_its_bound_and_to_a_few_times_what_is_in_it() {
    let place = Place::new();
    let sink = Sink::default();
    let bound = 3 << 20;
    let disk = Disk::open_bounded(&place.path, bound).unwrap();
    let outbox = outbox(disk, &sink);
    // Ten times what the file may hold goes through it.
    for round in 0..40 {
        let mut tickets = Vec::new();
        for number in 0..20 {
            let text = format!("{:050000}", round * 20 + number);
            let ticket = within("acceptance", outbox.enqueue(text)).await;
            tickets.push(ticket.unwrap_or_else(|error| panic!("round {round}: {error:?}")));
        }
        for ticket in tickets {
            within("its receipt", ticket).await.unwrap();
        }
        sink.arrived.lock().unwrap().clear();
    }
    sink.is_shut.store(true, Ordering::Relaxed);
    let mut accepted = 0;
    while within("an answer", outbox.post("x".repeat(50_000)))
        .await
        .is_ok()
    {
        accepted += 1;
    }
    assert!(accepted >= 5, "{accepted}");
    let length = std::fs::metadata(&place.path).unwrap().len();
    assert!(length <= bound + bound / 4 + (1 << 20), "{length} bytes");
    let _ = end(outbox).await;
}

/// A commit may be in the file though it was reported as failed. Its messages were given back; they
/// must not be read with those that are in the file alone.
#[tokio::test]
async fn what_was_given_back_is_not_delivered_though_the_file_has_it() {
    let mut kept = 0;
    for syncs in 0..6 {
        let place = Place::new();
        let trouble = Trouble::none();
        let sink = Sink::shut();
        let disk = trouble.disk(&place.path).unwrap();
        let builder = Outbox::builder(sink.clone()).window(4).journal(disk, Raw);
        let outbox = builder.build().unwrap();
        let mut accepted = numbered(0..12);
        for text in &accepted {
            let post = outbox.post(text.clone());
            within("acceptance", post).await.unwrap();
        }
        trouble.is_at_gate.store(false, Ordering::Relaxed);
        trouble.syncs.store(syncs, Ordering::Relaxed);
        let post = async |text: String| outbox.post(text.clone()).await.ok().map(|_| text);
        // While one is being written, the others come together.
        let gate = trouble.gate.lock().unwrap();
        let mut one = Box::pin(post("100".to_owned()));
        assert!((&mut one).now_or_never().is_none());
        while !trouble.is_at_gate.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let mut others = Box::pin(join_all(numbered(101..107).into_iter().map(post)));
        assert!((&mut others).now_or_never().is_none());
        drop(gate);
        accepted.extend(within("an answer", one).await);
        accepted.extend(within("answers", others).await.into_iter().flatten());
        kept += records_in_a_copy(&place.path) - accepted.len();
        trouble.heal();
        // Nobody posts anything meanwhile.
        sink.is_shut.store(false, Ordering::Relaxed);
        within("flush", outbox.flush()).await.unwrap();
        assert_eq!(sink.texts(), accepted, "after {syncs} syncs");
        within("the end", outbox.close()).await;
        let found = Disk::open(&place.path).unwrap().found().unwrap();
        assert_eq!(found.records, 0, "after {syncs} syncs");
    }
    assert!(kept > 0, "no failed commit was in the file");
}

fn records_in_a_copy(path: &Path) -> usize {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let found = Disk::open(&copy).unwrap().found().unwrap();
    std::fs::remove_file(copy).unwrap();
    found.records
}

#[tokio::test]
async fn storage_that_panics_is_storage_that_fails() {
    for writes in (0..30).step_by(3) {
        let place = Place::new();
        let trouble = Trouble::none();
        trouble.panics.store(true, Ordering::Relaxed);
        let sink = Sink::default();
        let outbox = outbox(trouble.disk(&place.path).unwrap(), &sink);
        trouble.left.store(writes, Ordering::Relaxed);
        let mut accepted = Vec::new();
        for text in numbered(0..4) {
            match within("an answer", outbox.post(text.clone())).await {
                Ok(_) => accepted.push(text),
                Err(error) => assert_eq!(error.into_message(), text),
            }
        }
        trouble.heal();
        let text = "4".to_owned();
        let post = within("an answer", outbox.post(text.clone())).await;
        post.unwrap_or_else(|error| panic!("after {writes} writes: {error:?}"));
        accepted.push(text);
        within("flush", outbox.flush()).await.unwrap();
        assert_eq!(sink.texts(), accepted, "after {writes} writes");
        within("the end", outbox.close()).await;
    }
}
