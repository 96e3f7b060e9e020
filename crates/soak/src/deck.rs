//! The faults, and in which order they come.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use fastrand::Rng;
use wharf_testkit::proxy::{Direction, End};

/// Something that goes wrong, and for how long.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Network(Side, Network, Duration),
    Broker(Broker, Duration),
    Caller(Caller),
}

/// Which connections a fault of the network hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Publishing,
    Consuming,
    Both,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Network {
    BlackHole,
    OneWay(Direction),
    Delay(Duration),
    Throttle(u32),
    Cut,
    Reset,
    EndAfter(u64, Direction, End),
    Refuse,
    AcceptAndEnd(End),
    DropReplies,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Broker {
    CloseConnections,
    SuspendListeners,
    MemoryAlarm,
    Pause,
    Kill,
    StopApp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    Leaves,
    MissingExchange,
    Unroutable,
    FullQueue,
    BreaksChannels,
    PausesConsumer,
    Panics,
    Requeues,
    ReplacesConsumers,
    ReplacesPublisher,
}

/// Every kind of fault once, in random order, and then again.
pub(crate) struct Deck {
    rng: Rng,
    left: Vec<Fault>,
    only: String,
}

impl Deck {
    /// Of the faults in whose names this is.
    pub(crate) fn new(seed: u64, only: &str) -> Self {
        Self {
            only: only.to_owned(),
            rng: Rng::with_seed(seed),
            left: Vec::new(),
        }
    }

    pub(crate) fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.shuffle();
        }
        self.left.pop().expect("there is a fault of this name")
    }

    fn shuffle(&mut self) {
        let networks = [
            Network::BlackHole,
            Network::OneWay(self.direction()),
            Network::Delay(Duration::from_millis(self.rng.u64(5..150))),
            Network::Throttle(self.rng.u32(20_000..400_000)),
            Network::Cut,
            Network::Reset,
            Network::EndAfter(self.rng.u64(1..200_000), self.direction(), self.end()),
            Network::Refuse,
            Network::AcceptAndEnd(self.end()),
            Network::DropReplies,
        ];
        for network in networks {
            let side = [Side::Publishing, Side::Consuming, Side::Both][self.rng.usize(..3)];
            let hold = self.hold(6000);
            self.left.push(Fault::Network(side, network, hold));
        }
        for broker in [
            Broker::CloseConnections,
            Broker::SuspendListeners,
            Broker::MemoryAlarm,
            Broker::Pause,
            Broker::Kill,
            Broker::StopApp,
        ] {
            let hold = self.hold(4000);
            self.left.push(Fault::Broker(broker, hold));
        }
        self.left.extend(
            [
                Caller::Leaves,
                Caller::MissingExchange,
                Caller::Unroutable,
                Caller::FullQueue,
                Caller::BreaksChannels,
                Caller::PausesConsumer,
                Caller::Panics,
                Caller::Requeues,
                Caller::ReplacesConsumers,
                Caller::ReplacesPublisher,
            ]
            .map(Fault::Caller),
        );
        self.rng.shuffle(&mut self.left);
        self.left.retain(|fault| fault.kind().contains(&self.only));
    }

    fn hold(&mut self, most_millis: u64) -> Duration {
        Duration::from_millis(self.rng.u64(200..most_millis))
    }

    fn direction(&mut self) -> Direction {
        if self.rng.bool() {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    fn end(&mut self) -> End {
        if self.rng.bool() {
            End::Cut
        } else {
            End::Reset
        }
    }
}

impl Fault {
    /// Without the figures.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Network(_, network, _) => word(network),
            Self::Broker(broker, _) => word(broker),
            Self::Caller(caller) => format!("caller {}", word(caller)),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(side, network, hold) => write!(f, "{network:?} {side:?} {hold:?}"),
            Self::Broker(broker, hold) => write!(f, "{broker:?} {hold:?}"),
            Self::Caller(caller) => write!(f, "caller {caller:?}"),
        }
    }
}

/// The name of a variant, without what is in it.
fn word(variant: &impl fmt::Debug) -> String {
    let text = format!("{variant:?}");
    let end = text.find('(').unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn draw(deck: &mut Deck, count: usize) -> Vec<String> {
        (0..count).map(|_| deck.draw().to_string()).collect()
    }

    #[test]
    fn the_seed_decides_which_faults_come_and_how() {
        let [first, same, other] = [7, 7, 8].map(|seed| draw(&mut Deck::new(seed, ""), 100));
        assert_eq!(first, same);
        assert_ne!(first, other);
    }

    #[test]
    fn every_fault_comes_before_one_comes_again() {
        let mut deck = Deck::new(1, "");
        let first = deck.draw().kind();
        let rest: Vec<String> = deck.left.iter().map(Fault::kind).collect();
        let kinds: BTreeSet<&String> = rest.iter().chain([&first]).collect();
        assert_eq!(kinds.len(), rest.len() + 1);
        draw(&mut deck, rest.len());
        assert!(deck.left.is_empty());
    }

    #[test]
    fn a_run_may_be_of_one_fault_only() {
        let mut deck = Deck::new(1, "Kill");
        assert!((0..5).all(|_| deck.draw().kind() == "Kill"));
    }
}
