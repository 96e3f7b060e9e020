//! Who gets the next unit of the bound that all keys share, and who gives one up for it.
//!
//! Pure like the core: no clock, no tasks, no user code; time is an argument and what is to be
//! done comes out as [`Deed`]s. `H` is a handle to the pool of a key.
//!
//! **Who gets a unit.** Wants are served in the order in which they came up, one unit each,
//! whatever their key.
//!
//! **Who gives one up.** While somebody waits for a unit:
//!
//! 1. idle resources are evicted, the longest idle first, whatever their key;
//! 2. a resource that comes back to a key where somebody waits goes to that waiter; but
//! 3. a key is *hungry* if it has nothing at all, neither a resource nor a creation under way. If
//!    the oldest waiter of a hungry key asked before the oldest one here, the resource is given
//!    up, and its unit goes to the hungry key before all others.
//!
//! By 3 every key makes progress: each resource that comes back either serves somebody who asked
//! before the hungry key did, of whom there are finitely many, or feeds it. By 2 keys that hold
//! resources never take one from each other while they use them, so that resources are created
//! for the sake of progress only, not in a circle.
//!
//! No more is given up than is waited for: what is being destroyed for somebody's sake is counted
//! as good as there. But only for a moment ([`GRACE`]), for a peer that does not answer its
//! goodbye must not hold up other keys.

#[cfg(all(test, not(wharf_loom)))]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::core::{Arrival, Moment, Report};

/// For how long a resource that is being destroyed counts as a unit that is as good as there.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// Names a key's pool. Never used twice.
pub(super) type Id = u64;

pub(super) struct Ledger<H> {
    total: usize,
    /// Units granted and not given back.
    taken: usize,
    accounts: BTreeMap<Id, Account<H>>,
    /// The wants in the order in which they came up, one entry for each unit.
    line: BTreeMap<Place, Id>,
    next_place: Place,
    /// Hungry keys that nothing has been given up for yet, by their oldest waiters.
    hungry: BTreeSet<(Arrival, Id)>,
    /// Hungry keys that something has been given up for, until this moment at the latest.
    promised: VecDeque<(Instant, Id)>,
    /// For each resource given up and not yet destroyed, until when it counts as a unit to come,
    /// and whose it is.
    coming: VecDeque<(Instant, Id)>,
    /// Keys that are not pressed.
    calm: BTreeSet<Id>,
    /// Idle resources, the longest idle last. Those used since they were listed drop out when
    /// their turn comes; what else is idle has been so for a shorter time. So it takes as many
    /// evictions as there were idle resources before all keys are looked at again.
    spares: Vec<(Instant, Id, Spare)>,
    /// All that is idle is in `spares`: nothing can become idle in a pressed key without a word.
    knows_spares: bool,
    deeds: VecDeque<Deed<H>>,
    /// Somebody carries out the deeds, one after the other.
    tended: bool,
    /// Somebody will look when what is coming has not come in time.
    watched: bool,
}

type Place = u64;

struct Account<H> {
    handle: H,
    /// Its entries in the line.
    wants: VecDeque<Place>,
    /// Units granted, ever.
    granted: u64,
    /// Of the last report.
    version: u64,
    /// Its oldest waiter, if it is hungry.
    hungry: Option<Arrival>,
}

/// An idle resource of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spare {
    pub(super) slot: u32,
    /// When it came back, by which it is known again.
    pub(super) returned: Moment,
}

/// Tells of each idle resource of a pool since when it is idle.
pub(super) trait SparesOf<H>: Fn(&H, &mut dyn FnMut(Instant, Spare)) {}

impl<H, F: Fn(&H, &mut dyn FnMut(Instant, Spare))> SparesOf<H> for F {}

/// What the shell has to do, without a lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deed<H> {
    /// Give this pool a unit.
    Grant(H),
    /// Have this pool say when a resource comes back.
    Press(H),
    /// Destroy this resource of this pool.
    Evict(H, Id, Spare),
    /// Call `is_watch_over` after `GRACE`, until it says so.
    Watch(H),
}

/// What becomes of a resource that came back to a pressed pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim<H> {
    /// It stays with its key.
    None,
    /// It is given up.
    Claimed,
    /// It stays, and nobody waits for units any more: this pool need not ask.
    Over(H),
}

