//! Fuzzing: each target starts from its saved corpus and leaves the work tree as it found it.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use crate::cargo::{cargo, root, target_dir};
use crate::report::{Outcome, Report};
use crate::tools;

/// A line at the end instead of one for each input that is kept. What it finds is told at any rate.
const QUIET: [&str; 2] = ["-verbosity=0", "-print_final_stats=1"];

/// An input that takes longer is a hang. Libfuzzer's own limit is twenty minutes.
const INPUT_TIMEOUT: &str = "-timeout=10";

/// Fuzzes one target, or each in turn.
pub(crate) fn run(report: &mut Report, seconds: NonZeroU32, only: Option<&str>) {
    let mut targets = Vec::new();
    let ready = report.step("fuzz, preparation", || {
        if !tools::has_nightly() {
            return Err("cargo-fuzz needs a nightly toolchain".to_owned());
        }
        targets = chosen(all_targets()?, only)?;
        tools::FUZZ.ensure()
    });
    if !ready {
        return;
    }
    for target in targets {
        report.step(format!("fuzz {target}, {seconds} s"), || {
            fuzz(&target, seconds)
        });
    }
}

/// Clippy needs no nightly: the targets are ordinary programs under a cfg.
pub(crate) fn clippy() -> Outcome {
    cargo("clippy --all-targets --manifest-path")
        .arg(root().join("fuzz/Cargo.toml"))
        .args(["--", "-D", "warnings"])
        .flags("RUSTFLAGS", "--cfg fuzzing")
        .target_dir("fuzz")
        .run()
}

fn fuzz(target: &str, seconds: NonZeroU32) -> Outcome {
    // Libfuzzer writes what it finds into the first folder and only reads the others.
    let found = target_dir().join("fuzz-corpus").join(target);
    let saved = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;

    cargo("+nightly fuzz run --fuzz-dir fuzz --target-dir")
        .arg(target_dir().join("fuzz"))
        .arg(target)
        .arg(found)
        .args(saved.is_dir().then_some(saved))
        .args(["--", INPUT_TIMEOUT])
        .args(QUIET)
        .arg(format!("-max_total_time={seconds}"))
        .run()
}

/// The names of the files in `fuzz/fuzz_targets`, in order.
fn all_targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let files = files_in(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut targets: Vec<_> = files.iter().filter_map(|file| target_name(file)).collect();
    targets.sort();
    Ok(targets)
}

fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

fn target_name(file: &Path) -> Option<String> {
    let is_source = file.extension().is_some_and(|extension| extension == "rs");
    is_source.then(|| {
        file.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    })
}

fn chosen(all: Vec<String>, only: Option<&str>) -> Result<Vec<String>, String> {
    match only {
        None if all.is_empty() => Err("fuzz/fuzz_targets holds no target".to_owned()),
        None => Ok(all),
        Some(name) if all.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(format!(
            "no fuzz target `{name}`; there are: {}",
            all.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<String> {
        vec!["codec".to_owned(), "pool_core".to_owned()]
    }

    #[test]
    fn without_a_name_every_target_is_fuzzed() {
        assert_eq!(chosen(targets(), None), Ok(targets()));
    }

    #[test]
    fn a_name_selects_its_target_alone() {
        let pool_core = vec!["pool_core".to_owned()];
        assert_eq!(chosen(targets(), Some("pool_core")), Ok(pool_core));
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let problem = chosen(targets(), Some("pool")).unwrap_err();
        assert!(problem.contains("codec, pool_core"), "{problem}");
    }

    #[test]
    fn having_no_target_at_all_is_a_failure() {
        assert!(chosen(vec![], None).is_err());
    }
}
