//! Calls of cargo: built as data, shown as a line that can be pasted into a shell, then run.

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failures;
use crate::report::Outcome;

/// One call of cargo from the workspace's root.
#[derive(Clone, Debug)]
pub(crate) struct Cargo {
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
}

/// Starts a call from its words: `cargo("doc --no-deps")`.
///
/// Words are split at spaces; paths go through [`Cargo::arg`].
pub(crate) fn cargo(words: &str) -> Cargo {
    Cargo {
        args: words.split_whitespace().map(OsString::from).collect(),
        env: Vec::new(),
    }
}

impl Cargo {
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, key: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((key, value.into()));
        self
    }

    /// Adds to the flags the caller's environment already holds instead of replacing them.
    pub(crate) fn flags(self, key: &'static str, flags: &str) -> Self {
        let mut value = env::var_os(key).unwrap_or_default();
        if !value.is_empty() {
            value.push(" ");
        }
        value.push(flags);
        self.env(key, value)
    }

    /// Builds under `target/<name>`, so that other flags do not evict the everyday build cache.
    pub(crate) fn target_dir(self, name: &str) -> Self {
        self.env("CARGO_TARGET_DIR", target_dir().join(name))
    }

    pub(crate) fn run(&self) -> Outcome {
        println!("$ {self}");
        let (status, failures) = failures::run(&mut self.command())
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let mut problem = format!("cargo ended with {status}");
        for line in failures {
            problem.push('\n');
            problem.push_str(&line);
        }
        Err(problem)
    }

    /// Runs a `cargo test` call that must find at least one test.
    ///
    /// To cargo itself, a filter that selects nothing is a success.
    pub(crate) fn run_tests(&self) -> Outcome {
        let listing = self.clone().args(["--", "--list"]);
        let output = listing
            .command()
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if !output.status.success() {
            return Err(format!("the tests do not build: {}", output.status));
        }
        if count_tests(&String::from_utf8_lossy(&output.stdout)) == 0 {
            return Err(format!("`{self}` selects no test"));
        }
        self.run()
    }

    /// Whether the call succeeds, its output thrown away.
    pub(crate) fn succeeds(&self) -> bool {
        self.command()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    pub(crate) fn command(&self) -> Command {
        // Not `$CARGO`: that is one toolchain's binary, which does not understand `+nightly`.
        let mut command = Command::new("cargo");
        command
            .current_dir(root())
            .args(&self.args)
            // What is built once gains nothing from it, and its files are as large again.
            .env("CARGO_INCREMENTAL", "0")
            .envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

impl Display for Cargo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.env {
            write!(f, "{key}={} ", quoted(&value.to_string_lossy()))?;
        }
        write!(f, "cargo")?;
        for arg in &self.args {
            write!(f, " {}", quoted(&arg.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// The workspace's root: the parent of this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("bug: xtask lives in a folder of the workspace")
}

/// Where everything that is built goes, and everything that is scratch.
pub(crate) fn target_dir() -> PathBuf {
    let chosen = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(chosen)
}

fn count_tests(listing: &str) -> usize {
    listing
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count()
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./+,:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_shown_as_a_shell_would_take_it() {
        let call = cargo("clippy --workspace")
            .args(["--", "-D", "warnings"])
            .arg("a path")
            .env("LIMIT", "2")
            .env("NOTE", "it's");
        assert_eq!(
            call.to_string(),
            r"LIMIT=2 NOTE='it'\''s' cargo clippy --workspace -- -D warnings 'a path'"
        );
    }

    #[test]
    fn only_tests_are_counted_in_a_listing() {
        let listing = "put::a: test\nget::b: test\nhot_path: benchmark\n\n2 tests, 1 benchmark\n";
        assert_eq!(count_tests(listing), 2);
        assert_eq!(count_tests("0 tests, 0 benchmarks\n"), 0);
    }

    #[test]
    fn the_root_is_the_folder_of_the_workspace_manifest() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
