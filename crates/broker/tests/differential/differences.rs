//! Where this broker answers otherwise than RabbitMQ, and why it stays so.

/// Titles of cases, and the reason of each. A case that agrees after all may not be listed.
const STAYING: [(&str, &str); 11] = [
    ("bad frame end", ECHO),
    ("frame type 4", ECHO),
    ("frame type 9 on channel 0", ECHO),
    ("method frame of three bytes", ECHO),
    ("truncated arguments", ECHO),
    ("heartbeat with a payload", LENIENT),
    ("more channels than offered", SILENCE),
    ("unlimited channels", SILENCE),
    ("frames larger than offered", SILENCE),
    ("unlimited frames", SILENCE),
    ("frames smaller than the least", SILENCE),
];

/// What cannot be read is refused with the same code, but its bytes are not sent back in the text.
const ECHO: &str = "a text of the sender's choice helps nobody but the sender";

const LENIENT: &str = "the payload of a heartbeat means nothing and is skipped";

const SILENCE: &str = "RabbitMQ hangs up without a word after 3 s; a client learns more from 530";

/// Whether the answers to a case differ, and are to.
pub(crate) fn stays(title: &str) -> bool {
    STAYING.iter().any(|(staying, _)| *staying == title)
}
