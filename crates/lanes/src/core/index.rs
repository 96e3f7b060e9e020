//! From keys to lanes: an open-addressing table of numbers of lanes.
//!
//! Over millions of keys, nearly all of the time goes into waiting for memory: a search touches one
//! place here and then the lane. The smaller the table, the more of it is in the caches, so a slot is
//! four bytes: the number of a lane, and as much of its key's hash as there is room for, so that
//! hardly any lane is looked at in vain. The whole hash is in the lane; the user's `Hash` is not
//! called in here.

/// No lane.
const EMPTY: u32 = u32::MAX;

/// As small as it gets, once there was anything.
const LEAST_BITS: u32 = 6;

/// As many bits of the home are in a slot, if there is room for them.
const HOME_BITS: u32 = 3;

/// The lanes that are in the table, with the hashes of their keys.
pub(super) trait Hashes {
    fn hash_of(&self, lane: u32) -> u32;

    /// Hashes and lanes of all of them.
    fn all(&self) -> impl Iterator<Item = (u32, u32)>;
}

/// Linear probing, at most three quarters full, without graves. The high bits of a hash say where
/// the search for it begins, which is its home. A slot has in its high bits what follows of the hash,
/// and before that the last bits of the home: they tell how far from home it is, most of the time.
#[derive(Debug)]
pub(super) struct Index {
    /// None, or a power of two.
    slots: Vec<u32>,
    len: usize,
    /// So many bits of a slot are the number of the lane. No number has all of them set, so that no
    /// slot that is taken looks empty.
    bits: u32,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
            bits: LEAST_BITS,
        }
    }
}

