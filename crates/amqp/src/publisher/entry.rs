//! One message on its way, from its place in the window to its verdict.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use wharf::GetError;

use super::{
    outcome::{PublishError, Receipt, why_no_channel},
    window::Home,
};
use crate::{
    error::ChannelError,
    message::{InvalidMessage, Packed, Wire},
    telemetry::{Timer, Verdict},
};

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
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// There was no channel for this reason, or without one, only a blocked one.
    #[error("not sent in time: {}", why_no_channel(.0.as_ref()))]
    TimedOut(Option<GetError<ChannelError>>),
    #[error("the publisher is closed")]
    Closed,
    #[error(transparent)]
    Invalid(InvalidMessage),
    #[error("there is no channel to publish on")]
    NoChannel(GetError<ChannelError>),
    #[error("the broker refused the message: {0}")]
    Refused(lapin::Error),
}

/// What the caller is told. It has the message itself.
#[derive(Debug)]
pub(super) enum Outcome {
    Confirmed { republished: u32 },
    Returned { code: u16, text: String },
    Rejected,
    Unknown { republished: u32 },
    NotSent(Cause),
}

/// Holds a share of the window until it is dropped, and answers exactly once.
pub(super) struct Entry {
    pub(super) home: Arc<Home>,
    /// None once it was answered: it will not be sent again.
    pub(super) message: Option<Arc<Packed>>,
    /// One copy of it for the wire, unless that is to be made anew.
    pub(super) wire: Option<Wire>,
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
    pub(super) answer: Option<oneshot::Sender<Outcome>>,
}

impl Entry {
    /// The first fate stands.
    pub(super) fn settle(&mut self, fate: Fate) {
        let (Some(answer), Some(message)) = (self.answer.take(), self.message.take()) else {
            return;
        };
        let republished = self.republished;
        let counts = &self.home.counts;
        let (count, outcome) = match fate {
            Fate::Confirmed => (&counts.confirmed, Outcome::Confirmed { republished }),
            // A copy that came before may be in the queue, or have been.
            Fate::Rejected | Fate::Returned { .. } | Fate::NotSent(_) if self.doubtful => {
                (&counts.unknown, Outcome::Unknown { republished })
            }
            Fate::Unknown => (&counts.unknown, Outcome::Unknown { republished }),
            Fate::Returned { code, text } => (&counts.returned, Outcome::Returned { code, text }),
            Fate::Rejected => (&counts.rejected, Outcome::Rejected),
            Fate::NotSent(cause) => (&counts.failed, Outcome::NotSent(cause)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.home
            .told
            .settled(&outcome.verdict(&message), &self.timer);
        // Then the caller has the last of it, and frees it on the thread that made it.
        drop(message);
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

impl Outcome {
    pub(super) fn explain(
        self,
        message: Arc<Packed>,
        limit: Duration,
    ) -> Result<Receipt, PublishError> {
        match self {
            Self::Confirmed { republished } => Ok(Receipt::Confirmed {
                id: Packed::into_id(message),
                republished,
            }),
            Self::Returned { code, text } => Ok(Receipt::Returned {
                id: Packed::into_id(message),
                code,
                text,
            }),
            Self::Rejected => Ok(Receipt::Rejected {
                id: Packed::into_id(message),
            }),
            Self::Unknown { republished } => Ok(Receipt::Unknown {
                id: Packed::into_id(message),
                republished,
            }),
            Self::NotSent(cause) => Err(cause.explain(message, limit)),
        }
    }

    /// The same for traces and metrics.
    fn verdict<'a>(&'a self, message: &'a Packed) -> Verdict<'a> {
        let id = message.id();
        match self {
            Self::Confirmed { .. } => Verdict::Confirmed,
            Self::Returned { code, text } => Verdict::Returned {
                id,
                code: *code,
                text,
            },
            Self::Rejected => Verdict::Rejected { id },
            Self::Unknown { republished } => Verdict::Unknown {
                id,
                republished: *republished,
            },
            Self::NotSent(cause) => Verdict::NotSent(cause),
        }
    }
}

impl Cause {
    fn explain(self, message: Arc<Packed>, limit: Duration) -> PublishError {
        let message = Box::new(Arc::unwrap_or_clone(message).unpack());
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
