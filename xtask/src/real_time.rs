//! Tests run on paused tokio time. A thread that sleeps waits for luck instead, so the sources of
//! the crates, tests included, may not put one to sleep without a word about why.

use std::fs;
use std::io;
use std::path::Path;

use crate::cargo::root;
use crate::report::Outcome;

const SLEEPS: [&str; 2] = ["thread::sleep", "thread::park_timeout"];

/// A comment that opens with this, on the line or right above it, lets a sleep stand.
const EXCUSE: &str = "// real time:";

/// Looks through every Rust source under `crates`.
///
/// It reads lines, not syntax: a sleep imported under another name gets past it.
pub(crate) fn check() -> Outcome {
    let mut sleeps = Vec::new();
    search(&root().join("crates"), &mut sleeps).map_err(|error| format!("crates: {error}"))?;
    for sleep in &sleeps {
        println!("{sleep}");
    }
    if sleeps.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} on real time; use paused tokio time, or say why above it: `{EXCUSE} …`",
            if sleeps.len() == 1 {
                "a sleep"
            } else {
                "sleeps"
            }
        ))
    }
}

fn search(folder: &Path, sleeps: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, sleeps)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let shown = path.strip_prefix(root()).unwrap_or(&path).display();
            for (number, line) in unexcused(&fs::read_to_string(&path)?) {
                sleeps.push(format!("{shown}:{number}: {}", line.trim()));
            }
        }
    }
    Ok(())
}

/// The offending lines, numbered from one.
fn unexcused(source: &str) -> Vec<(usize, &str)> {
    let above = std::iter::once("").chain(source.lines());
    (1..)
        .zip(source.lines().zip(above))
        .filter(|(_, (line, above))| {
            let sleeps = SLEEPS.iter().any(|sleep| line.contains(sleep));
            let is_comment = line.trim_start().starts_with("//");
            sleeps && !is_comment && !line.contains(EXCUSE) && !above.contains(EXCUSE)
        })
        .map(|(number, (line, _))| (number, line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_found_with_its_line_number() {
        let source = "fn wait() {\n    std::thread::sleep(LONG);\n}\n";
        assert_eq!(unexcused(source), [(2, "    std::thread::sleep(LONG);")]);
    }

    #[test]
    fn a_sleep_with_its_reason_stands() {
        assert!(unexcused("// real time: a child process\nthread::sleep(SHORT);").is_empty());
        assert!(unexcused("thread::sleep(SHORT); // real time: a child process").is_empty());
    }

    #[test]
    fn words_about_sleep_are_not_sleep() {
        assert!(
            unexcused("// never thread::sleep here\ntokio::time::sleep(LONG).await;").is_empty()
        );
    }
}
