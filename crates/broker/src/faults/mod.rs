//! Faults, scripted and deterministic.

mod api;
mod faulty;
mod interference;
mod publish;
mod script;
mod tap;
mod withheld;

pub use api::{Faults, Publishes, Step};
pub use publish::Publish;
pub use tap::{Amount, Bytes, Frames};

pub(crate) use faulty::Faulty;
pub(crate) use script::Admission;
pub(crate) use tap::{Blow, Direction, Tap};
