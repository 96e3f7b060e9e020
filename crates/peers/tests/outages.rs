//! Addresses that are taken, peers that move, names that two processes have, and handlers that do not
//! come back.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use common::{LONG, Seen, address, connected, packet, peer, sender, tap::Tap};
use futures_util::{FutureExt, future::join_all};
use tokio::{net::TcpListener, sync::Semaphore};
use wharf::Backoff;
use wharf_peers::{Builder, Cause, ListenerState, Peer, PeerState, Receipt, Restarted, SendError};
use wharf_testkit::{
    proxy::{Direction, Proxy},
    wait::{eventually, within},
};

#[tokio::test]
async fn an_address_that_is_taken_is_had_when_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let seen = Seen::default();
    let sender = sender(peer("sender").peer("receiver", &at)).await;
    let first = sender.submit("receiver", packet(0)).await.unwrap();
    let receiver = seen
        .start(peer("receiver").listen(&at).caller("sender"))
        .await;
    let mut listener = receiver.listener();
    let waits = listener.wait_for(|state| matches!(state, ListenerState::Waiting { .. }));
    within("it waits", LONG, waits).await.unwrap();
    drop(taken);
    assert_eq!(address(&receiver).await, at);
    within("the packet", LONG, first).await.unwrap();
    // It goes, and another has the address for a while.
    receiver.stop_within(LONG).await.unwrap();
    // What is sent before the sender knows is sent to a process that is gone.
    let mut state = sender.watch("receiver").unwrap();
    let lost = state.wait_for(|state| !state.is_connected());
    within("it is lost", LONG, lost).await.unwrap();
    let taken = TcpListener::bind(&at).await.unwrap();
    let second = sender.submit("receiver", packet(1)).await.unwrap();
    let receiver = seen
        .start(peer("receiver").listen(&at).caller("sender"))
        .await;
    let mut listener = receiver.listener();
    let waits = listener.wait_for(|state| matches!(state, ListenerState::Waiting { .. }));
    within("it waits again", LONG, waits).await.unwrap();
    drop(taken);
    within("the second packet", LONG, second).await.unwrap();
    assert_eq!(seen.numbers("sender"), [0, 1]);
}

#[tokio::test]
async fn a_peer_stops_while_it_waits_for_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let receiver = Seen::default().start(peer("receiver").listen(&at)).await;
    let mut listener = receiver.listener();
    let waits = listener.wait_for(|state| matches!(state, ListenerState::Waiting { .. }));
    within("it waits", LONG, waits).await.unwrap();
    within("the stop", LONG, receiver.stop_within(10 * LONG))
        .await
        .unwrap();
    assert_eq!(
        within("the word of it", LONG, receiver.listening()).await,
        None
    );
}

