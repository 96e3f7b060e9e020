//! Those who send, each with its receiver in the other process.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use wharf_race::lane::{self, Trouble};
use wharf_race::quiet::processor_time;
use wharf_race::runtime::Arena;

use crate::receiver::{Addresses, Receiver};

pub mod tcp;
pub mod wharf;
pub mod zeromq;

/// How many packets are sent between two looks at the clock.
pub const STRIDE: u64 = 64;

/// One that is connected.
pub trait Sending: Sized + Send + 'static {
    fn open(to: Addresses) -> impl Future<Output = Result<Self, Trouble>> + Send;

    /// Sends packets with numbers from `first` on until it is over, and waits for the answers to all,
    /// where there are any. Says which number would be next.
    fn send(
        &mut self,
        first: u64,
        end: Instant,
    ) -> impl Future<Output = Result<u64, Trouble>> + Send;
}

/// What one got done in a slice.
pub struct Burst {
    packets: f64,
    elapsed: Duration,
    /// Processor time.
    sender: Duration,
    receiver: Duration,
}

impl Burst {
    pub fn per_second(&self) -> f64 {
        self.packets / self.elapsed.as_secs_f64()
    }

    pub fn sender_micros(&self) -> f64 {
        self.sender.as_secs_f64() * 1e6 / self.packets
    }

    pub fn receiver_micros(&self) -> f64 {
        self.receiver.as_secs_f64() * 1e6 / self.packets
    }
}

/// A contender that is connected, its type forgotten.
pub trait Bursts {
    fn burst(&self, arena: &Arena, to: &mut Receiver, time: Duration) -> Result<Burst, Trouble>;
}

pub type Lane<'a> = lane::Lane<'a, Box<dyn Bursts>>;

pub fn lane<'a, S: Sending>(name: &'static str, arena: &'a Arena, to: Addresses) -> Lane<'a> {
    Lane::new(name, move || {
        let sending = arena.run(S::open(to))?;
        Ok(Box::new(Opened(Arc::new(Mutex::new(sending)))))
    })
}

struct Opened<S>(Arc<Mutex<S>>);

impl<S: Sending> Bursts for Opened<S> {
    fn burst(&self, arena: &Arena, to: &mut Receiver, time: Duration) -> Result<Burst, Trouble> {
        to.clear()?;
        let sending = Arc::clone(&self.0);
        let server = to.pid.to_string();
        let spent =
            || [processor_time("self"), processor_time(&server)].map(Option::unwrap_or_default);
        let before = spent();
        let start = Instant::now();
        let packets = arena.run(async move { sending.lock().await.send(0, start + time).await })?;
        to.has_all(packets)?;
        let elapsed = start.elapsed();
        let after = spent();
        let [sender, receiver] = [0, 1].map(|at| after[at].saturating_sub(before[at]));
        Ok(Burst {
            packets: packets as f64,
            elapsed,
            sender,
            receiver,
        })
    }
}
