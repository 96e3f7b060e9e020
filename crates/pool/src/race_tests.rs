//! The scenarios on real threads, where the processor and the compiler reorder what they may.

use crate::{pool_scenarios::for_each_pool_scenario, scenarios::for_each_scenario};

const TIMES: usize = 1_000;

macro_rules! raced {
    ($module:ident: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                for _ in 0..TIMES {
                    crate::$module::$name();
                }
            }
        )*
    };
}
for_each_scenario!(raced);
for_each_pool_scenario!(raced);
