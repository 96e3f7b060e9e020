//! Messages that wait, in the order of their numbers.

use std::collections::VecDeque;

use super::Entry;

/// With more places than this empty, and more empty than not, they are removed.
const FEW: usize = 64;

/// Mostly appended to and taken from the front; taking from the middle leaves an empty place, which
/// costs the others nothing.
#[derive(Debug)]
pub(super) struct Line<P> {
    /// Numbers ascend. The first place is not empty.
    places: VecDeque<(u64, Option<Entry<P>>)>,
    empty: usize,
    bytes: usize,
}

impl<P> Line<P> {
    pub(super) fn new() -> Self {
        Self {
            places: VecDeque::new(),
            empty: 0,
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.empty
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn first(&self) -> Option<&Entry<P>> {
        let (_, entry) = self.places.front()?;
        Some(entry.as_ref().expect("bug: the first place is not empty"))
    }

    pub(super) fn get(&self, number: u64) -> Option<&Entry<P>> {
        let at = self.find(number).ok()?;
        self.places[at].1.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<P>> {
        self.places.iter().filter_map(|(_, entry)| entry.as_ref())
    }

    /// At the end, or, if it comes back from a delivery, where its number belongs.
    pub(super) fn insert(&mut self, entry: Entry<P>) {
        self.bytes += entry.weight;
        let number = entry.number;
        if self.places.back().is_none_or(|(last, _)| *last < number) {
            self.places.push_back((number, Some(entry)));
            return;
        }
        match self.find(number) {
            Ok(at) => {
                let place = &mut self.places[at].1;
                assert!(place.is_none(), "bug: message {number} waits twice");
                *place = Some(entry);
                self.empty -= 1;
            }
            Err(at) => self.places.insert(at, (number, Some(entry))),
        }
    }

    pub(super) fn take_first(&mut self) -> Option<Entry<P>> {
        let (_, entry) = self.places.pop_front()?;
        self.tidy();
        let entry = entry.expect("bug: the first place is not empty");
        self.bytes -= entry.weight;
        Some(entry)
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Entry<P>> {
        if self.places.front()?.0 == number {
            return self.take_first();
        }
        let at = self.find(number).ok()?;
        let entry = self.places[at].1.take()?;
        self.bytes -= entry.weight;
        self.empty += 1;
        if self.empty > FEW && self.empty > self.places.len() / 2 {
            self.places.retain(|(_, entry)| entry.is_some());
            self.empty = 0;
        }
        Some(entry)
    }

    fn tidy(&mut self) {
        while let Some((_, None)) = self.places.front() {
            self.places.pop_front();
            self.empty -= 1;
        }
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.places.binary_search_by_key(&number, |place| place.0)
    }
}
