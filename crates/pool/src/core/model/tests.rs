//! Random histories of the core, judged by the model.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::{Driver, Model, Op, SETUP, Setup};

struct Histories;

impl ReferenceStateMachine for Histories {
    type State = Model;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Model> {
        any::<[u8; SETUP]>()
            .prop_map(|bytes| Model::new(Setup::decode(bytes)))
            .boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Op> {
        any::<[u8; 2]>().prop_map(Op::decode).boxed()
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
    fn the_core_does_what_the_model_foretells(sequential 1..200 => Histories);
}
