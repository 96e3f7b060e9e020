//! The channel that a publisher uses for now.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use wharf::{GetError, OwnedLease};

use super::{collector::Collector, entry::Entry};
use crate::{
    channels::{Channel, ChannelManager, ChannelPool},
    error::ChannelError,
    io,
    link::Health,
    message::InvalidMessage,
};

/// After so long a channel goes back to the pool, where others may be waiting for one.
const TENURE: Duration = Duration::from_millis(20);

/// One channel at a time: its messages are confirmed many at once, and lapin (4.12) has more to do for
/// each message the more channels are open.
pub(super) struct Seat {
    pool: ChannelPool,
    taken: Mutex<Option<Taken>>,
    /// Held by whoever waits for a channel.
    turn: tokio::sync::Mutex<()>,
    /// How many there have been.
    leases: AtomicU64,
}

struct Taken {
    /// Present until it is given back.
    lease: Option<OwnedLease<ChannelManager>>,
    /// As agreed with the broker, 0 if there is no bound.
    frame_max: u32,
    /// Tells this lease from later ones.
    number: u64,
}

/// Why a message was not handed over; here it is.
pub(super) enum Refusal {
    Vacant(Box<Entry>),
    Blocked(Box<Entry>, watch::Receiver<Health>),
    Invalid(Box<Entry>, InvalidMessage),
}

impl Seat {
    pub(super) fn new(pool: ChannelPool) -> Self {
        Self {
            pool,
            taken: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            leases: AtomicU64::new(0),
        }
    }

    /// Hands a message to the channel of the moment.
    pub(super) fn submit(&self, entry: Box<Entry>) -> Result<(), Refusal> {
        let mut guard = lock(&self.taken);
        let Some(taken) = guard.as_ref() else {
            return Err(Refusal::Vacant(entry));
        };
        let channel = taken.channel();
        let collector = Collector::of(channel);
        if collector.is_retired() || channel.link().is_lost() {
            let taken = guard.take();
            drop(guard);
            drop(taken);
            return Err(Refusal::Vacant(entry));
        }
        if channel.link().is_blocked() {
            return Err(Refusal::Blocked(entry, channel.link().health()));
        }
        let message = entry.message.as_ref();
        if let Some(invalid) = message.and_then(|message| message.overflow(taken.frame_max)) {
            return Err(Refusal::Invalid(entry, invalid));
        }
        let call = collector.submit(entry);
        drop(guard);
        if let Some(call) = call {
            call.make();
        }
        Ok(())
    }

    /// Takes a channel, if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn take(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(), GetError<ChannelError>> {
        // At the deadline the pool is asked all the same: it knows why there is no channel.
        let _turn = timeout_at(deadline, self.turn.lock()).await;
        if lock(&self.taken).is_some() {
            return Ok(());
        }
        let lease = self.pool.get_owned_deadline(deadline).await?;
        let number = self.leases.fetch_add(1, Ordering::Relaxed);
        let taken = Taken {
            frame_max: lease.link().frame_max(),
            number,
            lease: Some(lease),
        };
        let before = lock(&self.taken).replace(taken);
        drop(before);
        let seat = Arc::downgrade(self);
        io::spawn(async move {
            sleep(TENURE).await;
            if let Some(seat) = seat.upgrade() {
                seat.leave_if(|taken| taken.number == number);
            }
        });
        Ok(())
    }

    /// Gives the channel back, if there is one.
    pub(super) fn leave(&self) {
        self.leave_if(|_| true);
    }

    fn leave_if(&self, is_it: impl FnOnce(&mut Taken) -> bool) {
        let taken = lock(&self.taken).take_if(is_it);
        drop(taken);
    }
}

impl Taken {
    fn channel(&self) -> &Channel {
        self.lease.as_deref().expect("bug: it was given back")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            Collector::give_back(lease);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
