//! The broker that the other tests run on, as the environment chooses it.

use std::{
    env::VarError,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::common::broker::{Node, says_embedded};

/// What a call says as it panics.
fn complaint<T>(call: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).map(drop).unwrap_err();
    *panic.downcast::<String>().expect("it says something")
}

#[test]
fn a_broker_is_chosen_by_its_name_and_nobody_guesses() {
    assert!(!says_embedded(Err(&VarError::NotPresent)));
    assert!(!says_embedded(Ok("rabbitmq")));
    assert!(says_embedded(Ok("embedded")));
    for typo in ["", "Embedded", "rabbit", "embedded "] {
        let said = complaint(|| says_embedded(Ok(typo)));
        assert!(said.contains("WHARF_TEST_BROKER"), "{said}");
        assert!(said.contains(&format!("{typo:?}")), "{said}");
    }
}

/// A test that would ask RabbitMQ something else than it runs on must not pass.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_rabbitmq_can_do_panics_on_the_embedded_broker() {
    let node = Node::embedded().await;
    let vhost = node.vhost().await;
    for said in [
        complaint(|| node.rabbit()),
        complaint(|| vhost.rabbit()),
        complaint(|| vhost.of_rabbitmq()),
    ] {
        assert!(said.contains("needs RabbitMQ itself"), "{said}");
        assert!(said.contains("rabbitmq_only"), "{said}");
    }
}
