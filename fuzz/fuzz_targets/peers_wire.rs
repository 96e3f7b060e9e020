//! What a peer says to another, in either direction: nothing panics, and the cores keep their
//! promises, whatever it is.
#![no_main]

use wharf_peers::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::run(bytes));
