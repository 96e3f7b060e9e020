//! `cargo xtask test`: every check that must hold, the cheap ones first.

use std::num::NonZeroU32;

use crate::cargo::{cargo, root};
use crate::report::{Outcome, Report};
use crate::{campaign, examples, fuzz, rabbit, real_time, tools};

/// Loom's authors find that two preemptions already show most bugs; each further one multiplies
/// the run time. `cargo xtask loom` goes further.
const PREEMPTIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// Long enough to replay the saved corpus and to catch what a careless change breaks.
const FUZZ_SECONDS: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// What the stress tests promise at the least.
const STRESS_MILLIONS: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// Packages whose tests need a broker.
const WITH_RABBITMQ: [&str; 2] = ["wharf-testkit", "wharf-amqp"];

pub(crate) fn run(report: &mut Report) {
    report.step("format", format);
    report.step("no sleeping tests", real_time::check);
    report.step("clippy, default features", || clippy(""));
    report.step("clippy, all features", || clippy("--all-features"));
    report.step("clippy, fuzz targets", fuzz::clippy);
    report.step("documentation", documentation);
    tools::deny(report, tools::Scope::Local);
    report.step("tests, default features", || {
        cargo("test --package wharf --lib --tests").run()
    });
    report.step("tests, all features", || {
        cargo("test --workspace --all-features --lib --bins --tests")
            .args(WITH_RABBITMQ.iter().flat_map(|name| ["--exclude", name]))
            .run()
    });
    let presence = rabbit::look(report);
    rabbit::tests(report, presence, &WITH_RABBITMQ);
    report.step("doc tests", || {
        cargo("test --workspace --all-features --doc").run()
    });
    campaign::stress(report, STRESS_MILLIONS);
    examples::run(report);
    examples::run_with_rabbitmq(report, presence);
    campaign::loom(report, PREEMPTIONS);
    if tools::has_nightly() {
        fuzz::run(report, FUZZ_SECONDS, None);
    } else {
        report.skip("fuzz", "NOTHING WAS FUZZED, there is no nightly toolchain");
    }
}

/// Packages outside the workspace are not reached by `--all`, so they are named.
fn format() -> Outcome {
    cargo("fmt --all --check").run()?;
    let outside = [
        "fuzz/Cargo.toml",
        "benches/compare/Cargo.toml",
        "benches/amqp/Cargo.toml",
    ];
    for outside in outside {
        cargo("fmt --check --manifest-path")
            .arg(root().join(outside))
            .run()?;
    }
    Ok(())
}

fn clippy(features: &str) -> Outcome {
    cargo("clippy --workspace --all-targets")
        .args(features.split_whitespace())
        .args(["--", "-D", "warnings"])
        .run()
}

fn documentation() -> Outcome {
    cargo("doc --workspace --no-deps --all-features")
        .flags("RUSTDOCFLAGS", "-D warnings")
        .run()
}
