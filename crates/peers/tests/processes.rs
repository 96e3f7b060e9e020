//! Processes that send to each other, and are killed, started again, stopped and continued.
//!
//! The tests start this very program again for each of them. `WHARF_PEERS_KILLS` says how often one is
//! killed.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Read, Write, stdin, stdout},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use common::{LONG, address, peer};
use futures_util::future::join_all;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use wharf_peers::{Peer, PeerState, Restarted, SendError};
use wharf_testkit::{
    proxy::Proxy,
    wait::{eventually, eventually_some, within},
};

/// How often a process is killed in each test that does it.
const KILLS: usize = 10;
/// Packets to one peer at a time.
const AT_ONCE: u64 = 20;

/// Where nobody listens.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

const NAME: &str = "WHARF_PEERS_TEST_NAME";
const LIFE: &str = "WHARF_PEERS_TEST_LIFE";
const OTHERS: &str = "WHARF_PEERS_TEST_OTHERS";
const REDELIVER: &str = "WHARF_PEERS_TEST_REDELIVER";

/// One line of a process: what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// It listens.
    At(String),
    /// It handled a packet of this sender, in this life of it.
    Handled(String, u64, u64),
    /// A packet to this receiver was accepted.
    Accepted(String, u64),
    /// The receiver had restarted.
    Restarted(String, u64),
    /// There is a connection to this receiver.
    Found(String),
    /// There is none any more.
    Lost(String),
    /// It sends nothing more, and all that it sent is answered.
    Quiet,
}

impl Said {
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse().unwrap();
        Some(match words[..] {
            ["at", at] => Self::At(at.to_owned()),
            ["handled", from, life, each] => {
                Self::Handled(from.to_owned(), number(life), number(each))
            }
            ["accepted", to, each] => Self::Accepted(to.to_owned(), number(each)),
            ["restarted", to, each] => Self::Restarted(to.to_owned(), number(each)),
            ["found", to] => Self::Found(to.to_owned()),
            ["lost", to] => Self::Lost(to.to_owned()),
            ["quiet"] => Self::Quiet,
            ["failed", ..] => panic!("{line}"),
            // The test harness says something too.
            _ => return None,
        })
    }
}

