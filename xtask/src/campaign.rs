//! The same proofs `test` runs for a while, run for as long as asked.

use std::num::NonZeroU32;

use crate::cargo::cargo;
use crate::report::Report;

/// Packages with reference models, and what the paths of those tests have in them.
const MODELS: [(&str, &str); 4] = [
    ("wharf", "model"),
    ("wharf-lanes", "model"),
    ("wharf-outbox", "core::tests"),
    ("wharf-peers", "core::tests"),
];

/// Every interleaving of the loom tests with up to `preemptions` forced switches of thread.
///
/// Release mode, because loom runs each test thousands of times; debug assertions stay on,
/// because they hold invariants no test can look at from outside.
pub(crate) fn loom(report: &mut Report, preemptions: NonZeroU32) {
    report.step(format!("loom, {preemptions} preemptions"), || {
        cargo("test --release --package wharf --lib loom")
            .flags("RUSTFLAGS", "--cfg wharf_loom")
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
            .env("LOOM_MAX_PREEMPTIONS", preemptions.to_string())
            .target_dir("loom")
            .run_tests()
    });
}

/// Random histories against the reference models.
pub(crate) fn model(report: &mut Report, cases: NonZeroU32) {
    for (package, tests) in MODELS {
        report.step(format!("model, {package}, {cases} cases"), || {
            cargo("test --release --all-features --lib --tests")
                .args(["--package", package, tests])
                .env("PROPTEST_CASES", cases.to_string())
                .run_tests()
        });
    }
}

/// Random actions on real threads, then exact counts.
pub(crate) fn stress(report: &mut Report, millions: NonZeroU32) {
    let operations = u64::from(millions.get()) * 1_000_000;
    report.step(format!("stress, {millions} million operations"), || {
        cargo("test --release --package wharf --all-features --test stress")
            .env("WHARF_STRESS_OPERATIONS", operations.to_string())
            .run_tests()
    });
}

/// A durable outbox in a process that is killed at random moments, over and over.
pub(crate) fn kill(report: &mut Report, times: NonZeroU32) {
    report.step(format!("kill, {times} times"), || {
        cargo("test --release --package wharf-outbox --all-features --test kill")
            .env("WHARF_OUTBOX_KILLS", times.to_string())
            .run_tests()
    });
}

/// Peers whose connections are cut at random moments, over and over.
pub(crate) fn cuts(report: &mut Report, times: NonZeroU32) {
    report.step(format!("cuts, {times} times"), || {
        cargo("test --release --package wharf-peers --all-features --test cuts")
            .env("WHARF_PEERS_CUTS", times.to_string())
            .run_tests()
    });
}

/// The AMQP adapter under random faults, in a program that ends with a table and a verdict.
pub(crate) fn soak(report: &mut Report, minutes: NonZeroU32, seed: Option<NonZeroU32>) {
    let seed = seed.map(|seed| ["--seed".to_owned(), seed.to_string()]);
    report.step(format!("soak, {minutes} minutes"), || {
        cargo("run --release --quiet --package wharf-soak -- --minutes")
            .arg(minutes.to_string())
            .args(seed.iter().flatten())
            .run()
    });
}
