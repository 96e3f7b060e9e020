//! The end of a step that finds none by itself: a test that hangs must not cost the run its verdict.

use std::fs;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, kill_process};

use crate::report::Outcome;

/// Between two looks for what a step goes on to start after its time.
const AGAIN: Duration = Duration::from_millis(100);

/// Does the work. Once the limit has passed, everything that the work has started is killed, which
/// is what it waits for, and it has failed.
///
/// Without `/proc` nothing is found to be killed, and the work takes its time.
pub(crate) fn within(limit: Duration, work: impl FnOnce() -> Outcome) -> Outcome {
    let before = children_of(process::id());
    let (working, ended) = mpsc::channel::<()>();
    let watch = move || {
        let (mut patience, mut is_late) = (limit, false);
        while ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            end_children_but(&before);
            (patience, is_late) = (AGAIN, true);
        }
        is_late
    };
    let (outcome, is_late) = thread::scope(|scope| {
        let watch = scope.spawn(watch);
        // Dropped when the work is done, also by a panic.
        let working = working;
        let outcome = work();
        drop(working);
        (outcome, watch.join().expect("bug: the watch panicked"))
    });
    if is_late {
        return Err(format!(
            "no end within {}; the last lines above tell what it was at",
            told(limit)
        ));
    }
    outcome
}

fn told(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        _ => format!("{limit:?}"),
    }
}

/// Kills the processes below this one, but those named and what is below them.
fn end_children_but(spared: &[Process]) {
    let ours = getpgrp().as_raw_pid();
    for child in children_of(process::id()) {
        if !spared.iter().any(|it| it.id == child.id) {
            child.end(ours);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    parent: i32,
    group: i32,
}

impl Process {
    /// Kills the process and all below it that are in the group, which is what a terminal would
    /// interrupt. Who has left the group watches over its own: the test kit's nodes end, and
    /// their folders go, when the test that started them has ended.
    fn end(self, group: i32) {
        if self.group != group {
            return;
        }
        // A stopped process starts no others while they are looked for.
        self.signal(Signal::STOP);
        for child in children_of(self.id.unsigned_abs()) {
            child.end(group);
        }
        self.signal(Signal::KILL);
    }

    /// One that has ended meanwhile is a zombie, or gone.
    fn signal(self, signal: Signal) {
        if let Some(id) = Pid::from_raw(self.id) {
            let _ = kill_process(id, signal);
        }
    }
}

fn children_of(parent: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let processes = ids.filter_map(|id: i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        process_in(id, &stat)
    });
    processes
        .filter(|process| process.parent.unsigned_abs() == parent)
        .collect()
}

/// Reads `proc_pid_stat(5)`. The name, which may hold anything, stands in brackets; then come state,
/// parent and group.
fn process_in(id: i32, stat: &str) -> Option<Process> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(1);
    let mut number = || fields.next()?.parse().ok();
    Some(Process {
        id,
        parent: number()?,
        group: number()?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    /// What the tests look at, the children of this process, is one for all of them.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Longer than any test may take.
    const FOREVER: &str = "100000";

    /// A process with a child that never ends, and the child.
    fn parent_and_child() -> (Child, i32) {
        let script = format!("sleep {FOREVER} & echo $!; wait");
        let mut parent = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = parent.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (parent, line.trim().parse().unwrap())
    }

    fn is_gone(id: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"));
        // Whoever inherits it may take a while to ask for it.
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_child_of_a_child_is_ended_too() {
        let _alone = ALONE.lock();
        let (mut parent, child) = parent_and_child();
        end_children_but(&[]);
        assert!(!parent.wait().unwrap().success());
        let begun = Instant::now();
        while !is_gone(child) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{child} lives");
            thread::yield_now();
        }
    }

    #[test]
    fn what_was_there_before_and_what_has_left_the_group_live_on() {
        let _alone = ALONE.lock();
        let (mut spared, child) = parent_and_child();
        let before = children_of(process::id());
        let mut aside = Command::new("sleep")
            .arg(FOREVER)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut new = Command::new("sleep").arg(FOREVER).spawn().unwrap();
        end_children_but(&before);
        assert!(!new.wait().unwrap().success());
        assert!(!is_gone(child));
        assert!(spared.try_wait().unwrap().is_none());
        assert!(aside.try_wait().unwrap().is_none());
        end_children_but(&[]);
        spared.wait().unwrap();
        aside.kill().unwrap();
        aside.wait().unwrap();
    }

    #[test]
    fn work_that_does_not_end_is_ended_and_has_failed_also_what_it_starts_late() {
        let _alone = ALONE.lock();
        let sleep = || Command::new("sleep").arg(FOREVER).status().unwrap();
        let outcome = within(Duration::from_millis(1), || {
            assert!(!sleep().success());
            assert!(!sleep().success());
            // A step may make light of what fails.
            Ok(())
        });
        let problem = outcome.unwrap_err();
        assert!(problem.starts_with("no end within 1ms; "), "{problem}");
    }

    #[test]
    fn work_within_its_time_has_the_outcome_it_has() {
        let _alone = ALONE.lock();
        let hour = Duration::from_secs(3_600);
        assert_eq!(within(hour, || Ok(())), Ok(()));
        let broke = || Err("it broke".to_owned());
        assert_eq!(within(hour, broke), broke());
    }

    #[test]
    fn limits_are_told_in_minutes() {
        assert_eq!(told(Duration::from_secs(1_800)), "30 minutes");
    }

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let process = Process {
            id: 7,
            parent: 3,
            group: 5,
        };
        assert_eq!(process_in(7, "7 (a) S 9 (b c)) S 3 5 2 0"), Some(process));
        assert_eq!(process_in(7, ""), None);
    }
}
