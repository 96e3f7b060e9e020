//! The contenders, whose allocations are counted.

use std::process::ExitCode;

use wharf_lanes_compare::memory::{answer, is_own};
use wharf_testkit::usage::{COUNTING, CountingAllocator};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [build] if is_own(build) => ExitCode::SUCCESS,
        [build, contender] if answer(build, contender) => ExitCode::SUCCESS,
        _ => {
            eprintln!("this is started by the comparison, of the same build");
            ExitCode::from(2)
        }
    }
}
