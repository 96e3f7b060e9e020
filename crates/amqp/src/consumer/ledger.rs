//! Which deliveries of one channel are open, and which frames tell the broker of those that are
//! not. Knows no channel and no clock: both are arguments.
//!
//! Acknowledgements wait for company, so that one frame with `multiple` covers many (AMQP 0-9-1,
//! `basic.ack`). One that comes alone after a moment of quiet does not wait; in a flow of messages
//! the next is on its way even if nothing else is open.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Outcome;

/// How long an acknowledgement waits for company, at most.
pub(super) const COMPANY: Duration = Duration::from_millis(2);

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// Covers `count` deliveries, up to this one.
    Ack {
        tag: u64,
        count: u64,
    },
    Nack {
        tag: u64,
        requeue: bool,
    },
}

impl Frame {
    /// How many deliveries it settles.
    pub(super) fn count(self) -> u64 {
        match self {
            Self::Ack { count, .. } => count,
            Self::Nack { .. } => 1,
        }
    }
}

/// When to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// At this time, or when woken.
    At(Instant),
    WhenWoken,
    /// Everything is settled and sent, and nothing more will come.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    tag: u64,
    /// Processed; its frame has not been sent.
    is_acked: bool,
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// Every delivery whose frame has not been sent, in the order of their tags: no more than the
    /// prefetch.
    slots: VecDeque<Slot>,
    refused: Vec<Frame>,
    /// Slots that are acked.
    acked: usize,
    /// Since when the oldest of them waits, about.
    since: Option<Instant>,
    /// When the last frame for any of them was.
    last: Option<Instant>,
    /// So many acked are reason enough for a frame.
    batch: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// No more deliveries; those that are open may still be settled.
    Retired,
    /// What is acked is sent at once, and nothing is waited for.
    Closing,
    /// The channel is gone: nothing can be sent.
    Dead,
}

