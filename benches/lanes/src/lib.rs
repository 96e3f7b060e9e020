//! What the two programs share: those who batch by key, and the keys.

pub mod contenders;
pub mod keys;
pub mod lateness;
pub mod memory;
pub mod pace;
pub mod saturation;
pub mod turns;
