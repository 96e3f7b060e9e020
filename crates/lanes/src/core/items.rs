//! The items of one batch.

use std::{mem::replace, slice};

/// Batches up to so many bytes get their full capacity with the third item. Larger ones begin with four
/// items: over many keys most are flushed before they have more, and to fetch and free what they do not
/// need is dearer than to grow.
const SMALL: usize = 32;

/// The items of a batch. Two cost no allocation, and are where the lane is: under input over many keys
/// most batches have no more when their linger ends.
#[derive(Debug)]
pub(crate) enum Items<T> {
    None,
    One(T),
    Two([T; 2]),
    Many(Vec<T>),
}

impl<T> Items<T> {
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(item) => slice::from_ref(item),
            Self::Two(items) => items,
            Self::Many(items) => items,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(item) => slice::from_mut(item),
            Self::Two(items) => items,
            Self::Many(items) => items,
        }
    }

    /// Itself, as a vector; what is changed there is changed here.
    pub(crate) fn as_vec(&mut self) -> &mut Vec<T> {
        if !matches!(self, Self::Many(_)) {
            *self = Self::Many(replace(self, Self::None).into_vec());
        }
        match self {
            Self::Many(items) => items,
            Self::None | Self::One(_) | Self::Two(_) => unreachable!("bug: it has just become one"),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::None => Vec::new(),
            Self::One(item) => vec![item],
            Self::Two(items) => items.into(),
            Self::Many(items) => items,
        }
    }

    /// Leaves none.
    pub(crate) fn take(&mut self) -> Self {
        replace(self, Self::None)
    }

    /// There will be `most` at most.
    pub(super) fn push(&mut self, item: T, most: usize) {
        if let Self::Many(items) = self {
            if items.len() == items.capacity() {
                items.reserve_exact(items.len().min(most - items.len()));
            }
            items.push(item);
            return;
        }
        *self = match self.take() {
            Self::None => Self::One(item),
            Self::One(first) => Self::Two([first, item]),
            Self::Two(both) => {
                let is_small = most * size_of::<T>() <= SMALL;
                let mut items = Vec::with_capacity(if is_small { most } else { most.min(4) });
                items.extend(both);
                items.push(item);
                Self::Many(items)
            }
            Self::Many(_) => unreachable!("bug: it has been dealt with"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: usize) -> Items<usize> {
        let mut items = Items::None;
        for item in 0..count {
            items.push(item, 10);
        }
        items
    }

    #[test]
    fn items_are_the_same_wherever_they_are_kept() {
        for count in 0..6 {
            let all: Vec<usize> = (0..count).collect();
            let mut items = with(count);
            assert_eq!((items.as_slice(), items.len()), (&all[..], count));
            assert_eq!(items.as_mut_slice(), all);
            assert_eq!(*items.as_vec(), all);
            assert_eq!(items.take().into_vec(), all);
            assert!(items.is_empty(), "they are taken");
            assert_eq!(with(count).into_vec(), all);
            items = with(count);
            items.as_vec().extend([7]);
            assert_eq!(
                items.len(),
                count + 1,
                "what is changed there is changed here"
            );
        }
    }

    #[test]
    fn a_batch_never_has_room_for_more_than_it_may_hold() {
        for most in [1, 2, 3, 10, 16, 17, 100] {
            let mut items = Items::None;
            for item in 0..most {
                items.push(item, most);
            }
            let items = items.into_vec();
            assert_eq!(items, (0..most).collect::<Vec<_>>());
            assert!(items.capacity() <= most, "{} for {most}", items.capacity());
        }
    }
}
