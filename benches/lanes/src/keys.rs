//! In which order keys come.

/// Keys of a million, as in real life: without any order. (A full-period linear congruential
/// generator, whose high bits are used.)
#[derive(Debug, Clone)]
pub struct Scattered(u64);

impl Scattered {
    /// For the same seed always the same.
    pub fn new(seed: u64) -> Self {
        Self(0x853C_49E6_748F_EA9B ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// One below `keys`.
    pub fn next(&mut self, keys: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 32) * keys) >> 32
    }
}
