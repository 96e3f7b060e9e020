//! What becomes of messages when a journal has trouble of its own.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    Mode, Target,
    book::{Book, Digits, until, within},
};
use futures_util::{FutureExt, future::join_all};
use wharf_outbox::{
    BoxError, Builder, Codec, Deliver, Delivery, Ended, EnqueueError, Outbox, Outcome, Readiness,
    Undelivered,
};

fn builder(target: &Target, book: &Book) -> Builder<u32, Target> {
    let builder = target.outbox().journal(book.clone(), Digits);
    builder.group_commit(64, Duration::ZERO)
}

#[tokio::test]
async fn a_message_that_could_not_be_stored_is_removed_once_and_not_for_every_failure() {
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let outbox = builder(&target, &book).build().unwrap();
    within("acceptance", outbox.post(0)).await.unwrap();
    book.pages().fails = true;
    for message in 1..50 {
        let error = within("an answer", outbox.post(message)).await.unwrap_err();
        assert!(matches!(error, EnqueueError::NotStored { .. }), "{error:?}");
    }
    let most = book.pages().removals.iter().copied().max();
    assert_eq!(most, Some(1), "every attempt removes what none appended");
    let status = outbox.status();
    assert_eq!((status.depth, status.totals.not_stored), (1, 49));
    let trouble = status.journal_trouble.expect("it fails");
    assert_eq!(trouble.to_string(), "the journal failed");

    book.pages().fails = false;
    within("acceptance", outbox.post(50)).await.unwrap();
    assert!(outbox.status().journal_trouble.is_none());
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), [0, 50]);
    within("the end", outbox.close()).await;
    assert!(book.pages().records.is_empty());
}

#[tokio::test]
async fn a_page_that_is_damaged_is_gone_round_and_what_was_on_it_is_missing() {
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let outbox = builder(&target, &book).window(4).build().unwrap();
    let mut tickets = Vec::new();
    for message in 10..60 {
        tickets.push(within("acceptance", outbox.enqueue(message)).await.unwrap());
    }
    // Numbers begin with 1.
    book.pages().damaged = 21..32;
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    let readable: Vec<u32> = (10..60)
        .filter(|message| !(30..41).contains(message))
        .collect();
    assert_eq!(target.arrived(), readable);
    let status = outbox.status();
    assert_eq!((status.totals.missing, status.depth), (11, 0));
    assert!(status.totals.failed_reads >= 3);
    for (message, ticket) in (10..).zip(tickets) {
        let fate = within("its fate", ticket).await;
        match (30..41).contains(&message) {
            true => assert!(matches!(fate, Err(Undelivered::Missing)), "{fate:?}"),
            false => assert!(fate.is_ok(), "{message}: {fate:?}"),
        }
    }
    within("the end", outbox.close()).await;
}

#[tokio::test]
async fn who_has_a_ticket_for_what_cannot_be_read_is_told_so() {
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let outbox = builder(&target, &book).window(1).build().unwrap();
    let mut tickets = Vec::new();
    for message in [1, 5, 6] {
        tickets.push(within("acceptance", outbox.enqueue(message)).await.unwrap());
    }
    target.set(Mode::Up);
    within("flush", outbox.flush()).await.unwrap();
    let fate = within("its fate", tickets.remove(1)).await;
    assert!(matches!(fate, Err(Undelivered::Unreadable)), "{fate:?}");
    for ticket in tickets {
        within("its receipt", ticket).await.unwrap();
    }
    within("the end", outbox.close()).await;
}

#[tokio::test]
async fn a_journal_that_contradicts_itself_ends_the_outbox_and_leaves_nobody_waiting() {
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let outbox = builder(&target, &book).window(2).max_messages(8).build();
    let outbox = outbox.unwrap();
    let mut tickets = Vec::new();
    for message in 0..8 {
        tickets.push(within("acceptance", outbox.enqueue(message)).await.unwrap());
    }
    let flush = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.flush().await }
    });
    until("a turn", || !target.flying().is_empty()).await;
    let in_line = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.post(8).await }
    });
    until("somebody in line", || outbox.status().waiting == 1).await;
    book.pages().stutters = true;
    target.set(Mode::Up);
    // One after the other: some are accepted before it comes to light.
    let late = async {
        loop {
            if let Err(error) = outbox.post(9).await {
                return error;
            }
        }
    };
    let error = within("the end of it", late).await;
    assert!(
        matches!(
            error,
            EnqueueError::Closed(9) | EnqueueError::NotStored { .. }
        ),
        "{error:?}"
    );
    assert_eq!(within("word", flush).await.unwrap(), Err(Ended));
    let _ = within("an answer", in_line).await.unwrap();
    for ticket in tickets {
        if let Err(undelivered) = within("its fate", ticket).await {
            assert!(matches!(undelivered, Undelivered::Closed { message: None }));
        }
    }
    within("the end", outbox.close()).await;
    assert!(outbox.status().has_ended);
}

#[tokio::test]
async fn who_comes_alone_does_not_wait_for_those_who_came_before() {
    let (target, book) = (Target::new(Mode::Up), Book::default());
    let builder = target.outbox().journal(book.clone(), Digits);
    let hour = Duration::from_secs(3600);
    let outbox = builder.group_commit(64, hour).build().unwrap();
    // While one is being written, the others come together.
    let pages = book.pages();
    let mut together = Box::pin(join_all((10..20).map(|message| outbox.post(message))));
    assert!((&mut together).now_or_never().is_none());
    drop(pages);
    for posted in within("acceptance", together).await {
        posted.unwrap();
    }
    within("acceptance", outbox.post(20)).await.unwrap();
    within("the end", outbox.close()).await;
}

