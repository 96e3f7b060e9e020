//! Flushes: of a key, and of everything.

use super::{Bell, Core, Effects, Epochs, Reason};

impl<K: Eq + Clone, T, W: Bell> Core<K, T, W> {
    /// Flushes a key, and rings when everything it has by now has landed; at once if it has
    /// nothing, or nothing lands any more.
    pub(crate) fn flush(
        &mut self,
        (hash, key): (u32, &K),
        reason: Reason,
        who: Option<W>,
        fx: &mut Effects<K, T, W>,
    ) {
        let Some(number) = self.find(hash, key).filter(|_| !self.halted) else {
            fx.rung.extend(who);
            return;
        };
        self.make_due(number, reason);
        if let Some(who) = who {
            let batches = self.lanes.get(number).batches();
            self.epochs.watch_lane(number, batches, who, &mut fx.rung);
        }
        self.pump(fx);
    }

    /// Begins a flush of everything; tells until which epoch, if there is anything.
    pub(crate) fn turn_epoch(&mut self) -> Option<u32> {
        self.epochs.turn()
    }

    /// Flushes so many lanes whose batches began in this epoch or before; true if there may be
    /// more.
    pub(crate) fn flush_epoch(
        &mut self,
        epoch: u32,
        reason: Reason,
        portion: usize,
        fx: &mut Effects<K, T, W>,
    ) -> bool {
        let mut left = portion;
        while let Some(number) = self.linger.first()
            && Epochs::<W>::reaches(self.lanes.get(number).epoch, epoch)
        {
            if left == 0 {
                self.pump(fx);
                return true;
            }
            left -= 1;
            self.make_due(number, reason);
        }
        self.pump(fx);
        false
    }

    /// Rings when everything up to an epoch has landed, or nothing lands any more.
    pub(crate) fn watch_epoch(&mut self, epoch: u32, who: W, fx: &mut Effects<K, T, W>) {
        if self.halted {
            fx.rung.push(who);
        } else {
            self.epochs.watch_all(epoch, who, &mut fx.rung);
        }
    }
}
