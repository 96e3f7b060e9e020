//! What can go wrong, by operation.

use thiserror::Error;

/// Why lanes could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A number is not within its bounds, which are documented with the field.
    #[error("`{name}` is out of range")]
    OutOfRange {
        /// The field of [`Config`](crate::Config).
        name: &'static str,
    },
    /// There is no runtime: make them within tokio, or name one with
    /// [`Builder::runtime`](crate::Builder::runtime).
    #[error("no tokio runtime")]
    NoRuntime,
}

/// Why an item was not accepted. In each case it is here again, and in no lane. (With
/// [`WhenFull::FlushOldest`](crate::WhenFull), one for which there is no room has the oldest batch
/// flushed all the same.)
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PushError<T> {
    /// The lanes are closed, or their runtime has ended.
    #[error("the lanes are closed")]
    Closed(T),
    /// There is no room for it: one of `max_items`, `max_bytes`, `max_lanes` is reached, or others
    /// wait for room.
    #[error("no room")]
    Full(T),
    /// It weighs more than a batch, or everything, may.
    #[error("an item of {weight} bytes, where {most} is the most")]
    TooLarge {
        /// The item.
        item: T,
        /// What the weigher says.
        weight: usize,
        /// What would have been possible.
        most: usize,
    },
}

impl<T> PushError<T> {
    /// The item.
    pub fn into_item(self) -> T {
        match self {
            Self::Closed(item) | Self::Full(item) | Self::TooLarge { item, .. } => item,
        }
    }
}

// Items need not be `Debug`, and what they hold does not belong into logs.
impl<T> std::fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Full(_) => f.write_str("Full(..)"),
            Self::TooLarge { weight, most, .. } => {
                write!(f, "TooLarge {{ weight: {weight}, most: {most}, .. }}")
            }
        }
    }
}

/// What was not handled when the time of
/// [`close_within`](crate::Lanes::close_within) was over.
#[derive(Error)]
#[error("closed with {} keys unfinished and {stuck} items in a handler that does not end", .left.len())]
pub struct Unfinished<K, T> {
    /// What is left of each key, in order. Batches whose handler was interrupted are in it, without
    /// the items it had taken out. Empty if another call has got it.
    pub left: Vec<(K, Vec<T>)>,
    /// Items in batches that did not come back in time: the handler blocks its thread, or has given
    /// the batch to somebody else, or the runtime takes long to end. They go to the sink when they
    /// do, or count as handled if it succeeds.
    pub stuck: usize,
}

impl<K, T> std::fmt::Debug for Unfinished<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unfinished")
            .field("keys", &self.left.len())
            .field("stuck", &self.stuck)
            .finish()
    }
}
