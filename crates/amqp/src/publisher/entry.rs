//! One message on its way, from its place in the window to its verdict.

use std::sync::{Arc, atomic::Ordering};

use tokio::{sync::oneshot, time::Instant};

use super::{
    outcome::{PublishError, Receipt},
    window::Home,
};
use crate::message::Packed;

pub(super) type Answer = Result<Receipt, PublishError>;

/// How a message ended.
#[derive(Debug)]
pub(super) enum Fate {
    Confirmed,
    Returned {
        code: u16,
        text: String,
    },
    Rejected,
    Unknown,
    /// It is certain that no queue has it.
    NotSent(PublishError),
}

/// Holds a share of the window until it is dropped, and answers exactly once.
pub(super) struct Entry {
    pub(super) home: Arc<Home>,
    /// None once it was answered: it will not be sent again.
    pub(super) message: Option<Arc<Packed>>,
    pub(super) mandatory: bool,
    pub(super) id: String,
    pub(super) bytes: u32,
    pub(super) deadline: Instant,
    pub(super) republished: u32,
    /// A copy may have arrived.
    pub(super) doubtful: bool,
    /// How many channels the broker closed under it.
    pub(super) exceptions: u32,
    /// A connection has it, or had it.
    pub(super) handed: bool,
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

impl Entry {
    /// The first fate stands.
    pub(super) fn settle(&mut self, fate: Fate) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        self.message = None;
        let id = std::mem::take(&mut self.id);
        let republished = self.republished;
        let counts = &self.home.counts;
        let (count, outcome) = match fate {
            Fate::Confirmed => (
                &counts.confirmed,
                Ok(Receipt::Confirmed { id, republished }),
            ),
            Fate::Returned { code, text } => {
                (&counts.returned, Ok(Receipt::Returned { id, code, text }))
            }
            // A copy that came before may be in the queue.
            Fate::Rejected if self.doubtful => {
                (&counts.unknown, Ok(Receipt::Unknown { id, republished }))
            }
            Fate::Rejected => (&counts.rejected, Ok(Receipt::Rejected { id })),
            Fate::NotSent(error) if !self.doubtful => (&counts.failed, Err(error)),
            Fate::Unknown | Fate::NotSent(_) => {
                (&counts.unknown, Ok(Receipt::Unknown { id, republished }))
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Whoever left does not want to know.
        let _ = answer.send(outcome);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.answer.is_none()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_settled() {
            // Nobody waits for the answer of one that was never handed over.
            let id = self.id.clone();
            self.settle(if self.handed {
                Fate::Unknown
            } else {
                Fate::NotSent(PublishError::NoChannel {
                    id,
                    cause: "the caller left".into(),
                })
            });
        }
        self.home.release(self.bytes);
    }
}
