//! The task of one connection.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::TcpStream,
    task::{consume_budget, yield_now},
    time::{Instant, sleep_until, timeout},
};

use super::{
    buffers::Sizing,
    hub::{Desk, Hub, Kick},
    input::{Input, is_tune_ok},
    lobby::Guest,
    socket::Socket,
};
use crate::{
    codec::{Encoder, frame_len},
    engine::{ConnectionId, Engine, Frame, Output},
    faults::{Blow, Direction, Tap},
};

/// After the last byte was written, the peer's own are read and dropped for so long: closing a
/// socket with unread bytes resets it, and the peer might lose what the broker said last.
const LINGER: Duration = Duration::from_secs(1);

/// The work a connection may cause in one turn under the lock, as the engine counts it. One message
/// to many queues may be more.
const SHARE: u64 = 2_000;

/// A socket, the frames it brought and the bytes it is to take.
///
/// It goes round: wait for the socket or the engine, read, decode, let the engine have the frames
/// and take its answers (the one moment under the lock), encode, write. What one read brought may
/// take several turns, with the others' in between. What the engine has for this connection is
/// fetched when all that was fetched before is written, so the engine's own outbox is the only queue
/// and its limit the only one needed.
#[derive(Debug)]
pub(super) struct Connection {
    post: Arc<Post>,
    kick: Arc<Kick>,
    send_timeout: Duration,
}

/// What can be done without waiting, by the connection's task or by whoever has something for the peer.
#[derive(Debug)]
struct Post {
    socket: Socket,
    hub: Arc<Hub>,
    id: ConnectionId,
    /// Never held across an await. Before the engine's lock, never under it.
    work: Mutex<Work>,
}

#[derive(Debug)]
struct Work {
    /// Held until the handshake is done.
    handshake: Option<Guest>,
    input: Input,
    output: Outgoing,
    tap: Tap,
    strike: Strike,
    /// Whether it left off with frames in hand, so that others have their turn.
    is_busy: bool,
    /// The engine does not know of the connection any more.
    is_over: bool,
}

#[derive(Debug)]
struct Outgoing {
    encoder: Encoder,
    bytes: Vec<u8>,
    written: usize,
    sizing: Sizing,
    frame_max: u32,
    /// What the engine is told when all of it is written.
    cost: usize,
    /// When the socket last took something, while it does not take more.
    stalled_since: Option<Instant>,
}

/// What a fault has in store.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Strike {
    None,
    /// The peer has sent its last frame that is taken, and is still to have the answers to it.
    AfterAnswers(Blow),
    /// As soon as what is in the buffer is written.
    Now(Blow),
}

/// Why a connection's turn under the lock is over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Pause {
    /// There is nothing that the engine would take.
    Done,
    /// More is to be decoded.
    Undecoded,
    /// It has had its share.
    Spent,
}

