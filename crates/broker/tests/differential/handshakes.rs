//! Clients that do not get as far as an open connection.

use crate::frames::{Sent, open, start_ok, tune_ok};

/// What a client says, from its first bytes on.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) title: &'static str,
    pub(crate) header: &'static [u8],
    pub(crate) sent: Vec<Sent>,
}

const AMQP: &[u8] = b"AMQP\0\0\x09\x01";

pub(crate) fn openings(vhost: &str) -> Vec<Opening> {
    let opening = |title, header, sent: &[Sent]| Opening {
        title,
        header,
        sent: sent.to_vec(),
    };
    let after_start = |title, sent: &[Sent]| opening(title, AMQP, sent);
    let tuned = |title, channel_max, frame_max| {
        let login = start_ok("guest", "guest");
        after_start(
            title,
            &[login, tune_ok(channel_max, frame_max, 60), open(vhost)],
        )
    };
    let bytes = |bytes: &[u8]| [Sent::Bytes(bytes.to_vec())];
    vec![
        opening("another version", b"AMQP\0\0\x09\0", &[]),
        opening("AMQP 1.0", b"AMQP\0\x01\0\0", &[]),
        opening("HTTP", b"GET / HT", &[]),
        after_start("wrong password", &[start_ok("guest", "wrong")]),
        after_start("unknown user", &[start_ok("nobody", "guest")]),
        after_start(
            "unknown vhost",
            &[
                start_ok("guest", "guest"),
                tune_ok(2047, 131_072, 60),
                open("nowhere"),
            ],
        ),
        tuned("more channels than offered", 2048, 131_072),
        tuned("unlimited channels", 0, 131_072),
        tuned("frames larger than offered", 2047, 131_073),
        tuned("unlimited frames", 2047, 0),
        tuned("frames smaller than the least", 2047, 4095),
        after_start("open before start-ok", &[open(vhost)]),
        after_start("tune-ok before start-ok", &[tune_ok(2047, 131_072, 60)]),
        after_start(
            "content before start-ok",
            &bytes(b"\x03\0\0\0\0\0\x01x\xce"),
        ),
        after_start(
            "unknown frame before start-ok",
            &bytes(b"\x09\0\0\0\0\0\0\xce"),
        ),
        after_start(
            "bad frame end before start-ok",
            &bytes(b"\x08\0\0\0\0\0\0\xcd"),
        ),
        after_start(
            "large frame before start-ok",
            &bytes(b"\x01\0\0\0\0\x10\x01"),
        ),
        after_start(
            "unknown method before start-ok",
            &bytes(b"\x01\0\0\0\0\0\x04\0\x0a\0\x63\xce"),
        ),
    ]
}
