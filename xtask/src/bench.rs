//! `cargo xtask bench`: our own figures, then the comparison with other pools; and the comparisons
//! of the other parts.

use std::num::NonZeroU32;

use crate::cargo::{Cargo, cargo, root};
use crate::cli::Subject;
use crate::rabbit;
use crate::report::Report;

/// Runs everything, or what the names select: in criterion by its filter, in the comparison by
/// passing the names on.
pub(crate) fn run(report: &mut Report, names: &[String]) {
    report.step("criterion", || {
        // Criterion takes one regular expression.
        let filter = (!names.is_empty()).then(|| names.join("|"));
        cargo("bench --package wharf-benches --").args(filter).run()
    });
    lint(report, "compare");
    report.step("comparison", || {
        outside("compare", "run --release")
            .arg("--")
            .args(names)
            .run()
    });
}

/// Measures one of the other parts; beside a RabbitMQ node of its own, which is installed first where
/// that may be done, if it is of AMQP.
pub(crate) fn of(
    report: &mut Report,
    what: Subject,
    rounds: Option<NonZeroU32>,
    quick: bool,
    names: &[String],
) {
    let mut args = names.to_vec();
    if quick {
        args.push("--quick".to_owned());
    }
    if let Some(rounds) = rounds {
        args.extend(["--rounds".to_owned(), rounds.to_string()]);
    }
    let folder = what.folder();
    lint(report, folder);
    let compare = || {
        // Some of the programs start another that stands beside them.
        outside(folder, "build --release --bins").run()?;
        outside(folder, "run --release")
            .args(["--bin", what.program(), "--"])
            .args(&args)
            .run()
    };
    if what.needs_rabbitmq() {
        let name = "comparison, with RabbitMQ".to_owned();
        rabbit::look(report).step(report, name, compare);
    } else {
        report.step("comparison", compare);
    }
}

fn lint(report: &mut Report, folder: &str) {
    report.step("clippy, comparison", || {
        outside(folder, "clippy --all-targets")
            .args(["--", "-D", "warnings"])
            .run()
    });
}

/// A call for a workspace of its own.
fn outside(folder: &str, words: &str) -> Cargo {
    cargo(words)
        .arg("--manifest-path")
        .arg(root().join("benches").join(folder).join("Cargo.toml"))
        .target_dir(folder)
}
