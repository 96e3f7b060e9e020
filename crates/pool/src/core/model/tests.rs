//! Random histories of the core, judged by the model.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::{BACKOFF, Driver, Model, Op, Place, SETUP, SHARED, SHARED_AT, Setup};
use crate::{core::Limits, slots::NEVER};

struct Histories;

impl ReferenceStateMachine for Histories {
    type State = Model;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Model> {
        let bytes = (any::<[u8; SETUP]>(), any::<bool>());
        bytes
            .prop_map(|(mut bytes, shared)| {
                if shared {
                    bytes[SHARED_AT] |= SHARED as u8;
                }
                Model::new(Setup::decode(bytes))
            })
            .boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Op> {
        let model = Model::new(model.setup.clone());
        let op = any::<[u8; 2]>();
        op.prop_map(move |bytes| model.decode(bytes)).boxed()
    }

    fn apply(mut model: Model, op: &Op) -> Model {
        model.apply(*op);
        model
    }
}

impl StateMachineTest for Histories {
    type SystemUnderTest = Driver;
    type Reference = Self;

    fn init_test(model: &Model) -> Driver {
        Driver::new(model)
    }

    fn apply(mut driver: Driver, model: &Model, _: Op) -> Driver {
        driver.follow(model);
        driver
    }
}

prop_state_machine! {
    #[test]
    fn the_core_does_what_the_model_foretells(sequential 1..500 => Histories);
}

/// What a scripted history begins with.
fn setup(max_active: u32, max_creating: u32) -> Setup {
    Setup {
        limits: Limits {
            max_active,
            min_idle: 0,
            max_idle: u32::MAX,
            max_waiters: 8,
            max_creating,
            wait_timeout: NEVER,
            fail_fast: false,
            backoff: BACKOFF,
            shedding: None,
            epoch: 40,
        },
        shared: false,
        seed: 1,
    }
}

fn play(setup: Setup, ops: &[Op]) -> Model {
    let mut model = Model::new(setup);
    let mut driver = Driver::new(&model);
    for op in ops {
        model.apply(*op);
        assert!(model.op.is_some(), "there is nothing to {op:?}");
        driver.follow(&model);
    }
    model
}

/// A probe that was still under way when its outage ended (by another creation) failed during the
/// next one, was taken for that one's probe, and a second prober set out beside the first.
#[test]
fn a_probe_of_an_earlier_outage_is_not_taken_for_the_prober_of_this_one() {
    let begin_all = [Op::Begin(0), Op::Begin(0)];
    let mut ops = vec![Op::Get(0), Op::Get(0)];
    ops.extend(begin_all);
    // The first goes down; its probe sets out, and the second creation ends the outage.
    ops.extend([Op::Outage(0), Op::Advance(8), Op::Tick, Op::Begin(0)]);
    ops.push(Op::Land(1));
    // The next creation begins the next outage, and its probe sets out.
    ops.extend([Op::Get(0), Op::Begin(0), Op::Outage(1), Op::Advance(8)]);
    ops.extend([Op::Tick, Op::Begin(0)]);
    let model = play(setup(4, 3), &ops);
    assert_eq!(model.count(Place::is_creating), 2, "both probes are out");
    assert_eq!(model.counters.outages, 2);

    // The old probe fails.
    ops.push(Op::Outage(0));
    let model = play(setup(4, 3), &ops);
    let outage = model.outage.as_ref().expect("it is still down");
    assert_eq!(outage.attempt, 1, "the prober has not come back");
    ops.extend([Op::Advance(100), Op::Tick]);
    let model = play(setup(4, 3), &ops);
    assert_eq!(model.count(Place::is_creating), 1, "one prober");
}

/// Lends all of a pool's resources.
fn lend_all(count: u32) -> Vec<Op> {
    let each = [Op::Get(0), Op::Begin(0), Op::Land(0), Op::Poll(0)];
    each.repeat(count as usize)
}

/// What was on its way out counted as surplus still, so that every idle resource went.
#[test]
fn a_pool_that_shrinks_by_one_destroys_one() {
    let mut ops = lend_all(4);
    ops.extend([Op::Put(0); 4]);
    ops.push(Op::Resize(2));
    let model = play(setup(4, 4), &ops);
    assert_eq!(model.count(|place| place == Place::Idle), 3);
    assert_eq!(model.count(|place| place == Place::Closing), 1);
}

#[test]
fn a_newcomer_leaves_a_bit_that_was_set_late_to_the_one_in_line() {
    let mut ops = lend_all(1);
    ops.extend([Op::PutLook(0), Op::Get(0), Op::PutBit(0), Op::Get(0)]);
    let model = play(setup(1, 1), &ops);
    assert_eq!(model.line.len(), 2, "both wait until the put looks again");
    ops.extend([Op::PutLookAgain(0), Op::Poll(0), Op::Put(0), Op::Poll(1)]);
    let model = play(setup(1, 1), &ops);
    assert_eq!(model.counters.waits_served, 3, "the first and these two");
}
