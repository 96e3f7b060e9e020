//! Processes by their number: signals, and what `/proc` says of them.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::eventually;

/// Long for a signal to take effect, short for a person.
const BOUND: Duration = Duration::from_secs(60);

/// Sends a signal. To a process that is gone, it does nothing.
pub(super) fn signal(process: u32, signal: Signal) {
    let sent = kill_process(pid(process), signal);
    assert_sent(sent, process, signal);
}

/// Sends a signal to all processes of a group.
pub(super) fn signal_group(leader: u32, signal: Signal) {
    let sent = kill_process_group(pid(leader), signal);
    assert_sent(sent, leader, signal);
}

fn assert_sent(sent: rustix::io::Result<()>, process: u32, signal: Signal) {
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("{signal:?} did not reach process {process}: {error}"),
    }
}

fn pid(process: u32) -> Pid {
    i32::try_from(process)
        .ok()
        .and_then(Pid::from_raw)
        .expect("bug: the number comes from a process")
}

/// Waits until the process has ended, whether or not its parent has asked for it.
pub(super) async fn ended(process: u32) {
    let what = format!("process {process} ends");
    eventually(&what, BOUND, async || is_gone(process)).await;
}

/// Waits until the process is stopped, or runs again.
pub(super) async fn stopped(process: u32, wanted: bool) {
    let what = format!(
        "process {process} is {}stopped",
        if wanted { "" } else { "not " }
    );
    eventually(&what, BOUND, async || {
        (state(process) == Some('T')) == wanted
    })
    .await;
}

pub(super) fn is_gone(process: u32) -> bool {
    matches!(state(process), None | Some('Z' | 'X'))
}

/// Whether the process was started with this text in its command line.
///
/// Numbers of processes are used again; whoever kills by a number from a file looks here first.
pub(super) fn was_started_with(process: u32, text: &str) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| {
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(text)
    })
}

/// The letter of `proc_pid_stat(5)`. The name before it stands in brackets and may hold anything.
fn state(process: u32) -> Option<char> {
    let stat: io::Result<String> = fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.trim_start().chars().next()
}
