//! `cargo xtask bench`: our own figures, then the comparison with other pools.

use crate::cargo::{Cargo, cargo, root};
use crate::report::Report;

/// Runs everything, or what the names select: in criterion by its filter, in the comparison by
/// passing the names on.
pub(crate) fn run(report: &mut Report, names: &[String]) {
    report.step("criterion", || {
        // Criterion takes one regular expression.
        let filter = (!names.is_empty()).then(|| names.join("|"));
        cargo("bench --package wharf-benches --").args(filter).run()
    });
    report.step("clippy, comparison", || {
        compare("clippy --all-targets")
            .args(["--", "-D", "warnings"])
            .run()
    });
    report.step("comparison", || {
        compare("run --release").arg("--").args(names).run()
    });
}

fn compare(words: &str) -> Cargo {
    cargo(words)
        .arg("--manifest-path")
        .arg(root().join("benches/compare/Cargo.toml"))
        .target_dir("compare")
}