/// How a connection goes on after a turn.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Next {
    Wait,
    /// There may be more to write at once.
    Again,
    /// Everything is written, the last word among it.
    Finished,
    Blow(Blow),
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        hub: Arc<Hub>,
        id: ConnectionId,
        kick: Arc<Kick>,
        handshake: Guest,
        send_timeout: Duration,
    ) -> Self {
        let work = Work {
            handshake: Some(handshake),
            input: Input::new(),
            output: Outgoing::new(),
            tap: hub.faults().tap(id),
            strike: Strike::None,
            is_busy: false,
            is_over: false,
        };
        let post = Arc::new(Post {
            socket,
            hub,
            id,
            work: Mutex::new(work),
        });
        Self {
            post,
            kick,
            send_timeout,
        }
    }

    /// Serves the peer until either side is done.
    pub(super) async fn run(self) {
        let post = Arc::downgrade(&self.post);
        self.kick.leads_to(post);
        loop {
            consume_budget().await;
            let (next, is_busy) = self.post.go_on();
            match next {
                Ok(Next::Again | Next::Wait) if is_busy => {
                    yield_now().await;
                    continue;
                }
                Ok(Next::Again) => continue,
                Ok(Next::Wait) => {}
                Ok(Next::Finished) => return self.linger().await,
                Ok(Next::Blow(Blow::Cut)) => return self.cut(),
                Ok(Next::Blow(Blow::Silence)) => return self.stay_silent().await,
                Err(_) => return,
            }
            match self.wait().await {
                Ok(()) => {}
                // Of TLS that was not understood, or of a client that it does not let in. It is told.
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return self.linger().await;
                }
                Err(_) => return,
            }
        }
    }

    /// Closes with a reset, so that the peer's connect or first read fails at once.
    pub(super) fn reset(self) {
        // If it can not be set the peer reads an end instead.
        let _ = SockRef::from(self.post.socket.tcp()).set_linger(Some(Duration::ZERO));
    }

    /// Until the engine has something, the socket brings something, or takes something, or the peer
    /// is gone that nobody reads from because it publishes under an alarm.
    async fn wait(&self) -> io::Result<()> {
        let Post { socket, work, .. } = &*self.post;
        let (stalled, wanted) = work.lock().awaits();
        let patience = stalled.map(|since| since + self.send_timeout);
        tokio::select! {
            biased;
            () = self.kick.kicked() => Ok(()),
            ready = socket.writable(), if stalled.is_some() => ready,
            ready = socket.readable(), if wanted => {
                ready?;
                work.lock().input.read(socket)
            }
            () = gone(socket.tcp()), if !wanted && stalled.is_none() => {
                Err(ErrorKind::UnexpectedEof.into())
            }
            () = at(patience) => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// After the last word.
    async fn linger(self) {
        self.post.disconnect();
        let socket = &self.post.socket;
        let _ = timeout(LINGER, async {
            socket.end().await?;
            discard(socket.tcp()).await
        })
        .await;
    }

    /// The peer has had everything up to here and gets no more.
    fn cut(self) {
        // Everything written is on its way; whether the peer hears of the end is its own affair.
        let _ = self.post.socket.cut();
    }

    /// The socket stays open and nothing comes from it any more, whatever the peer does, as if the
    /// network in between had gone. The engine finds out by itself.
    async fn stay_silent(self) {
        let Post {
            socket,
            hub,
            id,
            work,
        } = &*self.post;
        let mut lost = Vec::new();
        let unheard = async {
            loop {
                let unwritten = std::mem::take(&mut work.lock().output.cost);
                hub.with_own(*id, |engine, now| {
                    let cost = engine.drain(*id, &mut lost) + unwritten;
                    engine.written(*id, cost, now);
                });
                if lost.drain(..).any(|output| matches!(output, Output::Close)) {
                    return self.post.disconnect();
                }
                self.kick.kicked().await;
            }
        };
        let held = discard(socket.tcp());
        tokio::pin!(unheard);
        tokio::pin!(held);
        tokio::select! {
            () = &mut unheard => { let _ = held.await; }
            _ = &mut held => {}
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.post.disconnect();
    }
}

impl Post {
    fn disconnect(&self) {
        self.work.lock().is_over = true;
        self.hub.disconnect(self.id);
    }

    /// Gives the engine what was read, and the peer what the engine has. Says whether it left off with
    /// frames in hand.
    fn go_on(&self) -> (io::Result<Next>, bool) {
        let mut work = self.work.lock();
        work.turn(&self.hub, self.id);
        (work.write(&self.socket), work.is_busy)
    }
}

impl Desk for Post {
    fn go_on_for_task(&self) -> bool {
        let Some(mut work) = self.work.try_lock() else {
            return false;
        };
        if work.is_busy || work.is_over {
            return false;
        }
        let awaited = work.awaits();
        loop {
            work.turn(&self.hub, self.id);
            match work.write(&self.socket) {
                Ok(Next::Again) if !work.is_busy => {}
                Ok(Next::Wait) => return !work.is_busy && work.awaits() == awaited,
                _ => return false,
            }
        }
    }
}

impl Work {
    /// The engine takes the frames that were read, a batch at a time under the lock, and gives what
    /// it has for the peer.
    fn turn(&mut self, hub: &Hub, id: ConnectionId) {
        let mut pause = Pause::Undecoded;
        while pause == Pause::Undecoded {
            self.input.decode();
            pause = hub.with_own(id, |engine, now| self.batch(hub, id, engine, now));
        }
        self.is_busy = pause == Pause::Spent;
        self.output.encode(&mut self.tap, &mut self.strike);
    }

    /// One time under the lock.
    fn batch(
        &mut self,
        hub: &Hub,
        id: ConnectionId,
        engine: &mut Engine,
        now: std::time::Instant,
    ) -> Pause {
        if self.output.is_written() && self.output.cost > 0 {
            engine.written(id, std::mem::take(&mut self.output.cost), now);
        }
        let pause = self.hand_over(hub, id, engine, now);
        if pause != Pause::Undecoded {
            self.fetch(id, engine);
        }
        self.input.wanted = engine.wants_more(id) && self.strike == Strike::None;
        if self.handshake.is_some() && engine.is_open(id) {
            self.handshake = None;
            self.input.open();
        }
        pause
    }

    /// Gives the engine one frame after the other, as long as it wants them and no fault is due.
    fn hand_over(
        &mut self,
        hub: &Hub,
        id: ConnectionId,
        engine: &mut Engine,
        now: std::time::Instant,
    ) -> Pause {
        let before = engine.work();
        if self.tap.is_armed() {
            self.tap.meet(engine.peer(id));
        }
        while self.strike == Strike::None && engine.wants_more(id) {
            if self.input.is_undecoded() {
                return Pause::Undecoded;
            }
            if let Some((Ok(frame), _)) = self.input.front()
                && (engine.work() - before > SHARE || engine.must_wait(id, frame, now))
            {
                return Pause::Spent;
            }
            if self.tap.is_armed() {
                if let Some(blow) = self.struck_before_next() {
                    self.strike = Strike::AfterAnswers(blow);
                    break;
                }
                hub.faults().carry_out(engine, now);
            }
            let Some((frame, len)) = self.input.pop() else {
                break;
            };
            match frame {
                Ok(frame) => {
                    self.tap.pass(Direction::Received, counts(&frame), len);
                    let agreed = is_tune_ok(&frame);
                    engine.receive(id, frame, now);
                    if agreed {
                        let frame_max = engine.frame_max(id);
                        self.input.agree(frame_max);
                        self.output.frame_max = frame_max;
                    }
                }
                Err(what) => engine.malformed(id, what, now),
            }
        }
        Pause::Done
    }

    /// Takes what the engine has for the peer, if all that it had before is written.
    fn fetch(&mut self, id: ConnectionId, engine: &mut Engine) {
        if !self.output.is_written() || matches!(self.strike, Strike::Now(_)) {
            return;
        }
        self.output.fetch(engine, id);
        if let Strike::AfterAnswers(blow) = self.strike {
            self.strike = Strike::Now(blow);
        }
    }

    fn struck_before_next(&mut self) -> Option<Blow> {
        let next = self.input.front().map(|(_, len)| *len);
        let behind = self.input.behind();
        self.tap
            .struck(Direction::Received, next, behind)
            .map(|struck| struck.blow)
    }

    /// Writes what the socket takes.
    fn write(&mut self, socket: &Socket) -> io::Result<Next> {
        loop {
            self.output.encode(&mut self.tap, &mut self.strike);
            match self.output.write(socket) {
                Ok(true) => self.output.stalled_since = None,
                Ok(false) => return Ok(self.written()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.output.stalled_since.get_or_insert_with(Instant::now);
                    return Ok(Next::Wait);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn written(&self) -> Next {
        match self.strike {
            Strike::Now(blow) => Next::Blow(blow),
            Strike::AfterAnswers(_) => Next::Again,
            Strike::None if self.output.encoder.is_closing() => Next::Finished,
            Strike::None if self.output.cost > 0 => Next::Again,
            Strike::None => Next::Wait,
        }
    }

    /// Since when the socket takes nothing, and whether anything is to be read.
    fn awaits(&self) -> (Option<Instant>, bool) {
        (self.output.stalled_since, self.input.wanted)
    }
}

impl Outgoing {
    fn new() -> Self {
        Self {
            encoder: Encoder::default(),
            bytes: Vec::new(),
            written: 0,
            sizing: Sizing::new(),
            frame_max: 0,
            cost: 0,
            stalled_since: None,
        }
    }

    fn fetch(&mut self, engine: &mut Engine, id: ConnectionId) {
        let mut outputs = Vec::new();
        self.cost = engine.drain(id, &mut outputs);
        self.encoder.load(outputs);
    }

    fn bytes_are_written(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn is_written(&self) -> bool {
        self.bytes_are_written() && self.encoder.is_empty()
    }

    /// Whether the socket took something. If not, there is nothing for it.
    fn write(&mut self, socket: &Socket) -> io::Result<bool> {
        if socket.try_flush()? {
            return Ok(true);
        }
        if self.bytes_are_written() {
            return Ok(false);
        }
        match socket.try_write(&self.bytes[self.written..])? {
            0 => Err(ErrorKind::WriteZero.into()),
            taken => {
                self.written += taken;
                Ok(true)
            }
        }
    }

    /// Fills the buffer once it is written out.
    fn encode(&mut self, tap: &mut Tap, strike: &mut Strike) {
        if !self.bytes_are_written() || self.encoder.is_empty() {
            return;
        }
        self.sizing.adapt(self.bytes.len());
        self.bytes.clear();
        self.written = 0;
        if self.sizing.is_excessive(self.bytes.capacity()) {
            self.bytes = Vec::new();
        }
        let enough = self.sizing.size();
        self.encoder.fill(&mut self.bytes, enough, self.frame_max);
        if tap.is_armed() {
            self.cut_short(tap, strike);
        }
    }

    /// Drops what a fault keeps from the peer.
    fn cut_short(&mut self, tap: &mut Tap, strike: &mut Strike) {
        let mut sent = 0;
        loop {
            let next = frame_len(&self.bytes[sent..]);
            if let Some(struck) = tap.struck(Direction::Sent, next, 0) {
                self.bytes.truncate(sent + struck.part);
                self.encoder = Encoder::default();
                *strike = Strike::Now(struck.blow);
                return;
            }
            let Some(len) = next else {
                return;
            };
            tap.pass(Direction::Sent, self.bytes[sent] != b'A', len);
            sent += len;
        }
    }
}

/// The protocol header is no frame.
fn counts(frame: &Frame) -> bool {
    !matches!(frame, Frame::ProtocolHeader(_))
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Until the peer has ended or reset the connection, whatever it has sent before and nobody has read.
/// Where the system does not tell, until the next write fails.
async fn gone(socket: &TcpStream) {
    // Nothing urgent is ever looked for: this is tokio's one interest that an end alone satisfies.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let end = Interest::PRIORITY | Interest::ERROR;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let end = Interest::ERROR;
    if socket.ready(end).await.is_err() {
        // The runtime is shutting down, and this task with it.
        std::future::pending::<()>().await;
    }
}

/// Reads and drops until the peer ends or resets the connection.
async fn discard(socket: &TcpStream) -> io::Result<()> {
    let mut dropped = [0; 1024];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut dropped) {
            Ok(0) => return Ok(()),
            Ok(_) => consume_budget().await,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
