//! Tasks on the thread that each connection has anyway.
//!
//! lapin (4.12) reads and writes a connection on a thread of its own, and there it wakes those who wait
//! for what was read. A task that lives there hears of it without a change of threads, and what it
//! publishes goes out when it has had its turn. lapin has no place for such tasks; but in every round
//! of its loop, before it writes, it flushes the stream, and the stream is ours. It goes round when the
//! stream says that there is something to read.

use std::{
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};
#[cfg(unix)]
use std::{io, net::TcpStream, time::Duration};

#[cfg(unix)]
use super::nap::{Bell, Woken};
use crate::io as connections;

/// The thread of one connection. When it has ended, its tasks go on elsewhere.
#[derive(Default)]
pub(crate) struct Thread {
    /// Never held while a task is polled.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those to be polled next.
    woken: Vec<Arc<Task>>,
    /// Makes lapin's loop go round: to it, there is something to read. Known from its first round on.
    waker: Option<Waker>,
    /// Whether there is a stream, and so a loop that flushes it.
    runs: bool,
    /// What ends its nap: it hears nothing else then.
    #[cfg(unix)]
    naps: Option<Arc<Bell>>,
}

impl Thread {
    pub(crate) fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let task = Arc::new(Task {
            thread: Arc::clone(self),
            future: Mutex::new(Some(Box::pin(future))),
            is_woken: AtomicBool::new(false),
        });
        task.wake();
    }

    fn poll_soon(&self, task: Arc<Task>) {
        let mut state = lock(&self.state);
        if !state.runs {
            drop(state);
            return poll_elsewhere(task);
        }
        let is_first = state.woken.is_empty();
        state.woken.push(task);
        #[cfg(unix)]
        if let Some(bell) = state.naps.take() {
            drop(state);
            return bell.ring();
        }
        let waker = state.waker.as_ref().filter(|_| is_first).cloned();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Polls those that were woken, each once. Says whether there were any.
    pub(super) fn round(&self) -> bool {
        let woken = mem::take(&mut lock(&self.state).woken);
        if woken.is_empty() {
            return false;
        }
        // For timers.
        let _context = connections::handle().enter();
        for task in woken {
            task.poll();
        }
        true
    }

    /// Whether a nap would be over at once.
    #[cfg(unix)]
    pub(super) fn glance(&self, bell: &Bell, socket: &TcpStream) -> io::Result<Option<Woken>> {
        if !lock(&self.state).woken.is_empty() {
            return Ok(Some(Woken::Rung));
        }
        let woken = bell.nap(socket, Duration::ZERO)?;
        Ok((woken != Woken::Late).then_some(woken))
    }

    /// Waits in the place of lapin's loop until there is something to read or a task is woken.
    #[cfg(unix)]
    pub(super) fn nap(
        &self,
        bell: &Arc<Bell>,
        socket: &TcpStream,
        longest: Duration,
    ) -> io::Result<Woken> {
        {
            let mut state = lock(&self.state);
            if !state.woken.is_empty() {
                return Ok(Woken::Rung);
            }
            state.naps = Some(Arc::clone(bell));
        }
        let woken = bell.nap(socket, longest);
        let is_rung = lock(&self.state).naps.take().is_none();
        if is_rung {
            bell.hear();
        }
        woken.map(|woken| match woken {
            Woken::Late if is_rung => Woken::Rung,
            woken => woken,
        })
    }

    pub(super) fn reads(&self, waker: &Waker) {
        let mut state = lock(&self.state);
        match &mut state.waker {
            Some(known) if known.will_wake(waker) => return,
            other => *other = Some(waker.clone()),
        }
        let is_late = !state.woken.is_empty();
        drop(state);
        if is_late {
            waker.wake_by_ref();
        }
    }

    pub(super) fn begin(&self) {
        lock(&self.state).runs = true;
    }

    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.runs = false;
        let woken = mem::take(&mut state.woken);
        drop(state);
        woken.into_iter().for_each(poll_elsewhere);
    }
}

fn poll_elsewhere(task: Arc<Task>) {
    connections::spawn(async move { task.poll() });
}

struct Task {
    thread: Arc<Thread>,
    /// None when it has ended.
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// It is to be polled, and has not been.
    is_woken: AtomicBool,
}

