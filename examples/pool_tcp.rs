//! A pool of TCP connections, and a server that is restarted under load.
//!
//! Thirty-two callers share eight connections to an echo server, and compare every answer with what
//! they sent. In the middle of it the server goes away, listener and connections alike. It stays
//! away until the pool has noticed and has probed in vain for a while, and then listens again on the
//! same port. A patient caller sees nothing of this but one long `get`: a request that the cut
//! interrupted is sent again on another connection, and no `get` fails.
//!
//! The program checks all that, and ends with exit code 1 if anything is not as it says here. First
//! comes what every user of a pool writes, a manager and its callers; then the story, what must hold
//! at its end, and the server.
//!
//! ```sh
//! cargo run --release --example pool_tcp
//! ```

use std::{
    error::Error,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    ops::AddAssign,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use wharf::{Backoff, Event, Failure, Manager, Pool};

const CALLERS: u64 = 32;
const CONNECTIONS: usize = 8;
/// Answers before the server stops, and again after it is back.
const ANSWERS: u64 = 20_000;
/// The server stays away until so many probes have failed.
const PROBES: usize = 5;
/// Before the first probe, half of this at least.
const PAUSE: Duration = Duration::from_millis(20);
/// What a caller is ready to wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// A request without an answer for so long is lost.
const LOST: Duration = Duration::from_secs(15);
/// The program takes two seconds, and longer on a busy machine. If it takes this long, something hangs.
const LIMIT: Duration = Duration::from_secs(120);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    end_after(LIMIT);
    match restart_under_load().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("pool_tcp: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn restart_under_load() -> Outcome<()> {
    let server = Server::listen(reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?)?;
    let (tell, news) = mpsc::unbounded_channel();
    let pool = Pool::builder(Dialler::new(server.address))
        .max_active(CONNECTIONS)
        .wait_timeout(PATIENCE)
        .check_interval(Duration::from_millis(50))
        .backoff(Backoff {
            min: PAUSE,
            max: PAUSE * 10,
        })
        .observer(move |event: &Event<'_>| pass_on(event, &tell))
        .build()?;

    let load = Arc::new(Load::default());
    let mut callers = JoinSet::new();
    for id in 0..CALLERS {
        callers.spawn(caller(id, pool.clone(), Arc::clone(&load)));
    }
    let (restart, tally) = tokio::try_join!(restart(server, &pool, news, &load), sum(callers))?;

    pool.close_within(PATIENCE)
        .await
        .map_err(|left| format!("resources leaked: {left}"))?;
    let left = restart.server.deserted().await;
    print_table(&pool, &tally, &restart);
    verify(&pool, &tally, &restart, left)?;
    println!("\nno get failed, no answer was lost or wrong, and nothing is left over");
    Ok(())
}

/// Makes connections to the echo server, and knows a good one from a bad one.
struct Dialler {
    address: SocketAddr,
    /// Every attempt to connect, in the order in which they ended.
    dials: Mutex<Vec<Dial>>,
}

impl Manager for Dialler {
    type Resource = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        let began = Instant::now();
        let connected = TcpStream::connect(self.address).await;
        self.note(began, connected.is_ok());
        let stream = connected?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// At every checkout: costs a system call at most, and sees a connection that was closed.
    fn is_alive(&self, stream: &TcpStream) -> bool {
        is_quiet(stream)
    }

    /// When a connection has not been checked for a while: does the other side really answer?
    async fn check(&self, stream: &mut TcpStream) -> io::Result<()> {
        match echo(stream, u64::MAX).await? {
            u64::MAX => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// On return: an answer that its caller did not stay to read must not reach the next one.
    fn reset(&self, stream: &mut TcpStream) -> bool {
        is_quiet(stream)
    }

    fn classify(&self, error: &io::Error) -> Failure {
        match error.kind() {
            // It will not get better by waiting: whoever asked should hear of it.
            ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Failure::Refuse,
            // Nobody there, or no way to get there. Callers wait, the pool probes.
            _ => Failure::Outage,
        }
    }
}

/// Nothing to read: neither the end of the stream, nor an error, nor somebody else's answer.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Sends a number and reads what comes back.
async fn echo(stream: &mut TcpStream, number: u64) -> io::Result<u64> {
    stream.write_u64(number).await?;
    stream.read_u64().await
}

/// Sends numbered requests, one after the other, until the load is taken off.
async fn caller(id: u64, pool: Pool<Dialler>, load: Arc<Load>) -> Outcome<Tally> {
    let mut tally = Tally::default();
    while !load.is_over() {
        let number = id << 32 | tally.answered;
        let answer = timeout(LOST, ask(&pool, number, &mut tally))
            .await
            .map_err(|_| format!("request {number} is lost: no answer within {LOST:?}"))??;
        if answer != number {
            return Err(format!("request {number} was answered with {answer}").into());
        }
        tally.answered += 1;
        load.note_answer();
    }
    Ok(tally)
}

/// Has a number echoed. A connection that breaks on the way is discarded, and the request, which
/// may safely be repeated, is sent again on another.
async fn ask(pool: &Pool<Dialler>, number: u64, tally: &mut Tally) -> Outcome<u64> {
    loop {
        let began = Instant::now();
        let mut connection = pool
            .get()
            .await
            .map_err(|error| format!("a get failed: {error}"))?;
        tally.note_get(began.elapsed());
        match echo(&mut connection, number).await {
            Ok(answer) => return Ok(answer),
            Err(_) => connection.discard(),
        }
        tally.retried += 1;
    }
}

/// What the pool's observer passes on to the story.
enum News {
    Down(String),
    Up { after: Duration },
}

fn pass_on(event: &Event<'_>, tell: &mpsc::UnboundedSender<News>) {
    let news = match event {
        Event::Down {
            cause,
            attempt,
            retry_in,
        } => News::Down(format!(
            "down: {cause} (attempt {attempt}, the next in {retry_in:.0?})"
        )),
        Event::Up { after } => News::Up { after: *after },
        _ => return,
    };
    // Nobody listens once the story has been told.
    let _ = tell.send(news);
}

/// What there is to say of the restart when it is over.
struct Restart {
    server: Server,
    /// From here to the end of the outage every dial was a probe.
    settled: Instant,
    outage: Duration,
}

/// Stops the server under load, starts it again, and takes the load off. Each step waits for the
/// one before it to show: for answers, for failed probes, for the end of the outage.
async fn restart(
    server: Server,
    pool: &Pool<Dialler>,
    mut news: mpsc::UnboundedReceiver<News>,
    load: &Load,
) -> Outcome<Restart> {
    println!("{CALLERS} callers share {CONNECTIONS} connections");
    load.answers(ANSWERS).await;

    let port = server.stop().await?;
    println!("the server is gone, after {} answers", load.answered());
    let settled = settle(pool, &mut news).await?;
    for _ in 0..PROBES {
        until_down(&mut news).await?;
    }

    let server = Server::listen(port)?;
    println!(
        "the server is back, and {} callers are waiting",
        pool.status().waiting
    );
    let outage = until_up(&mut news).await?;
    println!("up again after {outage:.0?}");
    load.answers(load.answered() + ANSWERS).await;

    load.take_off();
    Ok(Restart {
        server,
        settled,
        outage,
    })
}

/// Waits until the pool is down and the dials that were under way at that time have ended.
async fn settle(
    pool: &Pool<Dialler>,
    news: &mut mpsc::UnboundedReceiver<News>,
) -> Outcome<Instant> {
    loop {
        until_down(news).await?;
        let status = pool.status();
        if status.is_down && status.creating == 0 {
            return Ok(Instant::now());
        }
    }
}

async fn until_down(news: &mut mpsc::UnboundedReceiver<News>) -> Outcome<()> {
    loop {
        if let News::Down(what) = news.recv().await.ok_or("the pool fell silent")? {
            println!("  {what}");
            return Ok(());
        }
    }
}

async fn until_up(news: &mut mpsc::UnboundedReceiver<News>) -> Outcome<Duration> {
    loop {
        match news.recv().await.ok_or("the pool fell silent")? {
            News::Up { after } => return Ok(after),
            News::Down(what) => println!("  {what}"),
        }
    }
}

/// What cannot be checked on the way: that there was one prober at a time, that the pool counts what
/// its callers count, and that nothing is left at either end.
fn verify(pool: &Pool<Dialler>, tally: &Tally, restart: &Restart, left: usize) -> Outcome<()> {
    let probes = pool.manager().probes(restart.settled);
    // The pool announces when the next probe begins; half the first pause is the least it may.
    let patient = |pair: &[Dial]| pair[1].began >= pair[0].ended + PAUSE / 2;
    ensure(
        probes.windows(2).all(patient),
        "more than one prober at a time".to_owned(),
    )?;
    let totals = pool.status().totals;
    ensure(
        totals.leases == tally.gets,
        format!("{} leases in {} gets", totals.leases, tally.gets),
    )?;
    ensure(
        totals.created == totals.retired,
        format!("{} created, {} destroyed", totals.created, totals.retired),
    )?;
    ensure(
        left == 0,
        format!("the pool is closed, but the server still has connections: {left}"),
    )
}

fn ensure(holds: bool, fault: String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(fault.into()) }
}

fn print_table(pool: &Pool<Dialler>, tally: &Tally, restart: &Restart) {
    let status = pool.status();
    let row = |name: &str, value: String| println!("{name:<14}{value:>8}");
    println!();
    row("requests", tally.answered.to_string());
    row("retried", tally.retried.to_string());
    row("gets", tally.gets.to_string());
    row("created", status.totals.created.to_string());
    row("destroyed", status.totals.retired.to_string());
    row("outage", format!("{:.0?}", restart.outage));
    row("longest wait", format!("{:.0?}", tally.longest_wait));
    let state = if status.is_closed { "closed" } else { "open" };
    row("status", format!("{state}, {} resources", status.active()));
}

/// Ends the program if it has not ended by itself. A thread, for a runtime that hangs has no timers.
fn end_after(limit: Duration) {
    thread::spawn(move || {
        // real time: what hangs may be the clock of the runtime.
        thread::sleep(limit);
        eprintln!("pool_tcp: not over after {limit:?}; the last line shows how far it came");
        std::process::exit(1);
    });
}

/// What one caller has seen, or all of them together.
#[derive(Default)]
struct Tally {
    answered: u64,
    retried: u64,
    gets: u64,
    longest_wait: Duration,
}

impl Tally {
    fn note_get(&mut self, wait: Duration) {
        self.gets += 1;
        self.longest_wait = self.longest_wait.max(wait);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.retried += other.retried;
        self.gets += other.gets;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

async fn sum(mut callers: JoinSet<Outcome<Tally>>) -> Outcome<Tally> {
    let mut total = Tally::default();
    while let Some(tally) = callers.join_next().await {
        total += tally??;
    }
    Ok(total)
}

/// What the callers and the story share.
#[derive(Default)]
struct Load {
    answered: watch::Sender<u64>,
    over: AtomicBool,
}

impl Load {
    fn note_answer(&self) {
        self.answered.send_modify(|answered| *answered += 1);
    }

    fn answered(&self) -> u64 {
        *self.answered.borrow()
    }

    /// Waits for so many answers in all.
    async fn answers(&self, enough: u64) {
        let mut answered = self.answered.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = answered.wait_for(|answered| *answered >= enough).await;
    }

    fn take_off(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// An attempt to connect.
#[derive(Clone, Copy)]
struct Dial {
    began: Instant,
    ended: Instant,
    connected: bool,
}

impl Dialler {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            dials: Mutex::default(),
        }
    }

    fn note(&self, began: Instant, connected: bool) {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        dials.push(Dial {
            began,
            ended: Instant::now(),
            connected,
        });
    }

    /// The dials that began after this, up to the first that connected.
    fn probes(&self, after: Instant) -> Vec<Dial> {
        let dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        let later: Vec<Dial> = dials
            .iter()
            .copied()
            .filter(|dial| dial.began > after)
            .collect();
        later
            .split_inclusive(|dial| dial.connected)
            .next()
            .map_or(Vec::new(), <[Dial]>::to_vec)
    }
}

struct Server {
    address: SocketAddr,
    /// How many connections are open.
    open: watch::Receiver<usize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    fn listen(port: TcpSocket) -> io::Result<Self> {
        let listener = port.listen(1024)?;
        let address = listener.local_addr()?;
        let (count, open) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        Ok(Self {
            address,
            open,
            stop,
            task: tokio::spawn(serve(listener, count, stopped)),
        })
    }

    /// Closes the listener and every connection. What remains is the port: whoever connects to it
    /// is refused, and nobody else can take it.
    async fn stop(self) -> io::Result<TcpSocket> {
        drop(self.stop);
        self.task.await?;
        reserve(self.address)
    }

    /// Waits until the clients have closed their connections, and says how many have not.
    async fn deserted(&self) -> usize {
        let mut open = self.open.clone();
        let _ = timeout(PATIENCE, open.wait_for(|open| *open == 0)).await;
        *self.open.borrow()
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections that ended lately still occupy the port otherwise.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(
    listener: TcpListener,
    open: watch::Sender<usize>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => drop(connections.spawn(answer(stream))),
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
        open.send_replace(connections.len());
    }
    drop(listener);
    connections.shutdown().await;
}

/// Sends back what comes, until the client has enough.
async fn answer(mut stream: TcpStream) -> io::Result<u64> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await
}
