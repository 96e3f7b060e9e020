//! The waiter map: tickets in arrival order, each with its deadline. Pushing, popping and
//! cancelling are O(1) and allocate nothing once the map is warm.
//!
//! Two lists run through one slab. `order` is the line itself. `timed` is the part of it that
//! waits with the pool's own timeout and was pushed at the tail, so that its deadlines come in
//! the order of the list. The rest, those with a timeout of their own and those that rejoined,
//! are in a binary heap by deadline.

use std::task::Waker;

use super::Moment;
use crate::slots::{Handoffs, NEVER};

/// A waiter's place in the map. Not copied: whoever has it owns the waiter's hand-off cell.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) index: u32,
    pub(crate) arrival: Arrival,
}

/// The position in which a `get` arrived. It keeps it when it has to wait again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival(pub(crate) u64);

/// How long a waiter waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The pool's own timeout, counted from now.
    Usual,
    /// A deadline of its own; `NEVER` for none.
    Until(Moment),
}

const ORDER: usize = 0;
const TIMED: usize = 1;

/// What every command touches comes first, so that it shares few cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Line {
    order: List<ORDER>,
    timed: List<TIMED>,
    len: usize,
    /// The latest arrival that ever joined.
    newest: Arrival,
    entries: Vec<Entry>,
    /// Entries that can be used again.
    free: Vec<u32>,
    /// The waiters that are not in `timed` but have a deadline.
    others: Heap,
}

/// One cache line: it is written by the thread that waits, and read by the one that serves it.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    arrival: Arrival,
    since: Moment,
    deadline: Moment,
    /// Absent for a waiter that has been woken to look around.
    waker: Option<Waker>,
    links: [Links; 2],
    /// Its place in `others`, if it is there.
    heap_at: u32,
    in_line: bool,
    is_timed: bool,
}

/// A waiter that left the line.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) index: u32,
    pub(super) since: Moment,
    pub(super) waker: Option<Waker>,
}

