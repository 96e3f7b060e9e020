//! Another peer, as the one who sends to it sees it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    time::{Instant, timeout_at},
};

use crate::{
    config::{Config, Offline, Restarted},
    core::outbound::{Fate, Outbound, Restarts, Settled},
    error::{Cause, PeerState, SendError},
    ticket::{Receipt, Ticket},
    token::Token,
    wire::{Epoch, weight},
};

/// Another peer: its packets, its place in the window, and how the connection is.
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) config: Arc<Config>,
    address: Mutex<String>,
    packets: Mutex<Packets>,
    /// Places in the window, and its bytes.
    places: Semaphore,
    bytes: Semaphore,
    /// Whoever has this waits for these two, and puts a packet in line: one after the other, in the
    /// order in which they came.
    turn: Semaphore,
    state: watch::Sender<PeerState>,
    /// Nothing more is accepted.
    is_closing: AtomicBool,
    /// There is something to send, or room for it at the receiver's.
    pub(crate) wake: Notify,
    /// The address has changed.
    pub(crate) moved: Notify,
    /// Everything is answered, if somebody waits for that.
    drained: Notify,
}

pub(crate) type Packets = Outbound<Ticket>;

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
            packets: Mutex::new(Outbound::new(epoch, restarts)),
            places: Semaphore::new(config.window),
            bytes: Semaphore::new(config.window_bytes),
            turn: Semaphore::new(1),
            state: watch::Sender::new(PeerState::Disconnected {
                cause: Cause::NotYet,
            }),
            is_closing: AtomicBool::new(false),
            wake: Notify::new(),
            moved: Notify::new(),
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
        self.admits()?;
        let timeout = self.config.send_timeout;
        let deadline = Instant::now() + timeout;
        let weight = self.weight(&packet);
        let turn = self.wait_for_room(weight, deadline).await?;
        let (ticket, receipt) = Receipt::new(Arc::clone(self), deadline, timeout);
        {
            let mut packets = self.packets.lock();
            // Whoever changes the state takes the line back afterwards.
            if let Err(refused) = self.admits() {
                drop(packets);
                self.release(1, weight);
                return Err(refused);
            }
            packets.push(packet, ticket);
        }
        drop(turn);
        self.wake.notify_one();
        Ok(receipt)
    }

    /// A place in the window, and the right to be the next in line, for as long as the result lives.
    async fn wait_for_room(
        &self,
        weight: usize,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, SendError> {
        let room = self.room(weight);
        tokio::pin!(room);
        if let Some(turn) = room.as_mut().now_or_never() {
            return Ok(turn);
        }
        let mut state = self.state.subscribe();
        let refused = state.wait_for(|state| self.refuses(state).is_some());
        let after = self.config.send_timeout;
        tokio::select! {
            biased;
            room = timeout_at(deadline, room) => {
                room.map_err(|_| SendError::TimedOut { after, sent: false })
            }
            _ = refused => self.admits().and(Err(SendError::Closed { sent: false })),
        }
    }

    async fn room(&self, weight: usize) -> SemaphorePermit<'_> {
        const OPEN: &str = "bug: the window is never closed";
        let weight = u32::try_from(weight).expect("bug: packets are bounded");
        let turn = self.turn.acquire().await.expect(OPEN);
        let place = self.places.acquire().await.expect(OPEN);
        let bytes = self.bytes.acquire_many(weight).await.expect(OPEN);
        place.forget();
        bytes.forget();
        turn
    }

    /// What a packet takes of the window's bytes: all of them, if it is larger.
    fn weight(&self, packet: &Bytes) -> usize {
        weight(packet.len()).min(self.config.window_bytes)
    }

    fn release(&self, places: usize, bytes: usize) {
        self.places.add_permits(places);
        self.bytes.add_permits(bytes);
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

    pub(crate) fn packets(&self) -> MutexGuard<'_, Packets> {
        self.packets.lock()
    }

    /// Lets `work` have the packets, then tells those whose fate it found out.
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut Packets, &mut Vec<Settled<Ticket>>) -> R,
    ) -> R {
        let mut settled = Vec::new();
        let (result, is_empty) = {
            let mut packets = self.packets.lock();
            let result = work(&mut packets, &mut settled);
            (result, packets.is_empty())
        };
        self.settle(settled);
        if is_empty {
            self.drained.notify_waiters();
        }
        result
    }

    fn settle(&self, settled: Vec<Settled<Ticket>>) {
        let places = settled.len();
        let mut bytes = 0;
        for Settled {
            waits,
            fate,
            weight,
        } in settled
        {
            bytes += weight.min(self.config.window_bytes);
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
        if places > 0 {
            self.release(places, bytes);
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    pub(crate) fn move_to(&self, address: String) {
        *self.address.lock() = address;
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
        self.packets.lock().disconnected();
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
            if self.packets.lock().is_empty() {
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
