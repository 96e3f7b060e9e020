//! Ours.

use std::{convert::Infallible, time::Duration};

use wharf_lanes::{Batch, Failed, Lanes};

use super::{Contender, Handled, ITEMS};

/// With room for every item of a run, so that no bound is part of the measurement.
#[derive(Debug)]
pub struct Wharf(pub Lanes<u64, u64>);

impl Contender for Wharf {
    const NAME: &'static str = "wharf-lanes";

    fn open(linger: Duration, handled: &Handled) -> Self {
        let handled = handled.clone();
        let lanes = Lanes::builder(
            move |batch: Batch<u64, u64>| {
                handled.add(batch.len());
                async move {
                    drop(batch);
                    Ok::<_, Infallible>(())
                }
            },
            |_: Failed<u64, u64, Infallible>| {},
        )
        .items(ITEMS)
        .linger(linger)
        .max_items(100_000_000)
        .build();
        Self(lanes.expect("sound numbers"))
    }

    async fn push(&mut self, key: u64, item: u64) {
        self.0.push(key, item).await.expect("there is room");
    }

    async fn finish(self) {
        self.0.close().await.expect("handled");
    }
}
