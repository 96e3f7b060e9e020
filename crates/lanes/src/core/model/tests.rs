//! Random operations, and a few that deserve their own lines.

use proptest::{collection::vec, prelude::*};

use super::{
    super::{Limits, WhenFull},
    driver::{Driver, Op},
};

fn limits() -> impl Strategy<Value = Limits> {
    let when_full = prop_oneof![
        Just(WhenFull::Wait),
        Just(WhenFull::Reject),
        Just(WhenFull::FlushOldest)
    ];
    (
        (1_usize..6, 3_u32..12, 0_u64..30, 1_usize..4),
        (1_usize..25, 3_u64..40, 1_usize..6),
        when_full,
    )
        .prop_map(|(batch, all, when_full)| Limits {
            items: batch.0,
            bytes: batch.1.min(u32::try_from(all.1).unwrap()),
            linger: batch.2 * 1000,
            concurrency: batch.3,
            max_items: all.0,
            max_bytes: all.1,
            max_lanes: all.2,
            when_full,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0_u32..6;
    prop_oneof![
        20 => (key.clone(), 0_u32..4).prop_map(|(key, weight)| Op::Push { key, weight }),
        4 => (key.clone(), 0_u32..4).prop_map(|(key, weight)| Op::TryPush { key, weight }),
        3 => any::<usize>().prop_map(Op::Cancel),
        8 => (0_u64..12).prop_map(Op::Advance),
        6 => (1_usize..5).prop_map(Op::Tick),
        14 => any::<usize>().prop_map(Op::Done),
        4 => (any::<usize>(), 1_usize..4).prop_map(|(index, kept)| Op::Again(index, kept)),
        2 => any::<usize>().prop_map(Op::GivenUp),
        3 => key.clone().prop_map(Op::Flush),
        3 => key.prop_map(Op::CloseKey),
        3 => (1_usize..8).prop_map(Op::FlushAll),
    ]
}

proptest! {
    #[test]
    fn the_core_does_what_the_model_does(
        limits in limits(),
        ops in vec(op(), 1..120),
        closes in any::<bool>(),
        after in vec(op(), 0..40),
        (taken, late) in (0_usize..4, 0_usize..3),
    ) {
        let mut driver = Driver::new(limits);
        for op in ops {
            driver.perform(op);
        }
        if closes {
            driver.perform(Op::Close);
            for op in after {
                driver.perform(op);
            }
        }
        driver.finish(taken, late);
    }
}
