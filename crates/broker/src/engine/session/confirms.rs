//! Publisher confirms of one channel: gathered while a batch of frames comes in, and told in as
//! few frames as RabbitMQ would (its page "Consumer Acknowledgements and Publisher Confirms").

use std::collections::BTreeSet;

use amq_protocol::protocol::{AMQPClass, basic};

/// Verdicts gathered at most.
const MOST_GATHERED: usize = 4_096;

/// Verdicts of a channel in confirm mode.
#[derive(Debug)]
pub(super) struct Confirms {
    /// The number of the next publish.
    next: u64,
    /// Published, and not to be confirmed yet. No `multiple` may cover these.
    withheld: BTreeSet<u64>,
    acked: Vec<u64>,
    nacked: Vec<u64>,
}

impl Default for Confirms {
    fn default() -> Self {
        Self {
            next: 1,
            withheld: BTreeSet::new(),
            acked: Vec::new(),
            nacked: Vec::new(),
        }
    }
}

impl Confirms {
    /// The number of the message that has just been published.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn ack(&mut self, tag: u64) {
        self.acked.push(tag);
    }

    pub(super) fn nack(&mut self, tag: u64) {
        self.nacked.push(tag);
    }

    pub(super) fn withhold(&mut self, tag: u64) {
        self.withheld.insert(tag);
    }

    /// Whether this number was withheld; it no longer is.
    pub(super) fn release(&mut self, tag: u64) -> bool {
        self.withheld.remove(&tag)
    }

    /// Whether so many verdicts are gathered that they should be told before the batch is done: a
    /// client that publishes and does not read must not pile them up.
    pub(super) fn is_full(&self) -> bool {
        self.acked.len() + self.nacked.len() >= MOST_GATHERED
    }

    /// Tells everything gathered.
    pub(super) fn flush(&mut self, mut tell: impl FnMut(AMQPClass)) {
        let first_nack = self.nacked.first().copied();
        let first_ack = self.acked.first().copied();
        told(&self.acked, self.cutoff(first_nack), |tag, multiple| {
            tell(ack(tag, multiple));
        });
        told(&self.nacked, self.cutoff(first_ack), |tag, multiple| {
            tell(nack(tag, multiple));
        });
        self.acked.clear();
        self.nacked.clear();
    }

    /// The first number that `multiple` may not reach.
    fn cutoff(&self, other_verdict: Option<u64>) -> u64 {
        let open = self.withheld.first().copied().unwrap_or(u64::MAX);
        open.min(other_verdict.unwrap_or(u64::MAX))
    }
}

/// Tells numbers, which ascend: those below the cutoff at once, the others one by one.
fn told(tags: &[u64], cutoff: u64, mut tell: impl FnMut(u64, bool)) {
    let (together, alone) = tags.split_at(tags.partition_point(|tag| *tag < cutoff));
    if let Some(last) = together.last() {
        tell(*last, tags.len() > 1);
    }
    for tag in alone {
        tell(*tag, false);
    }
}

pub(super) fn ack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple,
    }))
}

fn nack(delivery_tag: u64, multiple: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
        delivery_tag,
        multiple,
        requeue: false,
    }))
}
