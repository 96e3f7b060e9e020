//! What the broker says of messages: never, late, out of turn, by the hundred, no, and not here.

use std::time::Duration;

use futures_util::future::join_all;
use wharf_amqp::Receipt;
use wharf_broker::{Frames, Publish};
use wharf_testkit::wait::{eventually, within};

use crate::{
    common::{SOON, none_in_flight, numbered, publish, publish_at_once, tell},
    stage::Stage,
};

/// Long enough for what is to be confirmed, whatever the machine does besides.
const DEADLINE: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

fn id(publish: &Publish<'_>) -> u64 {
    str::from_utf8(publish.body()).unwrap().parse().unwrap()
}

/// The broker has them and does not say so. They are not sent again on a connection that is well,
/// and their places are free again in the end.
#[tokio::test(flavor = "multi_thread")]
async fn messages_whose_confirms_are_swallowed_are_unknown_at_their_deadline() {
    let stage = Stage::new().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = stage.publisher_of(&cluster, DEADLINE).await;
    let swallowed = stage
        .publishing()
        .when(|publish| id(publish).is_multiple_of(2))
        .swallow_confirms();
    let publishing = publish_at_once(&publisher, &stage.checker, 1..101);
    within("every outcome", SOON, publishing).await.unwrap();
    assert_eq!(swallowed.count(), 50);
    let verdict = stage.verdict(&publisher).await;
    assert_eq!((verdict.confirmed, verdict.unknown), (51, 50), "{verdict}");
    assert_eq!((verdict.unknown_received, verdict.duplicates), (50, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn confirms_that_come_after_the_deadline_are_not_told_again() {
    let stage = Stage::new().await;
    let cluster = stage.cluster().connect().await.unwrap();
    let publisher = stage.publisher_of(&cluster, DEADLINE).await;
    stage.publishing().delay_confirms(NEVER);
    let publishing = publish_at_once(&publisher, &stage.checker, 1..101);
    within("every outcome", SOON, publishing).await.unwrap();
    let stats = publisher.stats();
    assert_eq!((stats.unknown, stats.confirmed), (100, 1), "{stats:?}");
    // The broker says it now.
    stage.broker.faults().clear();
    none_in_flight(&publisher).await;
    let stats = publisher.stats();
    assert_eq!((stats.unknown, stats.confirmed), (100, 1), "{stats:?}");
    let outcome = publish(&publisher, &stage.checker, 101).await.unwrap();
    assert!(outcome.is_confirmed(), "{outcome:?}");
    let verdict = stage.verdict(&publisher).await;
    assert_eq!((verdict.unknown_received, verdict.duplicates), (100, 0));
}

/// Whoever counts confirms instead of reading their tags tells each caller about another's message.
#[tokio::test(flavor = "multi_thread")]
async fn out_of_turn_each_message_has_its_own_outcome() {
    let stage = Stage::new().await;
    let publisher = stage.publisher().await;
    let returned = stage.publishing().when(|publish| id(publish) % 5 == 1);
    let returned = returned.give_back();
    let rejected = stage.publishing().when(|publish| id(publish) % 7 == 2);
    let rejected = rejected.nack();
    let reordered = stage.publishing().reorder_confirms(10);
    let publishing = (1..1001).map(|id| {
        let (publisher, checker) = (&publisher, &stage.checker);
        async move {
            checker.sent(id);
            let outcome = publisher.publish(numbered(id).id(format!("m-{id}"))).await;
            tell(checker, id, &outcome);
            let receipt = outcome.unwrap();
            assert_eq!(receipt.id(), format!("m-{id}"));
            let is_right = match receipt {
                Receipt::Returned { code, .. } => id % 5 == 1 && code == 312,
                Receipt::Rejected { .. } => id % 5 != 1 && id % 7 == 2,
                Receipt::Confirmed { republished, .. } => {
                    id % 5 != 1 && id % 7 != 2 && republished == 0
                }
                _ => false,
            };
            assert!(is_right, "{id}: {receipt:?}");
        }
    });
    // The last group is short of some, and waits for more.
    let complete = async {
        eventually("the broker has all the others", SOON, async || {
            reordered.count() == 1000 - 200 - 114
        })
        .await;
        stage.broker.faults().clear();
    };
    within("every outcome", SOON, async {
        tokio::join!(join_all(publishing), complete)
    })
    .await;
    let verdict = stage.verdict(&publisher).await;
    verdict.assert_exact();
    assert_eq!(verdict.returned, returned.count());
    assert_eq!(verdict.rejected, rejected.count());
    assert_eq!((verdict.returned, verdict.rejected), (200, 114));
}

/// The broker and those who publish share a thread here, so that it finds all five hundred when its
/// turn comes, and says what it has to say of them at once.
#[tokio::test]
async fn one_confirm_may_be_for_hundreds_of_messages() {
    let stage = Stage::new().await;
    let publisher = stage.publisher().await;
    let hundred = stage.publishing().after(Frames(100).sent());
    let publishing = (1..501).map(|id| publish(&publisher, &stage.checker, id));
    let outcomes = within("every verdict", SOON, join_all(publishing)).await;
    assert!(outcomes.iter().flatten().all(Receipt::is_confirmed));
    assert_eq!(hundred.count(), 0, "each was confirmed by itself");
    let verdict = stage.verdict(&publisher).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.duplicates), (501, 0));
}

/// Some confirms cover everything up to their tag, but for what has been said or is yet to be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_among_confirms_of_many_is_the_one_messages_alone() {
    let stage = Stage::new().await;
    let publisher = stage.publisher().await;
    stage.publishing().when(|publish| id(publish) == 250).nack();
    let publishing = (1..501).map(|id| publish(&publisher, &stage.checker, id));
    let outcomes = within("every verdict", SOON, join_all(publishing)).await;
    for (id, outcome) in (1..).zip(outcomes) {
        let receipt = outcome.unwrap();
        let is_right = match receipt {
            Receipt::Rejected { .. } => id == 250,
            Receipt::Confirmed { .. } => id != 250,
            _ => false,
        };
        assert!(is_right, "{id}: {receipt:?}");
    }
    let verdict = stage.verdict(&publisher).await;
    verdict.assert_exact();
    assert_eq!((verdict.confirmed, verdict.rejected), (500, 1));
}
