//! The one task of a cluster that dials: one attempt at a time, for whatever connection is
//! missing, and with one back-off for all of them.

use std::{
    mem::replace,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::select_all;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    shared::{Gap, Shared},
    state::State,
};
use crate::{
    endpoint::Endpoint,
    error::ConnectError,
    link::{Health, Link, Role},
    telemetry,
};

pub(super) async fn run(shared: Weak<Shared>, alarm: Arc<Notify>) {
    let mut dialler = Dialler {
        hosts: Vec::new(),
        failed_rounds: 0,
        has_paused: false,
        told: telemetry::Dialling::default(),
    };
    while let Some(cluster) = shared.upgrade() {
        if cluster.state.borrow().is_closed() {
            return;
        }
        // Before the look, so that no change after it goes unnoticed.
        let worries = healths(&cluster);
        match cluster.missing() {
            Some(gap) => {
                let pause = dialler.fill(&cluster, &gap).await;
                // From here on the cluster may go.
                drop(cluster);
                if let Some(pause) = pause {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = closed(&shared, &alarm) => {}
                    }
                }
            }
            None => {
                tell(&cluster);
                drop(cluster);
                tokio::select! {
                    () = alarm.notified() => {}
                    () = any_change(worries) => {}
                }
            }
        }
    }
}

/// Dials the hosts in turn.
struct Dialler {
    /// Those not tried in this round.
    hosts: Vec<Endpoint>,
    failed_rounds: u32,
    /// After a loss, and no attempt since.
    has_paused: bool,
    told: telemetry::Dialling,
}

impl Dialler {
    /// Sees to a connection that is missing. Says how long to wait before the next step.
    async fn fill(&mut self, cluster: &Arc<Shared>, gap: &Gap) -> Option<Duration> {
        let lost = cluster.discard_lost();
        for link in &lost {
            self.told.lost(link.role.label());
        }
        if !lost.is_empty() && !replace(&mut self.has_paused, true) {
            return Some(self.lose(cluster, &lost));
        }
        self.has_paused = false;
        self.dial(cluster, gap).await
    }

    /// What was lost at about the same time counts as one loss. Even the first attempt after it
    /// waits a little, for the others that lost the same broker; and if connections come and go, as
    /// behind a balancer without servers, the pauses grow as if they had failed.
    fn lose(&mut self, cluster: &Shared, lost: &[Arc<Link>]) -> Duration {
        let lasts = |link: &Arc<Link>| link.age() > cluster.config.backoff.max;
        if lost.iter().any(lasts) {
            self.failed_rounds = 0;
        }
        let cause = Arc::new(ConnectError::Lost);
        set(cluster, State::Down { cause, attempt: 0 });
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        cluster.config.backoff.pause(self.failed_rounds)
    }

    /// One attempt.
    async fn dial(&mut self, cluster: &Arc<Shared>, gap: &Gap) -> Option<Duration> {
        if self.hosts.is_empty() {
            self.hosts.clone_from(&cluster.config.hosts);
            fastrand::shuffle(&mut self.hosts);
        }
        let host = self.hosts.pop().expect("a cluster has hosts");
        let (name, role) = (&cluster.config.name, gap.role.label());
        match Link::dial(host.clone(), gap.role, &cluster.config).await {
            Ok(link) => {
                self.told.connected(name, role);
                self.hosts.clear();
                prepare(cluster, &link).await;
                // If it is gone again by now, it is found to be lost like any other.
                cluster.install(gap, &link);
                None
            }
            Err(cause) if cause.is_final() => {
                self.told.refused(name, role, &host, &cause);
                let cause = Some(Arc::new(cause));
                cluster.end(State::Closed { cause });
                None
            }
            Err(cause) => {
                let attempt = self.failed_rounds.saturating_add(1);
                self.told.failed(name, role, &host, &cause, attempt);
                self.fail(cluster, cause)
            }
        }
    }

    /// Every host is tried before anybody waits.
    fn fail(&mut self, cluster: &Shared, cause: ConnectError) -> Option<Duration> {
        if !self.hosts.is_empty() {
            return None;
        }
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        let down = State::Down {
            cause: Arc::new(cause),
            attempt: self.failed_rounds,
        };
        set(cluster, down);
        Some(cluster.config.backoff.pause(self.failed_rounds))
    }
}

/// One after the other, so that each knows what the connection was closed for if it was; all of
/// them within the operation timeout.
async fn prepare(cluster: &Shared, link: &Arc<Link>) {
    let deadline = Instant::now() + cluster.config.operation_timeout;
    for preparation in cluster.preparations() {
        if link.is_live() {
            tokio::select! {
                // What does not end in time says so itself.
                _ = timeout_at(deadline, preparation.prepare(link)) => {}
                () = link.lost() => {}
            }
        }
    }
}

/// Says how the cluster is when nothing is missing.
fn tell(cluster: &Shared) {
    let links = links_of(cluster, &[Role::Publish, Role::General]);
    let blocked = links
        .iter()
        .find_map(|link| match &*link.health().borrow() {
            Health::Blocked(reason) => Some(Arc::clone(reason)),
            _ => None,
        });
    let any = Role::ALL.iter().any(|role| !cluster.live(*role).is_empty());
    match blocked {
        Some(reason) => set(cluster, State::Blocked { reason }),
        None if any => set(cluster, State::Up),
        None => {}
    }
}

fn set(cluster: &Shared, new: State) {
    cluster.state.send_if_modified(|state| {
        let same = matches!((&*state, &new), (State::Up, State::Up))
            || matches!((&*state, &new),
                (State::Blocked { reason: old }, State::Blocked { reason }) if old == reason);
        if same || state.is_closed() {
            return false;
        }
        *state = new;
        true
    });
}

fn healths(cluster: &Shared) -> Vec<watch::Receiver<Health>> {
    let links = links_of(cluster, &Role::ALL);
    links.iter().map(|link| link.health()).collect()
}

fn links_of(cluster: &Shared, roles: &[Role]) -> Vec<Arc<Link>> {
    roles.iter().flat_map(|role| cluster.live(*role)).collect()
}

/// Until a connection is lost, blocked or unblocked.
async fn any_change(mut healths: Vec<watch::Receiver<Health>>) {
    if healths.is_empty() {
        return std::future::pending().await;
    }
    // An error means that it is gone, which is a change too.
    let changes = healths.iter_mut().map(|health| Box::pin(health.changed()));
    let _ = select_all(changes).await;
}

async fn closed(shared: &Weak<Shared>, alarm: &Notify) {
    loop {
        alarm.notified().await;
        let open = shared
            .upgrade()
            .is_some_and(|cluster| !cluster.state.borrow().is_closed());
        if !open {
            return;
        }
    }
}
