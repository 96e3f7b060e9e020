//! Operations on the pool's core, judged by the reference model: the histories of the proptest
//! state machine, chosen by coverage.
#![no_main]

use wharf::model;

libfuzzer_sys::fuzz_target!(|history: &[u8]| model::run(history));
