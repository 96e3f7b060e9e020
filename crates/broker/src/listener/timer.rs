//! The task that keeps the engine's time.

use std::sync::Arc;

use tokio::{task::yield_now, time::sleep_until};

use super::Hub;

/// Lets the engine advance whenever something is due, and sleeps in between. It is woken early only
/// for what is due earlier still.
pub(crate) async fn keep_time(hub: Arc<Hub>) {
    loop {
        let due = hub.advance();
        // What is due already is the next portion of something long.
        yield_now().await;
        match due {
            Some(due) => tokio::select! {
                () = sleep_until(due) => {}
                () = hub.sooner.notified() => {}
            },
            None => hub.sooner.notified().await,
        }
    }
}
