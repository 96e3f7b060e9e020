//! What lapin reads and writes: a socket, and the tasks of its thread.
//!
//! lapin's loop (4.12) flushes, writes while there is something to be written, reads until there is nothing
//! more, looks at what it has read, and then waits to be woken: by the reactor, when the socket is ready. On
//! a connection whose tasks are busy that is a change of threads for everything that arrives. So while
//! they are, the thread itself waits for the socket, in the place where lapin reads, and for its tasks.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::io::{AsyncRead, AsyncWrite};

#[cfg(unix)]
use super::{
    busy_poll::BusyPoll,
    nap::{Bell, Woken},
};
use super::{socket::Socket, thread::Thread};

/// How long the thread waits by itself, behind as much polling as it is allowed. What others than its
/// tasks want of lapin, such as a channel, waits as long.
#[cfg(unix)]
const NAP: Duration = Duration::from_millis(1);

pub(super) struct Stream {
    socket: Socket,
    thread: Arc<Thread>,
    /// Of the first nap and all others.
    #[cfg(unix)]
    bell: Option<Arc<Bell>>,
    #[cfg(unix)]
    busy_poll: BusyPoll,
    /// A task was polled since the thread last waited in vain.
    is_lively: bool,
    /// Something was read since the last flush, and lapin has not looked at it yet.
    has_read: bool,
    /// The socket took less than there was.
    is_full: bool,
}

impl Stream {
    /// Looks for up to `busy_poll` before each nap.
    pub(super) fn new(
        socket: tokio::net::TcpStream,
        thread: Arc<Thread>,
        #[cfg_attr(not(unix), expect(unused_variables, reason = "there are no naps"))]
        busy_poll: Duration,
    ) -> Self {
        thread.begin();
        Self {
            socket: Socket::Watched(socket),
            thread,
            #[cfg(unix)]
            bell: None,
            #[cfg(unix)]
            busy_poll: BusyPoll::new(busy_poll),
            is_lively: false,
            has_read: false,
            is_full: false,
        }
    }

    pub(super) fn second_handle(&self) -> io::Result<net::TcpStream> {
        self.socket.second_handle()
    }

    fn round(&mut self) -> bool {
        let polled = self.thread.round();
        self.is_lively |= polled;
        polled
    }

    fn read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.thread.reads(context.waker());
        // TLS that cannot write does not flush.
        let polled = self.round();
        if self.has_read && self.socket.is_own() {
            return come_again(context);
        }
        let mut read = self.socket.poll_read(context, buffer);
        if read.is_pending() {
            read = if polled {
                // What they publish goes out first.
                come_again(context)
            } else {
                self.linger(context, buffer)
            };
        }
        self.has_read |= read.is_ready();
        read
    }

    /// Waits for something to read, if that may be soon.
    #[cfg(unix)]
    fn linger(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.is_lively || self.is_full || self.has_read {
            return Poll::Pending;
        }
        let Ok(bell) = self.bell() else {
            // There are no descriptors left: the reactor does without.
            return Poll::Pending;
        };
        let socket = self.socket.own()?;
        let thread = &self.thread;
        let woken = self.busy_poll.wait(
            || thread.glance(&bell, socket).transpose(),
            || thread.nap(&bell, socket, NAP),
        );
        match woken? {
            Woken::Rung => return come_again(context),
            Woken::Readable => {}
            Woken::Late => {
                self.is_lively = false;
                self.socket.watch()?;
            }
        }
        let read = self.socket.poll_read(context, buffer);
        if read.is_pending() && self.socket.is_own() {
            // The nap was interrupted. Another would keep waiting what lapin has got meanwhile.
            return come_again(context);
        }
        read
    }

    #[cfg(unix)]
    fn bell(&mut self) -> io::Result<Arc<Bell>> {
        if let Some(bell) = &self.bell {
            return Ok(Arc::clone(bell));
        }
        let bell = Arc::new(Bell::new()?);
        Ok(Arc::clone(self.bell.insert(bell)))
    }

    #[cfg(not(unix))]
    fn linger(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
}