/// A waiter to add.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) arrival: Arrival,
    pub(super) since: Moment,
    pub(super) deadline: Moment,
    /// The deadline is the pool's timeout from now, so no earlier than any in `timed`.
    pub(super) usual: bool,
    pub(super) waker: Option<Waker>,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The arrival of the oldest waiter.
    pub(super) fn first_arrival(&self) -> Option<Arrival> {
        Some(self.entries[self.order.first()?].arrival)
    }

    /// When the oldest waiter began to wait, and its deadline.
    pub(super) fn first(&self) -> Option<(u32, Moment, Moment)> {
        let index = self.order.first()?;
        let entry = &self.entries[index];
        Some((index as u32, entry.since, entry.deadline))
    }

    /// Whether another waiter fits into the map.
    pub(super) fn has_room(&self) -> bool {
        let most = crate::slots::MAX_LEN as usize;
        !self.free.is_empty() || self.entries.len() < most
    }

    /// Adds a waiter at the place its arrival gives it, which is the tail for all but those that
    /// wait again.
    pub(super) fn join(&mut self, joining: Joining, handoffs: &Handoffs) -> Ticket {
        let arrival = joining.arrival;
        // Compared with the newest of all rather than the last in line, whose entry is likely to
        // be in another processor's cache.
        let at_tail = self.is_empty() || self.newest < arrival;
        self.newest = self.newest.max(arrival);
        let timed = joining.usual && at_tail && joining.deadline != NEVER;
        let deadline = joining.deadline;
        let index = self.allocate(joining, timed, handoffs);

        match if at_tail {
            None
        } else {
            self.first_after(arrival)
        } {
            None => self.order.push_back(&mut self.entries, index),
            Some(next) => self.order.insert_before(&mut self.entries, index, next),
        }
        if timed {
            self.timed.push_back(&mut self.entries, index);
        } else if deadline != NEVER {
            self.others.push(&mut self.entries, index);
        }
        self.len += 1;
        Ticket {
            index: index as u32,
            arrival,
        }
    }

    /// Takes the oldest waiter out of the line. Its cell stays its own until it is given back.
    pub(super) fn pop(&mut self) -> Option<Left> {
        let at = self.order.first()?;
        Some(self.take_out(at))
    }

    /// Takes a waiter out of the line, if it is there.
    pub(super) fn leave(&mut self, index: u32) -> Option<Left> {
        let at = index as usize;
        self.entries[at].in_line.then(|| self.take_out(at))
    }

    #[inline(always)]
    fn take_out(&mut self, at: usize) -> Left {
        let entry = &mut self.entries[at];
        entry.in_line = false;
        let left = Left {
            index: at as u32,
            since: entry.since,
            waker: entry.waker.take(),
        };
        let (deadline, is_timed) = (entry.deadline, entry.is_timed);
        self.order.remove(&mut self.entries, at);
        if is_timed {
            self.timed.remove(&mut self.entries, at);
        } else if deadline != NEVER {
            self.others.remove(&mut self.entries, at);
        }
        self.len -= 1;
        left
    }

    /// Frees the cell of a ticket that left the line and will never be asked about again.
    pub(super) fn free(&mut self, index: u32) {
        debug_assert!(
            !self.entries[index as usize].in_line,
            "bug: freed while in line"
        );
        self.free.push(index);
    }

    /// Puts another waker in place and returns the old one. Returns the new one as an error if the
    /// waiter is no longer in line.
    pub(super) fn replace_waker(
        &mut self,
        index: u32,
        waker: Waker,
    ) -> Result<Option<Waker>, Waker> {
        let entry = &mut self.entries[index as usize];
        if entry.in_line {
            Ok(entry.waker.replace(waker))
        } else {
            Err(waker)
        }
    }

    /// The waiter whose deadline comes first, and that deadline.
    pub(super) fn next_deadline(&self) -> Option<(Moment, u32)> {
        let timed = self
            .timed
            .first()
            .map(|at| (self.entries[at].deadline, at as u32));
        let other = self
            .others
            .first()
            .map(|at| (self.entries[at].deadline, at as u32));
        match (timed, other) {
            (Some(timed), Some(other)) => Some(timed.min(other)),
            (timed, other) => timed.or(other),
        }
    }

    /// Takes the wakers of all that wait, in order. Each gives a new one when it is polled.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        let mut at = self.order.first();
        std::iter::from_fn(move || {
            let entry = &mut self.entries[at?];
            at = entry.next_in::<ORDER>();
            Some(entry.waker.take())
        })
        .flatten()
    }

    /// The first in line that arrived later.
    fn first_after(&self, arrival: Arrival) -> Option<usize> {
        let mut at = self.order.first();
        while let Some(index) = at {
            if self.entries[index].arrival > arrival {
                return at;
            }
            at = self.entries[index].next_in::<ORDER>();
        }
        None
    }

    fn allocate(&mut self, joining: Joining, is_timed: bool, handoffs: &Handoffs) -> usize {
        let entry = Entry {
            arrival: joining.arrival,
            since: joining.since,
            deadline: joining.deadline,
            in_line: true,
            waker: joining.waker,
            is_timed,
            links: [Links::default(); 2],
            heap_at: 0,
        };
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            return index as usize;
        }
        self.entries.push(entry);
        handoffs.grow(self.entries.len() as u32);
        // Whatever becomes of the entries, these never have to grow again.
        self.free.reserve(self.entries.capacity() - self.free.len());
        self.others
            .order
            .reserve(self.entries.capacity() - self.others.order.len());
        self.entries.len() - 1
    }

    /// How many entries there are, and how many of them can be used again.
    #[cfg(all(any(test, fuzzing), not(wharf_loom)))]
    pub(super) fn entries(&self) -> (usize, usize) {
        (self.entries.len(), self.free.len())
    }

    /// Walks both lists and compares them with the counts.
    #[cfg(any(test, fuzzing))]
    pub(super) fn assert_consistent(&self) {
        let mut count = 0;
        let mut last = None;
        let mut at = self.order.first();
        while let Some(index) = at {
            let entry = &self.entries[index];
            assert!(entry.in_line);
            assert!(last < Some(entry.arrival), "the line is out of order");
            last = Some(entry.arrival);
            count += 1;
            at = entry.next_in::<ORDER>();
        }
        assert_eq!(count, self.len);

        let mut last = 0;
        let mut at = self.timed.first();
        let mut timed = 0;
        while let Some(index) = at {
            let entry = &self.entries[index];
            assert!(entry.is_timed && entry.in_line);
            assert!(last <= entry.deadline, "the timed list is out of order");
            last = entry.deadline;
            timed += 1;
            at = entry.next_in::<TIMED>();
        }
        assert!(timed + self.others.order.len() <= self.len);
        self.others.assert_consistent(&self.entries);
    }
}

