//! The scenarios in every order of their threads' steps that can make a difference, up to a
//! number of forced switches (`LOOM_MAX_PREEMPTIONS`).

use crate::{pool_scenarios::for_each_pool_scenario, scenarios::for_each_scenario};

/// Without a number of switches in the environment.
const PREEMPTIONS: usize = 3;

fn explore(scenario: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_branches = 20_000;
    builder.check(scenario);
}

macro_rules! explored {
    ($module:ident: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                explore(crate::$module::$name);
            }
        )*
    };
}
for_each_scenario!(explored);
for_each_pool_scenario!(explored);
