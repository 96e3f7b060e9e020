//! Calls into the user's code, whose panics end here.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures_util::FutureExt;
use thiserror::Error;

/// The user's code panicked, with this message.
#[derive(Debug, Clone, Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

/// Runs something of the user's.
///
/// As for unwinding: what it could leave half changed is the user's own.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked(message(&*payload)))
}

/// Two layers of trouble in one.
pub(crate) fn flat<T, E>(
    called: Result<Result<T, E>, Panicked>,
    panicked: impl FnOnce(Panicked) -> E,
) -> Result<T, E> {
    called.unwrap_or_else(|why| Err(panicked(why)))
}

/// The same for a future, and for the call that makes it.
pub(crate) async fn caught_async<T, F: Future<Output = T>>(
    call: impl FnOnce() -> F,
) -> Result<T, Panicked> {
    let run = AssertUnwindSafe(async { call().await });
    run.catch_unwind()
        .await
        .map_err(|payload| Panicked(message(&*payload)))
}

#[cold]
fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "(no message)".to_owned()
    }
}