impl Index {
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            let lane = self.lane_in(slot);
            if slot == self.slot(hash, lane) && is_it(lane) {
                return Some(lane);
            }
            at = self.behind(at);
        }
    }

    /// The caller has looked: it is not there, but among the lanes.
    pub(super) fn insert(&mut self, lanes: &impl Hashes, lane: u32) {
        while lane >= (1 << self.bits) - 1 {
            self.widen();
        }
        self.len += 1;
        if self.len * 4 > self.slots.len() * 3 {
            self.rebuild(lanes, (self.slots.len() * 2).max(1 << LEAST_BITS));
        } else {
            self.place(lanes.hash_of(lane), lane);
        }
    }

    /// It is not among the lanes any more.
    pub(super) fn remove(&mut self, lanes: &impl Hashes, hash: u32, lane: u32) {
        let slot = self.slot(hash, lane);
        let mut hole = self.home(hash);
        while self.slots[hole] != slot {
            assert!(self.slots[hole] != EMPTY, "bug: lane {lane} has no place");
            hole = self.behind(hole);
        }
        // Whoever was driven away from the hole, or past it, moves up.
        let mut start = None;
        let mut at = hole;
        loop {
            at = self.behind(at);
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let start = *start.get_or_insert_with(|| self.start(hole));
            let from_home = self.near_home(slot, at, start).unwrap_or_else(|| {
                let home = self.home(lanes.hash_of(self.lane_in(slot)));
                self.distance(home, at)
            });
            if from_home >= self.distance(hole, at) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
        self.len -= 1;
        if self.len == 0 {
            self.bits = LEAST_BITS;
        }
        if self.slots.len() > 1 << LEAST_BITS && self.len * 8 < self.slots.len() {
            self.rebuild(lanes, self.slots.len() / 2);
        }
    }

    /// Where the row begins to which a slot belongs that is taken.
    fn start(&self, mut at: usize) -> usize {
        while self.slots[self.before(at)] != EMPTY {
            at = self.before(at);
        }
        at
    }

    /// Numbers get another bit, at the cost of the hashes.
    fn widen(&mut self) {
        let bits = self.bits;
        self.bits += 1;
        for slot in &mut self.slots {
            if *slot != EMPTY {
                // The bit is the lowest of the hash; no number has it yet.
                *slot &= !(1 << bits);
            }
        }
    }

    /// In the order of the lanes: the table is smaller than they are, and so it is what should be
    /// read and written at random.
    fn rebuild(&mut self, lanes: &impl Hashes, slots: usize) {
        // The old one goes before the new one comes.
        self.slots = Vec::new();
        self.slots.resize(slots, EMPTY);
        for (hash, lane) in lanes.all() {
            self.place(hash, lane);
        }
    }

    fn place(&mut self, hash: u32, lane: u32) {
        let mut at = self.home(hash);
        while self.slots[at] != EMPTY {
            at = self.behind(at);
        }
        self.slots[at] = self.slot(hash, lane);
    }

    fn slot(&self, hash: u32, lane: u32) -> u32 {
        let kept = hash << (self.slots.len().trailing_zeros() - HOME_BITS);
        kept >> self.bits << self.bits | lane
    }

    /// How far from home a slot is, if nothing is between `start` and it that is empty, and they are
    /// so close to each other that the bits that are kept of the home tell.
    fn near_home(&self, slot: u32, at: usize, start: usize) -> Option<usize> {
        let is_near = self.distance(start, at) < 1 << HOME_BITS;
        let is_kept = self.bits + HOME_BITS <= u32::BITS;
        let home = (slot >> (u32::BITS - HOME_BITS)) as usize;
        (is_near && is_kept).then(|| at.wrapping_sub(home) & ((1 << HOME_BITS) - 1))
    }

    fn lane_in(&self, slot: u32) -> u32 {
        slot & ((1 << self.bits) - 1)
    }

    fn home(&self, hash: u32) -> usize {
        let bits = self.slots.len().trailing_zeros();
        (u64::from(hash) << bits >> 32) as usize
    }

    fn behind(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn before(&self, at: usize) -> usize {
        at.wrapping_sub(1) & (self.slots.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Hashes by lane.
    type There = BTreeMap<u32, u32>;

    impl Hashes for There {
        fn hash_of(&self, lane: u32) -> u32 {
            self[&lane]
        }

        fn all(&self) -> impl Iterator<Item = (u32, u32)> {
            self.iter().map(|(lane, hash)| (*hash, *lane))
        }
    }

    /// Everything that is in it is found, and nothing else.
    fn check(index: &Index, there: &There) {
        assert_eq!(index.len, there.len());
        for (lane, hash) in there {
            assert_eq!(index.find(*hash, |number| number == *lane), Some(*lane));
            assert_eq!(index.find(*hash, |_| false), None);
        }
    }

    #[test]
    fn lanes_are_found_while_others_come_and_go_even_where_hashes_crowd() {
        for (spread, first) in [
            (u32::MAX, 0),
            (40, 0),
            (1, 0),
            (u32::MAX, 1 << 29),
            (9, (1 << 30) - 3000),
        ] {
            let mut random = fastrand::Rng::with_seed(7);
            let (mut index, mut there) = (Index::default(), There::new());
            for lane in first..first + 3000 {
                // At the end of the table, so that they run over it.
                there.insert(lane, u32::MAX - random.u32(0..spread));
                index.insert(&there, lane);
                if random.bool() {
                    let nth = random.usize(0..there.len());
                    let gone = *there.keys().nth(nth).unwrap();
                    let hash = there.remove(&gone).unwrap();
                    index.remove(&there, hash, gone);
                }
                if lane % 500 == 0 {
                    check(&index, &there);
                }
            }
            check(&index, &there);
            while let Some((lane, hash)) = there.pop_first() {
                index.remove(&there, hash, lane);
            }
            check(&index, &there);
            assert_eq!(index.slots.len(), 1 << LEAST_BITS, "memory is given back");
            assert_eq!(index.bits, LEAST_BITS);
        }
    }

    #[test]
    fn hardly_any_lane_is_looked_at_in_vain() {
        let mut random = fastrand::Rng::with_seed(7);
        let there: There = (0..100_000).map(|lane| (lane, random.u32(..))).collect();
        let mut index = Index::default();
        let mut so_far = There::new();
        for (lane, hash) in &there {
            so_far.insert(*lane, *hash);
            index.insert(&so_far, *lane);
        }
        let mut looks = 0;
        for (lane, hash) in &there {
            index.find(*hash, |number| {
                looks += 1;
                number == *lane
            });
        }
        assert!(looks < 100_200, "{looks}");
    }
}
