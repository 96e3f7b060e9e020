//! Clients of another make: Python programs, in a virtual environment of their own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{cargo, root, target_dir};
use crate::rabbit::{Node, Presence};
use crate::report::{Outcome, Report};

/// The client, in the version its program was written for.
const PIKA: &str = "pika==1.4.4";

/// What the test reads the interpreter from.
const VARIABLE: &str = "WHARF_PYTHON";

const PROGRAM: &str = "crates/broker/tests/foreign/pika_session.py";

/// Debian keeps the module `venv` in a package of its own, which brings Python itself.
const GET_VENV: &str = "
get() { apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends python3-venv; }
get || { apt-get -o DPkg::Lock::Timeout=300 update && get; }
";

/// Lets the foreign client talk to the broker, and to RabbitMQ, whose answers it expects.
pub(crate) fn tests(report: &mut Report, rabbit: Presence) {
    let Some(python) = look(report) else {
        return;
    };
    report.step("foreign client", || {
        cargo("test --package wharf-broker --test foreign")
            .env(VARIABLE, &python)
            .run()
    });
    rabbit.step(report, "foreign client, on RabbitMQ".to_owned(), || {
        let node = Node::start()?;
        run(Command::new(&python)
            .current_dir(root())
            .args([PROGRAM, &node.url]))
    });
}

/// The environment's interpreter. In CI its absence is a failure, elsewhere it is put on record.
fn look(report: &mut Report) -> Option<PathBuf> {
    let is_ci = env::var_os("CI").is_some();
    let mut python = None;
    let passed = report.step("Python environment", || match environment() {
        Ok(found) => {
            python = Some(found);
            Ok(())
        }
        Err(reason) if is_ci => Err(reason),
        Err(reason) => {
            println!("{reason}");
            Ok(())
        }
    });
    if passed && python.is_none() {
        report.skip(
            "foreign client",
            "NOT RUN, there is no Python environment: install python3-venv, and let pip install \
             pika",
        );
    }
    python
}

/// Finds the environment, or makes it.
fn environment() -> Result<PathBuf, String> {
    let folder = target_dir().join("python");
    let python = folder.join("bin/python");
    if has_pika(&python) {
        return Ok(python);
    }
    let make = || {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder))
    };
    if make().is_err() {
        println!("there is no python3 with venv: installing the package python3-venv");
        run(Command::new("sh")
            .args(["-c", GET_VENV])
            .env("DEBIAN_FRONTEND", "noninteractive"))?;
        make()?;
    }
    let options = ["--quiet", "--disable-pip-version-check"];
    run(Command::new(&python)
        .args(["-m", "pip", "install"])
        .args(options)
        .arg(PIKA))?;
    Ok(python)
}

fn has_pika(python: &Path) -> bool {
    let installed = Command::new(python)
        .args(["-m", "pip", "freeze", "--disable-pip-version-check"])
        .output();
    installed.is_ok_and(|output| {
        let listing = String::from_utf8_lossy(&output.stdout);
        listing.lines().any(|line| line == PIKA)
    })
}

fn run(command: &mut Command) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("{program} did not start: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program} ended with {status}"))
    }
}
