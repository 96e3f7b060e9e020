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
    // Of two that are made at once, one is not used; to wait for its end here would block the caller's.
    if let Err(unused) = RUNTIME.set(runtime) {
        unused.shutdown_background();
    }
    Ok(RUNTIME.get().expect("bug: it has been set").handle())
}
