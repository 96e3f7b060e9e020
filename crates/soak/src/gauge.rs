//! What the program and the broker hold at a quiet moment.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wharf_testkit::usage::{self, Allocations};

use crate::stage::{PATIENCE, Stage};

/// Readings at one quiet moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    pub(crate) threads: u64,
    /// Live bytes, without what the checker has to remember.
    pub(crate) live: i64,
    pub(crate) rss: u64,
    /// As the broker sees them.
    pub(crate) connections: u64,
    pub(crate) channels: u64,
    /// Channels that the client knows of.
    pub(crate) known: u64,
}

impl Gauge {
    /// Reads until there is a connection to publish, one to consume and one for borrowed channels,
    /// and the broker has no channel that the client has forgotten. Gives the last reading if that
    /// takes too long.
    pub(crate) async fn read(stage: &Stage) -> Self {
        Self::read_until(stage, Self::is_sane).await
    }

    /// Reads until the client has no channel that the broker has forgotten either: one that was
    /// lost while it was idle is noticed when it is to be lent, or has been idle for a minute.
    pub(crate) async fn read_last(stage: &Stage) -> Self {
        Self::read_until(stage, |gauge| gauge.is_sane() && gauge.agrees()).await
    }

    pub(crate) fn is_sane(&self) -> bool {
        self.connections == 3 && self.channels <= self.known
    }

    pub(crate) fn agrees(&self) -> bool {
        self.channels == self.known
    }

    async fn read_until(stage: &Stage, is_right: impl Fn(&Self) -> bool) -> Self {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let gauge = Self::read_once(stage).await;
            if is_right(&gauge) || Instant::now() > deadline {
                return gauge;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read_once(stage: &Stage) -> Self {
        let connections = stage.rabbit.connections().await;
        // The two consumers have one each.
        let pools = [
            stage.publishing.confirm_channels(),
            stage.publishing.channels(),
        ];
        let known = pools
            .map(|pool| pool.status().active())
            .iter()
            .sum::<usize>()
            + 2;
        let live = i64::try_from(Allocations::now().live_bytes).expect("memory is smaller");
        Self {
            threads: usage::threads(),
            live: live - i64::try_from(stage.ledger.weight()).expect("memory is smaller"),
            rss: usage::rss(),
            connections: connections.len() as u64,
            channels: connections.iter().map(|c| c.channels).sum(),
            known: known as u64,
        }
    }
}
