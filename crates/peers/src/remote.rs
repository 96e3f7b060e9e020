//! Another peer, as the one who sends to it sees it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    config::{Config, Offline, Restarted},
    core::outbound::{Fate, Outbound, Restarts, Settled},
    error::{Cause, PeerState, SendError},
    ticket::{Receipt, Ticket},
    token::Token,
    wire::{Epoch, Packed, weight},
};

/// What a body has room for. One that is larger than a frame is cut up and put together again; one
/// that is smaller than many packets costs a frame and a wake-up for few.
const ROOM: usize = 64 << 10;

/// Another peer: its packets, its place in the window, and how the connection is.
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) config: Arc<Config>,
    address: Mutex<String>,
    held: Mutex<Held>,
    /// Whoever has this waits for room, and puts a packet in line: one after the other, in the order in
    /// which they came.
    turn: Semaphore,
    /// There is room, if somebody waits for that.
    freed: Notify,
    state: watch::Sender<PeerState>,
    /// Nothing more is accepted.
    is_closing: AtomicBool,
    /// There is something to send, or room for it at the receiver's.
    pub(crate) wake: Notify,
    /// How often the address has changed. Written while the packets are held, so that what is put in line
    /// after a change is not packed for a connection from before it.
    moves: AtomicU64,
    /// The address has changed.
    pub(crate) moved: Notify,
    /// There is a packet that waited for its place.
    hurried: Notify,
    /// Everything is answered, if somebody waits for that.
    drained: Notify,
}

pub(crate) type Packets = Outbound<Ticket>;

/// The packets, and what is left of their window.
struct Held {
    packets: Packets,
    places: usize,
    bytes: usize,
    /// How many wait for room. Nobody else takes any before them.
    waiting: usize,
}

/// The peer is elsewhere by now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved;

/// What becomes of a packet at first: it is in line, or is among those that wait for room.
enum Entry<'a> {
    InLine(Receipt),
    Waits(Waiting<'a>, Bytes),
}

/// One of those who wait for room.
struct Waiting<'a>(&'a Remote);

impl Remote {
    pub(crate) fn new(name: &str, address: &str, config: &Arc<Config>, epoch: Epoch) -> Arc<Self> {
        let restarts = match config.restarted {
            Restarted::Fail => Restarts::Fail,
            Restarted::Redeliver => Restarts::Redeliver,
        };
        Arc::new(Self {
            name: name.to_owned(),
            config: Arc::clone(config),
            address: Mutex::new(address.to_owned()),
            held: Mutex::new(Held {
                packets: Outbound::new(epoch, restarts),
                places: config.window,
                bytes: config.window_bytes,
                waiting: 0,
            }),
            turn: Semaphore::new(1),
            freed: Notify::new(),
            state: watch::Sender::new(PeerState::Disconnected {
                cause: Cause::NotYet,
            }),
            is_closing: AtomicBool::new(false),
            wake: Notify::new(),
            moves: AtomicU64::new(0),
            moved: Notify::new(),
            hurried: Notify::new(),
            drained: Notify::new(),
        })
    }

    /// Puts a packet in line, when its turn has come.
    pub(crate) async fn submit(self: &Arc<Self>, packet: Bytes) -> Result<Receipt, SendError> {
        let limit = self.config.max_packet;
        if packet.len() > limit {
            return Err(SendError::TooLarge {
                size: packet.len(),
                limit,
            });
        }
        let deadline = Instant::now() + self.config.send_timeout;
        match self.enter(packet, deadline)? {
            Entry::InLine(receipt) => Ok(receipt),
            Entry::Waits(waiting, packet) => self.wait_for_room(waiting, packet, deadline).await,
        }
    }

