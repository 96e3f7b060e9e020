//! One file per contender, and the list of them all.

mod async_channel;
mod asyncband;
mod bb8;
mod deadpool;
mod fast_pool;
mod floors;
mod mobc;
mod wharf;

use crate::field::{Field, Role};

/// Ratios are taken against this one.
pub const BASELINE: &str = "deadpool";
/// The floor of a cycle that nobody disturbs.
pub const QUEUE_FLOOR: &str = "ArrayQueue";
pub const WHARF: &str = "wharf";

pub fn all() -> Field {
    let mut field = Field::default();
    field.add::<wharf::Borrowed>(WHARF, Role::Pool);
    field.add::<wharf::Owned>("wharf get_owned", Role::Pool);
    field.add::<deadpool::Deadpool>(BASELINE, Role::Pool);
    field.add::<bb8::Bb8>("bb8", Role::Pool);
    field.add::<asyncband::Asyncband>("asyncband", Role::Pool);
    field.add::<mobc::Mobc>("mobc", Role::Pool);
    field.add::<fast_pool::FastPool>("fast_pool", Role::Pool);
    field.add::<async_channel::Channel>("async-channel", Role::Pool);
    field.add::<floors::Sem>("tokio Semaphore", Role::WaitingFloor);
    field.add::<floors::MutexVec>("Mutex<Vec>", Role::SpinningFloor);
    field.add::<floors::Queue>(QUEUE_FLOOR, Role::SpinningFloor);
    field
}
