use std::cell::Cell;

use super::*;
use crate::core::Needs;

/// A ledger whose handles are ids, with what the pools would know of it.
struct Desk {
    ledger: Ledger<Id>,
    now: Instant,
    versions: BTreeMap<Id, u64>,
    /// Units each pool has seen come, ever.
    seen: BTreeMap<Id, u64>,
    spares: Vec<(Instant, Id, Spare)>,
    presses: Vec<Id>,
    evictions: Vec<(Id, u32)>,
    grants: Vec<Id>,
    /// Slots whose resources are used again before they can be evicted.
    in_use: Vec<u32>,
    /// How often a key was asked what is idle there.
    looks: Cell<usize>,
}

impl Desk {
    fn new(total: usize, pools: Id) -> Self {
        let mut ledger = Ledger::new(total);
        for id in 0..pools {
            ledger.open(id, id);
        }
        Self {
            ledger,
            now: Instant::now(),
            versions: BTreeMap::new(),
            seen: BTreeMap::new(),
            spares: Vec::new(),
            presses: Vec::new(),
            evictions: Vec::new(),
            grants: Vec::new(),
            in_use: Vec::new(),
            looks: Cell::new(0),
        }
    }

    fn report(&mut self, id: Id, units: u32, hungry: Option<u64>, released: u32) {
        let report = self.compose(id, units, hungry, released);
        self.ledger.report(id, report);
        self.tend();
    }

    fn compose(&mut self, id: Id, units: u32, hungry: Option<u64>, released: u32) -> Report {
        let version = self.versions.entry(id).or_default();
        *version += 1;
        Report {
            version: *version,
            released,
            seen: self.seen.get(&id).copied().unwrap_or(0),
            needs: Needs {
                units,
                hungry: hungry.map(Arrival),
            },
        }
    }

    fn tend(&mut self) {
        let spares = self.spares.clone();
        while let Some(deed) = self.ledger.next_deed(self.now, |id, each| {
            self.looks.set(self.looks.get() + 1);
            for (since, _, spare) in spares.iter().filter(|spare| spare.1 == *id) {
                each(*since, *spare);
            }
        }) {
            match deed {
                Deed::Grant(id) => {
                    *self.seen.entry(id).or_default() += 1;
                    self.grants.push(id);
                }
                Deed::Press(id) => self.presses.push(id),
                Deed::Evict(_, id, spare) if self.in_use.contains(&spare.slot) => {
                    self.ledger.missed(id);
                }
                Deed::Evict(_, id, spare) => {
                    self.evictions.push((id, spare.slot));
                    self.spares
                        .retain(|other| (other.1, other.2) != (id, spare));
                }
                Deed::Watch(_) => {}
            }
        }
    }

    fn idle(&mut self, id: Id, slot: u32, for_seconds: u64) {
        let since = self.now - Duration::from_secs(for_seconds);
        self.spares.push((since, id, Spare { slot, returned: 0 }));
    }

    fn claim(&mut self, id: Id, oldest: Option<u64>) -> Claim<Id> {
        self.ledger.claim(id, oldest.map(Arrival), self.now)
    }

    fn take_grants(&mut self) -> Vec<Id> {
        std::mem::take(&mut self.grants)
    }
}

#[test]
fn wants_are_served_one_by_one_in_the_order_in_which_they_came_up() {
    let mut desk = Desk::new(1, 3);
    desk.report(0, 1, None, 0);
    assert_eq!(desk.take_grants(), [0]);
    desk.report(1, 2, None, 0);
    desk.report(2, 1, None, 0);
    desk.report(0, 1, None, 0);
    let mut holder = 0;
    for next in [1, 1, 2, 0] {
        let wants = desk.ledger.accounts[&holder].wants.len() as u32;
        desk.report(holder, wants, None, 1);
        assert_eq!(desk.take_grants(), [next]);
        holder = next;
    }
}

#[test]
fn a_stale_report_gives_units_back_and_says_nothing_else() {
    let mut desk = Desk::new(1, 2);
    desk.report(0, 1, None, 0);
    let wanted_two = desk.compose(1, 2, Some(7), 0);
    let wanted_none = desk.compose(1, 0, None, 0);
    desk.ledger.report(1, wanted_none);
    desk.ledger.report(1, wanted_two);
    assert_eq!(desk.ledger.waiting(), 0);
    let late = desk.compose(0, 1, None, 1);
    let later = desk.compose(0, 0, None, 0);
    desk.ledger.report(0, later);
    desk.ledger.report(0, late);
    assert_eq!((desk.ledger.taken(), desk.ledger.waiting()), (0, 0));
}

