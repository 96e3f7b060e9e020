//! A topology on a cluster: what has become of it, and what its temporary queues are called.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use wharf::Backoff;

use super::{
    Item, Topology,
    entity::Entity,
    error::{TopologyError, TopologyErrorKind},
    pass::{Names, Pass},
};
use crate::{
    cluster::Cluster,
    connections::{Prepare, Shared, State},
    error::ChannelError,
    io,
    link::{Health, Link, Role},
    telemetry,
};

/// What has become of a topology.
///
/// ```text
///   Pending ◀──▶ Declared
///      ▲            │
///      ▼            │
///   Failed ◀────────┘
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TopologyState {
    /// It has not been declared, or not again where that is needed, and will be.
    Pending {
        /// What kept the last attempt from it.
        cause: Option<Arc<TopologyError>>,
    },
    /// Everything is there.
    Declared,
    /// The broker does not want it. It is declared again on the next connection, and with every
    /// [`Declaration::declare`], for somebody may have changed the broker; but not by itself if
    /// the broker [closed the connection](TopologyErrorKind::NotSupported) over it.
    Failed(Arc<TopologyError>),
}

impl TopologyState {
    /// Whether everything is there.
    pub fn is_declared(&self) -> bool {
        matches!(self, Self::Declared)
    }

    /// Why it failed for good, if it did.
    pub fn failure(&self) -> Option<&Arc<TopologyError>> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// A topology that is declared again on every new connection, for as long as this, a clone of it,
/// or a publisher or consumer with the same topology is alive.
#[derive(Clone)]
#[must_use = "a topology is not declared again on new connections once this is dropped"]
pub struct Declaration {
    registration: Arc<Registration>,
    cluster: Weak<Shared>,
}

/// Where a queue is, and what it is called there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: Arc<str>,
    /// The connection that it belongs to. None: any will do.
    pub(crate) link: Option<Arc<Link>>,
}

impl Declaration {
    /// Keeps a topology declared from the next connection on, and declares nothing itself.
    pub(crate) fn register(cluster: &Cluster, topology: &Topology) -> Result<Self, TopologyError> {
        topology.check()?;
        let shared = cluster.shared();
        let registration = shared.prepare_once(
            |other: &Registration| other.topology.is(topology),
            || Registration::new(topology.clone(), shared),
        );
        Ok(Self {
            registration,
            cluster: Arc::downgrade(shared),
        })
    }

    /// Declares everything once more: a queue may have been deleted. A temporary queue that is
    /// there stays as it is.
    ///
    /// # Errors
    ///
    /// Those of [`Topology::declare`].
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, a declaration under way goes on to its end by itself.
    pub async fn declare(&self) -> Result<(), TopologyError> {
        self.registration.wants_own.store(true, Ordering::Relaxed);
        let has_own = self.registration.topology.has_own();
        self.declare_on(if has_own {
            Role::Consume
        } else {
            Role::Publish
        })
        .await
    }

    /// Declares what belongs to everybody: what a publisher needs.
    pub(crate) async fn declare_shared(&self) -> Result<(), TopologyError> {
        self.declare_on(Role::Publish).await
    }

    /// How it is now.
    pub fn state(&self) -> TopologyState {
        self.registration.state.borrow().clone()
    }

