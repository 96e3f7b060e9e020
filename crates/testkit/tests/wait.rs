//! Waiting has a bound and names what it waited for.

use std::cell::Cell;
use std::future::{pending, ready};
use std::time::Duration;

use tokio::time::Instant;
use wharf_testkit::wait::{eventually, eventually_some, within};

const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_condition_is_looked_at_until_it_holds() {
    let looks = Cell::new(0);
    eventually("the third look", BOUND, async || {
        looks.set(looks.get() + 1);
        looks.get() == 3
    })
    .await;
    assert_eq!(looks.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_value_is_given_as_soon_as_there_is_one() {
    let mut left = vec![Some("value"), None, None];
    let value = eventually_some("a value", BOUND, || ready(left.pop().flatten())).await;
    assert_eq!(value, "value");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not within 5s: pigs fly")]
async fn a_condition_that_never_holds_is_named() {
    eventually("pigs fly", BOUND, async || false).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not within 5s: an answer")]
async fn a_condition_that_hangs_is_bounded_too() {
    eventually("an answer", BOUND, pending::<bool>).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not within 5s: the end of time")]
async fn a_future_that_takes_too_long_is_named() {
    within("the end of time", BOUND, pending::<()>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_bound_ends_the_wait_when_it_has_passed() {
    let start = Instant::now();
    let waiting = tokio::spawn(eventually("nothing", BOUND, || ready(false)));
    assert!(waiting.await.unwrap_err().is_panic());
    let waited = start.elapsed();
    assert!(
        waited >= BOUND && waited < BOUND + Duration::from_millis(50),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_wait_may_move_to_another_task() {
    let waiting = tokio::spawn(async {
        let flag = Cell::new(true).into_inner();
        eventually("nothing", BOUND, || async { flag }).await;
        within("a number", BOUND, ready(7)).await
    });
    assert_eq!(waiting.await.unwrap(), 7);
}
