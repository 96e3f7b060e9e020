//! The tests of the AMQP adapter on the embedded broker, RabbitMQ or no.

use std::{fs, io, path::PathBuf};

use crate::cargo::{cargo, root};
use crate::report::Outcome;

/// What `tests/common/broker` reads.
const CHOICE: &str = "WHARF_TEST_BROKER";

/// Test programs that need RabbitMQ as a whole: its process, a cluster of nodes, TLS. In the others,
/// tests that need it are in a module `rabbitmq_only`.
const WITH_RABBITMQ_ONLY: [&str; 3] = ["publisher_node", "three_nodes", "tls"];

pub(crate) fn tests() -> Outcome {
    let names = programs().map_err(|error| format!("the tests are not found: {error}"))?;
    let names = names
        .iter()
        .filter(|name| !WITH_RABBITMQ_ONLY.contains(&name.as_str()))
        .flat_map(|name| ["--test", name]);
    cargo("test --no-fail-fast --all-features --package wharf-amqp")
        .args(names)
        .args(["--", "--skip", "rabbitmq_only"])
        .env(CHOICE, "embedded")
        .run()
}

/// The test programs of the adapter, by name: each is a file or a folder with a `main.rs`.
fn programs() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        let is_program = match path.extension() {
            Some(extension) => extension == "rs",
            None => path.join("main.rs").is_file(),
        };
        let name = path.file_stem().filter(|_| is_program);
        names.extend(name.map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

fn folder() -> PathBuf {
    root().join("crates/amqp/tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_files_and_folders_and_what_they_share_is_none() {
        let names = programs().unwrap();
        for name in ["publisher", "embedded", "bounds"] {
            assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
        }
        assert!(names.iter().all(|name| name != "common"), "{names:?}");
    }

    #[test]
    fn what_is_left_out_is_there() {
        let names = programs().unwrap();
        for name in WITH_RABBITMQ_ONLY {
            assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
        }
    }

    /// The broker that a test takes has to be the one that was chosen.
    #[test]
    fn test_programs_that_are_run_take_rabbitmq_from_nowhere_else() {
        for name in programs().unwrap() {
            if WITH_RABBITMQ_ONLY.contains(&name.as_str()) {
                continue;
            }
            let file = folder().join(format!("{name}.rs"));
            let main = folder().join(&name).join("main.rs");
            let text = fs::read_to_string(file).or_else(|_| fs::read_to_string(main));
            let text = text.unwrap();
            assert!(!text.contains("Rabbit::"), "{name}");
        }
    }
}