    /// How it is, to look at or to wait for.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn watch(&self) -> watch::Receiver<TopologyState> {
        self.registration.state.subscribe()
    }

    /// The broker's name of a temporary queue, by its label. None while there is no such queue: in
    /// an outage, or because the topology has none of this label.
    pub fn queue_name(&self, label: &str) -> Option<Arc<str>> {
        self.registration.names.get(label)?.borrow().clone()
    }

    /// The same to wait for. None if the topology has no temporary queue of this label.
    ///
    /// # Cancel safety
    ///
    /// Waiting on the receiver is cancel-safe.
    pub fn watch_queue_name(&self, label: &str) -> Option<watch::Receiver<Option<Arc<str>>>> {
        Some(self.registration.names.get(label)?.subscribe())
    }

    /// What a queue is called and where it can be consumed from; none while it is nowhere. A queue
    /// that is not in the topology is called what it is called.
    pub(crate) fn place(&self, queue: &str) -> Option<Place> {
        let registration = &self.registration;
        let link = if registration.is_own_queue(queue) {
            Some(registration.home()?)
        } else {
            None
        };
        let name = match registration.names.get(queue) {
            Some(name) => name.borrow().clone()?,
            None => queue.into(),
        };
        Some(Place { name, link })
    }

    async fn declare_on(&self, role: Role) -> Result<(), TopologyError> {
        let registration = &self.registration;
        let Some(first) = registration.topology.items().first().map(Item::entity) else {
            return Ok(());
        };
        let deadline = Instant::now() + registration.limit;
        let no_link = |kind| TopologyError {
            entity: first,
            kind,
        };
        let link = match timeout_at(deadline, self.link(role)).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Err(no_link(TopologyErrorKind::Channel(error))),
            Err(_) => return Err(no_link(TopologyErrorKind::Timeout(registration.limit))),
        };
        let work = Arc::clone(registration).declare_now(link, deadline);
        io::spawn(work)
            .await
            .expect("bug: declaring a topology panicked")
    }

    /// The home, if something is to be declared there; else any connection that takes it, for
    /// what is declared for everybody may be declared anywhere.
    async fn link(&self, role: Role) -> Result<Arc<Link>, ChannelError> {
        let cluster = self.cluster.upgrade().ok_or(ChannelError::Closed(None))?;
        if let State::Closed { cause } = &*cluster.watch().borrow() {
            return Err(ChannelError::Closed(cause.clone()));
        }
        if role == Role::Consume {
            if let Some(home) = self.registration.home() {
                return Ok(home);
            }
            let link = cluster.link(role, usize::MAX).await?;
            return Ok(self.registration.home().unwrap_or(link));
        }
        let all = Role::ALL.iter().flat_map(|role| cluster.live(*role));
        let (blocked, open): (Vec<_>, Vec<_>) = all.partition(|link| link.is_blocked());
        match open.into_iter().min_by_key(|link| link.load()) {
            Some(link) => Ok(link),
            // One that nobody has published on is not blocked.
            None if !blocked.is_empty() => cluster.link(Role::Consume, usize::MAX).await,
            None => cluster.link(role, usize::MAX).await,
        }
    }
}

impl fmt::Debug for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declaration")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// What the declarations of one topology on one cluster share.
struct Registration {
    me: Weak<Self>,
    cluster: Weak<Shared>,
    topology: Topology,
    names: Names,
    limit: Duration,
    backoff: Backoff,
    state: watch::Sender<TopologyState>,
    /// Whether somebody needs what belongs to a connection; a publisher does not.
    wants_own: AtomicBool,
    /// The broker closed a connection over it. Held while it is declared on a new connection, for two
    /// that come at once are not both to be closed.
    is_harmful: tokio::sync::Mutex<bool>,
    /// Whether another attempt on a connection of this role is due.
    retries: [AtomicBool; Role::ALL.len()],
    /// Held for a look or a change, never across an await.
    standing: Mutex<Standing>,
    /// One pass at a time, or two would declare a temporary queue twice.
    turn: tokio::sync::Mutex<()>,
    told: telemetry::Declaring,
}

#[derive(Default)]
struct Standing {
    /// The connection that has what belongs to one.
    home: Option<Weak<Link>>,
    shared: Outcome,
    own: Outcome,
}

#[derive(Clone, Default)]
enum Outcome {
    /// Nobody wants it.
    #[default]
    None,
    Gone,
    Done,
    Failed(Arc<TopologyError>),
}

