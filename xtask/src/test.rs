//! `cargo xtask test`: every check that must hold, the cheap ones first.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::cargo::{cargo, root};
use crate::report::{Outcome, Report};
use crate::{campaign, embedded, examples, fuzz, python, rabbit, real_time, tools};

/// Loom's authors find that two preemptions already show most bugs; each further one multiplies
/// the run time. `cargo xtask loom` goes further.
const PREEMPTIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// Long enough to replay the saved corpus and to catch what a careless change breaks.
const FUZZ_SECONDS: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// What the stress tests promise at the least.
const STRESS_MILLIONS: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// Three times what the longest step takes on two slow processors. A run in which one step hangs, or
/// two, still ends with a verdict within an hour and a half.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What others depend on. In the workspace as a whole they have each other's features.
const CRATES: [&str; 6] = [
    "wharf",
    "wharf-amqp",
    "wharf-broker",
    "wharf-outbox",
    "wharf-lanes",
    "wharf-peers",
];

/// Packages whose tests need a broker.
const WITH_RABBITMQ: [&str; 2] = ["wharf-testkit", "wharf-amqp"];

pub(crate) fn run(report: &mut Report) {
    report.limit_steps(STEP_LIMIT);
    report.step("format", format);
    report.step("no sleeping tests", real_time::check);
    report.step("clippy, default features", || clippy(""));
    report.step("clippy, all features", || clippy("--all-features"));
    report.step("clippy, each crate alone", || {
        CRATES.iter().try_for_each(|name| {
            cargo("clippy --lib --package")
                .args([*name, "--", "-D", "warnings"])
                .run()
        })
    });
    report.step("clippy, fuzz targets", fuzz::clippy);
    report.step("documentation", documentation);
    tools::deny(report, tools::Scope::Local);
    report.step("tests, default features", || {
        cargo("test --package wharf --lib --tests").run()
    });
    report.step("tests, all features", || {
        cargo("test --no-fail-fast --workspace --all-features --lib --bins --tests")
            .args(WITH_RABBITMQ.iter().flat_map(|name| ["--exclude", name]))
            .run()
    });
    report.step(
        "tests of wharf-amqp, on the embedded broker",
        embedded::tests,
    );
    let presence = rabbit::look(report);
    rabbit::tests(report, presence, &WITH_RABBITMQ);
    presence.step(report, "broker beside RabbitMQ".to_owned(), || {
        cargo("test --package wharf-broker --test differential").run()
    });
    python::tests(report, presence);
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
        "benches/outbox/Cargo.toml",
        "benches/lanes/Cargo.toml",
        "benches/peers/Cargo.toml",
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
