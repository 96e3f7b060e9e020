//! The verdicts of the total-queue checker.

use std::sync::Arc;
use std::thread;

use wharf_testkit::checker::{Checker, Verdict};

#[test]
fn what_is_confirmed_and_received_is_fine() {
    let verdict = history(|checker| {
        for id in 0..5_000 {
            checker.sent(id);
            checker.confirmed(id);
            checker.received(id);
        }
    });
    verdict.assert_exact();
    assert_eq!(
        (verdict.sent, verdict.confirmed, verdict.received),
        (5_000, 5_000, 5_000)
    );
    assert_eq!(
        verdict.to_string(),
        "5000 sent, 5000 confirmed, 0 rejected, 0 returned, 0 unknown (0 of them received), \
         5000 received, 0 duplicates"
    );
}

#[test]
fn a_confirmed_message_that_never_came_is_lost() {
    let verdict = history(|checker| {
        for id in [3, 5_000_000_000, 4] {
            checker.sent(id);
            checker.confirmed(id);
        }
        checker.received(4);
    });
    assert!(!verdict.is_valid());
    assert_eq!(verdict.lost, [3, 5_000_000_000]);
    assert_complaint(|| verdict.assert_valid(), "LOST: 2 (3, 5000000000)");
}

#[test]
fn a_message_that_nobody_sent_is_a_fault() {
    let received = history(|checker| checker.received(7));
    assert_eq!(received.never_sent, [7]);
    assert_complaint(|| received.assert_valid(), "NEVER SENT: 1 (7)");

    let confirmed = history(|checker| {
        checker.confirmed(8);
        checker.received(9);
        checker.sent(9);
    });
    assert_eq!(confirmed.reported_unsent, [8]);
    assert!(!confirmed.is_valid());
}

#[test]
fn duplicates_are_counted_and_no_fault() {
    let verdict = history(|checker| {
        checker.sent(1);
        checker.confirmed(1);
        for _ in 0..3 {
            checker.received(1);
        }
    });
    verdict.assert_exact();
    assert_eq!((verdict.received, verdict.duplicates), (1, 2));
}

#[test]
fn a_message_of_unknown_fate_may_have_come_or_not() {
    let verdict = history(|checker| {
        for id in 1..=2 {
            checker.sent(id);
            checker.unknown(id);
        }
        checker.received(2);
    });
    verdict.assert_exact();
    assert_eq!((verdict.unknown, verdict.unknown_received), (2, 1));
}

#[test]
fn a_fate_once_unknown_may_become_known() {
    let verdict = history(|checker| {
        checker.sent(1);
        checker.unknown(1);
        checker.sent(1);
        checker.confirmed(1);
        checker.received(1);
    });
    verdict.assert_exact();
    assert_eq!(
        (verdict.sent, verdict.confirmed, verdict.unknown),
        (1, 1, 0)
    );
}

/// A broker that nacks a copy may have stored an earlier one, so this is no contradiction.
#[test]
fn a_rejection_after_an_unknown_says_nothing_about_arrival() {
    let verdict = history(|checker| {
        checker.sent(1);
        checker.unknown(1);
        checker.rejected(1);
        checker.received(1);
    });
    verdict.assert_exact();
}

#[test]
fn a_message_that_nothing_was_said_about_is_unresolved() {
    let verdict = history(|checker| checker.sent(6));
    verdict.assert_valid();
    assert_eq!(verdict.unresolved, [6]);
    assert_complaint(|| verdict.assert_all_resolved_once(), "unresolved: 1 (6)");
}

#[test]
fn a_second_final_report_is_noticed() {
    for second in [Checker::confirmed, Checker::rejected, Checker::returned] {
        let verdict = history(|checker| {
            checker.sent(2);
            checker.confirmed(2);
            checker.received(2);
            second(checker, 2);
        });
        verdict.assert_valid();
        assert_complaint(
            || verdict.assert_all_resolved_once(),
            "reported twice: 1 (2)",
        );
    }
}

#[test]
fn a_refused_message_that_came_all_the_same_shows_a_wrong_report() {
    let verdict = history(|checker| {
        checker.sent(1);
        checker.rejected(1);
        checker.received(1);
        checker.sent(2);
        checker.returned(2);
        checker.received(2);
    });
    verdict.assert_all_resolved_once();
    assert_eq!(
        (
            &verdict.rejected_received[..],
            &verdict.returned_received[..]
        ),
        (&[1][..], &[2][..])
    );
    assert_complaint(|| verdict.assert_exact(), "rejected but received: 1 (1)");
}

#[test]
fn a_long_list_is_shown_by_its_beginning() {
    let verdict = history(|checker| (1..=1_000).for_each(|id| checker.sent(id)));
    let shown = "unresolved: 1000 (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …)";
    assert!(verdict.to_string().ends_with(shown), "{verdict}");
}

#[test]
fn threads_may_tell_at_the_same_time() {
    let checker = Arc::new(Checker::default());
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let checker = Arc::clone(&checker);
            thread::spawn(move || {
                for id in (0..100_000).map(|n| n * 4 + thread) {
                    checker.sent(id);
                    checker.confirmed(id);
                    checker.received(id ^ 1); // what another thread sends
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let verdict = checker.verdict();
    verdict.assert_exact();
    assert_eq!((verdict.sent, verdict.duplicates), (400_000, 0));
}

fn history(told: impl FnOnce(&Checker)) -> Verdict {
    let checker = Checker::default();
    told(&checker);
    checker.verdict()
}

fn assert_complaint(assertion: impl FnOnce() + std::panic::UnwindSafe, part: &str) {
    let panic = std::panic::catch_unwind(assertion).expect_err("the assertion held");
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains(part), "`{part}` is not in: {message}");
}