/// Nothing for now, but lapin's loop is to come back when it has been round.
fn come_again<T>(context: &mut Context<'_>) -> Poll<T> {
    context.waker().wake_by_ref();
    Poll::Pending
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.thread.end();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.read(context, buffer)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let buffer = buffers.iter_mut().find(|buffer| !buffer.is_empty());
        self.read(context, buffer.map_or(&mut [], |buffer| &mut **buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.socket.poll_write(context, slices);
        if written.is_pending() && self.socket.is_own() {
            self.socket.watch()?;
            written = self.socket.poll_write(context, slices);
        }
        if self.is_full && written.is_ready() {
            // TLS writes in a flush, too, perhaps before the reactor has told lapin that it may write.
            // Once the socket is taken from the reactor, nobody else would.
            context.waker().wake_by_ref();
        }
        self.is_full = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.round();
        self.has_read = false;
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The loop is over, and this may take its time.
        self.thread.end();
        self.socket.poll_close(context)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        future::poll_fn,
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        sync::{
            Mutex,
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        task::{Wake, Waker},
        thread,
        time::Instant,
    };

    use super::*;
    use crate::io as connections;

    const SOON: Duration = Duration::from_secs(20);

    /// lapin's loop, as far as it is woken.
    struct Loop(mpsc::SyncSender<()>);

    impl Wake for Loop {
        fn wake(self: Arc<Self>) {
            let _ = self.0.try_send(());
        }
    }

    /// A stream as lapin uses it, with a task on its thread.
    struct Scene {
        stream: Stream,
        peer: TcpStream,
        waker: Waker,
        rung: mpsc::Receiver<()>,
        polls: Arc<AtomicU32>,
        of_task: Arc<Mutex<Option<Waker>>>,
    }

    impl Scene {
        fn new() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let _context = connections::handle().enter();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let (ring, rung) = mpsc::sync_channel(1);
            let waker = Waker::from(Arc::new(Loop(ring)));
            let thread = Arc::<Thread>::default();
            let stream = Stream::new(socket, Arc::clone(&thread), Duration::ZERO);
            thread.reads(&waker);
            let (polls, of_task) = (Arc::<AtomicU32>::default(), Arc::<Mutex<_>>::default());
            thread.spawn(poll_fn({
                let (polls, of_task) = (Arc::clone(&polls), Arc::clone(&of_task));
                move |context| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    *of_task.lock().unwrap() = Some(context.waker().clone());
                    Poll::Pending
                }
            }));
            rung.recv_timeout(SOON).expect("a task was spawned");
            Self {
                stream,
                peer,
                waker,
                rung,
                polls,
                of_task,
            }
        }

        /// One whose task has just been polled.
        fn lively() -> Self {
            let mut scene = Self::new();
            scene.flush();
            assert_eq!(scene.polls(), 1);
            scene
        }

        fn flush(&mut self) {
            let mut context = Context::from_waker(&self.waker);
            let flushed = Pin::new(&mut self.stream).poll_flush(&mut context);
            assert!(matches!(flushed, Poll::Ready(Ok(()))));
        }

        fn read(&mut self) -> Poll<usize> {
            let mut context = Context::from_waker(&self.waker);
            let (mut buffer, mut nothing) = ([0; 100], []);
            let slices = &mut [IoSliceMut::new(&mut nothing), IoSliceMut::new(&mut buffer)];
            let read = Pin::new(&mut self.stream).poll_read_vectored(&mut context, slices);
            read.map(|read| read.expect("the connection is there"))
        }

        fn write(&mut self, bytes: &[u8]) -> Poll<usize> {
            let mut context = Context::from_waker(&self.waker);
            let written = Pin::new(&mut self.stream).poll_write(&mut context, bytes);
            written.map(|written| written.expect("the connection is there"))
        }

        /// Writes as much as there is room for, and tries once more.
        fn fill(&mut self) -> usize {
            let bytes = vec![0; 1 << 20];
            let mut written = 0;
            while let Poll::Ready(more) = self.write(&bytes) {
                written += more;
            }
            written
        }

        /// Whether lapin's loop goes round again at once.
        fn is_woken(&self) -> bool {
            self.rung.try_recv().is_ok()
        }

        fn polls(&self) -> u32 {
            self.polls.load(Ordering::Relaxed)
        }

        fn wake_task(&self) {
            self.of_task.lock().unwrap().clone().unwrap().wake();
        }

        /// Whether reading, in vain, takes a nap: only naps take as long each time.
        fn naps(&mut self, mut prepare: impl FnMut(&mut Self)) -> bool {
            (0..100).all(|_| {
                prepare(self);
                let start = Instant::now();
                assert_eq!(self.read(), Poll::Pending);
                start.elapsed() >= NAP
            })
        }

        /// Reads until the thread has waited in vain.
        fn fall_asleep(&mut self) {
            assert_eq!(self.read(), Poll::Pending);
            assert!(!self.stream.socket.is_own() && !self.is_woken());
        }
    }

    #[test]
    fn without_busy_tasks_waiting_is_left_to_the_reactor() {
        let mut scene = Scene::lively();
        scene.fall_asleep();
        scene.flush();
        scene.fall_asleep();
        scene.peer.write_all(b"hi").unwrap();
        scene.rung.recv_timeout(SOON).expect("it can be read");
        assert_eq!(scene.read(), Poll::Ready(2));
        assert!(!scene.stream.socket.is_own());
        // A task that is polled changes that.
        scene.wake_task();
        assert!(scene.is_woken());
        scene.flush();
        assert_eq!(scene.polls(), 2);
        scene.fall_asleep();
    }

    #[test]
    fn it_naps_once_after_a_task_had_its_turn_whoever_gave_it() {
        let mut scene = Scene::lively();
        assert!(scene.naps(|scene| {
            scene.wake_task();
            scene.flush();
        }));
        assert!(!scene.naps(Scene::flush));
        assert!(scene.naps(|scene| {
            scene.wake_task();
            assert_eq!(scene.read(), Poll::Pending);
            scene.flush();
        }));
    }

    #[test]
    fn a_lively_thread_reads_what_comes_while_it_waits() {
        let mut scene = Scene::lively();
        let mut peer = scene.peer.try_clone().unwrap();
        // As often as it takes: the thread may have waited in vain before the peer gets its turn.
        let owned = (0..1000).any(|_| {
            scene.wake_task();
            scene.flush();
            let writing = thread::scope(|scope| {
                scope.spawn(|| peer.write_all(b"hello").unwrap());
                loop {
                    let own = scene.stream.socket.is_own();
                    match scene.read() {
                        Poll::Ready(read) => {
                            assert_eq!(read, 5);
                            return own || scene.stream.socket.is_own();
                        }
                        Poll::Pending => scene.flush(),
                    }
                }
            });
            scene.flush();
            writing
        });
        assert!(owned, "it never waited by itself");
    }

    #[test]
    fn a_task_that_is_woken_ends_the_wait_and_has_its_turn() {
        for _ in 0..200 {
            let mut scene = Scene::lively();
            let of_task = scene.of_task.lock().unwrap().clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| of_task.wake());
                while scene.polls() < 2 {
                    assert_eq!(scene.read(), Poll::Pending);
                    // Whether it waited in vain or not, lapin's loop goes round.
                    scene.rung.recv_timeout(SOON).expect("a task was woken");
                    scene.flush();
                }
            });
        }
    }

    #[test]
    fn what_was_read_is_looked_at_before_anything_else() {
        let mut scene = Scene::lively();
        scene.stream.socket.own().unwrap();
        scene.peer.write_all(&[0; 300]).unwrap();
        for _ in 0..3 {
            let mut read = scene.read();
            while read.is_pending() {
                scene.flush();
                read = scene.read();
            }
            while scene.is_woken() {}
            assert_eq!(scene.read(), Poll::Pending);
            assert!(scene.is_woken() && scene.stream.socket.is_own());
            scene.flush();
        }
    }

    #[test]
    fn what_the_reactor_found_is_looked_at_before_the_wait() {
        let mut scene = Scene::lively();
        assert!(!scene.naps(|scene| {
            assert!(!scene.naps(Scene::flush));
            while scene.is_woken() {}
            scene.peer.write_all(b"hi").unwrap();
            scene.rung.recv_timeout(SOON).expect("it can be read");
            scene.wake_task();
            scene.flush();
            assert_eq!(scene.read(), Poll::Ready(2));
            assert!(!scene.stream.socket.is_own());
        }));
    }

    #[test]
    fn what_a_task_wrote_in_its_turn_goes_out_before_the_wait() {
        for owns in [false, true] {
            let mut scene = Scene::lively();
            if owns {
                scene.stream.socket.own().unwrap();
            }
            scene.wake_task();
            while scene.is_woken() {}
            assert_eq!(scene.read(), Poll::Pending);
            assert_eq!(scene.polls(), 2);
            assert!(scene.is_woken() && scene.stream.socket.is_own() == owns);
        }
    }

    #[test]
    fn a_full_socket_is_left_to_the_reactor() {
        let mut scene = Scene::lively();
        scene.stream.socket.own().unwrap();
        while scene.is_woken() {}
        let written = scene.fill();
        scene.flush();
        assert_eq!(scene.read(), Poll::Pending);
        assert!(!scene.stream.socket.is_own());
        let mut peer = scene.peer.try_clone().unwrap();
        let reading = thread::spawn(move || peer.read_exact(&mut vec![0; written]));
        loop {
            // lapin writes nothing more until it hears that it can.
            scene.rung.recv_timeout(SOON).expect("it can be written");
            if scene.write(b"more").is_ready() {
                break;
            }
        }
        reading.join().unwrap().unwrap();
        // And then it may wait by itself again.
        assert!(scene.naps(|scene| {
            scene.wake_task();
            scene.flush();
        }));
    }

    /// A write that succeeds was perhaps made by a flush of TLS, ahead of the reactor's word to lapin,
    /// which does not write until there is one. The word was lost when the thread then took the socket
    /// from the reactor to nap.
    #[test]
    fn a_socket_that_is_no_longer_full_says_so_itself() {
        let mut scene = Scene::lively();
        scene.stream.socket.own().unwrap();
        let written = scene.fill();
        let mut peer = scene.peer.try_clone().unwrap();
        let reading = thread::spawn(move || peer.read_exact(&mut vec![0; written]));
        let told = (0..).find_map(|_| {
            // One the reactor has not seen if the write succeeds.
            let (ring, rung) = mpsc::sync_channel(1);
            let waker = Waker::from(Arc::new(Loop(ring)));
            let mut context = Context::from_waker(&waker);
            let written = Pin::new(&mut scene.stream).poll_write(&mut context, b"more");
            written.is_ready().then(|| rung.try_recv().is_ok())
        });
        assert_eq!(told, Some(true));
        reading.join().unwrap().unwrap();
    }

    #[test]
    fn a_connection_that_was_reset_is_closed_without_an_error() {
        for owns in [false, true] {
            let mut scene = Scene::lively();
            if owns {
                scene.stream.socket.own().unwrap();
            }
            // The reactor may not have looked at it yet.
            while scene.write(b"never read").is_pending() {}
            let mut context = Context::from_waker(&scene.waker);
            drop(scene.peer);
            while Pin::new(&mut scene.stream)
                .poll_read(&mut context, &mut [0; 10])
                .is_pending()
            {
                let _ = Pin::new(&mut scene.stream).poll_flush(&mut context);
            }
            let closed = Pin::new(&mut scene.stream).poll_close(&mut context);
            assert!(matches!(closed, Poll::Ready(Ok(()))), "{closed:?}");
        }
    }

    #[test]
    fn the_end_of_the_connection_ends_the_wait() {
        let mut scene = Scene::lively();
        scene.stream.socket.own().unwrap();
        drop(scene.peer);
        let mut context = Context::from_waker(&scene.waker);
        // The system may take its time to tell of it.
        let read = loop {
            match Pin::new(&mut scene.stream).poll_read(&mut context, &mut [0; 10]) {
                Poll::Ready(read) => break read,
                Poll::Pending => scene.rung.recv_timeout(SOON).expect("it has ended"),
            }
            let _ = Pin::new(&mut scene.stream).poll_flush(&mut context);
        };
        assert!(matches!(read, Ok(0)), "{read:?}");
    }

    #[test]
    fn the_bell_ends_with_the_stream_though_the_thread_still_has_a_task() {
        let mut scene = Scene::lively();
        scene.fall_asleep();
        let bell = Arc::downgrade(scene.stream.bell.as_ref().expect("it has napped"));
        let thread = Arc::clone(&scene.stream.thread);
        drop(scene.stream);
        assert_eq!(bell.strong_count(), 0);
        assert!(Arc::strong_count(&thread) > 1);
    }
}
