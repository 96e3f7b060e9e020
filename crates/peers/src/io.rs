//! The runtime that peers live on: small, and apart from the user's, so that a handler that is busy
//! stops no heartbeat.

use std::{io, sync::OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};

/// One for the whole process; it never ends.
pub(crate) fn handle() -> io::Result<&'static Handle> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("wharf-peers")
        .enable_all()
        .build()?;
    // Of two that are made at once, one is not used. It must not be waited for: this may be a task.
    if let Err(second) = RUNTIME.set(runtime) {
        second.shutdown_background();
    }
    Ok(RUNTIME.get().expect("bug: there is one").handle())
}
