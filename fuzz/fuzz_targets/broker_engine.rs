//! Bytes of clients to the broker's codec and engine, from the protocol header on: nothing panics,
//! and whatever the broker answers is whole frames.
#![no_main]

use wharf_broker::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for answers in hostile::serve(bytes) {
        assert_frames(&answers);
    }
});

/// Type, channel, size, payload and end (AMQP 0-9-1, section 4.2.3), or the protocol header that
/// answers another protocol (section 4.2.2).
fn assert_frames(mut answers: &[u8]) {
    while let [kind, _, _, rest @ ..] = answers {
        if answers == b"AMQP\0\0\x09\x01" {
            return;
        }
        assert!(matches!(kind, 1 | 2 | 3 | 8), "a frame of type {kind}");
        let (size, rest) = rest.split_first_chunk().expect("a frame has a size");
        let size = u32::from_be_bytes(*size) as usize;
        assert_eq!(rest.get(size), Some(&206), "the frame's end");
        answers = &rest[size + 1..];
    }
    assert!(answers.is_empty(), "less than a frame");
}
