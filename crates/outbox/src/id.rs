//! What tells one message from another.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use thiserror::Error;

/// Stays with a message for good: through deliveries that are tried again, and through a restart if
/// there is a journal. A consumer that has seen it has seen the message.
///
/// In text it is 32 hexadecimal digits: the first half is random for each outbox, the second counts.
/// Two ids are the same if and only if their texts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

impl MessageId {
    /// The number as a whole.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl From<u128> for MessageId {
    fn from(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    /// Reads what `Display` writes, and nothing else: the text of an id that was read is the same text.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(InvalidId);
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidId)
    }
}

/// A text that is not that of a [`MessageId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the id of a message is 32 hexadecimal digits, in lower case")]
pub struct InvalidId;

/// Makes ids, no two alike, in whatever process.
#[derive(Debug)]
pub(crate) struct Ids {
    beginning: u64,
    count: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self {
            beginning: fastrand::u64(..),
            count: AtomicU64::new(1),
        }
    }

    pub(crate) fn fresh(&self) -> MessageId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        MessageId(u128::from(self.beginning) << 64 | u128::from(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let ids = Ids::new();
        for id in [ids.fresh(), ids.fresh(), MessageId(0), MessageId(u128::MAX)] {
            let text = id.to_string();
            assert_eq!((text.len(), text.parse()), (32, Ok(id)));
        }
        assert_ne!(ids.fresh(), ids.fresh());
    }

    #[test]
    fn what_is_not_the_text_of_an_id_is_not_taken_for_one() {
        let good = MessageId(0xabc).to_string();
        let upper = good.to_uppercase();
        let signed = format!("+{}", &good[1..]);
        for text in ["", "abc", &good[1..], &format!("0{good}"), &upper, &signed] {
            assert_eq!(text.parse::<MessageId>(), Err(InvalidId), "{text}");
        }
    }
}