impl Registration {
    fn new(topology: Topology, cluster: &Arc<Shared>) -> Arc<Self> {
        let labels = topology.items().iter().filter_map(|item| match item {
            Item::Queue(queue) if queue.named_by_broker => Some(queue.name.clone()),
            _ => None,
        });
        let names = labels
            .map(|label| (label, watch::Sender::new(None)))
            .collect();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            cluster: Arc::downgrade(cluster),
            topology,
            names,
            limit: cluster.config.operation_timeout,
            backoff: cluster.config.backoff,
            state: watch::Sender::new(TopologyState::Pending { cause: None }),
            wants_own: AtomicBool::new(false),
            is_harmful: tokio::sync::Mutex::new(false),
            retries: Default::default(),
            standing: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            told: telemetry::Declaring::new(&cluster.config.name),
        })
    }

    /// Declares it on a new connection, unless another was closed over it.
    async fn declare_first(self: Arc<Self>, link: Arc<Link>) {
        let mut is_harmful = self.is_harmful.lock().await;
        if *is_harmful {
            return;
        }
        let deadline = Instant::now() + self.limit;
        let outcome = Arc::clone(&self).work(link, deadline).await;
        // The connection was ours alone, so that this was what it was closed for.
        *is_harmful = matches!(
            outcome.map_err(|error| error.kind),
            Err(TopologyErrorKind::NotSupported(_))
        );
    }

    /// Declares it on a connection that was ready before the home was lost, unless another was closed
    /// over it.
    async fn declare_late(self: Arc<Self>, link: Arc<Link>) {
        if !*self.is_harmful.lock().await {
            let deadline = Instant::now() + self.limit;
            // What it comes to is told by the state.
            let _ = self.work(link, deadline).await;
        }
    }

    /// Declares it because somebody wants it, whatever it has cost before. If that goes well, it is
    /// declared on new connections again.
    async fn declare_now(
        self: Arc<Self>,
        link: Arc<Link>,
        deadline: Instant,
    ) -> Result<(), TopologyError> {
        let declared = Arc::clone(&self).work(link, deadline).await;
        // Where it is being declared on a new connection just now, that decides.
        if declared.is_ok()
            && let Ok(mut is_harmful) = self.is_harmful.try_lock()
        {
            *is_harmful = false;
        }
        declared
    }

    /// One attempt, and more if another may help and this connection lasts.
    async fn work(
        self: Arc<Self>,
        link: Arc<Link>,
        deadline: Instant,
    ) -> Result<(), TopologyError> {
        let outcome = self.attempt(&link, deadline).await;
        if matches!(&outcome, Err(error) if !error.is_final())
            && link.is_live()
            && !self.retries[link.role as usize].swap(true, Ordering::Relaxed)
        {
            io::spawn(retry(Weak::clone(&self.me), link));
        }
        outcome
    }

    async fn attempt(&self, link: &Arc<Link>, deadline: Instant) -> Result<(), TopologyError> {
        let _turn = self.turn(&self.turn, deadline).await?;
        let shared = self.pass(link, deadline, false).await;
        self.settle(|standing| standing.shared = Outcome::of(&shared));
        if !self.moves_in(link) {
            return shared;
        }
        let own = self.pass(link, deadline, true).await;
        self.settle(|standing| {
            if standing.is_home(link) {
                standing.own = Outcome::of(&own);
            }
        });
        shared.and(own)
    }

    async fn pass(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
        own: bool,
    ) -> Result<(), TopologyError> {
        let items = self.topology.items().iter();
        let items = items.filter(|item| self.topology.is_own(item) == own);
        let _turn = self.turn(link.declaring(), deadline).await?;
        Pass::new(link, &self.names, deadline).declare(items).await
    }

    async fn turn<'a>(
        &self,
        of: &'a tokio::sync::Mutex<()>,
        deadline: Instant,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>, TopologyError> {
        let turn = timeout_at(deadline, of.lock()).await;
        turn.map_err(|_| {
            let entity = self.topology.items().first().map(Item::entity);
            TopologyError {
                entity: entity.unwrap_or_else(|| Box::new(Entity::Queue(String::new()))),
                kind: TopologyErrorKind::Timeout(self.limit),
            }
        })
    }

    /// Whether what belongs to a connection is to be declared on this one: it is the home, or
    /// becomes it because there is none.
    fn moves_in(&self, link: &Arc<Link>) -> bool {
        let wanted = self.wants_own.load(Ordering::Relaxed) && self.topology.has_own();
        if link.role != Role::Consume || !wanted {
            return false;
        }
        let mut standing = self.standing();
        if standing.is_home(link) {
            return link.is_live();
        }
        if standing.home().is_some() || !link.is_live() {
            return false;
        }
        standing.home = Some(Arc::downgrade(link));
        self.forget_names();
        io::spawn(move_out(
            Weak::clone(&self.me),
            Arc::downgrade(link),
            link.health(),
        ));
        true
    }

    fn home(&self) -> Option<Arc<Link>> {
        self.standing().home()
    }

    fn forget_names(&self) {
        for name in self.names.values() {
            name.send_if_modified(|name| name.take().is_some());
        }
    }

    fn is_own_queue(&self, queue: &str) -> bool {
        self.topology
            .items()
            .iter()
            .any(|item| matches!(item, Item::Queue(other) if other.name == queue && other.is_own()))
    }

    fn settle(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.standing();
        change(&mut standing);
        let new = standing.state();
        // Under the lock, or an older state might come last.
        self.state.send_if_modified(|state| {
            let is_news = !(state.is_declared() && new.is_declared());
            *state = new;
            if is_news {
                self.tell(state);
            }
            is_news
        });
    }

    fn tell(&self, state: &TopologyState) {
        match state {
            TopologyState::Declared => self.told.declared(),
            TopologyState::Pending { cause: None } => {}
            TopologyState::Pending { cause: Some(error) } | TopologyState::Failed(error) => {
                let is_final = state.failure().is_some();
                self.told.failed(&error.entity, &error.kind, is_final);
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepare for Registration {
    fn prepare<'a>(&'a self, link: &'a Arc<Link>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Some(me) = self.me.upgrade() {
                // In a task, which goes on when the time for preparations is up.
                let _ = io::spawn(me.declare_first(Arc::clone(link))).await;
            }
        })
    }

    fn installed(&self, link: &Arc<Link>) {
        // Gone is said before another home is looked for: either that look finds this connection,
        // or this one finds that it is needed.
        if link.role == Role::Consume
            && self.standing().is_homeless()
            && let Some(me) = self.me.upgrade()
        {
            io::spawn(me.declare_late(Arc::clone(link)));
        }
    }
}

