//! The embedded broker, whose allocations are counted.

use std::process::ExitCode;

use wharf_amqp_compare::embedded::served;
use wharf_testkit::usage::{COUNTING, CountingAllocator};

#[global_allocator]
static ALLOCATOR: &CountingAllocator = COUNTING;

fn main() -> ExitCode {
    if served() {
        ExitCode::SUCCESS
    } else {
        eprintln!("this is started by the comparison");
        ExitCode::from(2)
    }
}