/// Also while there is no connection on which anything could be sent.
#[tokio::test]
async fn what_is_taken_back_leaves_its_place_and_delays_no_end() {
    let sender = sender(
        peer("sender")
            .peer("nobody", "127.0.0.1:1")
            .window(2, 1 << 20),
    )
    .await;
    for _ in 0..3 {
        let two = [
            sender.submit("nobody", packet(0)).await.unwrap(),
            sender.submit("nobody", packet(1)).await.unwrap(),
        ];
        let further = sender.submit("nobody", packet(2));
        assert!(
            further.now_or_never().is_none(),
            "the window is wider than it is"
        );
        let [first, second] = two;
        drop((second, first));
    }
    within("the stop", LONG, sender.stop_within(10 * LONG))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_peer_that_moves_is_found_and_nothing_is_handled_twice() {
    let seen = Seen::default();
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let to = address(&receiver).await.parse().unwrap();
    // The same process at one address after the other.
    let (one, other) = tokio::join!(Proxy::to(to), Proxy::to(to));
    let sender = sender(peer("sender").peer("receiver", one.addr().to_string())).await;
    connected(&sender, "receiver").await;
    let mut sent = 0;
    for nth in 0..20 {
        let at = [&other, &one][nth % 2].addr().to_string();
        let mut receipts = Vec::new();
        for each in sent..sent + 50 {
            receipts.push(sender.submit("receiver", packet(each)).await.unwrap());
            if each == sent + 25 {
                sender.move_peer("receiver", at.clone()).unwrap();
            }
        }
        sent += 50;
        let outcomes = within("the answers", LONG, join_all(receipts)).await;
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    }
    assert_eq!(seen.numbers("sender"), (0..sent).collect::<Vec<_>>());
    assert!(one.counts().accepted >= 10 && other.counts().accepted >= 10);
}

/// A handler that begins, and goes on when it is let.
#[derive(Clone)]
struct Gate {
    begun: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn shut() -> Self {
        Self {
            begun: Arc::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    async fn start(&self, builder: Builder, seen: &Seen) -> Peer {
        let (gate, seen) = (self.clone(), seen.clone());
        let handler = move |from: Arc<str>, packet: Bytes| {
            let (gate, seen) = (gate.clone(), seen.clone());
            async move {
                gate.begun.fetch_add(1, Ordering::Relaxed);
                gate.open.acquire().await?.forget();
                seen.note(&from, packet);
                Ok(())
            }
        };
        builder.start(handler).await.unwrap()
    }

    /// Until the handler was called so often.
    async fn begun(&self, times: usize) {
        let reached = async || self.begun.load(Ordering::Relaxed) >= times;
        eventually("the handler is called", LONG, reached).await;
    }

    fn open(&self) {
        self.open.add_permits(1_000_000);
    }
}

/// Packets in line, from the first to before the last.
async fn submit(sender: &Peer, numbers: std::ops::Range<u64>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        receipts.push(sender.submit("receiver", packet(number)).await.unwrap());
    }
    receipts
}

async fn outcomes(receipts: Vec<Receipt>) -> Vec<Result<(), SendError>> {
    within("the answers", LONG, join_all(receipts)).await
}

#[tokio::test]
async fn what_comes_late_on_an_old_connection_is_known() {
    let seen = Seen::default();
    let receiver = seen
        .start(peer("receiver").listen("127.0.0.1:0").caller("sender"))
        .await;
    let to = address(&receiver).await.parse().unwrap();
    let (one, other) = tokio::join!(Proxy::to(to), Proxy::to(to));
    let tap = Tap::to(one.addr()).await;
    let sender = sender(peer("sender").peer("receiver", tap.addr.to_string())).await;
    connected(&sender, "receiver").await;
    one.black_hole_only(Direction::ToServer);
    let receipts = submit(&sender, 0..100).await;
    let last = packet(99);
    let is_last = |part: &[u8]| part == &*last;
    let are_gone = async || tap.to_server().windows(last.len()).any(is_last);
    eventually("all of them are on their way", LONG, are_gone).await;
    sender
        .move_peer("receiver", other.addr().to_string())
        .unwrap();
    let all = outcomes(receipts).await;
    all.into_iter().for_each(|outcome| outcome.unwrap());
    let before = one.counts().to_server;
    one.pass().await;
    one.wait_for_open(0).await;
    assert!(one.counts().to_server > before, "nothing came late");
    // What came late was read before this.
    for each in 100..110 {
        within("the answer", LONG, sender.send("receiver", packet(each)))
            .await
            .unwrap();
    }
    assert_eq!(seen.numbers("sender"), (0..110).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_peer_that_moves_to_another_process_is_taken_for_restarted() {
    for restarted in [Restarted::Fail, Restarted::Redeliver] {
        let (slow, quick) = (Seen::default(), Seen::default());
        let gate = Gate::shut();
        let listening = || peer("receiver").listen("127.0.0.1:0").caller("sender");
        let first = gate.start(listening(), &slow).await;
        let second = quick.start(listening()).await;
        let builder = peer("sender").restarted(restarted);
        let sender = sender(builder.peer("receiver", address(&first).await)).await;
        connected(&sender, "receiver").await;
        let receipts = submit(&sender, 0..10).await;
        gate.begun(1).await;
        sender
            .move_peer("receiver", address(&second).await)
            .unwrap();
        let outcomes = outcomes(receipts).await;
        let arrived = (0..).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let arrived: Vec<u64> = arrived.map(|(number, _)| number).collect();
        assert_eq!(quick.numbers("sender"), arrived);
        match restarted {
            Restarted::Fail => {
                let first = &outcomes[0];
                assert!(matches!(first, Err(SendError::Restarted)), "{first:?}");
                let failed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
                let told = failed
                    .clone()
                    .all(|error| matches!(error, SendError::Restarted));
                assert!(told, "{outcomes:?}");
            }
            Restarted::Redeliver => assert_eq!(arrived.len(), 10),
        }
        // Back to one that is not done with what it has.
        connected(&sender, "receiver").await;
        sender.move_peer("receiver", address(&first).await).unwrap();
        let last = sender.submit("receiver", packet(10)).await.unwrap();
        gate.open();
        within("the last", LONG, last).await.unwrap();
        let seen = slow.numbers("sender");
        assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        assert_eq!(seen.last(), Some(&10));
    }
}

/// Two processes of one name once took turns as fast as they could connect, and what both had sent was
/// handled twice.
#[tokio::test]
async fn two_processes_of_one_name_take_turns_at_leisure() {
    let seen = Seen::default();
    let gate = Gate::shut();
    let receiver = peer("receiver").listen("127.0.0.1:0").caller("twin");
    let receiver = gate.start(receiver, &seen).await;
    let proxy = Proxy::to(address(&receiver).await.parse().unwrap()).await;
    let pause = Duration::from_millis(500);
    let twin = || {
        peer("twin")
            .peer("receiver", proxy.addr().to_string())
            .reconnect(Backoff {
                min: Duration::from_millis(1),
                max: pause,
            })
    };
    let one = sender(twin()).await;
    connected(&one, "receiver").await;
    let mut state = one.watch("receiver").unwrap();
    let ones = submit(&one, 0..100).await;
    gate.begun(1).await;
    let began = std::time::Instant::now();
    let other = sender(twin()).await;
    let others = submit(&other, 100..200).await;
    let replaced = |state: &PeerState| {
        matches!(
            state,
            PeerState::Disconnected {
                cause: Cause::Replaced
            }
        )
    };
    within("it is replaced", LONG, state.wait_for(replaced))
        .await
        .unwrap();
    // They take turns for a while, with packets of both before the handler.
    for turn in 2..6 {
        proxy.wait_for_connections(turn).await;
    }
    gate.open();
    for outcome in outcomes(ones)
        .await
        .into_iter()
        .chain(outcomes(others).await)
    {
        outcome.unwrap();
    }
    let (turns, took) = (proxy.counts().accepted, began.elapsed());
    // Each comes back once in half a pause at the soonest.
    let most = 4 + 2 * took.as_millis() as u64 / (pause.as_millis() as u64 / 2);
    assert!(turns <= most, "{turns} connections in {took:?}");
    let mut all = seen.numbers("twin");
    for range in [0..100, 100..200] {
        let of: Vec<u64> = all
            .iter()
            .copied()
            .filter(|each| range.contains(each))
            .collect();
        assert_eq!(of, range.collect::<Vec<_>>());
    }
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

/// In one message it would be more than the broker takes.
#[tokio::test]
async fn a_window_full_of_rejections_is_told_after_an_outage() {
    const COUNT: u64 = 4_096;
    let gate = Gate::shut();
    let inner = gate.clone();
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .start(move |_, _| {
            let gate = inner.clone();
            async move {
                gate.begun.fetch_add(1, Ordering::Relaxed);
                gate.open.acquire().await?.forget();
                Err("no, ".repeat(100).into())
            }
        })
        .await
        .unwrap();
    let proxy = Proxy::to(address(&receiver).await.parse().unwrap()).await;
    proxy.refuse().await;
    let sender = sender(peer("sender").peer("receiver", proxy.addr().to_string())).await;
    // They all go at once, and none waits for answers to others.
    let receipts = submit(&sender, 0..COUNT).await;
    proxy.pass().await;
    gate.begun(1).await;
    proxy.black_hole_only(Direction::ToClient);
    gate.open();
    gate.begun(COUNT as usize).await;
    proxy.reset();
    proxy.pass().await;
    for outcome in outcomes(receipts).await {
        assert!(
            matches!(outcome, Err(SendError::Rejected { .. })),
            "{outcome:?}"
        );
    }
}

/// Nor does it keep the address taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_keeps_no_peer_from_stopping() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(parking_lot::Mutex::new(released));
    let begun = Arc::new(Semaphore::new(0));
    let begins = Arc::clone(&begun);
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .start(move |_, _| {
            begins.add_permits(1);
            let _ = released.lock().recv();
            async { Ok(()) }
        })
        .await
        .unwrap();
    let at = address(&receiver).await;
    let sender = sender(peer("sender").peer("receiver", &at)).await;
    let sent = sender.submit("receiver", packet(0)).await.unwrap();
    begun.acquire().await.unwrap().forget();
    let stop = receiver.stop_within(Duration::from_millis(100));
    let left = within("the stop", LONG, stop).await.unwrap_err();
    assert_eq!(left.unhandled, 1);
    let free = async || TcpListener::bind(&at).await.is_ok();
    eventually("the address is free", LONG, free).await;
    drop(release);
    drop(sent);
}

/// The connections have a thread of their own, so that heartbeats go on.
#[tokio::test]
async fn a_handler_that_blocks_its_thread_loses_no_connection() {
    // Busy machines halt threads for longer than twice a second.
    const HEARTBEAT: u64 = 3;
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(parking_lot::Mutex::new(released));
    let receiver = peer("receiver")
        .listen("127.0.0.1:0")
        .caller("sender")
        .heartbeat(HEARTBEAT as u16)
        .start(move |_, _| {
            let _ = released.lock().recv();
            async { Ok(()) }
        })
        .await
        .unwrap();
    let proxy = Proxy::to(address(&receiver).await.parse().unwrap()).await;
    let sender = sender(
        peer("sender")
            .heartbeat(HEARTBEAT as u16)
            .peer("receiver", proxy.addr().to_string()),
    )
    .await;
    connected(&sender, "receiver").await;
    let mut state = sender.watch("receiver").unwrap();
    state.mark_unchanged();
    // This test has one thread, which the handler blocks until another one has seen the heartbeats.
    let observer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let began = proxy.counts();
            let since = std::time::Instant::now();
            // A heartbeat has eight bytes. Beyond twice the interval a side is given up that is silent.
            let beaten = async || {
                let counts = proxy.counts();
                counts.to_server > began.to_server + 3 * 8
                    && counts.to_client > began.to_client + 3 * 8
                    && since.elapsed() > Duration::from_secs(2 * HEARTBEAT + 1)
            };
            eventually("heartbeats have passed", LONG, beaten).await;
            release.send(()).unwrap();
        });
        proxy
    });
    within("the answer", LONG, sender.send("receiver", packet(0)))
        .await
        .unwrap();
    assert!(!state.has_changed().unwrap(), "the connection was lost");
    let proxy = observer.join().unwrap();
    assert_eq!(proxy.counts().accepted, 1);
}
