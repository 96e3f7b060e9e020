//! One node for all tests of a run.

use std::env;
use std::path::Path;

use tokio::sync::OnceCell;

use super::home::Error;
use super::node::Rabbit;
use super::standing::attach;

/// The environment variable that names the folder of a node that is there already, from
/// [`Rabbit::offer`] or [`super::up`], for runs of several test programs.
pub const SHARED_NODE: &str = "WHARF_RABBIT";

impl Rabbit {
    /// The node that the tests of this run share, started by the first of them.
    ///
    /// Every test takes a [`Rabbit::vhost`] of its own in it. Faults that the others would feel
    /// panic. The node ends with the process, unless [`SHARED_NODE`] names one that is there.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or it does not start; says how to get it.
    pub async fn shared() -> Self {
        let shared = Self::try_shared().await;
        shared.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, with the error instead of a panic.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is missing, or what the node said before it ended.
    pub async fn try_shared() -> Result<Self, Error> {
        static SHARED: OnceCell<Rabbit> = OnceCell::const_new();
        SHARED.get_or_try_init(find_or_start).await.cloned()
    }
}

async fn find_or_start() -> Result<Rabbit, Error> {
    match env::var_os(SHARED_NODE) {
        None => Ok(Rabbit::try_start().await?.share()),
        Some(folder) => {
            let folder = Path::new(&folder);
            let running = attach(folder).await?;
            Ok(running.unwrap_or_else(|| {
                panic!("{SHARED_NODE}={}: no node runs there", folder.display())
            }))
        }
    }
}
