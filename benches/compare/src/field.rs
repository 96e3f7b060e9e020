//! Everybody who may race, their types forgotten.

use wharf_race::lane::{self, Trouble};
use wharf_race::runtime::Arena;

use crate::contender::Contender;
use crate::slice::Slices;

/// A contender with its pool open.
pub type Lane<'a> = lane::Lane<'a, Box<dyn Slices>>;

/// How a contender is opened in an arena.
type Open = fn(&Arena, usize) -> Result<Box<dyn Slices>, Trouble>;

/// Everybody who may race.
#[derive(Default)]
pub struct Field(Vec<Entrant>);

#[derive(Clone, Copy)]
struct Entrant {
    name: &'static str,
    role: Role,
    open: Open,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Pool,
    /// Bare, but able to wait.
    WaitingFloor,
    /// Bare, and unable to wait: only where there is always a resource.
    SpinningFloor,
}

impl Field {
    pub fn add<C: Contender>(&mut self, name: &'static str, role: Role) {
        self.0.push(Entrant {
            name,
            role,
            open: crate::opened::open::<C>,
        });
    }

    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|entrant| wanted(entrant.name));
    }

    /// The lanes of a race in which everyone finds a resource at once.
    pub fn everyone<'a>(&self, arena: &'a Arena, size: usize) -> Vec<Lane<'a>> {
        self.0
            .iter()
            .map(|entrant| entrant.lane(arena, size))
            .collect()
    }

    /// The lanes of a race in which one has to wait.
    pub fn who_can_wait<'a>(&self, arena: &'a Arena, size: usize) -> Vec<Lane<'a>> {
        let waiting = self
            .0
            .iter()
            .filter(|entrant| entrant.role != Role::SpinningFloor);
        waiting.map(|entrant| entrant.lane(arena, size)).collect()
    }
}

impl Entrant {
    /// Its pools are leaked: when it goes on with a new one, the old one is left as it is.
    fn lane(self, arena: &Arena, size: usize) -> Lane<'_> {
        Lane::new(self.name, move || (self.open)(arena, size))
    }
}
