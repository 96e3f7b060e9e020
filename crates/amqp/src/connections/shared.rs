//! What the handles of a cluster share: which connections there are, and who may have them.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};

use super::{keeper, state::State};
use crate::{
    config::Config,
    error::ChannelError,
    io,
    link::{Link, Role},
};

/// Something to be done on every new connection before anybody else uses it.
pub(crate) trait Prepare: Any + Send + Sync {
    /// Must end within the operation timeout; a connection that is lost meanwhile is noticed by
    /// the caller.
    fn prepare<'a>(&'a self, link: &'a Arc<Link>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(super) state: watch::Sender<State>,
    /// Counts up whenever a connection is there that was not.
    pub(super) arrivals: watch::Sender<u64>,
    /// Wakes the keeper. Apart, because the keeper waits for it without keeping the cluster alive.
    pub(super) alarm: Arc<Notify>,
    roles: [RoleLinks; Role::ALL.len()],
    preparations: Mutex<Vec<Weak<dyn Prepare>>>,
}

/// A place where there should be a connection.
pub(super) struct Gap {
    pub(super) role: Role,
    place: usize,
}

#[derive(Default)]
struct RoleLinks {
    wanted: AtomicBool,
    /// As many as are configured. The lock is held for a look or a change, never across an await.
    links: Mutex<Vec<Option<Arc<Link>>>>,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let shared = Arc::new(Self {
            state: watch::Sender::new(State::Connecting),
            arrivals: watch::Sender::new(0),
            alarm: Arc::new(Notify::new()),
            roles: std::array::from_fn(|_| RoleLinks {
                wanted: AtomicBool::new(false),
                links: Mutex::new(vec![None; config.connections]),
            }),
            preparations: Mutex::default(),
            config,
        });
        io::spawn(keeper::run(
            Arc::downgrade(&shared),
            Arc::clone(&shared.alarm),
        ));
        shared
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Something needs connections of this role from now on.
    pub(crate) fn want(&self, role: Role) {
        if !self.of(role).wanted.swap(true, Ordering::Relaxed) {
            self.alarm.notify_one();
        }
    }

    /// The live connection of this role with the fewest channels, if that is fewer than `most`, and
    /// that is not blocked. Waits until there is one: the caller sets the bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: nothing is taken.
    pub(crate) async fn link(&self, role: Role, most: usize) -> Result<Arc<Link>, ChannelError> {
        self.want(role);
        let mut arrivals = self.arrivals.subscribe();
        let mut state = self.watch();
        loop {
            arrivals.borrow_and_update();
            let live = self.live(role);
            let fit = live
                .iter()
                .filter(|link| !link.is_blocked() && link.has_room(most));
            if let Some(link) = fit.min_by_key(|link| link.load()) {
                return Ok(Arc::clone(link));
            }
            if let State::Closed { cause } = &*state.borrow_and_update() {
                return Err(ChannelError::Closed(cause.clone()));
            }
            // One that is blocked will be free again, and one that is worn will be replaced.
            let may_change = |link: &Arc<Link>| link.is_blocked() || link.is_worn();
            if live.len() == self.config.connections && !live.iter().any(may_change) {
                return Err(ChannelError::Exhausted);
            }
            tokio::select! {
                _ = arrivals.changed() => {}
                _ = state.changed() => {}
            }
        }
    }

    /// Has this done on every new connection, for as long as it is kept alive; or finds the one
    /// that does the same. Connections that exist already are the caller's to see to.
    pub(crate) fn prepare_once<P: Prepare>(
        &self,
        is_same: impl Fn(&P) -> bool,
        make: impl FnOnce() -> Arc<P>,
    ) -> Arc<P> {
        let mut preparations = lock(&self.preparations);
        preparations.retain(|other| other.strong_count() > 0);
        let others = preparations.iter().filter_map(Weak::upgrade);
        let mut others =
            others.filter_map(|other| (other as Arc<dyn Any + Send + Sync>).downcast().ok());
        if let Some(same) = others.find(|other| is_same(other)) {
            return same;
        }
        let preparation = make();
        let weak: Weak<P> = Arc::downgrade(&preparation);
        preparations.push(weak);
        preparation
    }

    /// Closes everything, waiting for the broker at most this long.
    pub(crate) async fn close(&self, limit: Duration) {
        self.end(State::Closed { cause: None });
        let links = Role::ALL.iter().flat_map(|role| self.take(*role));
        let farewells = links.map(|link| async move { link.close(limit).await });
        // In a task, so that they go on if the caller goes.
        let farewells: Vec<_> = farewells.collect();
        let _ = io::spawn(join_all(farewells)).await;
    }

    /// The last state; the first reason stands.
    pub(super) fn end(&self, last: State) {
        self.state.send_if_modified(|state| {
            let open = !state.is_closed();
            if open {
                *state = last;
            }
            open
        });
        self.alarm.notify_one();
    }

    pub(super) fn preparations(&self) -> Vec<Arc<dyn Prepare>> {
        let preparations = lock(&self.preparations);
        preparations.iter().filter_map(Weak::upgrade).collect()
    }

    /// A connection that is missing, lost or worn.
    pub(super) fn missing(&self) -> Option<Gap> {
        Role::ALL.into_iter().find_map(|role| {
            let of_role = self.of(role);
            if !of_role.wanted.load(Ordering::Relaxed) {
                return None;
            }
            let links = lock(&of_role.links);
            let fails = |link: &Option<Arc<Link>>| {
                link.as_ref()
                    .is_none_or(|link| !link.is_live() || link.is_worn())
            };
            let place = links.iter().position(fails)?;
            Some(Gap { role, place })
        })
    }

    /// Takes away what was lost. A worn connection stays until there is another.
    pub(super) fn discard_lost(&self, gap: &Gap) -> Option<Arc<Link>> {
        let mut links = lock(&self.of(gap.role).links);
        links[gap.place].take_if(|link| !link.is_live())
    }

    pub(super) fn install(&self, gap: &Gap, link: Arc<Link>) {
        if self.state.borrow().is_closed() {
            let limit = self.config.operation_timeout;
            io::spawn(async move { link.close(limit).await });
            return;
        }
        // The old one goes when its last channel does.
        let old = lock(&self.of(gap.role).links)[gap.place].replace(link);
        drop(old);
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
    }

    /// All live connections of a role.
    pub(crate) fn live(&self, role: Role) -> Vec<Arc<Link>> {
        let links = lock(&self.of(role).links);
        let live = links.iter().flatten().filter(|link| link.is_live());
        live.cloned().collect()
    }

    fn take(&self, role: Role) -> Vec<Arc<Link>> {
        let mut links = lock(&self.of(role).links);
        links.iter_mut().filter_map(Option::take).collect()
    }

    fn of(&self, role: Role) -> &RoleLinks {
        &self.roles[role as usize]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.alarm.notify_one();
        for link in Role::ALL.iter().flat_map(|role| self.take(*role)) {
            let limit = self.config.operation_timeout;
            io::spawn(async move { link.close(limit).await });
        }
    }
}
