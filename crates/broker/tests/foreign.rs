//! A client of another make: pika, by a Python program that asserts every answer. RabbitMQ passes
//! the same program.
//!
//! `cargo xtask test` makes the virtual environment that the program needs and runs this.

use std::{env, time::Duration};

use tokio::process::Command;
use wharf_broker::Broker;
use wharf_testkit::wait::{eventually, within};

/// A Python interpreter that has pika.
const PYTHON: &str = "WHARF_PYTHON";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/pika_session.py");
/// What the program does not take on a machine that is busy with everything else.
const BOUND: Duration = Duration::from_secs(120);
/// Publishers are blocked when messages take more bytes than this.
const MEMORY: usize = 8 << 20;

#[tokio::test]
async fn pika_gets_every_answer_that_it_gets_from_rabbitmq() {
    let python = env::var_os(PYTHON)
        .unwrap_or_else(|| panic!("{PYTHON} is not set; `cargo xtask test` sets it"));
    let broker = Broker::builder()
        .user("app", "secret")
        .memory(MEMORY)
        .start()
        .await
        .unwrap();
    let program = Command::new(python)
        .arg(PROGRAM)
        .arg(broker.url("app", "secret"))
        .arg(format!("--memory={MEMORY}"))
        .kill_on_drop(true)
        .output();
    let output = within("the end of the program", BOUND, program)
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.ends_with("blocked: as expected\n"), "{said}");
    eventually("it has gone", BOUND, async || broker.connections() == 0).await;
}
