//! lapin as its first example has it: publish, wait for the confirm, publish the next.

use std::sync::Arc;

use wharf_race::lane::Trouble;

use super::pipelined::{Courier, Manner};
use super::{Count, End, Load, Publishing};

pub struct OneByOne(Courier);

impl Publishing for OneByOne {
    async fn open(load: Load) -> Result<Self, Trouble> {
        Ok(Self(Courier::open(&load, Manner::Careful).await?))
    }

    async fn publish(self: Arc<Self>, end: End) -> Result<Count, Trouble> {
        let mut count = Count::default();
        while !end.has_come() {
            count.published += 1;
            count.confirmed += self.0.publish().await?;
        }
        Ok(count)
    }
}
