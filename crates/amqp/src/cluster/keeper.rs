//! The one task of a cluster that dials: one attempt at a time, for whatever connection is
//! missing, and with one back-off for all of them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::{join_all, select_all};
use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};

use super::{shared::Shared, state::State, within};
use crate::{
    endpoint::Endpoint,
    error::ConnectError,
    link::{Health, Link, Role},
};

/// Attempts that have passed their time but not ended, at most: each has a thread.
const ABANDONED: usize = 4;

pub(super) async fn run(shared: Weak<Shared>, alarm: Arc<Notify>) {
    let mut dialler = Dialler {
        attempts: Arc::new(Semaphore::new(ABANDONED)),
        hosts: Vec::new(),
        failed_rounds: 0,
    };
    while let Some(cluster) = shared.upgrade() {
        if cluster.state.borrow().is_closed() {
            return;
        }
        let pause = match cluster.missing() {
            Some((role, place)) => dialler.dial(&cluster, role, place).await,
            None => {
                tell(&cluster);
                None
            }
        };
        let worries = links(&cluster);
        let settled = pause.is_none() && cluster.missing().is_none();
        // From here on the cluster may go.
        drop(cluster);
        if let Some(pause) = pause {
            tokio::select! {
                () = sleep(pause) => {}
                () = closed(&shared, &alarm) => {}
            }
        } else if settled {
            tokio::select! {
                () = alarm.notified() => {}
                () = any_change(worries) => {}
            }
        }
    }
}

/// Dials the hosts in turn.
struct Dialler {
    attempts: Arc<Semaphore>,
    /// Those not tried in this round.
    hosts: Vec<Endpoint>,
    failed_rounds: u32,
}

impl Dialler {
    /// One attempt. Says how long to wait before the next.
    async fn dial(&mut self, cluster: &Arc<Shared>, role: Role, place: usize) -> Option<Duration> {
        if self.hosts.is_empty() {
            self.hosts.clone_from(&cluster.config.hosts);
            fastrand::shuffle(&mut self.hosts);
        }
        let host = self.hosts.pop().expect("a cluster has hosts");
        match Link::dial(host, role, &cluster.config, &self.attempts).await {
            Ok(link) => {
                self.hosts.clear();
                prepare(cluster, &link).await;
                if link.is_live() {
                    self.failed_rounds = 0;
                    cluster.install(role, place, link);
                    tell(cluster);
                    return None;
                }
                // It came and went, as behind a balancer without servers: a failure like another.
                let gone = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                self.fail(cluster, ConnectError::Failed(gone.into()))
            }
            Err(cause) if cause.is_final() => {
                let cause = Some(Arc::new(cause));
                cluster.end(State::Closed { cause });
                None
            }
            Err(cause) => self.fail(cluster, cause),
        }
    }

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

async fn prepare(cluster: &Shared, link: &Arc<Link>) {
    let preparations = cluster.preparations();
    let each = preparations
        .iter()
        .map(|preparation| preparation.prepare(link));
    // What does not end in time says so itself.
    within(cluster.config.operation_timeout, join_all(each)).await;
}

/// Says how the cluster is if nothing is missing.
fn tell(cluster: &Shared) {
    if cluster.missing().is_some() {
        return;
    }
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

fn links(cluster: &Shared) -> Vec<Arc<Link>> {
    links_of(cluster, &Role::ALL)
}

fn links_of(cluster: &Shared, roles: &[Role]) -> Vec<Arc<Link>> {
    roles.iter().flat_map(|role| cluster.live(*role)).collect()
}

/// Until one of them is lost, blocked or unblocked.
async fn any_change(links: Vec<Arc<Link>>) {
    if links.is_empty() {
        return std::future::pending().await;
    }
    let changes = links.iter().map(|link| {
        let mut health = link.health();
        Box::pin(async move {
            // An error means that it is gone, which is a change too.
            let _ = health.changed().await;
        })
    });
    select_all(changes).await;
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
