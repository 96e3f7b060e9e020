//! Not written yet: the pool lending TCP connections through a restart of their server.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("pool_tcp: not written yet");
    ExitCode::FAILURE
}
