//! Why a channel or a connection is closed.

use amq_protocol::types::ShortString;

use super::super::vhost::Refusal;

/// A reply code and its text without the code's name in front. Codes from 311 to 406 close the
/// channel, others the connection (AMQP 0-9-1, section 1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) code: u16,
    pub(super) text: String,
    /// The text is somebody else's and goes out without the code's name.
    verbatim: bool,
}

/// What the other side did wrong: class and method, both zero if it was no method.
pub(super) type Cause = (u16, u16);

impl Exception {
    pub(super) fn new(code: u16, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            verbatim: false,
        }
    }

    /// A code and a text that goes out as it is.
    pub(super) fn verbatim(code: u16, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            verbatim: true,
        }
    }

    pub(super) fn precondition_failed(text: impl Into<String>) -> Self {
        Self::new(406, text)
    }

    /// Whether only the channel is lost.
    pub(super) fn is_soft(&self) -> bool {
        matches!(self.code, 311..=313 | 403..=406)
    }

    /// The text as RabbitMQ sends it: the code's name first, at most 255 bytes.
    pub(super) fn reply_text(&self) -> ShortString {
        short(match name(self.code) {
            Some(name) if !self.verbatim => format!("{name} - {}", self.text),
            _ => self.text.clone(),
        })
    }
}

impl From<Refusal> for Exception {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.text)
    }
}

/// Cuts a text to what a short string holds, as RabbitMQ does: 252 bytes and three points.
pub(super) fn short(mut text: String) -> ShortString {
    if text.len() > 255 {
        let mut end = 252;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    ShortString::from(text)
}

fn name(code: u16) -> Option<&'static str> {
    Some(match code {
        311 => "CONTENT_TOO_LARGE",
        312 => "NO_ROUTE",
        313 => "NO_CONSUMERS",
        320 => "CONNECTION_FORCED",
        402 => "INVALID_PATH",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        506 => "RESOURCE_ERROR",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        541 => "INTERNAL_ERROR",
        _ => return None,
    })
}
