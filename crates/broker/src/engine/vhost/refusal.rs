//! What a virtual host refuses, in RabbitMQ's words.

/// Why a command was refused: the reply code, and the text without the code's name in front.
/// 403 to 406 close the channel, other codes the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Refusal {
    fn new(code: u16, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    pub(super) fn access_refused(text: impl Into<String>) -> Self {
        Self::new(403, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(404, text)
    }

    pub(super) fn resource_locked(text: impl Into<String>) -> Self {
        Self::new(405, text)
    }

    pub(super) fn precondition_failed(text: impl Into<String>) -> Self {
        Self::new(406, text)
    }

    pub(super) fn command_invalid(text: impl Into<String>) -> Self {
        Self::new(503, text)
    }

    pub(super) fn not_implemented(text: impl Into<String>) -> Self {
        Self::new(540, text)
    }
}

/// A queue in RabbitMQ's words.
pub(super) fn the_queue(name: &str, vhost: &str) -> String {
    format!("queue '{name}' in vhost '{vhost}'")
}

/// An exchange in RabbitMQ's words.
pub(super) fn the_exchange(name: &str, vhost: &str) -> String {
    format!("exchange '{name}' in vhost '{vhost}'")
}
