//! Runs the examples that check themselves and fail when something is not as they say.

use crate::cargo::cargo;
use crate::report::Report;

const SELF_CHECKING: [&str; 1] = ["pool_tcp"];

pub(crate) fn run(report: &mut Report) {
    for example in SELF_CHECKING {
        report.step(format!("example {example}"), || {
            cargo("run --release --example").arg(example).run()
        });
    }
}
