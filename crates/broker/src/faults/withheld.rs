//! Confirms that wait for their time or their turn.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::engine::{ConnectionId, Release};

#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// By the time they are due; those of the same time in the order in which they came.
    delayed: BTreeMap<(Instant, u64), Release>,
    arrivals: u64,
    /// Those that wait for others of their channel to be turned round with, by connection and how many
    /// channels it had opened.
    gathering: HashMap<(ConnectionId, u64), Vec<Release>>,
}

impl Withheld {
    pub(super) fn delay(&mut self, release: Release, time: Duration, now: Instant) {
        // A time beyond the clock's end is never.
        if let Some(due) = now.checked_add(time) {
            self.arrivals += 1;
            self.delayed.insert((due, self.arrivals), release);
        }
    }

    /// Keeps a confirm until `count` of its channel are there, which then are due in reverse.
    pub(super) fn gather(&mut self, release: Release, count: usize, now: Instant) {
        let key = (release.connection, release.opened);
        let gathered = self.gathering.entry(key).or_default();
        gathered.push(release);
        if gathered.len() >= count {
            let turned = self.gathering.remove(&key).unwrap_or_default();
            for release in turned.into_iter().rev() {
                self.delay(release, Duration::ZERO, now);
            }
        }
    }

    /// Everything is due, in the order in which it came.
    pub(super) fn let_go(&mut self, now: Instant) {
        let mut all: Vec<_> = std::mem::take(&mut self.delayed).into_values().collect();
        all.extend(self.gathering.drain().flat_map(|(_, gathered)| gathered));
        all.sort_unstable();
        for release in all {
            self.delay(release, Duration::ZERO, now);
        }
    }

    #[cfg(test)]
    pub(super) fn gathered(&self) -> usize {
        self.gathering.values().map(Vec::len).sum()
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.delayed
            .retain(|_, release| release.connection != connection);
        self.gathering.retain(|(of, _), _| *of != connection);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn take_due(&mut self, now: Instant, into: &mut Vec<Release>) {
        while let Some(first) = self.delayed.first_entry() {
            if first.key().0 > now {
                return;
            }
            into.push(first.remove());
        }
    }
}