    fn enter(self: &Arc<Self>, packet: Bytes, deadline: Instant) -> Result<Entry<'_>, SendError> {
        let mut held = self.held.lock();
        // Whoever changes the state takes the line back afterwards.
        self.admits()?;
        if held.waiting == 0 && held.take(self.weight(&packet)) {
            return Ok(Entry::InLine(self.put_in_line(held, packet, deadline)));
        }
        held.waiting += 1;
        Ok(Entry::Waits(Waiting(self), packet))
    }

    fn put_in_line(
        self: &Arc<Self>,
        mut held: MutexGuard<'_, Held>,
        packet: Bytes,
        deadline: Instant,
    ) -> Receipt {
        let (ticket, receipt) = Receipt::new(Arc::clone(self), deadline);
        held.packets.push(packet, ticket);
        let gathers = held.packets.gathers(ROOM);
        drop(held);
        if !gathers {
            self.wake.notify_one();
        }
        receipt
    }

    /// Puts a packet in line when its turn has come, and there is room.
    async fn wait_for_room(
        self: &Arc<Self>,
        waiting: Waiting<'_>,
        mut packet: Bytes,
        deadline: Instant,
    ) -> Result<Receipt, SendError> {
        let in_line = async {
            let _waiting = waiting;
            let _turn = self.turn.acquire().await.expect("bug: it is never closed");
            loop {
                if let Some(receipt) = self.enter_in_turn(&mut packet, deadline)? {
                    return Ok(receipt);
                }
                // A call that came in between is kept for whoever waits next.
                self.freed.notified().await;
            }
        };
        let mut state = self.state.subscribe();
        let refused = state.wait_for(|state| self.refuses(state).is_some());
        let after = self.config.send_timeout;
        tokio::select! {
            biased;
            receipt = timeout_at(deadline, in_line) => {
                receipt.unwrap_or(Err(SendError::TimedOut { after, sent: false }))
            }
            _ = refused => self.admits().and(Err(SendError::Closed { sent: false })),
        }
    }

    /// Takes the packet if there is room.
    fn enter_in_turn(
        self: &Arc<Self>,
        packet: &mut Bytes,
        deadline: Instant,
    ) -> Result<Option<Receipt>, SendError> {
        let mut held = self.held.lock();
        self.admits()?;
        if !held.take(self.weight(packet)) {
            return Ok(None);
        }
        let receipt = self.put_in_line(held, std::mem::take(packet), deadline);
        // Some of its time has passed, so that it may be due before anybody looks.
        self.hurried.notify_one();
        Ok(Some(receipt))
    }

    /// What a packet takes of the window's bytes: all of them, if it is larger.
    fn weight(&self, packet: &Bytes) -> usize {
        self.bounded(weight(packet.len()))
    }

    fn bounded(&self, weight: usize) -> usize {
        weight.min(self.config.window_bytes)
    }

    /// Whether packets are taken, as things are.
    fn admits(&self) -> Result<(), SendError> {
        if self.is_closing.load(Ordering::Acquire) {
            return Err(SendError::Closed { sent: false });
        }
        match self.refuses(&self.state.borrow()) {
            Some(refused) => Err(refused),
            None => Ok(()),
        }
    }

    /// Why a packet that was not sent is not taken in this state, if it is not.
    fn refuses(&self, state: &PeerState) -> Option<SendError> {
        match state {
            PeerState::Closed => Some(SendError::Closed { sent: false }),
            PeerState::Disconnected {
                cause: Cause::Unauthorised,
            } => Some(SendError::Unauthorised),
            // Whoever sends in the first moment of a peer's life need not know that it is that.
            PeerState::Disconnected { cause } => {
                let fails = self.config.offline == Offline::Fail && !matches!(cause, Cause::NotYet);
                fails.then(|| SendError::NotConnected(cause.clone()))
            }
            PeerState::Connecting | PeerState::Connected => None,
        }
    }

    pub(crate) fn packets(&self) -> MappedMutexGuard<'_, Packets> {
        MutexGuard::map(self.held.lock(), |held| &mut held.packets)
    }

    /// Lets `work` have the packets, then tells those whose fate it found out.
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut Packets, &mut Vec<Settled<Ticket>>) -> R,
    ) -> R {
        let mut settled = Vec::new();
        let mut held = self.held.lock();
        let result = work(&mut held.packets, &mut settled);
        held.places += settled.len();
        let weights = settled.iter().map(|each| self.bounded(each.weight));
        held.bytes += weights.sum::<usize>();
        let is_empty = held.packets.is_empty();
        let is_awaited = held.waiting > 0 && !settled.is_empty();
        drop(held);
        if is_awaited {
            self.freed.notify_one();
        }
        self.settle(settled);
        if is_empty {
            self.drained.notify_waiters();
        }
        result
    }

    /// What is to be sent next to where the peer is after so many moves.
    pub(crate) fn pack(&self, moves: u64) -> Result<Option<Packed>, Moved> {
        self.with(|packets, settled| {
            if self.moves() != moves {
                return Err(Moved);
            }
            Ok(packets.pack(ROOM, settled))
        })
    }

    fn settle(&self, settled: Vec<Settled<Ticket>>) {
        for Settled { waits, fate, .. } in settled {
            waits.settle(match fate {
                Fate::Accepted => Ok(()),
                Fate::Rejected(reason) => Err(SendError::Rejected { reason }),
                Fate::TooLarge { size, limit } => Err(SendError::TooLarge { size, limit }),
                Fate::Restarted => Err(SendError::Restarted),
                Fate::Unknown => Err(SendError::Closed { sent: true }),
                Fate::Unsent => {
                    let refused = self.refuses(&self.state.borrow());
                    Err(refused.unwrap_or(SendError::Closed { sent: false }))
                }
            });
        }
    }

    /// Tells those whose time is up, forever. One timer for all is cheaper than one for each packet, which
    /// would wake the user's runtime, and most are never due.
    pub(crate) async fn expire(&self) {
        loop {
            let next = self.expire_until(Instant::now());
            tokio::select! {
                biased;
                () = self.hurried.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Says when the next may be due: they are in line in the order in which their time is up, and those
    /// that come later have all of it.
    fn expire_until(&self, now: Instant) -> Instant {
        let after = self.config.send_timeout;
        let mut woken = Vec::new();
        let next = self.with(|packets, settled| {
            let mut waiting = packets.waiting();
            let next = loop {
                match waiting.next() {
                    Some(ticket) if ticket.deadline() <= now => woken.extend(ticket.expire(after)),
                    other => break other.map_or(now + after, Ticket::deadline),
                }
            };
            drop(waiting);
            packets.take_left(settled);
            next
        });
        woken.into_iter().for_each(Waker::wake);
        next
    }

    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    pub(crate) fn move_to(&self, address: String) {
        *self.address.lock() = address;
        {
            let _held = self.held.lock();
            self.moves.fetch_add(1, Ordering::Release);
        }
        self.moved.notify_one();
    }

    pub(crate) fn watch(&self) -> watch::Receiver<PeerState> {
        self.state.subscribe()
    }

    /// What was never sent goes back where it came from, if nothing is taken in this state.
    pub(crate) fn set_state(&self, new: PeerState) {
        let refuses = self.refuses(&new).is_some();
        let changed = self.state.send_if_modified(|state| {
            // That is the end.
            if matches!(state, PeerState::Closed) {
                return false;
            }
            *state = new;
            true
        });
        if changed && refuses {
            self.with(Packets::take_line);
        }
    }

    /// An attempt to connect begins. In an outage its cause is shown until that is over.
    pub(crate) fn attempts(&self) {
        self.state.send_if_modified(|state| {
            let is_first = matches!(
                state,
                PeerState::Disconnected {
                    cause: Cause::NotYet
                }
            );
            if is_first {
                *state = PeerState::Connecting;
            }
            is_first
        });
    }

    /// The connection is gone.
    pub(crate) fn lost(&self, cause: Cause) {
        self.packets().disconnected();
        self.set_state(PeerState::Disconnected { cause });
    }

    /// What is shown to the other side.
    pub(crate) fn token(&self) -> Token {
        self.config.token.clone()
    }

    /// Until every packet has its answer.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.packets().is_empty() {
                return;
            }
            drained.await;
        }
    }

    /// Accepts nothing more; what was accepted is sent.
    pub(crate) fn refuse(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    /// Gives up. Says how many packets were without an answer.
    pub(crate) fn end(&self) -> usize {
        self.refuse();
        let unanswered = self.with(|packets, settled| {
            packets.end(settled);
            settled.len()
        });
        self.set_state(PeerState::Closed);
        unanswered
    }
}