impl Standing {
    fn home(&self) -> Option<Arc<Link>> {
        let home = self.home.as_ref()?.upgrade()?;
        home.is_live().then_some(home)
    }

    /// Whether what belonged to a connection is gone with it, and on no other.
    fn is_homeless(&self) -> bool {
        matches!(self.own, Outcome::Gone) && self.home().is_none()
    }

    fn is_home(&self, link: &Arc<Link>) -> bool {
        let home = self.home.as_ref();
        home.is_some_and(|home| std::ptr::eq(home.as_ptr(), Arc::as_ptr(link)))
    }

    fn state(&self) -> TopologyState {
        let parts = [&self.shared, &self.own];
        let causes = || {
            parts.iter().filter_map(|part| match part {
                Outcome::Failed(error) => Some(error),
                _ => None,
            })
        };
        if let Some(error) = causes().find(|error| error.is_final()) {
            return TopologyState::Failed(Arc::clone(error));
        }
        let cause = causes().next().cloned();
        let is_done = !parts.iter().any(|part| matches!(part, Outcome::Gone));
        if cause.is_none() && is_done {
            TopologyState::Declared
        } else {
            TopologyState::Pending { cause }
        }
    }
}

impl Outcome {
    fn of(outcome: &Result<(), TopologyError>) -> Self {
        match outcome {
            Ok(()) => Self::Done,
            Err(error) => Self::Failed(Arc::new(error.clone())),
        }
    }
}

/// Tries again on a connection until that helps, or cannot, or the connection is lost: then the
/// next one is prepared.
async fn retry(registration: Weak<Registration>, link: Arc<Link>) {
    for attempt in 1.. {
        let Some(backoff) = registration.upgrade().map(|it| it.backoff) else {
            return;
        };
        sleep(backoff.pause(attempt)).await;
        let Some(registration) = registration.upgrade() else {
            return;
        };
        if link.is_live() {
            let deadline = Instant::now() + registration.limit;
            match registration.attempt(&link, deadline).await {
                Err(error) if !error.is_final() => continue,
                _ => {}
            }
        }
        registration.retries[link.role as usize].store(false, Ordering::Relaxed);
        return;
    }
}

