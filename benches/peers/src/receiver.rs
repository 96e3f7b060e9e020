//! Those who receive, in a process of their own: this program, started once more.

use std::env::{args, current_exe};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use wharf_race::lane::Trouble;
use wharf_race::runtime::Arena;

use crate::contenders::{tcp, wharf, zeromq};
use crate::packet::Ledger;

/// What this program is told to become the receiver.
const RECEIVE: &str = "--receive";

/// Begins a count.
const CLEAR: &str = "clear";

/// Where each of them listens.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub wharf: SocketAddr,
    pub pull: SocketAddr,
    pub reply: SocketAddr,
    pub tcp: SocketAddr,
}

/// The receivers' process, which ends with this.
pub struct Receiver {
    pub addresses: Addresses,
    pub pid: u32,
    child: Child,
    // Its end is theirs.
    asking: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Receiver {
    pub fn start() -> Result<Self, Trouble> {
        let this = current_exe().map_err(Trouble::of)?;
        let program = &mut Command::new(this);
        let program = program
            .arg(RECEIVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = program.spawn().map_err(Trouble::of)?;
        let answers = child.stdout.take().expect("bug: it is piped");
        let mut answers = BufReader::new(answers);
        let line = line(&mut answers)?;
        let listed: Result<Vec<_>, _> = line.split_whitespace().map(SocketAddr::from_str).collect();
        let Ok(&[wharf, pull, reply, tcp]) = listed.as_deref() else {
            return Err(Trouble::Failed(format!("not addresses: {line}")));
        };
        Ok(Self {
            addresses: Addresses {
                wharf,
                pull,
                reply,
                tcp,
            },
            pid: child.id(),
            asking: child.stdin.take().expect("bug: it is piped"),
            answers,
            child,
        })
    }

    /// The next packet is number zero.
    pub fn clear(&mut self) -> Result<(), Trouble> {
        self.ask(CLEAR).map(drop)
    }

    /// Waits until so many packets were received.
    pub fn has_all(&mut self, packets: u64) -> Result<(), Trouble> {
        match self.ask(&packets.to_string())?.as_str() {
            "true" => Ok(()),
            _ => Err(Trouble::Failed(
                "packets were lost, twice there, out of order or not as they were sent".into(),
            )),
        }
    }

    fn ask(&mut self, question: &str) -> Result<String, Trouble> {
        writeln!(self.asking, "{question}").map_err(Trouble::of)?;
        line(&mut self.answers)
    }
}

fn line(answers: &mut BufReader<ChildStdout>) -> Result<String, Trouble> {
    let mut line = String::new();
    answers.read_line(&mut line).map_err(Trouble::of)?;
    Ok(line.trim_end().to_owned())
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the receiver if this program was told so; returns then when nobody wants it any more.
pub fn received() -> bool {
    if args().nth(1).as_deref() != Some(RECEIVE) {
        return false;
    }
    if let Err(error) = receive() {
        eprintln!("the receiver: {error}");
    }
    true
}

fn receive() -> Result<(), Trouble> {
    // As that of those who send.
    let arena = Arena::two_workers();
    // Only one contender sends at a time.
    let ledger = Arc::new(Ledger::default());
    let (_peer, at) = arena.prepare(wharf::receive(Arc::clone(&ledger)))?;
    let pull = arena.prepare(zeromq::pull(Arc::clone(&ledger)))?;
    let reply = arena.prepare(zeromq::reply(Arc::clone(&ledger)))?;
    let tcp = arena
        .prepare(tcp::echo(Arc::clone(&ledger)))
        .map_err(Trouble::of)?;
    println!("{at} {pull} {reply} {tcp}");
    for line in io::stdin().lines() {
        let line = line.map_err(Trouble::of)?;
        if line == CLEAR {
            ledger.clear();
            println!();
        } else {
            let packets = line.parse().map_err(Trouble::of)?;
            println!("{}", ledger.has_all(packets));
        }
    }
    Ok(())
}