/// The drain tells senders that their messages are stored, and the drain's runtime may do anything.
#[test]
fn who_waits_for_the_journal_does_not_wait_for_a_runtime_that_stands_still() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (target, book) = (Target::new(Mode::Up), Book::default());
    let (still, driven) = (runtime(), runtime());
    let outbox = still.block_on(async {
        let outbox = builder(&target, &book).build().unwrap();
        outbox.post(0).await.unwrap();
        outbox
    });
    driven.block_on(async {
        for message in 1..4 {
            within("acceptance", outbox.post(message)).await.unwrap();
        }
    });
    still.block_on(async { within("the end", outbox.close()).await });
    assert_eq!(target.arrived(), [0, 1, 2, 3]);
}

/// Messages beyond the window are dropped in the journal's thread.
#[tokio::test]
async fn a_message_that_panics_as_it_is_put_away_takes_nobody_with_it() {
    struct Fuse(u32, Arc<AtomicBool>);

    impl Drop for Fuse {
        fn drop(&mut self) {
            let is_lit = self.1.swap(false, Ordering::Relaxed);
            assert!(!is_lit, "a message panics as it is dropped");
        }
    }

    struct Fuses(Arc<AtomicBool>);

    impl Codec<Fuse> for Fuses {
        fn encode(&self, message: &Fuse, into: &mut Vec<u8>) -> Result<(), BoxError> {
            Digits.encode(&message.0, into)
        }

        fn decode(&self, bytes: &[u8]) -> Result<Fuse, BoxError> {
            let number = Digits.decode(bytes)?;
            Ok(Fuse(number, Arc::clone(&self.0)))
        }
    }

    struct Gate(Arc<AtomicBool>, Arc<Mutex<Vec<u32>>>);

    impl Deliver<Fuse> for Gate {
        type Receipt = ();
        type Rejection = ();

        async fn deliver(&self, delivery: Delivery<'_, Fuse>) -> Outcome<(), ()> {
            while !self.0.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.1.lock().unwrap().push(delivery.message.0);
            Outcome::Delivered(())
        }
    }

    let (is_open, lit) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let (arrived, book) = (Arc::default(), Book::default());
    let gate = Gate(Arc::clone(&is_open), Arc::clone(&arrived));
    let builder = Outbox::builder(gate).window(1);
    let builder = builder.journal(book, Fuses(Arc::clone(&lit)));
    let outbox = builder.group_commit(1, Duration::ZERO).build().unwrap();
    for number in 10..13 {
        let fuse = Fuse(number, Arc::clone(&lit));
        within("acceptance", outbox.post(fuse)).await.unwrap();
    }
    lit.store(true, Ordering::Relaxed);
    for number in 13..18 {
        let fuse = Fuse(number, Arc::clone(&lit));
        within("acceptance", outbox.post(fuse)).await.unwrap();
    }
    assert!(!lit.load(Ordering::Relaxed), "it did not panic");
    is_open.store(true, Ordering::Relaxed);
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(*arrived.lock().unwrap(), Vec::from_iter(10..18));
    within("the end", outbox.close()).await;
}

#[tokio::test]
async fn a_destination_that_is_closed_for_good_leaves_everything_in_the_journal() {
    let (target, book) = (Target::new(Mode::Down), Book::default());
    let ready = target.says_when();
    let outbox = builder(&target, &book).window(2).build().unwrap();
    let mut tickets = Vec::new();
    for message in 0..4 {
        tickets.push(within("acceptance", outbox.enqueue(message)).await.unwrap());
    }
    ready.send_replace(Some(Readiness::Closed));
    for ticket in tickets {
        let fate = within("its fate", ticket).await;
        assert!(matches!(fate, Err(Undelivered::Closed { message: None })));
    }
    until("the end of the thread", || Arc::strong_count(&book.0) == 1).await;
    assert_eq!(book.pages().records.len(), 4);
    let left = within("the end", outbox.close_within(Duration::ZERO)).await;
    assert_eq!((left.messages.len(), left.stored), (0, 4));
}

#[tokio::test]
async fn who_leaves_during_the_commit_leaves_its_message_and_no_hole() {
    for fails in [false, true] {
        let (target, book) = (Target::new(Mode::Up), Book::default());
        let outbox = builder(&target, &book).max_messages(1).build().unwrap();
        {
            let mut pages = book.pages();
            pages.fails = fails;
            let mut post = Box::pin(outbox.post(1));
            assert!((&mut post).now_or_never().is_none());
            // It is dropped, and then the commit goes on.
        }
        let totals = || outbox.status().totals;
        until("the commit", || {
            totals().accepted + totals().not_stored == 1
        })
        .await;
        book.pages().fails = false;
        // There is room for one.
        within("room", outbox.post(2)).await.unwrap();
        within("the end", outbox.close()).await;
        let expected: &[u32] = if fails { &[2] } else { &[1, 2] };
        assert_eq!(target.arrived(), expected);
        assert_eq!(outbox.status().depth, 0);
    }
}

#[tokio::test]
async fn closing_does_not_wait_for_a_journal_that_fails() {
    let (target, book) = (Target::new(Mode::Held), Book::default());
    let outbox = builder(&target, &book).build().unwrap();
    let ticket = within("acceptance", outbox.enqueue(1)).await.unwrap();
    book.pages().fails = true;
    target.set(Mode::Up);
    within("its receipt", ticket).await.unwrap();
    within("the end", outbox.close()).await;
    // It will be delivered once more: nobody could write down that it has been.
    assert_eq!(book.pages().records.len(), 1);
    assert!(outbox.status().totals.failed_commits > 0);
}
