//! A slab in pages: entries keep their number, nothing is moved as it grows, and pages that are
//! empty are given back.

/// Entries of a page. Small, so that one that is kept costs little.
const PAGE: usize = 256;

/// No entry.
pub(super) const NIL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Pages<V> {
    pages: Vec<Page<V>>,
    /// Pages with room, each once.
    roomy: Vec<u32>,
    len: usize,
    /// Pages that have memory and no entry; at most one is kept.
    empty: usize,
}

#[derive(Debug)]
struct Page<V> {
    entries: Vec<Entry<V>>,
    /// The first of the vacant entries.
    free: u32,
    live: usize,
    is_roomy: bool,
}

#[derive(Debug)]
enum Entry<V> {
    /// With the next vacant one.
    Vacant(u32),
    Taken(V),
}

impl<V> Pages<V> {
    pub(super) fn new() -> Self {
        Self {
            pages: Vec::new(),
            roomy: Vec::new(),
            len: 0,
            empty: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: V) -> u32 {
        let number = self.page_with_room();
        let page = &mut self.pages[number as usize];
        if page.live == 0 {
            if page.entries.capacity() == 0 {
                page.entries.reserve_exact(PAGE);
            } else {
                self.empty -= 1;
            }
        }
        let entry = page.put(value);
        if page.live == PAGE {
            page.is_roomy = false;
            self.roomy.pop();
        }
        self.len += 1;
        number * PAGE as u32 + entry
    }

    pub(super) fn remove(&mut self, number: u32) -> V {
        let page = &mut self.pages[number as usize / PAGE];
        let value = page.take(number % PAGE as u32);
        if !page.is_roomy {
            page.is_roomy = true;
            self.roomy.push(number / PAGE as u32);
        }
        if page.live == 0 {
            if self.empty > 0 {
                page.entries = Vec::new();
                page.free = NIL;
            } else {
                self.empty += 1;
            }
        }
        self.len -= 1;
        if self.len == 0 && self.pages.len() > 1 {
            *self = Self::new();
        }
        value
    }

    pub(super) fn get(&self, number: u32) -> &V {
        match &self.pages[number as usize / PAGE].entries[number as usize % PAGE] {
            Entry::Taken(value) => value,
            Entry::Vacant(_) => panic!("bug: no entry {number}"),
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut V {
        match &mut self.pages[number as usize / PAGE].entries[number as usize % PAGE] {
            Entry::Taken(value) => value,
            Entry::Vacant(_) => panic!("bug: no entry {number}"),
        }
    }

    /// All entries with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        self.pages.iter().enumerate().flat_map(|(number, page)| {
            let entries = page.entries.iter().enumerate();
            entries.filter_map(move |(at, entry)| match entry {
                Entry::Taken(value) => Some(((number * PAGE + at) as u32, value)),
                Entry::Vacant(_) => None,
            })
        })
    }

    fn page_with_room(&mut self) -> u32 {
        if let Some(number) = self.roomy.last() {
            return *number;
        }
        let number = u32::try_from(self.pages.len()).expect("fewer than 2³² lanes");
        self.pages.push(Page {
            entries: Vec::new(),
            free: NIL,
            live: 0,
            is_roomy: true,
        });
        self.roomy.push(number);
        number
    }
}

impl<V> Page<V> {
    fn put(&mut self, value: V) -> u32 {
        self.live += 1;
        if self.free == NIL {
            self.entries.push(Entry::Taken(value));
            return self.entries.len() as u32 - 1;
        }
        let entry = self.free;
        match std::mem::replace(&mut self.entries[entry as usize], Entry::Taken(value)) {
            Entry::Vacant(next) => self.free = next,
            Entry::Taken(_) => panic!("bug: entry {entry} is taken"),
        }
        entry
    }

    fn take(&mut self, entry: u32) -> V {
        let vacant = Entry::Vacant(self.free);
        match std::mem::replace(&mut self.entries[entry as usize], vacant) {
            Entry::Taken(value) => {
                self.free = entry;
                self.live -= 1;
                value
            }
            Entry::Vacant(_) => panic!("bug: entry {entry} is vacant"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_number_while_others_come_and_go() {
        let mut pages = Pages::new();
        let numbers: Vec<u32> = (0..3 * PAGE).map(|value| pages.insert(value)).collect();
        for value in (0..3 * PAGE).filter(|value| value % 3 != 0) {
            assert_eq!(pages.remove(numbers[value]), value);
        }
        for value in 0..PAGE {
            pages.insert(10 * PAGE + value);
        }
        for value in (0..3 * PAGE).step_by(3) {
            assert_eq!(*pages.get(numbers[value]), value);
        }
        assert_eq!(pages.iter().count(), pages.len());
        assert_eq!(pages.pages.len(), 3, "vacant entries are used again");
    }

    #[test]
    fn of_empty_pages_one_is_kept_and_of_an_empty_slab_none() {
        let mut pages = Pages::new();
        let numbers: Vec<u32> = (0..4 * PAGE).map(|value| pages.insert(value)).collect();
        for number in &numbers[PAGE..] {
            pages.remove(*number);
        }
        let with_memory = |pages: &Pages<usize>| {
            let pages = pages.pages.iter();
            pages.filter(|page| page.entries.capacity() > 0).count()
        };
        assert_eq!(with_memory(&pages), 2);
        for number in &numbers[..PAGE] {
            pages.remove(*number);
        }
        assert_eq!((with_memory(&pages), pages.pages.len()), (0, 0));
    }
}