#[test]
fn a_grant_on_its_way_makes_up_for_a_want_reported_before_it_came() {
    let mut desk = Desk::new(1, 2);
    let report = desk.compose(0, 1, None, 0);
    desk.ledger.report(0, report);
    // Granted, but the pool has not seen it and says again what it wants.
    let again = desk.compose(0, 2, None, 0);
    desk.ledger.report(0, again);
    assert_eq!(desk.ledger.waiting(), 1, "two wanted, one on its way");
}

#[test]
fn one_is_evicted_for_each_that_waits_the_longest_idle_first() {
    let mut desk = Desk::new(3, 3);
    desk.report(0, 3, None, 0);
    desk.idle(0, 5, 10);
    desk.idle(0, 6, 30);
    desk.idle(0, 7, 20);
    desk.report(1, 1, Some(1), 0);
    assert_eq!(desk.evictions, [(0, 6)]);
    desk.report(2, 1, Some(2), 0);
    assert_eq!(desk.evictions, [(0, 6), (0, 7)]);
    desk.take_grants();
    desk.report(0, 0, None, 1);
    desk.report(0, 0, None, 1);
    assert_eq!(desk.take_grants(), [1, 2]);
    assert_eq!(desk.evictions.len(), 2);
}

/// All keys were looked at for each eviction, under the lock that all keys share: 1.7 ms each time
/// where there were 10,000.
#[test]
fn keys_are_not_looked_at_again_before_what_was_found_is_used_up() {
    let mut desk = Desk::new(3, 5);
    desk.report(0, 3, None, 0);
    for slot in 0..3 {
        desk.idle(0, slot, 10 - u64::from(slot));
    }
    for key in 1..4 {
        desk.report(key, 1, Some(key), 0);
        desk.report(0, 0, None, 1);
        // All is calm again before the next one asks.
        assert!(matches!(desk.claim(0, None), Claim::Over(0)));
        assert!((0..5).all(|id| desk.ledger.calm_down(id)));
    }
    assert_eq!(desk.evictions, [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(desk.looks.get(), 5, "one look at each key");
}

/// What came back while resources were being given up was the first to go.
#[test]
fn what_has_just_come_back_goes_after_what_was_idle_before() {
    let mut desk = Desk::new(3, 2);
    desk.report(0, 3, None, 0);
    desk.idle(0, 1, 20);
    desk.idle(0, 2, 10);
    let report = desk.compose(1, 3, Some(1), 0);
    desk.ledger.report(1, report);
    let (now, before) = (desk.now, desk.spares.clone());
    let list = |spares: Vec<(Instant, Id, Spare)>| {
        move |id: &Id, each: &mut dyn FnMut(Instant, Spare)| {
            for (since, of, spare) in &spares {
                if of == id {
                    each(*since, *spare);
                }
            }
        }
    };
    desk.take_grants();
    let mut evicted = Vec::new();
    while let Some(deed) = desk.ledger.next_deed(now, list(before.clone())) {
        if let Deed::Evict(_, _, spare) = deed {
            evicted.push(spare.slot);
            if evicted == [1] {
                let back = Spare {
                    slot: 0,
                    returned: 9,
                };
                desk.ledger.spare(0, list(vec![(now, 0, back)]));
            }
        }
    }
    assert_eq!(evicted, [1, 2, 0]);
}

#[test]
fn what_does_not_come_in_time_does_not_count() {
    let mut desk = Desk::new(2, 2);
    desk.report(0, 2, None, 0);
    desk.idle(0, 1, 20);
    desk.idle(0, 2, 10);
    desk.report(1, 1, Some(1), 0);
    desk.now += GRACE - Duration::from_nanos(1);
    desk.tend();
    assert!(!desk.ledger.is_watch_over(desk.now));
    assert_eq!(desk.evictions, [(0, 1)]);
    desk.now += Duration::from_nanos(1);
    assert!(desk.ledger.is_watch_over(desk.now));
    desk.tend();
    assert_eq!(desk.evictions, [(0, 1), (0, 2)]);
}

#[test]
fn what_is_used_again_before_it_is_evicted_does_not_count() {
    let mut desk = Desk::new(3, 2);
    desk.report(0, 3, None, 0);
    for slot in 0..3 {
        desk.idle(0, slot, 10 - u64::from(slot));
    }
    desk.in_use = vec![0, 1];
    desk.report(1, 1, Some(1), 0);
    assert_eq!(desk.evictions, [(0, 2)]);
}

#[test]
fn a_hungry_key_gets_what_was_given_up_for_it_before_all_others() {
    let mut desk = Desk::new(2, 4);
    desk.report(0, 1, None, 0);
    desk.report(1, 1, None, 0);
    desk.report(1, 1, None, 0);
    desk.report(2, 1, Some(5), 0);
    desk.report(3, 1, Some(6), 0);
    desk.take_grants();
    assert_eq!(
        desk.claim(0, Some(4)),
        Claim::None,
        "its own waiter is older"
    );
    assert_eq!(desk.claim(0, Some(7)), Claim::Claimed);
    desk.report(0, 1, Some(7), 1);
    assert_eq!(desk.take_grants(), [2]);
    // Free room goes to whoever asked first.
    desk.report(2, 0, None, 1);
    assert_eq!(desk.take_grants(), [1]);
}

#[test]
fn each_hungry_key_is_promised_one_resource_at_a_time() {
    let mut desk = Desk::new(3, 4);
    desk.report(0, 3, None, 0);
    desk.report(1, 2, Some(5), 0);
    assert_eq!(desk.claim(0, Some(9)), Claim::Claimed);
    assert_eq!(
        desk.claim(0, Some(9)),
        Claim::None,
        "it has been promised one"
    );
    desk.now += GRACE;
    assert_eq!(desk.claim(0, Some(9)), Claim::Claimed, "which has not come");
    // It is not hungry any more: the promise is void, and the room for whoever is first.
    desk.report(1, 0, None, 0);
    desk.report(2, 1, Some(6), 0);
    desk.take_grants();
    desk.report(0, 0, None, 1);
    assert_eq!(desk.take_grants(), [2]);
}

#[test]
fn surplus_is_claimed_whoever_waits_and_no_more_than_it() {
    let mut desk = Desk::new(4, 2);
    desk.report(0, 4, None, 0);
    desk.ledger.resize(2);
    desk.tend();
    assert_eq!(desk.presses, [0, 1]);
    assert_eq!(desk.claim(0, Some(1)), Claim::Claimed);
    assert_eq!(desk.claim(0, Some(1)), Claim::Claimed);
    assert_eq!(desk.claim(0, Some(1)), Claim::None);
    desk.report(0, 0, None, 2);
    assert_eq!(desk.ledger.taken(), 2);
    assert_eq!(desk.claim(0, Some(1)), Claim::Over(0));
    assert!(desk.ledger.calm_down(0));
}

#[test]
fn pools_are_pressed_once_for_as_long_as_somebody_waits() {
    let mut desk = Desk::new(1, 2);
    desk.report(0, 1, None, 0);
    assert!(desk.presses.is_empty());
    desk.report(1, 1, Some(1), 0);
    desk.report(1, 2, Some(1), 0);
    assert_eq!(desk.presses, [0, 1]);
    assert!(!desk.ledger.calm_down(0), "somebody waits");
    desk.report(1, 0, None, 0);
    assert!(desk.ledger.calm_down(0));
    desk.presses.clear();
    desk.report(1, 1, Some(2), 0);
    assert_eq!(desk.presses, [0], "the other one was pressed all the time");
}

#[test]
fn a_pool_that_is_gone_leaves_its_place_and_still_gives_its_units_back() {
    let mut desk = Desk::new(1, 3);
    desk.report(0, 1, None, 0);
    desk.report(1, 1, Some(1), 0);
    desk.report(2, 1, Some(2), 0);
    assert_eq!(desk.claim(0, Some(9)), Claim::Claimed);
    desk.take_grants();
    assert_eq!(desk.ledger.close(1), Some(1));
    assert_eq!(desk.ledger.close(0), Some(0));
    desk.report(0, 0, None, 1);
    assert_eq!(desk.take_grants(), [2]);
    assert_eq!(desk.ledger.waiting(), 0);
}
