//! What a `send` comes to.

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{LONG, Seen, address, connected, packet, peer, sender};
use futures_util::future::join_all;
use tokio::{sync::Semaphore, time::timeout};
use wharf_peers::{Cause, Offline, PeerState, SendError, Untrusted};

#[tokio::test]
async fn packets_arrive_in_order_and_are_answered() {
    let seen = Seen::default();
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let sender = sender(peer("sender").peer("receiver", address(&receiver).await)).await;
    for each in 0..100 {
        sender.send("receiver", packet(each)).await.unwrap();
        assert_eq!(seen.all().len() as u64, each + 1);
    }
    let receipts = join_all((100..10_000).map(|each| sender.send("receiver", packet(each)))).await;
    receipts.into_iter().for_each(|receipt| receipt.unwrap());
    assert_eq!(seen.numbers("sender"), (0..10_000).collect::<Vec<_>>());
    sender.stop_within(LONG).await.unwrap();
    receiver.stop_within(LONG).await.unwrap();
}

#[tokio::test]
async fn peers_send_both_ways_and_to_each_other() {
    let names = ["a", "b", "c"];
    let seens: Vec<Seen> = names.iter().map(|_| Seen::default()).collect();
    let mut peers = Vec::new();
    for (name, seen) in names.iter().zip(&seens) {
        let mut builder = peer(name).listen("127.0.0.1:0");
        for other in names.iter().filter(|other| *other != name) {
            // Where the others are is not known yet.
            builder = builder.peer(*other, "127.0.0.1:1");
        }
        peers.push(seen.start(builder).await);
    }
    for from in &peers {
        for to in peers.iter().filter(|to| to.name() != from.name()) {
            from.move_peer(to.name(), address(to).await).unwrap();
        }
    }
    let sends = peers.iter().flat_map(|from| {
        let others = names.iter().filter(|to| **to != from.name());
        others.flat_map(move |to| (0..50).map(move |each| from.send(to, packet(each))))
    });
    let receipts = timeout(LONG, join_all(sends)).await.expect("in time");
    receipts.into_iter().for_each(|receipt| receipt.unwrap());
    for (name, seen) in names.iter().zip(&seens) {
        for other in names.iter().filter(|other| *other != name) {
            assert_eq!(seen.numbers(other), (0..50).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_rejection_has_its_reason_and_costs_nothing() {
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .start(|_, packet: Bytes| async move {
            match &packet[..] {
                b"bad" => Err("it is bad".into()),
                b"panic" => panic!("it is worse"),
                b"untrusted" => Err(Untrusted("who are you".into()).into()),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
    let sender = sender(peer("sender").peer("receiver", address(&receiver).await)).await;
    connected(&sender, "receiver").await;
    let state = sender.watch("receiver").unwrap();
    let words: [(&'static [u8], Option<&str>); 5] = [
        (b"good", None),
        (b"bad", Some("it is bad")),
        (b"panic", Some("the handler panicked")),
        (b"untrusted", Some("who are you")),
        (b"good", None),
    ];
    let sends = words.iter().map(|(word, _)| sender.send("receiver", *word));
    let outcomes = timeout(LONG, join_all(sends)).await.expect("in time");
    for (outcome, (_, expected)) in outcomes.into_iter().zip(words) {
        match (outcome, expected) {
            (Ok(()), None) => {}
            (Err(SendError::Rejected { reason }), Some(expected)) => assert_eq!(reason, expected),
            (outcome, expected) => panic!("{outcome:?} in place of {expected:?}"),
        }
    }
    assert!(
        !state.has_changed().unwrap(),
        "the connection has been lost"
    );
}

#[tokio::test]
async fn who_is_not_to_be_trusted_is_cut_off_where_that_is_asked() {
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .disconnect_untrusted(true)
        .start(|_, packet: Bytes| async move {
            match &packet[..] {
                b"untrusted" => Err(Untrusted("who are you".into()).into()),
                _ => Err("it is bad".into()),
            }
        })
        .await
        .unwrap();
    let sender = sender(peer("sender").peer("receiver", address(&receiver).await)).await;
    connected(&sender, "receiver").await;
    let mut state = sender.watch("receiver").unwrap();
    state.mark_unchanged();
    let bad = sender.send("receiver", "bad").await;
    assert!(matches!(bad, Err(SendError::Rejected { .. })), "{bad:?}");
    assert!(!state.has_changed().unwrap());
    let untrusted = timeout(LONG, sender.send("receiver", "untrusted")).await;
    // The verdict is told on the next connection, if it did not come through before the end of this.
    let untrusted = untrusted.expect("in time");
    assert!(
        matches!(untrusted, Err(SendError::Rejected { .. })),
        "{untrusted:?}"
    );
    // It may be back already.
    timeout(LONG, state.changed())
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_at_once() {
    let receiver = Seen::default()
        .start(
            peer("receiver")
                .listen("127.0.0.1:0")
                .caller("sender")
                .max_packet(50),
        )
        .await;
    let sender = sender(
        peer("sender")
            .peer("receiver", address(&receiver).await)
            .max_packet(100),
    )
    .await;
    let unknown = sender.send("nobody", "x").await.unwrap_err();
    assert!(matches!(&unknown, SendError::UnknownPeer { name } if name == "nobody"));
    assert!(!unknown.may_have_arrived());
    for (size, limit) in [(101, 100), (51, 50)] {
        let large = timeout(LONG, sender.send("receiver", vec![0; size])).await;
        let large = large.expect("in time").unwrap_err();
        let told =
            matches!(large, SendError::TooLarge { size: s, limit: l } if (s, l) == (size, limit));
        assert!(told, "{large:?}");
        assert!(!large.may_have_arrived());
    }
    sender.send("receiver", vec![0; 50]).await.unwrap();
}

#[tokio::test]
async fn without_a_peer_it_waits_or_fails_as_is_asked() {
    let nobody = "127.0.0.1:1";
    let short = Duration::from_millis(100);
    let patient = sender(peer("patient").peer("nobody", nobody).send_timeout(short)).await;
    let late = patient.send("nobody", "x").await.unwrap_err();
    assert!(
        matches!(late, SendError::TimedOut { sent: false, .. }),
        "{late:?}"
    );
    assert!(!late.may_have_arrived());

    let hasty = sender(peer("hasty").peer("nobody", nobody).offline(Offline::Fail)).await;
    let mut state = hasty.watch("nobody").unwrap();
    let early = timeout(LONG, hasty.send("nobody", "x"))
        .await
        .expect("in time");
    assert!(
        matches!(early, Err(SendError::NotConnected(Cause::Unreachable(_)))),
        "{early:?}"
    );
    let down = state.wait_for(|state| matches!(state, PeerState::Disconnected { .. }));
    down.await.unwrap();
    let late = hasty.send("nobody", "x").await.unwrap_err();
    assert!(matches!(late, SendError::NotConnected(_)) && !late.may_have_arrived());
}

#[tokio::test]
async fn a_wrong_token_or_name_is_said_to_be_so() {
    let receiver = Seen::default()
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let address = address(&receiver).await;
    for stranger in [
        peer("sender").token("wrong"),
        peer("stranger"),
        peer("sender").token(""),
    ] {
        let stranger = sender(stranger.peer("receiver", &address)).await;
        let refused = timeout(LONG, stranger.send("receiver", "x"))
            .await
            .expect("in time");
        assert!(
            matches!(refused, Err(SendError::Unauthorised)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_slow_handler_slows_its_sender_and_nobody_else() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("slow")
        .caller("quick")
        .window(10, 1 << 20)
        .start(move |from: Arc<str>, _| {
            let held = Arc::clone(&held);
            async move {
                if &*from == "slow" {
                    held.acquire().await?.forget();
                }
                Ok(())
            }
        })
        .await
        .unwrap();
    let address = address(&receiver).await;
    let slow = sender(peer("slow").peer("receiver", &address).window(20, 1 << 20)).await;
    let quick = sender(peer("quick").peer("receiver", &address)).await;
    let mut receipts = Vec::new();
    for each in 0..20 {
        receipts.push(slow.submit("receiver", packet(each)).await.unwrap());
    }
    let twenty_first = slow.submit("receiver", packet(20));
    tokio::pin!(twenty_first);
    for each in 0..1_000 {
        let answered = tokio::select! {
            biased;
            _ = &mut twenty_first => panic!("the window was wider than it is"),
            answered = quick.send("receiver", packet(each)) => answered,
        };
        answered.unwrap();
    }
    gate.add_permits(21);
    let last = timeout(LONG, twenty_first).await.expect("in time").unwrap();
    for receipt in receipts.into_iter().chain([last]) {
        timeout(LONG, receipt).await.expect("in time").unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_leaves_before_its_packet_is_sent_takes_it_back() {
    let seen = Seen::default();
    let sender = sender(peer("sender").peer("receiver", "127.0.0.1:1")).await;
    let left = sender.submit("receiver", packet(0)).await.unwrap();
    let kept = sender.submit("receiver", packet(1)).await.unwrap();
    drop(left);
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    sender
        .move_peer("receiver", address(&receiver).await)
        .unwrap();
    timeout(LONG, kept).await.expect("in time").unwrap();
    assert_eq!(seen.numbers("sender"), [1]);
}

#[tokio::test]
async fn what_was_accepted_is_sent_before_the_end_and_nothing_after_it() {
    let seen = Seen::default();
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let sender = sender(peer("sender").peer("receiver", address(&receiver).await)).await;
    let mut receipts = Vec::new();
    for each in 0..1_000 {
        receipts.push(sender.submit("receiver", packet(each)).await.unwrap());
    }
    let (stopped, outcomes) = tokio::join!(sender.stop_within(LONG), join_all(receipts));
    stopped.unwrap();
    outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    assert_eq!(seen.all().len(), 1_000);
    let after = sender.send("receiver", "x").await;
    assert!(
        matches!(after, Err(SendError::Closed { sent: false })),
        "{after:?}"
    );
    assert!(matches!(
        &*sender.watch("receiver").unwrap().borrow(),
        PeerState::Closed
    ));
}

#[tokio::test]
async fn a_stop_that_runs_out_of_time_says_what_it_left() {
    let begun = Arc::new(Semaphore::new(0));
    let begins = Arc::clone(&begun);
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .start(move |_, _| {
            begins.add_permits(1);
            std::future::pending()
        })
        .await
        .unwrap();
    let sender = sender(
        peer("sender")
            .peer("receiver", address(&receiver).await)
            .peer("nobody", "127.0.0.1:1"),
    )
    .await;
    let sent = sender.submit("receiver", "x").await.unwrap();
    let unsent = sender.submit("nobody", "x").await.unwrap();
    // That it is connected does not mean that the packet has gone.
    let handled = timeout(LONG, begun.acquire()).await.expect("in time");
    handled.unwrap().forget();
    let mut listener = receiver.listener();
    let left = sender
        .stop_within(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!((left.unanswered, left.unhandled), (2, 0));
    assert!(matches!(sent.await, Err(SendError::Closed { sent: true })));
    assert!(matches!(
        unsent.await,
        Err(SendError::Closed { sent: false })
    ));
    let left = receiver
        .stop_within(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!((left.unanswered, left.unhandled), (0, 1));
    let closed = listener.wait_for(|state| matches!(state, wharf_peers::ListenerState::Closed));
    timeout(LONG, closed).await.expect("in time").unwrap();
}