/// An entry's neighbours in a list, as index + 1; 0 for none.
#[derive(Debug, Default, Clone, Copy)]
struct Links {
    prev: u32,
    next: u32,
}

impl Entry {
    fn next_in<const CHAIN: usize>(&self) -> Option<usize> {
        decode(self.links[CHAIN].next)
    }
}

/// A doubly linked list through the slab, along the links number `CHAIN` of its entries.
#[derive(Debug, Default)]
struct List<const CHAIN: usize> {
    head: u32,
    tail: u32,
}

impl<const CHAIN: usize> List<CHAIN> {
    fn first(&self) -> Option<usize> {
        decode(self.head)
    }

    fn push_back(&mut self, entries: &mut [Entry], at: usize) {
        entries[at].links[CHAIN] = Links {
            prev: self.tail,
            next: 0,
        };
        match decode(self.tail) {
            Some(tail) => entries[tail].links[CHAIN].next = encode(at),
            None => self.head = encode(at),
        }
        self.tail = encode(at);
    }

    fn insert_before(&mut self, entries: &mut [Entry], at: usize, next: usize) {
        let prev = entries[next].links[CHAIN].prev;
        entries[at].links[CHAIN] = Links {
            prev,
            next: encode(next),
        };
        entries[next].links[CHAIN].prev = encode(at);
        match decode(prev) {
            Some(prev) => entries[prev].links[CHAIN].next = encode(at),
            None => self.head = encode(at),
        }
    }

    fn remove(&mut self, entries: &mut [Entry], at: usize) {
        let Links { prev, next } = std::mem::take(&mut entries[at].links[CHAIN]);
        match decode(prev) {
            Some(prev) => entries[prev].links[CHAIN].next = next,
            None => self.head = next,
        }
        match decode(next) {
            Some(next) => entries[next].links[CHAIN].prev = prev,
            None => self.tail = prev,
        }
    }
}

fn encode(index: usize) -> u32 {
    index as u32 + 1
}

fn decode(link: u32) -> Option<usize> {
    link.checked_sub(1).map(|index| index as usize)
}

/// A binary heap of entries by deadline, earliest first. Entries know their place in it, so that
/// any can be removed.
#[derive(Debug, Default)]
struct Heap {
    order: Vec<u32>,
}

impl Heap {
    fn first(&self) -> Option<usize> {
        self.order.first().map(|index| *index as usize)
    }

    fn push(&mut self, entries: &mut [Entry], index: usize) {
        self.order.push(index as u32);
        self.rise(entries, self.order.len() - 1);
    }

    fn remove(&mut self, entries: &mut [Entry], index: usize) {
        let at = entries[index].heap_at as usize;
        self.order.swap_remove(at);
        if at < self.order.len() {
            let at = self.rise(entries, at);
            self.sink(entries, at);
        }
    }

    /// Moves the entry at this place up to where it belongs, and says where that is.
    fn rise(&mut self, entries: &mut [Entry], mut at: usize) -> usize {
        while at > 0 && self.is_before(entries, at, (at - 1) / 2) {
            self.swap(entries, at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        entries[self.order[at] as usize].heap_at = at as u32;
        at
    }

    fn sink(&mut self, entries: &mut [Entry], mut at: usize) {
        loop {
            let children = 2 * at + 1..self.order.len().min(2 * at + 3);
            let least = children.min_by_key(|child| entries[self.order[*child] as usize].deadline);
            match least {
                Some(child) if self.is_before(entries, child, at) => {
                    self.swap(entries, at, child);
                    at = child;
                }
                _ => return,
            }
        }
    }

    fn is_before(&self, entries: &[Entry], at: usize, other: usize) -> bool {
        let deadline = |at: usize| entries[self.order[at] as usize].deadline;
        deadline(at) < deadline(other)
    }

    fn swap(&mut self, entries: &mut [Entry], at: usize, other: usize) {
        self.order.swap(at, other);
        entries[self.order[at] as usize].heap_at = at as u32;
        entries[self.order[other] as usize].heap_at = other as u32;
    }

    #[cfg(any(test, fuzzing))]
    fn assert_consistent(&self, entries: &[Entry]) {
        for (at, index) in self.order.iter().enumerate() {
            let entry = &entries[*index as usize];
            assert_eq!(entry.heap_at as usize, at);
            assert!(entry.in_line && !entry.is_timed && entry.deadline != NEVER);
            assert!(at == 0 || !self.is_before(entries, at, (at - 1) / 2));
        }
    }
}