/// Forgets what belonged to a connection when that is lost, and has it declared on another if there
/// is one already; else on the next.
async fn move_out(
    registration: Weak<Registration>,
    link: Weak<Link>,
    mut health: watch::Receiver<Health>,
) {
    // An error means that it is gone altogether.
    let _ = health.wait_for(|health| *health == Health::Lost).await;
    let Some(registration) = registration.upgrade() else {
        return;
    };
    registration.settle(|standing| {
        if standing
            .home
            .as_ref()
            .is_some_and(|home| home.ptr_eq(&link))
        {
            standing.home = None;
            standing.own = Outcome::Gone;
            registration.forget_names();
        }
    });
    let cluster = registration.cluster.upgrade();
    let others = cluster.map(|cluster| cluster.live(Role::Consume));
    if let Some(link) = others.and_then(|links| links.into_iter().next()) {
        let deadline = Instant::now() + registration.limit;
        // What it comes to is told by the state.
        let _ = registration.work(link, deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use wharf_broker::Broker;
    use wharf_testkit::wait::within;

    use super::{super::entity::Queue, *};

    const SOON: Duration = Duration::from_secs(20);

    /// Longer than the test.
    const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

    /// Prepares a connection for as long as it is told to.
    struct Barrier {
        reached: Semaphore,
        opened: Semaphore,
    }

    impl Prepare for Barrier {
        fn prepare<'a>(
            &'a self,
            _: &'a Arc<Link>,
        ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
            Box::pin(async {
                self.reached.add_permits(1);
                take(&self.opened).await;
            })
        }

        fn installed(&self, _: &Arc<Link>) {}
    }

    async fn take(permits: &Semaphore) {
        permits.acquire().await.expect("it stays open").forget();
    }

    /// The one that was ready had not declared the queues, because their owner was alive, and was
    /// not found when that died, because nobody could have it yet. The queues were nowhere until
    /// another was dialled.
    #[tokio::test]
    async fn a_connection_that_is_ready_as_the_home_is_lost_takes_over() {
        let broker = Broker::builder().user("u", "p").start().await.unwrap();
        let pause = Backoff {
            min: NEVER,
            max: NEVER,
        };
        let cluster = Cluster::builder([broker.url("u", "p")])
            .connections(2)
            .backoff(pause)
            .connect_lazily()
            .unwrap();
        let topology = Topology::new().queue(Queue::temporary("mine"));
        let declaration = Declaration::register(&cluster, &topology).unwrap();
        // After the topology: what reaches it has that behind it.
        let barrier = cluster.shared().prepare_once(
            |_: &Barrier| false,
            || {
                Arc::new(Barrier {
                    reached: Semaphore::new(0),
                    opened: Semaphore::new(1),
                })
            },
        );
        declaration.declare().await.unwrap();
        let mut name = declaration.watch_queue_name("mine").unwrap();
        assert!(name.borrow_and_update().is_some());
        for _ in 0..2 {
            within("another connection", SOON, take(&barrier.reached)).await;
        }

        let home = declaration.registration.home().unwrap();
        home.close(SOON).await;
        // Whoever forgets the name looks for another connection before the connections' one thread
        // installs the next.
        let forgotten = name.wait_for(Option::is_none);
        within("word of the loss", SOON, forgotten).await.unwrap();
        barrier.opened.add_permits(1);

        let declared = name.wait_for(Option::is_some);
        let name = within("another queue", SOON, declared).await.unwrap();
        let queues = broker.queues("/");
        assert!(
            queues
                .iter()
                .any(|queue| Some(&*queue.name) == name.as_deref())
        );
    }

    /// Or no connection would live for longer than it takes to install it.
    #[tokio::test]
    async fn what_cost_a_connection_is_not_declared_on_one_that_comes_late() {
        let broker = Broker::builder().user("u", "p").start().await.unwrap();
        let cluster = Cluster::builder([broker.url("u", "p")]);
        let cluster = cluster.connect_lazily().unwrap();
        let link = cluster.shared().link(Role::Consume, usize::MAX);
        let link = within("a connection", SOON, link).await.unwrap();
        let topology = Topology::new().queue(Queue::temporary("mine"));
        let declaration = Declaration::register(&cluster, &topology).unwrap();
        let registration = declaration.registration;
        registration.wants_own.store(true, Ordering::Relaxed);
        for is_harmful in [true, false] {
            *registration.is_harmful.lock().await = is_harmful;
            let declared = Arc::clone(&registration).declare_late(Arc::clone(&link));
            within("an end", SOON, declared).await;
            assert_eq!(registration.home().is_none(), is_harmful);
        }
    }

    /// Once it had cost a connection, new ones came without it, though the broker had been mended and
    /// it had been declared.
    #[tokio::test]
    async fn what_cost_a_connection_and_is_declared_again_comes_with_new_connections_again() {
        let broker = Broker::builder().user("u", "p").start().await.unwrap();
        let cluster = Cluster::builder([broker.url("u", "p")]);
        let cluster = cluster.connect_lazily().unwrap();
        let topology = Topology::new().queue(Queue::temporary("mine"));
        let declaration = Declaration::register(&cluster, &topology).unwrap();
        *declaration.registration.is_harmful.lock().await = true;
        declaration.declare().await.unwrap();
        let mut name = declaration.watch_queue_name("mine").unwrap();
        let first = name.borrow_and_update().clone();
        declaration.registration.home().unwrap().close(SOON).await;
        let another = name.wait_for(|name| name.is_some() && *name != first);
        within("another queue", SOON, another).await.unwrap();
    }
}
