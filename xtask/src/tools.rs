//! Tools beyond the toolchain: found, or installed with a word about it.

use crate::cargo::cargo;
use crate::report::{Outcome, Report};

/// A cargo subcommand that is a package of its own.
#[derive(Debug)]
pub(crate) struct Tool {
    subcommand: &'static str,
    /// Installed when no version is there; any version that is there is taken as it is.
    package: &'static str,
}

pub(crate) const FUZZ: Tool = Tool {
    subcommand: "fuzz",
    package: "cargo-fuzz@0.13.2",
};

const DENY: Tool = Tool {
    subcommand: "deny",
    package: "cargo-deny@0.20.2",
};

impl Tool {
    /// Installs into cargo's home, not under `target`: there the tool outlives `cargo clean` and
    /// serves every clone.
    pub(crate) fn ensure(&self) -> Outcome {
        if cargo(self.subcommand).arg("--version").succeeds() {
            return Ok(());
        }
        println!(
            "cargo-{} is not installed; installing it into cargo's home",
            self.subcommand
        );
        cargo("install --locked").arg(self.package).run()
    }
}

/// Whether rustup knows a nightly toolchain.
pub(crate) fn has_nightly() -> bool {
    cargo("+nightly --version")
        // A question must not turn into a download.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .succeeds()
}

/// How much of cargo-deny's work is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope {
    /// What the lock file and the packages' own manifests answer.
    Local,
    /// Also the advisory database, which is fetched from the network and changes by the day: the
    /// same commit may pass today and fail tomorrow, which a test must not.
    WithAdvisories,
}

/// Checks what the workspace depends on against `deny.toml`.
pub(crate) fn deny(report: &mut Report, scope: Scope) {
    let checks: &[&str] = match scope {
        Scope::Local => &["licenses", "bans", "sources"],
        Scope::WithAdvisories => &["all"],
    };
    report.step("dependencies", || {
        DENY.ensure()?;
        cargo("deny --all-features check").args(checks).run()
    });
}
