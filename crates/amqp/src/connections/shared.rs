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
    link::{Berth, Link, Role},
};

/// Something to be done on every new connection before anybody else uses it.
pub(crate) trait Prepare: Any + Send + Sync {
    /// Must end within the operation timeout; a connection that is lost meanwhile is noticed by
    /// the caller.
    fn prepare<'a>(&'a self, link: &'a Arc<Link>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// It is where everybody finds it. Whoever looked for a connection since it was prepared did
    /// not. Must not wait for anything.
    fn installed(&self, link: &Arc<Link>);
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
        self.pick(role, most, Arc::clone).await
    }

    /// The same with a place for a channel on it, which nobody else is given.
    pub(crate) async fn berth(&self, role: Role, most: usize) -> Result<Berth, ChannelError> {
        self.pick(role, most, Link::berth).await
    }

    async fn pick<T>(
        &self,
        role: Role,
        most: usize,
        take: fn(&Arc<Link>) -> T,
    ) -> Result<T, ChannelError> {
        self.want(role);
        let mut arrivals = self.arrivals.subscribe();
        let mut state = self.watch();
        loop {
            arrivals.borrow_and_update();
            let live = match self.pick_now(role, most, take) {
                Ok(picked) => return Ok(picked),
                Err(live) => live,
            };
            if let State::Closed { cause } = &*state.borrow_and_update() {
                return Err(ChannelError::Closed(cause.clone()));
            }
            // One that is blocked will be free again, and one that is worn will be replaced.
            let may_change = |link: &Arc<Link>| link.is_blocked() || link.is_worn();
            if live.len() == self.config.connections && !live.iter().any(may_change) {
                live.iter().for_each(|link| link.may_have_room());
                return Err(ChannelError::Exhausted);
            }
            tokio::select! {
                _ = arrivals.changed() => {}
                _ = state.changed() => {}
            }
        }
    }

    /// Or the live ones, none of which will do.
    fn pick_now<T>(
        &self,
        role: Role,
        most: usize,
        take: fn(&Arc<Link>) -> T,
    ) -> Result<T, Vec<Arc<Link>>> {
        // One look at a time, or all who come at once find the same one empty.
        let links = lock(&self.of(role).links);
        let live = || links.iter().flatten().filter(|link| link.is_live());
        let fit = live().filter(|link| !link.is_blocked() && link.has_room(most));
        match fit.min_by_key(|link| link.load()) {
            Some(link) => Ok(take(link)),
            None => Err(live().cloned().collect()),
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
        join_all(farewells).await;
    }

    /// The last state; the first reason stands. What is there stays until it is
    /// [closed](Self::close).
    pub(crate) fn end(&self, last: State) {
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
    pub(super) fn discard_lost(&self) -> Vec<Arc<Link>> {
        let of_role = |role: &Role| {
            let mut links = lock(&self.of(*role).links);
            let lost = links
                .iter_mut()
                .filter_map(|link| link.take_if(|link| !link.is_live()));
            lost.collect::<Vec<_>>()
        };
        Role::ALL.iter().flat_map(of_role).collect()
    }

    pub(super) fn install(&self, gap: &Gap, link: &Arc<Link>) {
        let old = {
            let mut links = lock(&self.of(gap.role).links);
            // Looked at under the lock: whoever closes takes away what is there after saying so.
            // A link that comes too late is dropped, and closed with that.
            if self.state.borrow().is_closed() {
                return;
            }
            // The old one goes when its last channel does.
            links[gap.place].replace(Arc::clone(link))
        };
        drop(old);
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        for preparation in self.preparations() {
            preparation.installed(link);
        }
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
