//! Who waits until what came before a certain moment has been handled.

use std::collections::{BTreeMap, VecDeque};

use super::Bell;

/// Counts batches by epochs. A flush of everything ends an epoch, and is over when all batches of
/// that epoch and those before are: no list of lanes has to be kept for it.
#[derive(Debug)]
pub(super) struct Epochs<W> {
    /// Epochs with their batches. The last is the current one; of the others, all have some.
    counts: VecDeque<(u32, usize)>,
    all: Vec<(u32, W)>,
    /// By lane: how many more of its batches must land.
    lanes: BTreeMap<u32, Vec<(usize, W)>>,
}

impl<W: Bell> Epochs<W> {
    pub(super) fn new() -> Self {
        Self {
            counts: VecDeque::from([(0, 0)]),
            all: Vec::new(),
            lanes: BTreeMap::new(),
        }
    }

    /// A batch begins; tells its epoch.
    pub(super) fn begin(&mut self) -> u32 {
        let (epoch, batches) = self.counts.back_mut().expect("bug: no epoch");
        *batches += 1;
        *epoch
    }

    /// Ends the current epoch, if it has batches; tells the last that is over.
    pub(super) fn turn(&mut self) -> Option<u32> {
        let (current, batches) = *self.counts.back().expect("bug: no epoch");
        if batches > 0 {
            self.counts.push_back((current.wrapping_add(1), 0));
            return Some(current);
        }
        // The current one has begun already; what is before it is older.
        (self.counts.len() > 1).then(|| current.wrapping_sub(1))
    }

    /// Whether `epoch`, which has batches, is `until` or before it.
    pub(super) fn reaches(epoch: u32, until: u32) -> bool {
        until.wrapping_sub(epoch).cast_signed() >= 0
    }

    /// Rings when everything up to `epoch` has landed; at once if it has.
    pub(super) fn watch_all(&mut self, epoch: u32, who: W, rung: &mut Vec<W>) {
        if Self::reaches(self.first(), epoch) {
            watch(&mut self.all, (epoch, who), rung);
        } else {
            rung.push(who);
        }
    }

    /// Rings when so many batches of the lane have landed.
    pub(super) fn watch_lane(&mut self, lane: u32, batches: usize, who: W, rung: &mut Vec<W>) {
        watch(self.lanes.entry(lane).or_default(), (batches, who), rung);
    }

    /// A batch has come to its end. Rings whoever has waited for that.
    pub(super) fn end(&mut self, lane: u32, epoch: u32, rung: &mut Vec<W>) {
        if !self.lanes.is_empty() {
            self.end_in_lane(lane, rung);
        }
        if self.forget(epoch) {
            let first = self.first();
            let over = self
                .all
                .extract_if(.., |(epoch, _)| !Self::reaches(first, *epoch));
            rung.extend(over.map(|(_, who)| who));
        }
    }

    /// A batch has no end any more that anybody would hear of. Tells whether it was the last of the
    /// first epoch.
    pub(super) fn forget(&mut self, epoch: u32) -> bool {
        let first = self.first();
        let is_before =
            |(other, _): &(u32, usize)| other.wrapping_sub(first) < epoch.wrapping_sub(first);
        let at = self.counts.partition_point(is_before);
        let (found, batches) = &mut self.counts[at];
        assert_eq!(*found, epoch, "bug: an epoch without batches had one");
        *batches -= 1;
        if *batches > 0 || at + 1 == self.counts.len() {
            return false;
        }
        self.counts.remove(at);
        at == 0
    }

    /// Nobody will be rung any more: everyone now.
    pub(super) fn ring_all(&mut self, rung: &mut Vec<W>) {
        rung.extend(self.all.drain(..).map(|(_, who)| who));
        let lanes = std::mem::take(&mut self.lanes);
        rung.extend(lanes.into_values().flatten().map(|(_, who)| who));
    }

    fn end_in_lane(&mut self, lane: u32, rung: &mut Vec<W>) {
        let Some(watches) = self.lanes.get_mut(&lane) else {
            return;
        };
        for (left, _) in watches.iter_mut() {
            *left -= 1;
        }
        rung.extend(
            watches
                .extract_if(.., |(left, _)| *left == 0)
                .map(|(_, who)| who),
        );
        if watches.is_empty() {
            self.lanes.remove(&lane);
        }
    }

    /// The oldest that has batches, or the current one.
    fn first(&self) -> u32 {
        self.counts.front().expect("bug: no epoch").0
    }
}

/// Before a list grows, those leave it who have gone: a handler that never ends could make it as
/// long as time.
fn watch<N, W: Bell>(watches: &mut Vec<(N, W)>, watch: (N, W), gone: &mut Vec<W>) {
    if watches.len() == watches.capacity() {
        let unheard = watches.extract_if(.., |(_, who)| who.is_unheard());
        gone.extend(unheard.map(|(_, who)| who));
        watches.reserve(watches.len().max(4));
    }
    watches.push(watch);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True once whoever waited has gone.
    impl Bell for bool {
        fn is_unheard(&self) -> bool {
            *self
        }
    }

    #[test]
    fn flushes_that_were_dropped_leave_nothing_behind() {
        let (mut epochs, mut rung) = (Epochs::new(), Vec::new());
        // One that never lands.
        let stuck = epochs.begin();
        for _ in 0..1000 {
            let lands = epochs.begin();
            let epoch = epochs.turn().expect("it has batches");
            epochs.watch_all(epoch, true, &mut rung);
            epochs.watch_lane(0, 1, true, &mut rung);
            epochs.end(1, lands, &mut rung);
        }
        assert!(epochs.all.len() <= 8 && epochs.all.capacity() <= 16);
        assert!(epochs.lanes[&0].len() <= 8 && epochs.lanes[&0].capacity() <= 16);
        assert!(epochs.counts.len() <= 2, "{:?}", epochs.counts);
        assert_eq!(rung.len() + epochs.all.len() + epochs.lanes[&0].len(), 2000);
        epochs.end(0, stuck, &mut rung);
        assert_eq!(
            (rung.len(), epochs.all.len(), epochs.lanes.len()),
            (2000, 0, 0)
        );
    }

    #[test]
    fn those_who_still_wait_stay_however_many_have_gone() {
        let (mut epochs, mut rung) = (Epochs::new(), Vec::new());
        let stuck = epochs.begin();
        let epoch = epochs.turn().expect("it has a batch");
        for who in 0..100 {
            epochs.watch_all(epoch, who % 2 == 0, &mut rung);
        }
        assert!(rung.iter().all(|is_gone| *is_gone));
        epochs.end(0, stuck, &mut rung);
        assert_eq!(rung.iter().filter(|is_gone| !**is_gone).count(), 50);
    }
}
