//! Lending the pool's runtime to callers that are not on one.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::runtime::Handle;

/// A future that is polled in the context of a runtime, which its timers and the user's code may
/// need. Without one to lend, it is polled as it is.
#[pin_project]
pub(crate) struct AtHome<F> {
    home: Option<Handle>,
    #[pin]
    run: F,
}

impl<F: Future> AtHome<F> {
    /// Lends `home` if the caller is on no runtime of its own.
    pub(crate) fn new(home: impl FnOnce() -> Option<Handle>, run: F) -> Self {
        let home = if Handle::try_current().is_ok() {
            None
        } else {
            home()
        };
        Self { home, run }
    }
}

impl<F: Future> Future for AtHome<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _context = this.home.as_ref().map(Handle::enter);
        this.run.poll(cx)
    }
}
