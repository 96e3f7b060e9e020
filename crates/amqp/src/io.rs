//! The runtime that connections live on: small, and apart from the user's, so that a connection
//! keeps its heartbeat while the user's runtime is busy (lapin runs its timers and sockets on the
//! runtime it is given).

use std::{future::Future, sync::OnceLock};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

/// One for the whole process; it never ends.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("wharf-amqp")
            .enable_all()
            .build()
            .expect("a thread for connections can be started")
    })
}

pub(crate) fn handle() -> &'static Handle {
    runtime().handle()
}

pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    runtime().spawn(task)
}
