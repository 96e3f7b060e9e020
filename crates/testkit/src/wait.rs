//! Waiting for something to happen: it polls, it has a bound, and it names what did not happen.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, looking every 10 ms.
///
/// ```
/// # use std::time::Duration;
/// # use wharf_testkit::wait::eventually;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let task = tokio::spawn(async {});
/// eventually("the task ends", Duration::from_secs(5), async || task.is_finished()).await;
/// # }
/// ```
///
/// # Panics
///
/// With `what`, when `bound` has passed first.
pub async fn eventually<F>(what: &str, bound: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let attempt = || {
        let condition = condition();
        async { condition.await.then_some(()) }
    };
    eventually_some(what, bound, attempt).await;
}

/// Waits until `attempt` gives a value, and gives it on.
///
/// # Panics
///
/// With `what`, when `bound` has passed first.
pub async fn eventually_some<T, F>(what: &str, bound: Duration, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    within(what, bound, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            // An attempt may never be pending; without this look the bound would not hold then.
            assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

/// Gives what `future` gives.
///
/// ```
/// # use std::time::Duration;
/// # use wharf_testkit::wait::within;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let sum = within("the sum", Duration::from_secs(1), async { 1 + 1 }).await;
/// assert_eq!(sum, 2);
/// # }
/// ```
///
/// # Panics
///
/// With `what`, when `bound` has passed first.
pub async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {bound:?}: {what}"),
    }
}