impl<H: Clone> Ledger<H> {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            taken: 0,
            accounts: BTreeMap::new(),
            line: BTreeMap::new(),
            next_place: 0,
            hungry: BTreeSet::new(),
            promised: VecDeque::new(),
            coming: VecDeque::new(),
            calm: BTreeSet::new(),
            spares: Vec::new(),
            knows_spares: false,
            deeds: VecDeque::new(),
            tended: false,
            watched: false,
        }
    }

    pub(super) fn open(&mut self, id: Id, handle: H) {
        let account = Account {
            handle,
            wants: VecDeque::new(),
            granted: 0,
            version: 0,
            hungry: None,
        };
        self.accounts.insert(id, account);
        self.calm.insert(id);
    }

    /// Ends an account. The handle is for the caller to drop, without a lock.
    pub(super) fn close(&mut self, id: Id) -> Option<H> {
        self.want(id, 0);
        self.set_hungry(id, None);
        self.calm.remove(&id);
        Some(self.accounts.remove(&id)?.handle)
    }

    pub(super) fn report(&mut self, id: Id, report: Report) {
        self.taken -= report.released as usize;
        for _ in 0..report.released {
            // What comes from elsewhere leaves it on its way.
            let came = self.coming.iter().position(|coming| coming.1 == id);
            came.and_then(|at| self.coming.remove(at));
        }
        if let Some(account) = self.accounts.get_mut(&id)
            && report.version > account.version
        {
            account.version = report.version;
            // Grants on their way make up for some of what it wanted when it reported.
            let under_way = account.granted - report.seen;
            let wanted = u64::from(report.needs.units).saturating_sub(under_way);
            self.want(id, wanted as usize);
            let hungry = report.needs.hungry.filter(|_| under_way == 0);
            self.set_hungry(id, hungry);
        }
        self.serve();
    }

    /// A pressed pool got a resource back; `oldest` is its own oldest waiter.
    pub(super) fn claim(&mut self, id: Id, oldest: Option<Arrival>, now: Instant) -> Claim<H> {
        self.expire(now);
        if !self.is_pressing() {
            let account = self.accounts.get(&id);
            return account.map_or(Claim::None, |account| Claim::Over(account.handle.clone()));
        }
        if self.surplus() > self.coming.len() {
            self.give_up(id, now);
            return Claim::Claimed;
        }
        if self.needed() > 0
            && let Some(oldest) = oldest
            && let Some(&(first, hungry)) = self.hungry.first()
            && first < oldest
        {
            self.hungry.pop_first();
            self.promised.push_back((now + GRACE, hungry));
            self.give_up(id, now);
            return Claim::Claimed;
        }
        Claim::None
    }

    /// A pool has stopped asking; false if it must go on after all.
    pub(super) fn calm_down(&mut self, id: Id) -> bool {
        if self.is_pressing() {
            return false;
        }
        if self.accounts.contains_key(&id) {
            self.calm.insert(id);
        }
        if self.spares.is_empty() {
            self.spares = Vec::new();
        }
        self.knows_spares = false;
        true
    }

    /// Something is idle in a pressed pool.
    pub(super) fn spare(&mut self, id: Id, spares_of: impl SparesOf<H>) {
        if self.needed() > 0 && self.knows_spares {
            if let Some(account) = self.accounts.get(&id) {
                spares_of(&account.handle, &mut |since, spare| {
                    self.spares.insert(0, (since, id, spare));
                });
            }
        } else {
            self.knows_spares = false;
        }
    }

    pub(super) fn resize(&mut self, total: usize) {
        self.total = total;
        self.serve();
    }

    /// Whether the caller is to do what must be done; otherwise somebody does it already.
    pub(super) fn begin_tending(&mut self) -> bool {
        !std::mem::replace(&mut self.tended, true)
    }

    pub(super) fn end_tending(&mut self) {
        self.tended = false;
    }

    /// What is to be done next. The caller does it and asks again, until there is nothing, with
    /// which its tending ends.
    pub(super) fn next_deed(
        &mut self,
        now: Instant,
        spares_of: impl SparesOf<H>,
    ) -> Option<Deed<H>> {
        if let Some(deed) = self.deeds.pop_front() {
            return Some(deed);
        }
        self.expire(now);
        while self.needed() > 0 {
            if let Some((_, id, spare)) = self.spares.pop() {
                let Some(account) = self.accounts.get(&id) else {
                    continue;
                };
                let handle = account.handle.clone();
                self.give_up(id, now);
                return Some(Deed::Evict(handle, id, spare));
            }
            if self.knows_spares {
                break;
            }
            self.spares = Vec::new();
            for (&id, account) in &self.accounts {
                spares_of(&account.handle, &mut |since, spare| {
                    self.spares.push((since, id, spare));
                });
            }
            self.spares.sort_unstable_by(|one, other| other.cmp(one));
            self.knows_spares = true;
        }
        self.end_tending();
        None
    }

    /// A resource that was to be evicted had been taken into use.
    pub(super) fn missed(&mut self, id: Id) {
        let given_up = self.coming.iter().rposition(|coming| coming.1 == id);
        given_up.and_then(|at| self.coming.remove(at));
    }

    /// Whether nothing is coming any more.
    pub(super) fn is_watch_over(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.watched = !self.coming.is_empty();
        !self.watched
    }

    /// The one who watched is gone.
    pub(super) fn watch_again(&mut self) {
        self.watched = false;
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// How many creations wait for a unit.
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    fn is_pressing(&self) -> bool {
        !self.line.is_empty() || self.surplus() > 0
    }

    fn surplus(&self) -> usize {
        self.taken.saturating_sub(self.total)
    }

    /// How many more resources must be given up.
    fn needed(&self) -> usize {
        (self.line.len() + self.surplus()).saturating_sub(self.coming.len())
    }

    fn give_up(&mut self, id: Id, now: Instant) {
        self.coming.push_back((now + GRACE, id));
        if !self.watched
            && let Some(account) = self.accounts.get(&id)
        {
            self.watched = true;
            self.deeds.push_back(Deed::Watch(account.handle.clone()));
        }
    }

    /// What was to come and has not come in time does not count any more.
    fn expire(&mut self, now: Instant) {
        while self.coming.front().is_some_and(|coming| coming.0 <= now) {
            self.coming.pop_front();
        }
        while let Some(&(until, id)) = self.promised.front()
            && until <= now
        {
            self.promised.pop_front();
            let account = &self.accounts[&id];
            self.hungry
                .extend(account.hungry.map(|oldest| (oldest, id)));
        }
    }

    fn serve(&mut self) {
        while self.taken < self.total {
            let promised = self.promised.front().map(|&(_, id)| id);
            let first = self.line.first_key_value().map(|(_, &id)| id);
            let Some(id) = promised.or(first) else {
                break;
            };
            self.grant(id);
        }
        if self.is_pressing() {
            for id in std::mem::take(&mut self.calm) {
                let handle = self.accounts[&id].handle.clone();
                self.deeds.push_back(Deed::Press(handle));
            }
        }
    }

    fn grant(&mut self, id: Id) {
        self.set_hungry(id, None);
        let account = self
            .accounts
            .get_mut(&id)
            .expect("bug: a want of a closed account");
        let place = account.wants.pop_front();
        account.granted += 1;
        self.deeds.push_back(Deed::Grant(account.handle.clone()));
        self.line
            .remove(&place.expect("bug: granted what nobody wants"));
        self.taken += 1;
    }

    /// Wants come last in the line, and the last are the first to go.
    fn want(&mut self, id: Id, units: usize) {
        let Some(account) = self.accounts.get_mut(&id) else {
            return;
        };
        while account.wants.len() > units
            && let Some(place) = account.wants.pop_back()
        {
            self.line.remove(&place);
        }
        while account.wants.len() < units {
            account.wants.push_back(self.next_place);
            self.line.insert(self.next_place, id);
            self.next_place += 1;
        }
    }

    fn set_hungry(&mut self, id: Id, oldest: Option<Arrival>) {
        let Some(account) = self.accounts.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut account.hungry, oldest);
        if before == oldest {
            return;
        }
        if let Some(before) = before {
            self.hungry.remove(&(before, id));
        }
        let promise = self.promised.iter().position(|promise| promise.1 == id);
        match (oldest, promise) {
            (Some(oldest), None) => drop(self.hungry.insert((oldest, id))),
            (None, Some(at)) => drop(self.promised.remove(at)),
            _ => {}
        }
    }
}
