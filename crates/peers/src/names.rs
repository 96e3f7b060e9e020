//! What queues are called.

/// The queue in which a peer receives what this sender sends.
pub(crate) fn inbox(sender: &str) -> String {
    format!("inbox.{sender}")
}
