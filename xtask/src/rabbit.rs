//! RabbitMQ: `cargo xtask rabbit up|down`, a node that stays, for people at work; and whatever of
//! `cargo xtask test` needs one.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::cargo::{cargo, target_dir};
use crate::report::{Outcome, Report};

/// What is to become of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Up,
    Down,
}

impl Change {
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "up" => Some(Self::Up),
            "down" => Some(Self::Down),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Whether RabbitMQ can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Found,
    Absent,
    /// It has to be there and is not. That is a failure already.
    Failed,
}

/// Looks for RabbitMQ, and installs it where that may be done. In CI its absence is a failure.
pub(crate) fn look(report: &mut Report) -> Presence {
    let install = cargo("run --quiet --package wharf-testkit --bin wharf-rabbit -- install");
    let is_ci = std::env::var_os("CI").is_some();
    let mut presence = Presence::Failed;
    report.step("RabbitMQ", || match install.run() {
        Ok(()) => {
            presence = Presence::Found;
            Ok(())
        }
        Err(reason) if is_ci => Err(reason),
        Err(_) => {
            presence = Presence::Absent;
            Ok(())
        }
    });
    presence
}

impl Presence {
    /// Runs a step that needs RabbitMQ, or puts on record that it was not run.
    pub(crate) fn step(self, report: &mut Report, name: String, work: impl FnOnce() -> Outcome) {
        match self {
            Self::Found => drop(report.step(name, work)),
            Self::Absent => report.skip(
                name,
                "NOT RUN, there is no RabbitMQ: install rabbitmq-server",
            ),
            Self::Failed => {}
        }
    }
}

/// Runs the tests of these packages.
pub(crate) fn tests(report: &mut Report, presence: Presence, packages: &[&str]) {
    for package in packages {
        let name = format!("tests of {package}, with RabbitMQ");
        presence.step(report, name, || {
            cargo("test --no-fail-fast --all-features --lib --bins --tests --package")
                .arg(*package)
                .run()
        });
    }
}

/// A node that ends with this, or with the process.
pub(crate) struct Node {
    pub(crate) url: String,
    process: Child,
}

impl Node {
    pub(crate) fn start() -> Result<Self, String> {
        let mut process = cargo("run --quiet --package wharf-testkit --bin wharf-rabbit -- run")
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        let stdout = process.stdout.as_mut().expect("bug: it has a pipe");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let node = Self {
            url: line.trim().to_owned(),
            process,
        };
        match read {
            Ok(_) if node.url.starts_with("amqp://") => Ok(node),
            _ => Err("the node did not start".into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The node runs until its input ends.
        drop(self.process.stdin.take());
        // Its own folder and processes are gone when it is.
        let _ = self.process.wait();
    }
}

/// Starts the node, or ends exactly that one.
///
/// The test kit does the work in a program of its own, so that this one builds without it.
pub(crate) fn run(report: &mut Report, change: Change) {
    let word = change.word();
    report.step(format!("rabbit {word}"), || {
        cargo("run --quiet --package wharf-testkit --bin wharf-rabbit --")
            .arg(word)
            .arg(folder())
            .run()
    });
}

/// Everything the node has: its process number, its cookie, its queues.
fn folder() -> PathBuf {
    target_dir().join("rabbit")
}