impl Task {
    fn poll(self: &Arc<Self>) {
        // Whoever wakes it from here on has it polled again; what he did before is seen below.
        self.is_woken.swap(false, Ordering::AcqRel);
        let mut place = lock(&self.future);
        let waker = Waker::from(Arc::clone(self));
        let poll = || {
            let Some(future) = place.as_mut() else { return };
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                *place = None;
            }
        };
        // A panic must not cost the connection; it has been told by the panic hook.
        if catch_unwind(AssertUnwindSafe(poll)).is_err() {
            let ended = place.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            let thread = Arc::clone(&self.thread);
            thread.poll_soon(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.thread.poll_soon(Arc::clone(self));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        sync::atomic::AtomicU32,
        task::Poll,
        time::Duration,
    };
    #[cfg(unix)]
    use std::{io::Write, net::TcpListener, thread, time::Instant};

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// lapin's loop, as far as it is woken.
    #[derive(Default)]
    struct Loop(AtomicU32);

    impl Wake for Loop {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn running() -> (Arc<Thread>, Arc<Loop>) {
        let (thread, rounds) = (Arc::<Thread>::default(), Arc::<Loop>::default());
        thread.begin();
        thread.reads(&Waker::from(Arc::clone(&rounds)));
        (thread, rounds)
    }

    #[test]
    fn what_was_woken_before_the_loop_was_known_is_polled_when_it_is() {
        let (thread, rounds) = (Arc::<Thread>::default(), Arc::<Loop>::default());
        thread.begin();
        let task = Counted::on(&thread);
        thread.reads(&Waker::from(Arc::clone(&rounds)));
        assert_eq!(rounds.0.load(Ordering::Relaxed), 1);
        thread.round();
        assert_eq!(task.polls(), 1);
    }

    /// A task that counts its polls, and leaves its waker.
    #[derive(Default)]
    struct Counted {
        polls: AtomicU32,
        waker: Mutex<Option<Waker>>,
    }

    impl Counted {
        fn on(thread: &Arc<Thread>) -> Arc<Self> {
            let counted = Arc::<Self>::default();
            let task = Arc::clone(&counted);
            thread.spawn(poll_fn(move |context| {
                task.polls.fetch_add(1, Ordering::Relaxed);
                *lock(&task.waker) = Some(context.waker().clone());
                Poll::Pending
            }));
            counted
        }

        fn wake(&self) {
            let waker = lock(&self.waker).clone();
            waker.expect("it was polled").wake();
        }

        fn polls(&self) -> u32 {
            self.polls.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_task_is_polled_in_the_round_after_it_was_woken_and_once_however_often() {
        let (thread, rounds) = running();
        let task = Counted::on(&thread);
        assert_eq!((task.polls(), rounds.0.load(Ordering::Relaxed)), (0, 1));
        thread.round();
        thread.round();
        assert_eq!(task.polls(), 1);
        task.wake();
        task.wake();
        assert_eq!((task.polls(), rounds.0.load(Ordering::Relaxed)), (1, 2));
        thread.round();
        thread.round();
        assert_eq!(task.polls(), 2);
    }

    #[test]
    fn a_task_that_wakes_itself_has_its_next_turn_in_the_next_round() {
        let (thread, rounds) = running();
        let polls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&polls);
        thread.spawn(poll_fn(move |context| {
            count.fetch_add(1, Ordering::Relaxed);
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        for round in 1..5 {
            thread.round();
            assert_eq!(polls.load(Ordering::Relaxed), round);
            assert_eq!(rounds.0.load(Ordering::Relaxed), round + 1);
        }
    }

    #[tokio::test]
    async fn tasks_go_on_when_the_thread_has_ended_whether_or_not_they_were_woken_before() {
        let (thread, _rounds) = running();
        let (go, gone) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        thread.spawn(async move { end.send(gone.await).unwrap() });
        thread.round();
        let (end_waiting, ended_waiting) = oneshot::channel();
        thread.spawn(async move { end_waiting.send(()).unwrap() });
        thread.end();
        timeout(SOON, ended_waiting).await.unwrap().unwrap();
        go.send(7).unwrap();
        assert_eq!(timeout(SOON, ended).await.unwrap(), Ok(Ok(7)));
        // And what comes only then.
        let (end, ended) = oneshot::channel();
        thread.spawn(async move { end.send(()).unwrap() });
        timeout(SOON, ended).await.unwrap().unwrap();
    }

    /// A task that ends so at its first poll. What it held, and its waker.
    fn end_on(thread: &Arc<Thread>, end: fn()) -> (Arc<()>, Arc<Mutex<Option<Waker>>>) {
        let (held, last) = (Arc::new(()), Arc::<Mutex<Option<Waker>>>::default());
        let (hold, kept) = (Arc::clone(&held), Arc::clone(&last));
        thread.spawn(poll_fn(move |context| {
            let _ = &hold;
            *lock(&kept) = Some(context.waker().clone());
            end();
            Poll::Ready(())
        }));
        (held, last)
    }

    #[test]
    fn a_task_that_panics_costs_itself_alone_and_is_dropped() {
        let (thread, _rounds) = running();
        let (held, _waker) = end_on(&thread, || panic!("that is what it is for"));
        let other = Counted::on(&thread);
        thread.round();
        assert_eq!((other.polls(), Arc::strong_count(&held)), (1, 1));
    }

    #[test]
    fn a_task_that_has_ended_is_dropped_and_may_be_woken() {
        let (thread, _rounds) = running();
        let (held, waker) = end_on(&thread, || {});
        thread.round();
        assert_eq!(Arc::strong_count(&held), 1);
        lock(&waker).take().unwrap().wake();
        thread.round();
        assert_eq!(Arc::strong_count(&thread), 1);
    }

    #[test]
    fn a_task_that_nothing_can_wake_is_dropped() {
        let (thread, _rounds) = running();
        thread.spawn(pending());
        thread.round();
        assert_eq!(Arc::strong_count(&thread), 1);
    }

    /// The loop of a connection on which nothing arrives, and what it needs for a nap.
    #[cfg(unix)]
    struct Napper {
        thread: Arc<Thread>,
        rounds: Arc<Loop>,
        bell: Arc<Bell>,
        socket: TcpStream,
        peer: TcpStream,
    }

    #[cfg(unix)]
    impl Napper {
        fn new() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (thread, rounds) = running();
            Self {
                thread,
                rounds,
                bell: Arc::new(Bell::new().unwrap()),
                socket,
                peer: listener.accept().unwrap().0,
            }
        }

        fn nap(&self, longest: Duration) -> Woken {
            let nap = self.thread.nap(&self.bell, &self.socket, longest);
            nap.unwrap()
        }

        fn is_woken(&self) -> bool {
            self.rounds.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    #[cfg(unix)]
    #[test]
    fn there_is_no_nap_while_a_task_has_yet_to_have_its_turn() {
        let napper = Napper::new();
        let task = Counted::on(&napper.thread);
        assert_eq!(napper.nap(SOON), Woken::Rung);
        napper.thread.round();
        task.wake();
        assert_eq!(napper.nap(SOON), Woken::Rung);
        // And the bell was not rung for them.
        napper.thread.round();
        assert_eq!(napper.nap(Duration::ZERO), Woken::Late);
    }

    #[cfg(unix)]
    #[test]
    fn a_nap_that_a_task_ends_leaves_nothing_for_the_next_however_many_are_woken() {
        let napper = Napper::new();
        let tasks: Vec<_> = (0..3).map(|_| Counted::on(&napper.thread)).collect();
        napper.thread.round();
        for _ in 0..100 {
            thread::scope(|scope| {
                scope.spawn(|| tasks.iter().for_each(|task| task.wake()));
                assert_eq!(napper.nap(SOON), Woken::Rung);
            });
            napper.thread.round();
            assert_eq!(napper.nap(Duration::ZERO), Woken::Late);
        }
        assert!(tasks.iter().all(|task| task.polls() == 101));
    }

    #[cfg(unix)]
    #[test]
    fn a_glance_sees_what_would_end_a_nap_at_once_and_takes_nothing_from_the_nap() {
        let mut napper = Napper::new();
        let glance = |napper: &Napper| napper.thread.glance(&napper.bell, &napper.socket).unwrap();
        assert_eq!(glance(&napper), None);
        let task = Counted::on(&napper.thread);
        assert_eq!(glance(&napper), Some(Woken::Rung));
        assert_eq!(napper.nap(SOON), Woken::Rung);
        napper.thread.round();
        assert_eq!((glance(&napper), task.polls()), (None, 1));
        napper.peer.write_all(&[1]).unwrap();
        // Loopback hands it over before the call returns, or soon.
        assert_eq!(napper.nap(SOON), Woken::Readable);
        assert_eq!(glance(&napper), Some(Woken::Readable));
    }

    /// However late in a nap a task is woken: the nap says so, or lapin's loop is woken.
    #[cfg(unix)]
    #[test]
    fn a_task_that_is_woken_at_the_end_of_a_nap_is_polled() {
        const TURNS: u32 = 5_000;
        let napper = Napper::new();
        let task = Counted::on(&napper.thread);
        napper.thread.round();
        assert!(napper.is_woken());
        thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 1..=TURNS {
                    let woken = Instant::now();
                    while task.polls() < turn {
                        assert!(woken.elapsed() < SOON, "a task was forgotten");
                        thread::yield_now();
                    }
                    task.wake();
                }
            });
            while task.polls() <= TURNS {
                if napper.nap(Duration::ZERO) == Woken::Late {
                    let late = Instant::now();
                    while !napper.is_woken() {
                        assert!(late.elapsed() < SOON, "a task was forgotten");
                        thread::yield_now();
                    }
                }
                napper.thread.round();
            }
        });
    }
}
