//! `cargo xtask bench`: our own figures, then the comparison with other pools; and that of the AMQP
//! adapter.

use std::num::NonZeroU32;

use crate::cargo::{Cargo, cargo, root};
use crate::rabbit;
use crate::report::{Outcome, Report};

/// Runs everything, or what the names select: in criterion by its filter, in the comparison by
/// passing the names on.
pub(crate) fn run(report: &mut Report, names: &[String]) {
    report.step("criterion", || {
        // Criterion takes one regular expression.
        let filter = (!names.is_empty()).then(|| names.join("|"));
        cargo("bench --package wharf-benches --").args(filter).run()
    });
    lint(report, "compare");
    report.step("comparison", || compare("compare", names));
}

/// Measures the AMQP adapter on a RabbitMQ node of its own, which is installed first where that
/// may be done.
pub(crate) fn amqp(report: &mut Report, rounds: Option<NonZeroU32>, quick: bool, names: &[String]) {
    let mut args = names.to_vec();
    if quick {
        args.push("--quick".to_owned());
    }
    if let Some(rounds) = rounds {
        args.extend(["--rounds".to_owned(), rounds.to_string()]);
    }
    lint(report, "amqp");
    let name = "comparison, with RabbitMQ".to_owned();
    rabbit::look(report).step(report, name, || compare("amqp", &args));
}

fn lint(report: &mut Report, folder: &str) {
    report.step("clippy, comparison", || {
        outside(folder, "clippy --all-targets")
            .args(["--", "-D", "warnings"])
            .run()
    });
}

fn compare(folder: &str, args: &[String]) -> Outcome {
    outside(folder, "run --release").arg("--").args(args).run()
}

/// A call for a workspace of its own.
fn outside(folder: &str, words: &str) -> Cargo {
    cargo(words)
        .arg("--manifest-path")
        .arg(root().join("benches").join(folder).join("Cargo.toml"))
        .target_dir(folder)
}
