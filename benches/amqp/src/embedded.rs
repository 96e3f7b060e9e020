//! The embedded broker in a process of its own, so that its processor time and memory are told
//! apart from its clients'.

use std::env::{args, current_exe};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use tokio::runtime::Runtime;
use wharf_broker::Broker;
use wharf_race::lane::Trouble;
use wharf_testkit::usage::{Allocations, rss};

use crate::node::TUNING;

/// What a program of this crate is told to become the broker.
const SERVE: &str = "--serve";

/// Asks the broker what it holds.
const HELD: &str = "held";

/// Room for all that the scenarios declare.
const QUEUES: usize = 20_000;

/// A broker in a process of its own, which ends with this.
pub struct Embedded {
    pub url: Arc<str>,
    pub pid: u32,
    child: Child,
    // Its end is the broker's.
    asking: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a broker holds, in bytes.
#[derive(Clone, Copy)]
pub struct Held {
    /// Allocated and not freed; nothing where nobody counts.
    pub heap: i64,
    /// In memory.
    pub resident: i64,
}

impl Embedded {
    /// A broker in this program.
    pub fn start() -> Result<Self, Trouble> {
        let this = current_exe().map_err(Trouble::of)?;
        Self::launch(Command::new(this))
    }

    /// A broker whose allocations are counted, which stands beside this program.
    pub fn start_counted() -> Result<Self, Trouble> {
        let this = current_exe().map_err(Trouble::of)?;
        Self::launch(Command::new(this.with_file_name("broker-counted")))
    }

    fn launch(mut program: Command) -> Result<Self, Trouble> {
        let program = program
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = program.spawn().map_err(Trouble::of)?;
        let answers = child.stdout.take().expect("bug: it is piped");
        let mut embedded = Self {
            url: "".into(),
            pid: child.id(),
            asking: child.stdin.take().expect("bug: it is piped"),
            answers: BufReader::new(answers),
            child,
        };
        let url = embedded.answer().map_err(Trouble::of)?;
        embedded.url = format!("{}?{TUNING}", url.trim_end()).into();
        Ok(embedded)
    }

    /// What it holds now.
    pub fn held(&mut self) -> Result<Held, Trouble> {
        writeln!(self.asking, "{HELD}").map_err(Trouble::of)?;
        let answer = self.answer().map_err(Trouble::of)?;
        let figures: Result<Vec<i64>, _> = answer.split_whitespace().map(str::parse).collect();
        match figures.as_deref() {
            Ok(&[heap, resident]) => Ok(Held { heap, resident }),
            _ => Err(Trouble::Failed(format!("not figures: {answer}"))),
        }
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the broker if this program was told so; returns then when nobody wants it any more.
pub fn served() -> bool {
    if args().nth(1).as_deref() != Some(SERVE) {
        return false;
    }
    if let Err(error) = serve() {
        eprintln!("the broker: {error}");
    }
    true
}

fn serve() -> io::Result<()> {
    let runtime = Runtime::new()?;
    let builder = Broker::builder().user("bench", "bench").max_queues(QUEUES);
    let broker = runtime
        .block_on(builder.start())
        .map_err(io::Error::other)?;
    println!("{}", broker.url("bench", "bench"));
    for line in io::stdin().lines() {
        if line? == HELD {
            let heap = Allocations::now().live_bytes;
            println!("{heap} {}", rss());
        }
    }
    Ok(())
}