/// A process, as its parent sees it.
struct Process {
    life: u64,
    child: Child,
    orders: Option<ChildStdin>,
    said: Arc<Mutex<Vec<Said>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    fn start(name: &str, life: u64, others: &str, restarted: Restarted) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_process_itself", "--nocapture"])
            .env(NAME, name)
            .env(LIFE, life.to_string())
            .env(OTHERS, others)
            .env(REDELIVER, (restarted == Restarted::Redeliver).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<Vec<Said>>>::default();
        let orders = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let heard = Arc::clone(&said);
        let reader = thread::spawn(move || {
            let mut line = String::new();
            // A line without an end was not said.
            while lines.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                heard.lock().extend(Said::read(line.trim_end()));
                line.clear();
            }
        });
        Self {
            life,
            child,
            orders,
            said,
            reader: Some(reader),
        }
    }

    async fn at(&self) -> String {
        let at = async || {
            let said = self.said.lock();
            said.iter().find_map(|said| match said {
                Said::At(at) => Some(at.clone()),
                _ => None,
            })
        };
        eventually_some("it listens", LONG, at).await
    }

    /// Until it has handled and been answered so often, from now on.
    async fn works(&self, times: usize) {
        let did = |said: &Said| matches!(said, Said::Handled(..) | Said::Accepted(..));
        let begin = self.said.lock().len();
        let enough = async || {
            let said = self.said.lock();
            said[begin..].iter().filter(|said| did(said)).count() >= times
        };
        eventually("it works", LONG, enough).await;
    }

    async fn says(&self, what: &Said) {
        let heard = async || self.said.lock().contains(what);
        eventually(&format!("it says {what:?}"), LONG, heard).await;
    }

    /// Until it has no connection to this receiver.
    async fn misses(&self, receiver: &str) {
        let found = Said::Found(receiver.to_owned());
        let lost = Said::Lost(receiver.to_owned());
        let misses = async || {
            let said = self.said.lock();
            said.iter().rfind(|&said| *said == found || *said == lost) == Some(&lost)
        };
        eventually("it misses the receiver", LONG, misses).await;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// What it said, to its end.
    fn end(&mut self) -> Vec<Said> {
        drop(self.orders.take());
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it said what makes sense");
        }
        std::mem::take(&mut *self.said.lock())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Several processes, each at an address that it keeps.
struct Fleet {
    names: Vec<&'static str>,
    restarted: Restarted,
    proxies: Vec<Proxy>,
    processes: Vec<Process>,
    ledger: Ledger,
}

impl Fleet {
    async fn start(names: &[&'static str], restarted: Restarted) -> Self {
        let proxies = join_all(names.iter().map(|_| Proxy::to(NOWHERE))).await;
        let mut fleet = Self {
            names: names.to_vec(),
            restarted,
            proxies,
            processes: Vec::new(),
            ledger: Ledger::default(),
        };
        for nth in 0..names.len() {
            let process = fleet.process(nth, 0).await;
            fleet.processes.push(process);
        }
        fleet
    }

    async fn process(&self, nth: usize, life: u64) -> Process {
        let at = self.names.iter().zip(&self.proxies).enumerate();
        let others = at.filter(|(other, _)| *other != nth);
        let others: Vec<String> = others
            .map(|(_, (name, proxy))| format!("{name}={}", proxy.addr()))
            .collect();
        let process = Process::start(self.names[nth], life, &others.join(","), self.restarted);
        let at = process.at().await;
        self.proxies[nth].retarget(at.parse().unwrap());
        process
    }

    async fn works(&self, times: usize) {
        join_all(self.processes.iter().map(|process| process.works(times))).await;
    }

    /// SIGKILL, and another life.
    async fn kill(&mut self, nth: usize) {
        // The port that it leaves may become that of a process of the same name in another test.
        self.proxies[nth].retarget(NOWHERE);
        let life = self.processes[nth].life;
        self.processes[nth].child.kill().unwrap();
        let said = self.processes[nth].end();
        self.ledger.note(self.names[nth], life, said);
        self.processes[nth] = self.process(nth, life + 1).await;
    }

    /// Lets everybody come to an end, and looks at the whole.
    async fn finish(mut self) -> Ledger {
        for process in &mut self.processes {
            process.orders.as_mut().unwrap().write_all(b"\n").unwrap();
        }
        for process in &self.processes {
            process.says(&Said::Quiet).await;
        }
        for (name, process) in self.names.iter().zip(&mut self.processes) {
            let life = process.life;
            self.ledger.note(name, life, process.end());
        }
        self.ledger.check(self.restarted);
        self.ledger
    }
}

/// A sender in one life of it, and a receiver.
type Way = (String, u64, String);

#[derive(Default)]
struct Ledger {
    accepted: BTreeMap<Way, Vec<u64>>,
    restarted: BTreeMap<Way, Vec<u64>>,
    /// By the receiver's life.
    handled: BTreeMap<Way, BTreeMap<u64, Vec<u64>>>,
}

impl Ledger {
    fn note(&mut self, name: &str, life: u64, said: Vec<Said>) {
        let own = |to: String| (name.to_owned(), life, to);
        for said in said {
            match said {
                Said::Handled(from, its_life, number) => {
                    let way = (from, its_life, name.to_owned());
                    let lives = self.handled.entry(way).or_default();
                    lives.entry(life).or_default().push(number);
                }
                Said::Accepted(to, number) => {
                    self.accepted.entry(own(to)).or_default().push(number);
                }
                Said::Restarted(to, number) => {
                    self.restarted.entry(own(to)).or_default().push(number);
                }
                Said::At(_) | Said::Found(_) | Said::Lost(_) | Said::Quiet => {}
            }
        }
    }

    fn check(&self, restarted: Restarted) {
        for (way, lives) in &self.handled {
            for (life, numbers) in lives {
                let ascends = numbers.is_sorted_by(|one, next| one < next);
                assert!(ascends, "{way:?}, life {life}: {numbers:?}");
            }
            let all: Vec<u64> = lives.values().flatten().copied().collect();
            let once = all.is_sorted_by(|one, next| one < next);
            match restarted {
                Restarted::Fail => assert!(once, "{way:?}: {lives:?}"),
                // Nothing is left out: each life goes on at most one behind the last.
                Restarted::Redeliver => {
                    let numbers: BTreeSet<u64> = all.into_iter().collect();
                    assert!(
                        numbers.into_iter().eq(0..=lives_max(lives)),
                        "{way:?}: {lives:?}"
                    );
                }
            }
        }
        for (way, accepted) in &self.accepted {
            let lives = self.handled.get(way);
            let handled: BTreeSet<_> = lives.iter().flat_map(|it| it.values()).flatten().collect();
            let lost: Vec<_> = accepted.iter().filter(|it| !handled.contains(it)).collect();
            assert!(
                lost.is_empty(),
                "{way:?}: accepted and not handled: {lost:?}"
            );
        }
        if restarted == Restarted::Redeliver {
            assert!(self.restarted.is_empty(), "{:?}", self.restarted);
        }
    }

    fn count(of: &BTreeMap<Way, Vec<u64>>) -> usize {
        of.values().map(Vec::len).sum()
    }

    fn handled(&self) -> usize {
        let lives = self.handled.values().flat_map(BTreeMap::values);
        lives.map(Vec::len).sum()
    }
}

fn lives_max(lives: &BTreeMap<u64, Vec<u64>>) -> u64 {
    lives.values().flatten().copied().max().unwrap_or(0)
}

async fn kill_over_and_over(names: &[&'static str], restarted: Restarted) {
    let kills = env::var("WHARF_PEERS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut fleet = Fleet::start(names, restarted).await;
    for _ in 0..kills {
        fleet.works(30 + fastrand::usize(..50)).await;
        fleet.kill(fastrand::usize(..names.len())).await;
    }
    fleet.works(50).await;
    let ledger = fleet.finish().await;
    println!(
        "{kills} kills: {} accepted, {} handled, {} restarted",
        Ledger::count(&ledger.accepted),
        ledger.handled(),
        Ledger::count(&ledger.restarted),
    );
}

#[tokio::test]
async fn of_two_that_are_killed_each_handles_at_most_once_and_in_order() {
    kill_over_and_over(&["a", "b"], Restarted::Fail).await;
}

#[tokio::test]
async fn of_two_that_are_killed_each_handles_at_least_once_and_in_order() {
    kill_over_and_over(&["a", "b"], Restarted::Redeliver).await;
}

#[tokio::test]
async fn of_five_that_are_killed_each_handles_at_most_once_and_in_order() {
    kill_over_and_over(&["a", "b", "c", "d", "e"], Restarted::Fail).await;
}

#[tokio::test]
async fn one_that_stands_still_is_noticed_and_goes_on_where_it_was() {
    let fleet = Fleet::start(&["a", "b"], Restarted::Fail).await;
    for _ in 0..2 {
        fleet.works(50).await;
        let [a, b] = &fleet.processes[..] else {
            panic!("there are two");
        };
        a.signal(Signal::STOP);
        b.misses("a").await;
        a.signal(Signal::CONT);
    }
    fleet.works(50).await;
    let ledger = fleet.finish().await;
    // Both lived all the time, so that nothing else could come of any packet.
    assert!(ledger.restarted.is_empty(), "{:?}", ledger.restarted);
    assert_eq!(Ledger::count(&ledger.accepted), ledger.handled());
}

/// Not a test by itself: it does nothing unless it is started by those above.
#[test]
fn the_process_itself() {
    let Ok(name) = env::var(NAME) else {
        return;
    };
    let life: u64 = env::var(LIFE).unwrap().parse().unwrap();
    let redeliver: bool = env::var(REDELIVER).unwrap().parse().unwrap();
    let others = env::var(OTHERS).unwrap();
    let others: Vec<(&str, &str)> = others
        .split(',')
        .map(|other| other.split_once('=').unwrap())
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(live(&name, life, &others, redeliver));
}

async fn live(name: &str, life: u64, others: &[(&str, &str)], redeliver: bool) {
    let mut builder = peer(name)
        .listen("127.0.0.1:0")
        .heartbeat(1)
        .connect_timeout(Duration::from_secs(1))
        .send_timeout(LONG)
        .restarted(match redeliver {
            true => Restarted::Redeliver,
            false => Restarted::Fail,
        });
    for (name, at) in others {
        builder = builder.peer(*name, *at);
    }
    let handler = |from: Arc<str>, packet: Bytes| async move {
        let number = |at: usize| u64::from_be_bytes(packet[at..at + 8].try_into().unwrap());
        say(&format!("handled {from} {} {}\n", number(0), number(8)));
        Ok(())
    };
    let own = builder.start(handler).await.unwrap();
    say(&format!("at {}\n", address(&own).await));
    for (name, _) in others {
        let mut state = own.watch(name).unwrap();
        let name = (*name).to_owned();
        tokio::spawn(async move {
            let is_up = |state: &PeerState| state.is_connected();
            while state.wait_for(is_up).await.is_ok() {
                say(&format!("found {name}\n"));
                let _ = state.wait_for(|state| !is_up(state)).await;
                say(&format!("lost {name}\n"));
            }
        });
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    let orders = tokio::task::spawn_blocking(move || {
        let _ = stdin().read_line(&mut String::new());
        told.store(true, Ordering::Relaxed);
    });
    let ways = others
        .iter()
        .map(|(to, _)| send_on(&own, to, life, &is_over));
    join_all(ways).await;
    say("quiet\n");
    orders.await.unwrap();
    // The others may not be done.
    let ended = tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    let _ = own.stop_within(Duration::from_secs(2)).await;
}

/// Sends on and on, a few packets at a time.
async fn send_on(own: &Peer, to: &str, life: u64, is_over: &AtomicBool) {
    let mut next = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut receipts = Vec::new();
        for number in next..next + AT_ONCE {
            let packet = [life.to_be_bytes(), number.to_be_bytes()].concat();
            let receipt = own.submit(to, packet).await.unwrap();
            receipts.push(async move {
                let said = match receipt.await {
                    Ok(()) => format!("accepted {to} {number}\n"),
                    Err(SendError::Restarted) => format!("restarted {to} {number}\n"),
                    Err(other) => format!("failed {to} {number}: {other:?}\n"),
                };
                say(&said);
            });
        }
        within("the answers", LONG, join_all(receipts)).await;
        next += AT_ONCE;
    }
}

/// In one write, so that it is said whole or, by the end of the file, not at all.
fn say(line: &str) {
    let mut out = stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}
