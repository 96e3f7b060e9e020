//! A mark of this build, by which the two programs know each other.

use std::time::{Duration, SystemTime};

fn main() {
    for source in ["src", "../../crates/lanes/src", "../../crates/testkit/src"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mark = now.unwrap_or(Duration::ZERO).as_nanos();
    println!("cargo::rustc-env=LANES_BENCH_BUILD={mark}");
}
