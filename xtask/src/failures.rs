//! What failed tests said, picked out of a long output so that it can be told again at its end.

use std::io::{self, Read, Write};
use std::iter;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What cargo leaves running may hold its output open for ever; what it wrote itself is there by then.
const LATE_OUTPUT: Duration = Duration::from_secs(5);

/// More is to be read where it was printed first.
const MOST_LINES: usize = 120;

/// Runs the command with its output passed on as it comes. Besides, gives the lines in which tests
/// say how they failed.
pub(crate) fn run(command: &mut Command) -> io::Result<(ExitStatus, Vec<String>)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().expect("bug: it has a pipe");
    let told = listen(output, pass_on);
    let status = child.wait()?;
    Ok((status, all_within(LATE_OUTPUT, &told)))
}

fn listen(
    mut output: impl Read + Send + 'static,
    pass_on: impl Fn(&[u8]) + Send + 'static,
) -> mpsc::Receiver<String> {
    let (telling, told) = mpsc::channel();
    thread::spawn(move || {
        let mut failures = Failures::default();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut chunk) {
            pass_on(&chunk[..count]);
            failures.read(&chunk[..count], &telling);
        }
    });
    told
}

fn all_within(patience: Duration, told: &mpsc::Receiver<String>) -> Vec<String> {
    iter::from_fn(|| told.recv_timeout(patience).ok()).collect()
}

/// Whoever stopped listening does not stop the run.
fn pass_on(chunk: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(chunk).and_then(|()| stdout.flush());
}

/// Reads libtest's output. Its report of failures begins with a line `failures:` and ends with
/// `test result:`.
#[derive(Debug, Default)]
struct Failures {
    /// What has no end of line yet.
    rest: Vec<u8>,
    is_inside: bool,
    count: usize,
}

impl Failures {
    fn read(&mut self, chunk: &[u8], telling: &mpsc::Sender<String>) {
        self.rest.extend_from_slice(chunk);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Some(line) = self.line(String::from_utf8_lossy(&line).trim_end()) {
                let _ = telling.send(line);
            }
        }
    }

    fn line(&mut self, line: &str) -> Option<String> {
        match line {
            "failures:" => {
                self.is_inside = true;
                return None;
            }
            _ if line.starts_with("test result:") => self.is_inside = false,
            _ => {}
        }
        if !self.is_inside || line.is_empty() || self.count > MOST_LINES {
            return None;
        }
        self.count += 1;
        Some(match self.count {
            ..=MOST_LINES => line.to_owned(),
            _ => "and more, see above".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test one ... ok
test two ... FAILED

failures:

---- two stdout ----
thread 'two' panicked at a.rs:1:1:
it broke

failures:
    two

test result: FAILED. 1 passed; 1 failed
running 1 test
test three ... ok
test result: ok. 1 passed; 0 failed
";

    fn lines_of(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<String> {
        let (telling, told) = mpsc::channel();
        let mut failures = Failures::default();
        for chunk in chunks {
            failures.read(chunk.as_ref(), &telling);
        }
        drop(telling);
        told.iter().collect()
    }

    #[test]
    fn only_what_failed_is_told_however_the_output_is_cut() {
        let expected = [
            "---- two stdout ----",
            "thread 'two' panicked at a.rs:1:1:",
            "it broke",
            "    two",
        ];
        assert_eq!(lines_of([OUTPUT]), expected);
        assert_eq!(lines_of(OUTPUT.as_bytes().chunks(3)), expected);
    }

    #[test]
    fn what_failed_is_told_up_to_a_bound() {
        let many = "failures:\n".to_owned() + &"a line\n".repeat(1000);
        let lines = lines_of([many]);
        assert_eq!(lines.len(), MOST_LINES + 1);
        assert_eq!(lines.last().unwrap(), "and more, see above");
    }

    #[test]
    fn an_output_that_stays_open_is_not_waited_for() {
        let (output, mut input) = io::pipe().unwrap();
        input.write_all(b"failures:\nit broke\n").unwrap();
        let told = listen(output, |_| {});
        assert_eq!(told.recv().unwrap(), "it broke");
        assert!(all_within(Duration::from_millis(1), &told).is_empty());
        drop(input);
    }
}
