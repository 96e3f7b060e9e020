//! One message on its way, from its place in the window to its verdict.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use wharf::GetError;

use super::{
    outcome::{PublishError, Receipt},
    window::Home,
};
use crate::{
    error::ChannelError,
    message::{InvalidMessage, Message, Packed},
    telemetry::{Timer, Verdict},
};

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
    /// It is certain that no queue has this copy.
    NotSent(Cause),
}

/// Why a message was not sent.
#[derive(Debug)]
pub(super) enum Cause {
    /// There was no channel for this reason, or without one, only a blocked one.
    TimedOut(Option<GetError<ChannelError>>),
    Closed,
    Invalid(InvalidMessage),
    NoChannel(GetError<ChannelError>),
    Refused(lapin::Error),
}

/// Holds a share of the window until it is dropped, and answers exactly once.
pub(super) struct Entry {
    pub(super) home: Arc<Home>,
    /// None once it was answered: it will not be sent again.
    pub(super) message: Option<Arc<Packed>>,
    pub(super) mandatory: bool,
    /// Ascends in the order in which messages came.
    pub(super) number: u64,
    pub(super) bytes: u32,
    pub(super) deadline: Instant,
    pub(super) timer: Timer,
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
        let (Some(answer), Some(message)) = (self.answer.take(), self.message.take()) else {
            return;
        };
        let id = message.id().to_owned();
        let republished = self.republished;
        let counts = &self.home.counts;
        let (count, outcome) = match fate {
            Fate::Confirmed => (
                &counts.confirmed,
                Ok(Receipt::Confirmed { id, republished }),
            ),
            // A copy that came before may be in the queue, or have been.
            Fate::Rejected | Fate::Returned { .. } if self.doubtful => {
                (&counts.unknown, Ok(Receipt::Unknown { id, republished }))
            }
            Fate::Returned { code, text } => {
                (&counts.returned, Ok(Receipt::Returned { id, code, text }))
            }
            Fate::Rejected => (&counts.rejected, Ok(Receipt::Rejected { id })),
            Fate::NotSent(cause) if !self.doubtful => {
                let message = Box::new(Arc::unwrap_or_clone(message).unpack());
                (
                    &counts.failed,
                    Err(cause.explain(self.home.deadline, message)),
                )
            }
            Fate::Unknown | Fate::NotSent(_) => {
                (&counts.unknown, Ok(Receipt::Unknown { id, republished }))
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.home.told.settled(&verdict(&outcome), &self.timer);
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
            self.settle(if self.handed {
                Fate::Unknown
            } else {
                Fate::NotSent(Cause::Closed)
            });
        }
        self.home.release(self.bytes);
    }
}

/// The same for traces and metrics.
fn verdict(answer: &Answer) -> Verdict<'_> {
    match answer {
        Ok(Receipt::Confirmed { .. }) => Verdict::Confirmed,
        Ok(Receipt::Returned { id, code, text }) => Verdict::Returned {
            id,
            code: *code,
            text,
        },
        Ok(Receipt::Rejected { id }) => Verdict::Rejected { id },
        Ok(Receipt::Unknown { id, republished }) => Verdict::Unknown {
            id,
            republished: *republished,
        },
        Err(cause) => Verdict::NotSent(cause),
    }
}

impl Cause {
    fn explain(self, limit: Duration, message: Box<Message>) -> PublishError {
        match self {
            Self::TimedOut(cause) => PublishError::TimedOut {
                limit,
                cause: cause.map(Box::new),
                message,
            },
            Self::Closed => PublishError::Closed(message),
            Self::Invalid(invalid) => PublishError::Invalid(invalid),
            Self::NoChannel(cause) => PublishError::NoChannel {
                cause: Box::new(cause),
                message,
            },
            Self::Refused(cause) => PublishError::Refused { cause, message },
        }
    }
}
