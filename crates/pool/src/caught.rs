//! Calls into the user's code, whose panics end here.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;

use crate::error::Cause;

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

/// What an attempt with a time limit came to.
pub(crate) type Attempt<T> = Result<Result<T, Arc<str>>, Duration>;

/// The three ways in which a manager's call fails are one cause.
pub(crate) fn settle<T, E: std::error::Error + 'static>(
    attempt: Attempt<Result<T, E>>,
) -> Result<T, Cause<E>> {
    match attempt {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(Cause::Failed(Arc::new(error))),
        Ok(Err(message)) => Err(Cause::Panicked(message)),
        Err(limit) => Err(Cause::TimedOut(limit)),
    }
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
