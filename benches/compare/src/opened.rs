//! A contender with its pool open: the slices themselves.

use std::time::{Duration, Instant};

use tokio::task::unconstrained;
use wharf_race::lane::Trouble;
use wharf_race::runtime::Arena;

use crate::audit::{audit_one, audit_queue};
use crate::contender::Contender;
use crate::slice::{Allocations, Slices, Turns, Waits};
use crate::tasks::{Race, crew, failure, keep_diary, stride, take_turns};

pub fn open<C: Contender>(arena: &Arena, size: usize) -> Result<Box<dyn Slices>, Trouble> {
    let pool = arena.run(async move { Ok(&*Box::leak(Box::new(C::open(size).await))) })?;
    Ok(Box::new(Opened(pool)))
}

struct Opened<C: Contender>(&'static C);

impl<C: Contender> Slices for Opened<C> {
    fn cycles(&self, arena: &Arena, tasks: usize, strides: u64) -> Result<Duration, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let start = Instant::now();
            // Without a budget nobody is made to yield within a stride, whether its get consumes
            // budget (deadpool, mobc, the semaphore) or not.
            crew(tasks, |_| unconstrained(stride(pool, strides, tasks > 1))).await?;
            Ok(start.elapsed())
        })
    }

    fn turns(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Turns, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let race = Race::of(tasks);
            let timer = tokio::spawn(race.clone().time(window));
            let served = crew(tasks, |_| take_turns(pool, race.clone())).await?;
            let elapsed = timer.await.map_err(failure)?;
            Ok(Turns { elapsed, served })
        })
    }

    fn waits(&self, arena: &Arena, tasks: usize, window: Duration) -> Result<Waits, Trouble> {
        let pool = self.0;
        arena.run(async move {
            let race = Race::of(tasks);
            tokio::spawn(race.clone().time(window));
            let diaries = crew(tasks, |_| keep_diary(pool, race.clone())).await?;
            let (waits, rounds): (Vec<_>, Vec<_>) = diaries
                .into_iter()
                .map(|diary| (diary.waits, diary.rounds))
                .unzip();
            Ok(Waits {
                waits: waits.concat(),
                rounds: rounds.concat(),
            })
        })
    }

    fn allocations(&self, arena: &Arena, tasks: usize) -> Result<Allocations, Trouble> {
        let pool = self.0;
        arena.run(async move {
            if tasks == 1 {
                Ok(audit_one(pool).await)
            } else {
                audit_queue(pool, tasks).await
            }
        })
    }
}
