//! The connections of a cluster: which there are, who may have them, and the task that dials.

mod keeper;
mod shared;
mod state;

pub use state::State;

pub(crate) use shared::{Prepare, Shared};
