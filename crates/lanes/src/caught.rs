//! Calls into the user's code, whose panics end here.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Runs something of the user's; an error is the panic's message.
///
/// As for unwinding: what the call could leave half changed is the user's own.
pub(crate) fn caught<R>(call: impl FnOnce() -> R) -> Result<R, Arc<str>> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = message(&*payload);
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            leak(another);
        }
        message
    })
}

#[cold]
#[expect(
    clippy::mem_forget,
    reason = "one destructor has panicked, and this is its payload"
)]
fn leak(payload: Box<dyn Any + Send>) {
    std::mem::forget(payload);
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
