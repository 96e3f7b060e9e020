//! `cargo xtask rabbit up|down`: a RabbitMQ node that stays, for people at work.

use std::path::PathBuf;

use crate::cargo::{cargo, target_dir};
use crate::report::Report;

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

/// Runs the tests of these packages, for which RabbitMQ is installed first where that may be done.
/// Where it cannot, that is said, and is a failure in CI.
pub(crate) fn tests(report: &mut Report, packages: &[&str]) {
    let install = cargo("run --quiet --package wharf-testkit --bin wharf-rabbit -- install");
    let is_ci = std::env::var_os("CI").is_some();
    let mut found = false;
    let looked = report.step("RabbitMQ", || match install.run() {
        Ok(()) => {
            found = true;
            Ok(())
        }
        Err(reason) if is_ci => Err(reason),
        Err(_) => Ok(()),
    });
    for package in packages {
        let name = format!("tests of {package}, with RabbitMQ");
        if found {
            report.step(name, || {
                cargo("test --all-features --lib --bins --tests --package")
                    .arg(*package)
                    .run()
            });
        } else if looked {
            report.skip(
                name,
                "NOT RUN, there is no RabbitMQ: install rabbitmq-server",
            );
        }
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
