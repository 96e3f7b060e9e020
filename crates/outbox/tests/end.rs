//! How an outbox ends, and what becomes of what is in it.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Box32, Mode, Target, Ticket32, settle, within};
use static_assertions::assert_impl_all;
use tokio::time::Instant;
use wharf_outbox::{Ended, EnqueueError, Readiness, Undelivered};

assert_impl_all!(Box32: Send, Sync, Clone, Unpin, std::fmt::Debug);
assert_impl_all!(Ticket32: Send, Sync, Unpin);

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_came_before_it_and_for_nothing_else() {
    let target = Target::slow(Mode::Up, Duration::from_secs(1));
    let outbox = target.outbox().build().unwrap();
    for message in 0..3 {
        outbox.post(message).await.unwrap();
    }
    let start = Instant::now();
    let flush = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.flush().await }
    });
    settle().await;
    for message in 3..6 {
        outbox.post(message).await.unwrap();
    }
    within("flush", flush).await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(target.arrived(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_messages_that_overtake_each_other_waits_for_the_last() {
    let target = Target::new(Mode::Up);
    let outbox = target.outbox().per_key(2, |message| message % 2);
    let outbox = outbox.build().unwrap();
    target.set(Mode::Held);
    outbox.post(0).await.unwrap();
    settle().await;
    let flush = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.flush().await }
    });
    settle().await;
    outbox.post(1).await.unwrap();
    settle().await;
    assert!(!flush.is_finished());
    target.set(Mode::Up);
    within("flush", flush).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_delivers_everything_and_accepts_nothing() {
    let target = Target::slow(Mode::Up, Duration::from_secs(1));
    let outbox = target.outbox().max_messages(3).build().unwrap();
    for message in 0..3 {
        outbox.post(message).await.unwrap();
    }
    let waiter = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.enqueue(3).await }
    });
    settle().await;
    let start = Instant::now();
    within("the end", outbox.close()).await;
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(target.arrived(), [0, 1, 2]);
    let turned_away = waiter.await.unwrap().unwrap_err();
    assert!(matches!(turned_away, EnqueueError::Closed(3)));
    let late = outbox.enqueue(4).await.unwrap_err();
    assert!(matches!(late, EnqueueError::Closed(4)));
    assert!(outbox.status().is_closed);
    // Again, and by another way.
    within("the end", outbox.close()).await;
    assert!(outbox.close_within(Duration::ZERO).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn closing_within_a_time_hands_back_what_is_left_in_order_with_its_ids() {
    let target = Target::slow(Mode::Up, Duration::from_secs(1));
    let outbox = target.outbox().pipelined(2).build().unwrap();
    let mut tickets = Vec::new();
    for message in 0..8 {
        tickets.push(outbox.enqueue(message).await.unwrap());
    }
    let start = Instant::now();
    let left = within("the end", outbox.close_within(Duration::from_millis(2500))).await;
    assert_eq!(start.elapsed().as_millis(), 2500);
    assert_eq!(target.arrived(), [0, 1, 2, 3]);
    assert!(
        target.flying().is_empty(),
        "a delivery goes on after the end"
    );
    let messages: Vec<_> = left.messages.iter().map(|left| left.message).collect();
    assert_eq!(messages, [4, 5, 6, 7]);
    let attempts: Vec<_> = left.messages.iter().map(|left| left.attempts).collect();
    assert_eq!(attempts, [1, 1, 0, 0]);
    for (ticket, left) in tickets[4..].iter().zip(&left.messages) {
        assert_eq!(ticket.id(), left.id);
    }
    for ticket in tickets.drain(4..) {
        let fate = within("its fate", ticket).await;
        assert!(matches!(fate, Err(Undelivered::Closed { message: None })));
    }
    assert_eq!(outbox.status().totals.handed_back, 4);
    // They go on elsewhere as the same.
    let (id, other) = (left.messages[0].id, target.outbox().build().unwrap());
    let envelope = left.messages.into_iter().next().unwrap().into_envelope();
    assert_eq!(other.enqueue(envelope).await.unwrap().id(), id);
}

#[tokio::test(start_paused = true)]
async fn an_outbox_that_ends_tells_those_who_flush() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().build().unwrap();
    outbox.post(0).await.unwrap();
    let flush = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.flush().await }
    });
    settle().await;
    let left = outbox.close_within(Duration::from_secs(1)).await;
    assert_eq!(left.messages.len(), 1);
    assert_eq!(within("word", flush).await.unwrap(), Err(Ended));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_close_the_one_whose_time_is_up_gets_the_messages() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().build().unwrap();
    for message in 0..3 {
        outbox.post(message).await.unwrap();
    }
    let patient = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.close().await }
    });
    settle().await;
    let left = outbox.close_within(Duration::from_secs(1)).await;
    assert_eq!(left.messages.len(), 3);
    within("the end", patient).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_takes_nothing_with_it() {
    let target = Target::new(Mode::Held);
    let outbox = target.outbox().build().unwrap();
    for message in 0..3 {
        outbox.post(message).await.unwrap();
    }
    let short = tokio::time::timeout(Duration::from_secs(1), outbox.close());
    assert!(short.await.is_err());
    target.set(Mode::Up);
    settle().await;
    assert_eq!(target.arrived(), [0, 1, 2]);
    within("the end", outbox.close()).await;
}