impl Held {
    /// Takes room for a packet of this weight, if there is so much.
    fn take(&mut self, weight: usize) -> bool {
        let has_room = self.places > 0 && self.bytes >= weight;
        if has_room {
            self.places -= 1;
            self.bytes -= weight;
        }
        has_room
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.held.lock().waiting -= 1;
    }
}

/// Without the packets.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::FutureExt;
    use tokio::{task::yield_now, time::advance};

    use super::*;
    use crate::wire::{Receipt as Handled, Welcome};

    const TIMEOUT: Duration = Duration::from_secs(10);

    const EPOCH: Epoch = Epoch(1);

    /// One with room for a single packet.
    fn remote() -> Arc<Remote> {
        let config = Config {
            window: 1,
            send_timeout: TIMEOUT,
            ..Config::default()
        };
        Remote::new("other", "127.0.0.1:1", &Arc::new(config), EPOCH)
    }

    /// The other side greets it on a connection.
    fn welcome(remote: &Remote) {
        let welcome = Welcome {
            receiver: Epoch(2),
            next: 0,
            receipt: handled(0),
            limits: remote.config.limits(),
        };
        remote
            .with(|packets, settled| packets.welcome(&welcome, settled))
            .unwrap();
    }

    fn handled(packets: u64) -> Handled {
        Handled {
            epoch: EPOCH,
            handled: packets,
            rejected: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_that_was_sent_times_out_as_such_and_its_place_comes_with_the_answer() {
        let remote = remote();
        let receipt = remote.submit("a".into()).await.unwrap();
        welcome(&remote);
        assert!(remote.pack(0).unwrap().is_some());
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = receipt => outcome,
            () = remote.expire() => unreachable!("it has no end"),
        };
        assert!(
            matches!(outcome, Err(SendError::TimedOut { sent: true, .. })),
            "{outcome:?}"
        );
        assert!(began.elapsed() >= TIMEOUT);
        let late = remote.submit("b".into()).await.map(drop);
        assert!(
            matches!(late, Err(SendError::TimedOut { sent: false, .. })),
            "{late:?}"
        );
        remote
            .with(|packets, settled| packets.receipt(&handled(1), settled))
            .unwrap();
        assert!(remote.submit("c".into()).now_or_never().is_some());
    }

    /// Whoever moves a peer and then sends must not reach the one that was there before.
    #[tokio::test]
    async fn what_is_put_in_line_after_a_move_waits_for_a_connection_from_after_it() {
        let remote = remote();
        welcome(&remote);
        remote.move_to("127.0.0.1:2".to_owned());
        let _receipt = remote.submit("a".into()).await.unwrap();
        assert_eq!(remote.pack(0), Err(Moved));
        let moves = remote.moves();
        assert!(remote.pack(moves).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_its_place_has_no_more_time_than_others() {
        let remote = remote();
        let first = remote.submit("a".into()).await.unwrap();
        let began = Instant::now();
        let second = tokio::spawn({
            let remote = Arc::clone(&remote);
            async move { remote.submit("b".into()).await }
        });
        yield_now().await;
        advance(TIMEOUT / 2).await;
        remote.with(Packets::take_line);
        drop(first);
        let mut expire = pin!(remote.expire());
        // It finds nobody whose time it would have to keep.
        assert!(expire.as_mut().now_or_never().is_none());
        let second = second.await.unwrap().unwrap();
        let outcome = tokio::select! {
            outcome = second => outcome,
            () = expire => unreachable!("it has no end"),
        };
        assert!(
            matches!(outcome, Err(SendError::TimedOut { sent: false, .. })),
            "{outcome:?}"
        );
        assert!(began.elapsed() < TIMEOUT * 11 / 10, "{:?}", began.elapsed());
    }
}
