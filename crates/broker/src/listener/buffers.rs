//! How large the buffers of a connection are.

/// What an idle connection keeps, each way.
const SMALL: usize = 4 * 1024;
/// What a busy one reads or writes at once.
const LARGE: usize = 64 * 1024;

/// The size of a buffer that follows the traffic: it doubles when it was filled and halves when it
/// was filled to less than a quarter, so that a few heartbeats after a burst it is small again.
#[derive(Debug)]
pub(super) struct Sizing(usize);

impl Sizing {
    pub(super) fn new() -> Self {
        Self(SMALL)
    }

    pub(super) fn size(&self) -> usize {
        self.0
    }

    /// `used` bytes of the buffer were filled this time.
    pub(super) fn adapt(&mut self, used: usize) {
        if used >= self.0 {
            self.0 = (self.0 * 2).min(LARGE);
        } else if used < self.0 / 4 {
            self.0 = (self.0 / 2).max(SMALL);
        }
    }

    /// Whether an empty buffer of this capacity is better given back.
    pub(super) fn is_excessive(&self, capacity: usize) -> bool {
        capacity > SMALL && capacity > self.0 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_with_traffic_and_shrinks_with_heartbeats() {
        let mut sizing = Sizing::new();
        for _ in 0..10 {
            sizing.adapt(sizing.size());
        }
        assert_eq!(sizing.size(), LARGE);
        assert!(!sizing.is_excessive(LARGE));
        for _ in 0..4 {
            sizing.adapt(8);
        }
        assert_eq!(sizing.size(), SMALL);
        assert!(sizing.is_excessive(LARGE));
        assert!(!sizing.is_excessive(SMALL));
    }
}
