//! Calls into the user's code, whose panics end here.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::FutureExt;

/// Runs something of the user's; an error is the panic's message.
///
/// As for unwinding: what the closure could leave half changed is either the resource at hand, which
/// is destroyed after a panic, or the user's own.
#[inline]
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Arc<str>> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| message(&*payload))
}

/// The same for a future, and for the call that makes it.
pub(crate) async fn caught_async<T, F: Future<Output = T>>(
    call: impl FnOnce() -> F,
) -> Result<T, Arc<str>> {
    let run = AssertUnwindSafe(async { call().await });
    run.catch_unwind()
        .await
        .map_err(|payload| message(&*payload))
}

#[cold]
fn message(payload: &(dyn Any + Send)) -> Arc<str> {
    if let Some(text) = payload.downcast_ref::<&str>() {
        Arc::from(*text)
    } else if let Some(text) = payload.downcast_ref::<String>() {
        Arc::from(text.as_str())
    } else {
        Arc::from("(no message)")
    }
}
