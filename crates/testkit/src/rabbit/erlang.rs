//! Erlang expressions, evaluated inside a node.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::node::{Node, Rabbit};
use crate::wait::within;

/// Only a node that is paused, or a broker that is slow to start or stop, needs so long.
const BOUND: Duration = Duration::from_secs(60);

impl Rabbit {
    /// Evaluates an Erlang expression, in ASCII, in the node and gives its value, printed as by
    /// `~tp`.
    ///
    /// It takes about 10 ms, sixty times less than a call of `rabbitmqctl`.
    ///
    /// # Panics
    ///
    /// When the node does not answer within a minute, or the expression does not compile or fails.
    pub async fn eval(&self, expression: &str) -> String {
        let printed = format!("io_lib:format(\"~tp\", [begin {expression}\n end])");
        self.eval_text(&printed).await
    }

    /// Evaluates an expression whose value is text: characters, binaries, nested lists of them.
    pub(super) async fn eval_text(&self, expression: &str) -> String {
        let what = format!("{} evaluates `{expression}`", self.name());
        let evaluated = within(&what, BOUND, self.node.evaluate(&hex_of(expression))).await;
        // What the node lacks, such as a queue that it did not recover, its log accounts for.
        evaluated
            .unwrap_or_else(|problem| panic!("{}: {problem}\n{}", self.name(), self.log_tail(30)))
    }
}

/// A value travels as a list of pieces of hexadecimal digits, which no printer quotes, wraps or
/// abbreviates.
fn hex_of(expression: &str) -> String {
    format!(
        "try Hex = binary:encode_hex(unicode:characters_to_binary([begin {expression} end])), \
         [binary_to_list(binary:part(Hex, At, min(1000, size(Hex) - At))) \
         || At <- lists:seq(0, size(Hex) - 1, 1000)] \
         catch Class:Reason -> {{Class, Reason}} end.\n"
    )
}

impl Node {
    async fn evaluate(&self, expression: &str) -> Result<String, String> {
        let output = match run(self.erl_call(), expression).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                run(self.rabbitmqctl(expression), "").await
            }
            outcome => outcome,
        };
        let output = output.map_err(|error| format!("the tool did not run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        value_in(&said).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("`{expression}` gave: {} {}", said.trim(), complaint.trim())
        })
    }

    /// Evaluates without waiting for the outcome; for destructors, which cannot wait.
    ///
    /// It keeps nothing of the node: a node that ends ends the evaluation.
    pub(super) fn evaluate_in_background(&self, expression: &str) {
        let expression = hex_of(expression);
        let calling = self
            .erl_call()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut call) = calling {
            std::thread::spawn(move || {
                let input = call.stdin.take();
                let written = input.map(|mut input| input.write_all(expression.as_bytes()));
                (written, call.wait())
            });
        }
    }

    /// A call that reads its expression from its input.
    fn erl_call(&self) -> Command {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        // The caller is a node as well, and two of the same name cannot be connected at once.
        let caller = format!("call-{}-{call}", std::process::id());
        let mut command = Command::new("erl_call");
        command.args(["-sname", &self.name, "-h", &caller, "-e"]);
        self.surround(&mut command);
        command
    }

    fn rabbitmqctl(&self, expression: &str) -> Command {
        let mut command = Command::new(self.home.installation.programs.join("rabbitmqctl"));
        command.args(["--quiet", "--node", &self.name, "eval", expression]);
        self.surround(&mut command);
        command
    }
}

async fn run(command: Command, input: &str) -> io::Result<Output> {
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // The evaluation starts when the input ends, which it does when this value goes.
    let mut pipe = child.stdin.take().expect("bug: its input is a pipe");
    // A tool that ended early says why on its output.
    let _ = pipe.write_all(input.as_bytes()).await;
    drop(pipe);
    child.wait_with_output().await
}

/// Text as an Erlang binary, whatever is in it.
pub(super) fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}

/// Reads what `hex_of` printed: `{ok, ["6f", "6b"]}` from `erl_call`, the list alone from
/// `rabbitmqctl`. Everything else is a complaint.
fn value_in(said: &str) -> Option<String> {
    let said = said.trim();
    let list = said.strip_prefix("{ok, ").unwrap_or(said);
    let digits: String = list
        .strip_prefix('[')?
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}