impl Ledger {
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            slots: VecDeque::new(),
            refused: Vec::new(),
            acked: 0,
            since: None,
            last: None,
            // Half the prefetch stays on its way while the other half is acknowledged.
            batch: usize::from(prefetch / 2).clamp(1, 64),
            phase: Phase::Live,
        }
    }

    pub(super) fn deliver(&mut self, tag: u64) {
        if self.phase != Phase::Dead {
            let is_acked = false;
            self.slots.push_back(Slot { tag, is_acked });
        }
    }

    /// Takes a verdict. Says whether the sender must be woken, or nothing if it is too late.
    pub(super) fn settle(&mut self, tag: u64, outcome: Outcome, now: Instant) -> Option<bool> {
        if matches!(self.phase, Phase::Dead | Phase::Closing) {
            return None;
        }
        let at = self.find(tag)?;
        debug_assert!(!self.slots[at].is_acked, "bug: settled twice");
        match outcome {
            Outcome::Ack => {
                self.slots[at].is_acked = true;
                self.acked += 1;
                let first = self.since.is_none();
                self.since.get_or_insert(now);
                Some(first || self.acked >= self.batch || self.is_alone(now))
            }
            Outcome::Requeue | Outcome::Reject => {
                self.slots.remove(at);
                let requeue = outcome == Outcome::Requeue;
                self.refused.push(Frame::Nack { tag, requeue });
                Some(true)
            }
        }
    }

    fn find(&self, tag: u64) -> Option<usize> {
        // The broker counts the deliveries of a channel: where none between them is settled, this
        // is the place, and where some are, it is before.
        let first = self.slots.front()?.tag;
        let at = usize::try_from(tag.checked_sub(first)?).ok()?;
        match self.slots.get(at) {
            Some(slot) if slot.tag == tag => Some(at),
            _ => self.slots.binary_search_by_key(&tag, |slot| slot.tag).ok(),
        }
    }

    /// What is to be sent now, in this order, and when to ask again.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<Frame>, Next) {
        if self.phase == Phase::Dead {
            return (Vec::new(), Next::End);
        }
        // Ahead of an acknowledgement that would cover them.
        let mut frames = std::mem::take(&mut self.refused);
        self.ack(now, &mut frames);
        (frames, self.next())
    }

    fn ack(&mut self, now: Instant, frames: &mut Vec<Frame>) {
        let waited = self.since.is_some_and(|since| now >= since + COMPANY);
        let all = self.phase == Phase::Closing;
        let due = all || waited || self.acked >= self.batch || self.is_alone(now);
        if self.acked == 0 || !due {
            return;
        }
        let run = self.ack_run(frames);
        // What is behind a delivery that is still open has one frame each, unless the open one is
        // about to be settled: if anything moved, it probably is.
        if all || (waited && !run) || self.acked >= self.batch {
            self.ack_singly(frames);
        }
        self.since = (self.acked > 0).then_some(if run { now } else { self.since.unwrap_or(now) });
        self.last = Some(now);
    }

    /// One frame for all that precede the first open one. Says whether there was any.
    fn ack_run(&mut self, frames: &mut Vec<Frame>) -> bool {
        let run = self.slots.iter().take_while(|slot| slot.is_acked);
        let count = run.count();
        let Some(last) = self.slots.drain(..count).next_back() else {
            return false;
        };
        self.acked -= count;
        frames.push(Frame::Ack {
            tag: last.tag,
            count: count as u64,
        });
        true
    }

    fn ack_singly(&mut self, frames: &mut Vec<Frame>) {
        self.slots.retain(|slot| {
            if slot.is_acked {
                let (tag, count) = (slot.tag, 1);
                frames.push(Frame::Ack { tag, count });
            }
            !slot.is_acked
        });
        self.acked = 0;
    }

    fn next(&self) -> Next {
        match self.phase {
            Phase::Dead | Phase::Closing => Next::End,
            Phase::Retired if self.slots.is_empty() => Next::End,
            Phase::Live | Phase::Retired => self
                .since
                .map_or(Next::WhenWoken, |since| Next::At(since + COMPANY)),
        }
    }

    /// Nothing is open, and it has been quiet.
    fn is_alone(&self, now: Instant) -> bool {
        let is_quiet = self.last.is_none_or(|last| now >= last + COMPANY);
        is_quiet && self.acked == self.slots.len()
    }

    /// No more deliveries will come.
    pub(super) fn retire(&mut self) {
        self.advance(Phase::Retired);
    }

    /// No more verdicts are taken. Says how many deliveries stay open.
    pub(super) fn close(&mut self) -> usize {
        self.advance(Phase::Closing);
        self.slots.len() - self.acked
    }

    /// Nothing can be sent any more. Says how many verdicts never were.
    pub(super) fn bury(&mut self) -> u64 {
        let unsent = self.acked + self.refused.len();
        self.advance(Phase::Dead);
        self.slots.clear();
        self.refused.clear();
        self.acked = 0;
        self.since = None;
        unsent as u64
    }

    /// Whether it was buried.
    pub(super) fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    fn advance(&mut self, to: Phase) {
        if (self.phase as u8) < to as u8 {
            self.phase = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefetch: u16, deliveries: u64) -> (Ledger, Instant) {
        let mut ledger = Ledger::new(prefetch);
        for tag in 1..=deliveries {
            ledger.deliver(tag);
        }
        (ledger, Instant::now())
    }

    fn ack(tag: u64, count: u64) -> Frame {
        Frame::Ack { tag, count }
    }

    #[test]
    fn a_lone_delivery_is_acknowledged_at_once() {
        let (mut ledger, now) = of(100, 1);
        assert_eq!(ledger.settle(1, Outcome::Ack, now), Some(true));
        assert_eq!(ledger.due(now), (vec![ack(1, 1)], Next::WhenWoken));
    }

    #[test]
    fn in_a_flow_those_that_come_one_by_one_share_a_frame_too() {
        let (mut ledger, now) = of(100, 1);
        ledger.settle(1, Outcome::Ack, now);
        assert_eq!(ledger.due(now).0, [ack(1, 1)]);
        for tag in 2..=9 {
            ledger.deliver(tag);
            assert_eq!(ledger.settle(tag, Outcome::Ack, now), Some(tag == 2));
            assert_eq!(ledger.due(now), (vec![], Next::At(now + COMPANY)));
        }
        let later = now + COMPANY;
        assert_eq!(ledger.due(later), (vec![ack(9, 8)], Next::WhenWoken));
        ledger.deliver(10);
        let later = later + COMPANY;
        assert_eq!(ledger.settle(10, Outcome::Ack, later), Some(true));
        assert_eq!(ledger.due(later).0, [ack(10, 1)]);
    }

    #[test]
    fn in_company_one_frame_covers_a_batch() {
        let (mut ledger, now) = of(20, 20);
        for tag in 1..10 {
            assert_eq!(ledger.settle(tag, Outcome::Ack, now), Some(tag == 1));
            assert_eq!(ledger.due(now).0, []);
        }
        assert_eq!(ledger.settle(10, Outcome::Ack, now), Some(true));
        assert_eq!(ledger.due(now).0, [ack(10, 10)]);
    }

    #[test]
    fn without_a_batch_they_go_when_their_time_has_come() {
        let (mut ledger, now) = of(100, 3);
        ledger.settle(1, Outcome::Ack, now);
        assert_eq!(ledger.due(now), (vec![], Next::At(now + COMPANY)));
        assert_eq!(ledger.due(now + COMPANY).0, [ack(1, 1)]);
    }

    /// `multiple` must never cover a delivery that is still being processed.
    #[test]
    fn no_frame_covers_an_open_delivery() {
        let (mut ledger, now) = of(100, 5);
        for tag in [1, 2, 4, 5] {
            ledger.settle(tag, Outcome::Ack, now);
        }
        let later = now + COMPANY;
        assert_eq!(ledger.due(later).0, [ack(2, 2)]);
        let later = later + COMPANY;
        assert_eq!(ledger.due(later).0, [ack(4, 1), ack(5, 1)]);
        let later = later + COMPANY;
        ledger.settle(3, Outcome::Ack, later);
        assert_eq!(ledger.due(later).0, [ack(3, 1)]);
    }

    /// Those in the middle leave first, and the rest must still be found.
    #[test]
    fn in_whatever_order_they_are_settled_each_is_told_once_and_no_other_with_it() {
        let mut orders = Vec::new();
        permute(&mut [1, 2, 3, 4, 5, 6], 0, &mut orders);
        assert_eq!(orders.len(), 720);
        for order in orders {
            let (mut ledger, mut now) = of(100, 6);
            let (mut settled, mut told) = (Vec::new(), Vec::new());
            for tag in order {
                let outcome = [Outcome::Ack, Outcome::Reject][usize::from(tag == 3)];
                assert!(ledger.settle(tag, outcome, now).is_some());
                settled.push(tag);
                now += COMPANY;
                tell(ledger.due(now).0, &settled, &mut told);
            }
            now += COMPANY;
            tell(ledger.due(now).0, &settled, &mut told);
            told.sort_unstable();
            assert_eq!(told, [1, 2, 3, 4, 5, 6]);
            assert_eq!(ledger.settle(4, Outcome::Ack, now), None);
        }
    }

    fn permute(tags: &mut [u64; 6], from: usize, orders: &mut Vec<[u64; 6]>) {
        if from == tags.len() {
            return orders.push(*tags);
        }
        for at in from..tags.len() {
            tags.swap(from, at);
            permute(tags, from + 1, orders);
            tags.swap(from, at);
        }
    }

    /// As the broker reads the frames: `multiple` is everything up to the tag that it still holds.
    fn tell(frames: Vec<Frame>, settled: &[u64], told: &mut Vec<u64>) {
        for frame in frames {
            let covered: Vec<u64> = match frame {
                Frame::Ack { tag, count: 2.. } => {
                    (1..=tag).filter(|tag| !told.contains(tag)).collect()
                }
                Frame::Ack { tag, .. } | Frame::Nack { tag, .. } => vec![tag],
            };
            assert_eq!(covered.len() as u64, frame.count());
            assert!(covered.iter().all(|tag| settled.contains(tag)));
            told.extend(covered);
        }
    }

    #[test]
    fn a_handler_that_hangs_holds_up_no_other_and_the_ledger_stays_small() {
        let (mut ledger, now) = of(10, 1);
        for tag in 2..10_000 {
            ledger.deliver(tag);
            ledger.settle(tag, Outcome::Ack, now);
            ledger.due(now);
            assert!(ledger.slots.len() <= 10);
        }
    }

    /// The broker closes the channel for an acknowledgement of what it no longer holds.
    #[test]
    fn what_is_refused_is_told_before_an_acknowledgement_that_covers_it() {
        let (mut ledger, now) = of(100, 3);
        ledger.settle(1, Outcome::Ack, now);
        ledger.settle(3, Outcome::Ack, now);
        ledger.settle(2, Outcome::Reject, now);
        let nack = Frame::Nack {
            tag: 2,
            requeue: false,
        };
        assert_eq!(ledger.due(now), (vec![nack, ack(3, 2)], Next::WhenWoken));
    }

    #[test]
    fn a_retired_ledger_ends_with_its_last_delivery() {
        let (mut ledger, now) = of(100, 2);
        ledger.retire();
        ledger.settle(1, Outcome::Ack, now);
        assert!(matches!(ledger.due(now).1, Next::At(_)));
        ledger.settle(2, Outcome::Requeue, now);
        assert_eq!(ledger.due(now).1, Next::End);
    }

    #[test]
    fn a_closing_ledger_sends_what_was_processed_and_takes_no_more() {
        let (mut ledger, now) = of(100, 4);
        ledger.settle(1, Outcome::Ack, now);
        ledger.settle(3, Outcome::Ack, now);
        assert_eq!(ledger.close(), 2);
        assert_eq!(ledger.settle(2, Outcome::Ack, now), None);
        assert_eq!(ledger.due(now), (vec![ack(1, 1), ack(3, 1)], Next::End));
    }

    #[test]
    fn a_buried_ledger_tells_of_verdicts_that_were_never_sent() {
        let (mut ledger, now) = of(100, 4);
        ledger.settle(1, Outcome::Ack, now);
        ledger.settle(2, Outcome::Requeue, now);
        assert_eq!(ledger.bury(), 2);
        assert_eq!(ledger.settle(3, Outcome::Ack, now), None);
        assert_eq!(ledger.due(now), (vec![], Next::End));
    }
}