#[tokio::test(start_paused = true)]
async fn with_the_last_handle_everything_ends_and_messages_go_back_to_their_tickets() {
    let target = Target::new(Mode::Held);
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    let outbox = target.outbox().weigh(move |_| {
        let _alive = &alive;
        1
    });
    let outbox = outbox.build().unwrap();
    let tickets = [
        outbox.enqueue(0).await.unwrap(),
        outbox.enqueue(1).await.unwrap(),
    ];
    settle().await;
    let other = outbox.clone();
    drop(outbox);
    settle().await;
    assert_eq!(target.flying(), [0], "there is a handle left");
    drop(other);
    for (number, ticket) in tickets.into_iter().enumerate() {
        let fate = within("its fate", ticket).await.unwrap_err();
        assert!(matches!(fate, Undelivered::Closed { .. }));
        assert_eq!(fate.into_message(), Some(number as u32));
    }
    assert!(target.flying().is_empty());
    settle().await;
    assert!(watch.upgrade().is_none(), "its task has not ended");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_closed_for_good_ends_the_outbox_and_tickets_get_their_messages() {
    let target = Target::new(Mode::Down);
    let ready = target.says_when();
    let outbox = target.outbox().max_messages(3).build().unwrap();
    let tickets = [
        outbox.enqueue(0).await.unwrap(),
        outbox.enqueue(1).await.unwrap(),
    ];
    outbox.post(2).await.unwrap();
    let waiter = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.enqueue(3).await }
    });
    let flush = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.flush().await }
    });
    settle().await;
    assert!(!outbox.status().has_ended);
    ready.send_replace(Some(Readiness::Closed));
    for (number, ticket) in tickets.into_iter().enumerate() {
        let fate = within("its fate", ticket).await.unwrap_err();
        assert!(matches!(fate, Undelivered::Closed { .. }));
        assert_eq!(fate.into_message(), Some(number as u32));
    }
    let turned_away = within("an answer", waiter).await.unwrap().unwrap_err();
    assert!(matches!(turned_away, EnqueueError::Closed(3)));
    assert_eq!(within("word", flush).await.unwrap(), Err(Ended));
    let late = outbox.enqueue(4).await.unwrap_err();
    assert!(matches!(late, EnqueueError::Closed(4)));
    assert!(outbox.status().has_ended);
    assert_eq!(target.begun().len(), 1, "it was tried again");
    // What nobody has a ticket for is there still.
    let left = within("the end", outbox.close_within(Duration::ZERO)).await;
    let left: Vec<_> = left.messages.iter().map(|left| left.message).collect();
    assert_eq!(left, [2]);
    assert_eq!(outbox.status().totals.handed_back, 3);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_ticket_does_not_cancel_its_message() {
    let target = Target::slow(Mode::Up, Duration::from_secs(1));
    let outbox = target.outbox().build().unwrap();
    drop(outbox.enqueue(0).await.unwrap());
    within("flush", outbox.flush()).await.unwrap();
    assert_eq!(target.arrived(), [0]);
}

#[test]
fn a_runtime_that_ends_takes_no_message_with_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let target = Target::new(Mode::Held);
    // Not on a runtime yet.
    let outbox = target.outbox().pipelined(2).build().unwrap();
    let first = runtime().unwrap();
    first.block_on(async {
        for message in 0..4 {
            outbox.post(message).await.unwrap();
        }
        settle().await;
    });
    assert_eq!(target.flying(), [0, 1]);
    drop(first);
    assert!(target.flying().is_empty());
    assert_eq!(outbox.status().depth, 4);
    target.set(Mode::Up);
    let second = runtime().unwrap();
    second.block_on(async {
        let flushed = tokio::time::timeout(Duration::from_secs(30), outbox.flush());
        flushed.await.expect("not within 30 s").unwrap();
    });
    assert_eq!(target.arrived(), [0, 1, 2, 3]);
}

#[test]
fn without_any_runtime_messages_go_back_to_their_tickets_all_the_same() {
    let outbox = Target::new(Mode::Up).outbox().build().unwrap();
    let put = futures_util::FutureExt::now_or_never(outbox.try_enqueue(7));
    let ticket = put.expect("it waits for nothing").unwrap();
    drop(outbox);
    let fate = futures_util::FutureExt::now_or_never(ticket).expect("it is known");
    assert_eq!(fate.unwrap_err().into_message(), Some(7));
}
