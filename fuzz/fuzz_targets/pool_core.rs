//! Not written yet: operations on the pool's core against the reference model.
#![no_main]

libfuzzer_sys::fuzz_target!(|_operations: &[u8]| {
    panic!("pool_core: not written yet");
});
